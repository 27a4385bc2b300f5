"""Surgery of every kind: what a layer carries beside its tensors stays, and the network computes what it should."""

import numpy as np
import pytest
import torch
from structured_networks import Images, random
from torch import nn
from torch.nn.utils import prune as torch_prune

from featherweight.artifact import dumps, loads
from featherweight.errors import UnsupportedError
from featherweight.model import Model
from featherweight.packing import pack
from featherweight.structure import copied, stock_kind
from featherweight.techniques import Context, Factorize, Fold, Prune, Widen
from featherweight.techniques.lowrank import Given, by_axis, by_channel, product, split, tucker
from featherweight.techniques.saliencies import Magnitude
from featherweight.techniques.surgery import failing

STEPS = [Prune(keep=0.6, saliency=Magnitude()), Widen(where="a.weight"), Factorize(rank=Given(1)), Fold()]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(1, 6, 3, bias=False), nn.BatchNorm2d(6), nn.Linear(24, 3)

    def forward(self, x):
        return self.b(torch.relu(self.norm(self.a(x))).flatten(1))


def applied(step, change):
    module = random(Net)
    change(module)
    task = Images(Net, dtype=torch.float32)
    return step.apply(Model.of(module), task, Context()), task


@pytest.mark.parametrize("step", STEPS, ids=lambda step: type(step).__name__)
def test_frozen_parameters_stay_frozen(step):
    def freeze(module):
        module.a.requires_grad_(False)
        module.b.bias.requires_grad_(False)

    model, _ = applied(step, freeze)
    trained = {name for name, parameter in model.module.named_parameters() if parameter.requires_grad}
    assert trained and not any(
        name.startswith("a.") or name.endswith("bias") for name in trained - {"norm.bias"}
    )


def doubled(module, inputs, output):
    return 2 * output


def test_hooks_stay_and_so_does_what_they_compute():
    def hook(module):
        for layer in (module.a, module.norm, module.b):
            layer.register_forward_hook(doubled)

    model, task = applied(Widen(where="a.weight"), hook)
    before, _ = applied(Fold(), hook)  # a hook stands between the layer and its norm: nothing is folded
    torch.testing.assert_close(model.module(task.example()), before.module(task.example()))
    file = loads(dumps(pack(model)))
    module = random(Net)
    hook(module)
    torch.testing.assert_close(file.into(module)(task.example()), model.module(task.example()))


def test_a_hook_of_a_factorised_layer_stays():
    class Low(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(16, 16), nn.Linear(16, 3)
            self.a.weight.data = torch.randn(16, 2) @ torch.randn(2, 16)

        def forward(self, x):
            return self.b(torch.relu(self.a(x.flatten(1))))

    module = random(Low)
    module.a.register_forward_hook(doubled)
    task = Images(Low, dtype=torch.float32)
    model = Factorize(where="a.weight", rank=Given(2)).apply(Model.of(module), task, Context())
    assert type(model.module.a) is nn.Sequential
    torch.testing.assert_close(model.module(task.example()), module(task.example()), rtol=1e-4, atol=1e-4)


def test_factors_that_do_not_compute_their_product_are_left_out():
    class Peeks(Net):
        def forward(self, x):
            scale = 2.0 if isinstance(self.b, nn.Linear) else 1.0
            return scale * super().forward(x)

    task = Images(Peeks, dtype=torch.float32)
    model = Factorize(where="b.weight", rank=Given(1)).apply(Model.of(task.model()), task, Context())
    (note,) = model.notes
    assert note.kind == "skipped" and "does not compute the same" in note.reason


def test_the_product_of_factors_is_the_weight_at_full_rank():
    draw = np.random.default_rng(0)
    matrix, kernel = draw.normal(size=(5, 7)), draw.normal(size=(4, 3, 3, 2))
    left, right = split(matrix, 5)
    np.testing.assert_allclose(product([right, left]), matrix)
    np.testing.assert_allclose(product(by_channel(kernel, 4)), kernel)
    np.testing.assert_allclose(product(by_axis(kernel, 8)), kernel)
    into, core, out = tucker(kernel, 3, 4)
    np.testing.assert_allclose(product([into.T[..., None, None], core, out[..., None, None]]), kernel)


class NormAct(nn.BatchNorm2d):
    """A batch norm with an activation, as timm has it: a subclass with a module inside."""

    def __init__(self, channels):
        super().__init__(channels)
        self.act = nn.ReLU()

    def forward(self, x):
        return self.act(super().forward(x))


class Acts(Net):
    def __init__(self):
        super().__init__()
        self.norm = NormAct(6)

    def forward(self, x):
        return self.b(self.norm(self.a(x)).flatten(1))


@pytest.mark.parametrize("step", STEPS[:2], ids=lambda step: type(step).__name__)
def test_a_subclass_of_a_stock_layer_is_resized_in_place_also_out_of_a_file(step):
    task = Images(Acts, dtype=torch.float32)
    before = Model.of(task.model())
    model = step.apply(before, task, Context())
    assert type(model.module.norm) is NormAct
    assert model.module.norm.num_features == len(model.tensors["norm.weight"]) != 6
    assert before.module.norm.num_features == 6
    filled = loads(dumps(pack(model))).into(random(Acts, seed=1))
    torch.testing.assert_close(filled(task.example()), model.module(task.example()))


def test_a_layer_with_tensors_or_a_forward_of_its_own_keeps_its_shape():
    def scaled(module):
        module.a.register_buffer("scale", torch.full((6, 1, 1), 2.0))
        module.a.register_forward_hook(lambda layer, inputs, output: output * layer.scale)

    def replaced(module):
        plain = module.a.forward
        module.a.forward = lambda x: 2 * plain(x)

    for change in (scaled, replaced):
        module = random(Net)
        change(module)
        assert not stock_kind(module.a)
    model, _ = applied(STEPS[0], scaled)
    assert {note.name for note in model.notes if note.kind == "skipped"} >= {"a"}
    assert stock_kind(random(Acts).norm) == "BatchNorm2d"


def test_what_works_alone_and_not_together_is_an_error():
    task, model = Images(Net, dtype=torch.float32), Model.of(random(Net))

    def failed(parts, breaks):
        def make(some):
            if breaks(some):
                raise ValueError("bad")
            return model

        return failing(parts, make, lambda _: model, task)

    assert failed("ab", lambda some: False) == {}
    assert failed("abc", lambda some: "c" in some) == {"c": "the changed network fails: ValueError: bad"}
    with pytest.raises(UnsupportedError, match=r"cannot change together: .* bad"):
        failed("ab", lambda some: len(some) == 2)


def test_a_mask_of_torch_prune_is_named_with_the_way_out():
    layer = nn.Sequential(nn.Linear(8, 3))
    torch_prune.l1_unstructured(layer[0], "weight", 0.5)
    with pytest.raises(UnsupportedError, match=r"torch.nn.utils.prune.remove\(module, 'weight'\)"):
        copied(layer, {})
