"""Which weights become zero, against loops; the law: zeros stay zeros, through formats and training."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tiny import Tiny
from torch import nn

from featherweight.errors import ConfigError, UnsupportedError
from featherweight.formats import Clustered, Float, Int, Log2, tag
from featherweight.formats.coders import Gaps
from featherweight.model import Model, to_bytes
from featherweight.task import Restricted
from featherweight.techniques import Context, Encode, Finetune, Fold, Sparsify, Train
from featherweight.techniques.saliencies import Obd
from featherweight.techniques.saliencies.base import lamp, least, outside_pattern, together
from featherweight.training.methods import METHODS, Project

TASK = Tiny(size=64)
NUMBERS = st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0, 7.0])
MATRICES = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=9), elements=NUMBERS
)


def apply(step, model):
    return step.apply(model, Restricted(TASK, step.needs), Context(seed=1))


def network(*sizes):
    torch.manual_seed(0)
    return Model.of(nn.Sequential(*[nn.Linear(a, b) for a, b in pairwise(sizes)]))


def zeros(model):
    return {name: model.tensors[name].detach() == 0 for name in model.tensors if name.endswith("weight")}


@given(MATRICES, st.floats(0, 1))
def test_least_against_a_loop(saliency, sparsity):
    count = round(sparsity * saliency.size)
    ranked = sorted((value, place) for place, value in enumerate(saliency.reshape(-1).tolist()))
    expected = np.zeros(saliency.size, bool)
    expected[[place for _, place in ranked[:count]]] = True
    np.testing.assert_array_equal(least(saliency, sparsity).reshape(-1), expected)


@given(MATRICES)
def test_lamp_against_its_equation(magnitude):
    flat = magnitude.reshape(-1).astype(float)
    ranked = sorted(range(flat.size), key=lambda place: (flat[place], place))
    for rank, place in enumerate(ranked):
        rest = sum(flat[other] ** 2 for other in ranked[rank:])
        expected = flat[place] ** 2 / rest if rest else 0
        assert lamp(magnitude).reshape(-1)[place] == pytest.approx(expected, rel=1e-5)


@given(MATRICES, st.integers(1, 4), st.integers(0, 4))
def test_pattern_against_a_loop(saliency, n, more):
    mask = outside_pattern(saliency, n, n + more)
    assert mask.shape == saliency.shape
    for row, gone in zip(saliency, mask, strict=True):
        for start in range(0, row.size, n + more):
            block, out = row[start : start + n + more], gone[start : start + n + more]
            assert (~out).sum() == min(n, block.size)
            assert block[out].max(initial=0) <= block[~out].min(initial=np.inf)


@given(st.lists(MATRICES, min_size=1, max_size=4), st.floats(0, 1))
def test_all_tensors_compete(matrices, sparsity):
    saliency = {str(index): matrix for index, matrix in enumerate(matrices)}
    masks = together(saliency, sparsity, relative=False)
    gone = np.concatenate([matrix[masks[name]] for name, matrix in saliency.items()])
    stay = np.concatenate([matrix[~masks[name]] for name, matrix in saliency.items()])
    assert gone.size == round(sparsity * (gone.size + stay.size))
    assert gone.max(initial=0) <= stay.min(initial=np.inf)


def test_shares_of_deep_compression():
    model = network(784, 300, 100, 10)
    kept = {"0.weight": 0.08, "1.weight": 0.09, "2.weight": 0.26}
    after = apply(Sparsify(sparsity={name: 1 - share for name, share in kept.items()}), model)
    found = {name: int((~mask).sum()) for name, mask in zeros(after).items()}
    assert found == {"0.weight": 18816, "1.weight": 2700, "2.weight": 260}
    for name, mask in zeros(after).items():
        before = model.tensors[name].detach()
        assert to_bytes(after.tensors[name][~mask]) == to_bytes(before[~mask])
        assert before[mask].abs().max() <= before[~mask].abs().min()


def test_zeros_count_and_rise():
    model = network(20, 30)
    before = torch.zeros(30, 20, dtype=torch.bool)
    for sparsity in (0.2, 0.5, 0.5, 0.3, 1.0):
        model = apply(Sparsify(sparsity=sparsity), model)
        after = zeros(model)["0.weight"]
        assert (after | ~before).all() and after.sum() == max(600 * sparsity, int(before.sum()))
        before = after


def test_lamp_spares_what_magnitude_empties():
    model = network(20, 30, 10)
    small = model.tensors["1.weight"].detach() * 1e-3
    model = model.with_tensors({"1.weight": small})
    by_magnitude = apply(Sparsify(sparsity=0.5, scope="global"), model)
    by_lamp = apply(Sparsify(sparsity=0.5, scope="lamp"), model)
    assert zeros(by_magnitude)["1.weight"].all() and not zeros(by_lamp)["1.weight"].all()
    for after in (by_magnitude, by_lamp):
        assert sum(int(mask.sum()) for mask in zeros(after).values()) == 450
        assert {(note.kind, note.name) for note in after.notes} == {
            ("chose", "0.weight"),
            ("chose", "1.weight"),
        }
    assert "100.00%" in by_magnitude.notes[1].reason


def test_pattern_runs_along_the_inputs_of_an_output():
    transposed = Model.of(nn.Sequential(nn.ConvTranspose2d(8, 3, 1)))
    kept = ~zeros(apply(Sparsify(pattern=(2, 4)), transposed))["0.weight"]
    assert (kept.reshape(2, 4, 3).sum(1) == 2).all()


@pytest.mark.parametrize("wrong", [
    {}, {"sparsity": 0.5, "pattern": (2, 4)}, {"sparsity": 1.5}, {"sparsity": -0.1}, {"pattern": (3, 2)},
    {"pattern": (0, 4)}, {"pattern": (2, 4), "scope": "global"}, {"sparsity": {"*": 0.5}, "scope": "lamp"},
    {"sparsity": {"*": 0.5}, "where": "weights"}, {"sparsity": {"*": 2}},
])  # fmt: skip
def test_refuses_what_cannot_be_meant(wrong):
    with pytest.raises(ConfigError):
        Sparsify(**wrong)


def test_refuses_what_it_cannot_rank():
    model = network(3, 3)
    with pytest.raises(ConfigError, match="twice"):
        apply(Sparsify(sparsity={"0.weight": 0.5, "weights": 0.1}), model)
    broken = model.with_tensors({"0.weight": torch.full((3, 3), float("nan"))})
    with pytest.raises(UnsupportedError, match=r"0\.weight: NaN"):
        apply(Sparsify(sparsity=0.5), broken)
    counted = Model.of(nn.Sequential(nn.BatchNorm1d(3)))
    with pytest.raises(ConfigError, match="floating point"):
        apply(Sparsify(where="0.num_batches_tracked", sparsity=0.5), counted)


class Line(Tiny):
    """Correlated inputs, a linear network at its least squared error but for noise in the targets."""

    def model(self):
        x, y = self.data("train", self.size)
        module = nn.Linear(6, 1, bias=False).double()
        with torch.no_grad():
            module.weight.copy_(torch.linalg.lstsq(x, y).solution.T)
        return module.eval()

    def data(self, split, count):
        generator = torch.Generator().manual_seed(4)
        x = (
            torch.randn((count, 6), generator=generator, dtype=torch.float64)
            * torch.arange(1.0, 7.0).double()
        )
        noise = torch.randn((count, 1), generator=generator, dtype=torch.float64)
        return x, x @ torch.tensor([[0.6, 0.35, 0.25, 0.14, 0.11, 0.1]], dtype=torch.float64).T + noise

    def loss(self, output, batch):
        return (output - batch[1]).square().mean()


def test_obd_removes_what_the_loss_loses_least_by():
    task = Line(size=64)
    model = Model.of(task.model())
    x, y = task.data("train", 64)
    losses = []
    for column in range(6):
        weight = model.tensors["weight"].detach().clone()
        weight[0, column] = 0
        losses.append(float((x @ weight.T - y).square().mean()))
    step = Sparsify(sparsity=1 / 2, saliency=Obd(diagonal="gauss_newton"))
    after = step.apply(model, Restricted(task, step.needs), Context())
    assert (after.tensors["weight"][0] == 0).nonzero()[:, 0].tolist() == sorted(np.argsort(losses)[:3])
    assert set(np.argsort(losses)[:3]) != {3, 4, 5}  # as by magnitude


def test_zeros_of_before_count_by_obd():
    pruned = apply(Sparsify(sparsity=0.6), Model.of(TASK.model()))
    for scope in ("layer", "global"):
        step = Sparsify(sparsity=0.6, scope=scope, saliency=Obd(samples=32))
        assert apply(step, pruned).hash == pruned.hash
    with pytest.raises(UnsupportedError, match=r"1\.running_var: is no parameter"):
        apply(Sparsify(where="1.running_var", sparsity=0.5, saliency=Obd(samples=32)), pruned)
    with pytest.raises(ConfigError, match="comparison of magnitudes"):
        Sparsify(sparsity=0.5, scope="lamp", saliency=Obd())


PRUNED = apply(Sparsify(sparsity=0.6), apply(Train(epochs=2), Model.of(TASK.model())))


def check_kept(after):
    for name, mask in zeros(PRUNED).items():
        if mask.dim() > 1:
            assert (after.tensors[name].detach()[mask] == 0).all(), name
            assert not torch.equal(after.tensors[name], PRUNED.tensors[name]), name


FORMATS = [
    Int(bits=4),
    Int(bits=8, scheme="affine", per="tensor"),
    Int(bits=1),
    Clustered(bits=2),
    Log2(),
    Float(),
]


@pytest.mark.parametrize("format", FORMATS, ids=tag)
def test_zeros_stay_zeros_through_encoding(format):
    after = apply(Encode(format=format, coder=Gaps()), apply(Fold(), PRUNED))
    check_kept(after)
    for name, entry in after.weights.items():
        mask = entry.view.matrix(zeros(PRUNED)[name].numpy()).reshape(-1)
        assert (entry.symbols[mask] == entry.spec.zero).all(), name


@pytest.mark.parametrize("optimizer", ["sgd", "nesterov", "adam", "adamw"])
def test_zeros_stay_zeros_through_training(optimizer):
    check_kept(apply(Train(epochs=2, keep_zeros=True, optimizer=optimizer, weight_decay=0.1), PRUNED))


@pytest.mark.parametrize("format", FORMATS, ids=tag)
@pytest.mark.parametrize("method", METHODS, ids=tag)
def test_zeros_stay_zeros_through_every_method(method, format):
    if not method().misfit(format):
        options = {"every": 3} if method is Project else {}
        check_kept(apply(Finetune(format=format, method=method(**options), keep_zeros=True, lr=0.01), PRUNED))


def test_without_keep_zeros_they_grow_again():
    after = apply(Train(epochs=1), PRUNED).tensors["8.weight"][zeros(PRUNED)["8.weight"]]
    assert (after != 0).float().mean() > 0.5


def test_only_the_weights_that_are_left_are_clipped():
    """Training with a pruned input equals training without that input, clipped gradients included."""
    model = network(2, 1)
    pruned = model.with_tensors({"0.weight": torch.tensor([[0.5, 0.0]])})

    class Pair(Tiny):
        def __init__(self, columns):
            super().__init__(size=32)
            object.__setattr__(self, "columns", columns)

        def data(self, split, count):
            generator = torch.Generator().manual_seed(0)
            x = torch.randn((count, 2), generator=generator)
            return x[:, : self.columns], x.sum(1, keepdim=True)

        def loss(self, output, batch):
            return (output - batch[1]).square().mean()

    alone = network(1, 1).with_tensors({"0.weight": torch.tensor([[0.5]]), "0.bias": model.tensors["0.bias"]})
    step = Train(epochs=2, keep_zeros=True, clip=0.1)
    both = [
        step.apply(start, Pair(n), Context()).tensors["0.weight"] for start, n in ((pruned, 2), (alone, 1))
    ]
    assert both[0][0, 1] == 0
    torch.testing.assert_close(both[0][:, :1], both[1])
