"""What users hand over by mistake, or in an unusual form: it works, or one error says what and where."""

import collections
import dataclasses
import itertools
import random
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from featherweight import Classification, Regression, compress
from featherweight.errors import FeatherweightError, TaskError, UnsupportedError
from featherweight.evaluation.metrics import scores
from featherweight.formats import Int
from featherweight.model import Model
from featherweight.recipe import Recipe, Store, run
from featherweight.task import Restricted, protocol
from featherweight.techniques import Context, Encode, Train

X = torch.randn(120, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(120) % 3


def network():
    torch.manual_seed(0)
    return nn.Linear(6, 3)


def task(train=(X, Y), **options):
    return Classification(network(), train=train, **{"validation": (X, Y), "test": (X, Y), **options})


class Drawn(Dataset):
    """Noise from a generator of one's choice."""

    def __init__(self, draw) -> None:
        self.draw = draw

    def __len__(self) -> int:
        return 120

    def __getitem__(self, i):
        return X[i] + self.draw(), int(Y[i])


DRAWS = {
    "torch": lambda: 0.1 * torch.randn(6),
    "numpy": lambda: torch.from_numpy(np.random.randn(6)).float(),  # noqa: NPY002
    "python": lambda: random.random(),
}


@pytest.mark.parametrize("draw", DRAWS)
def test_random_data_sets_are_the_same_in_every_run_and_with_any_workers(draw):
    seen = []
    for workers in (0, 0, 2):
        data = DataLoader(Drawn(DRAWS[draw]), 32, num_workers=workers, shuffle=True)
        made = task(data)
        assert len(made.batches("train", seed=3, epoch=1)) == 4
        seen.append(list(made.batches("train", seed=3, epoch=1)))
    for other in seen[1:]:
        assert all(
            torch.equal(a, b) for a, b in zip(itertools.chain(*seen[0]), itertools.chain(*other), strict=True)
        )
    assert task(Drawn(DRAWS[draw])).fingerprint() == task(Drawn(DRAWS[draw])).fingerprint()


def test_data_that_cannot_be_seeded_are_noted(tmp_path):
    generator = np.random.default_rng()
    made = task(Drawn(lambda: float(generator.normal())))
    assert not made.steady and all(task(Drawn(draw)).steady for draw in DRAWS.values())
    steps = [Encode(format=Int(bits=8)), Train(epochs=1), Train(epochs=1)]
    notes = [entry.model.notes for entry in run(Recipe(steps), made, threads=1, store=Store(tmp_path))]
    assert [sum("two readings differ" in note.reason for note in some) for some in notes] == [0, 0, 1, 1]


def trained(made):
    step = Train(epochs=2, lr=0.1)
    return step.apply(Model.of(made.model()), Restricted(made, step.needs), Context(seed=1))


@pytest.mark.parametrize("draw", DRAWS)
def test_training_on_a_loader_that_draws_gives_the_same_twice(draw):
    class Loader:
        def __iter__(self):
            for part in range(4):
                rows = slice(30 * part, 30 * part + 30)
                yield X[rows] + DRAWS[draw](), Y[rows]

    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    before = random.getstate()
    first = trained(task(Loader())).hash
    assert random.getstate() == before
    random.seed(2), np.random.seed(2), torch.manual_seed(2)  # noqa: NPY002
    assert trained(task(Loader())).hash == first


class Endless(IterableDataset):
    def __iter__(self):
        yield from itertools.cycle(zip(X, Y, strict=True))


class Longer(list):
    """Batches that say that they are three, and do not end."""

    def __len__(self) -> int:
        return 3

    def __iter__(self):
        return itertools.repeat((X[:4], Y[:4]))


@dataclasses.dataclass(frozen=True)
class Own:
    """A task of one's own whose batches are a generator that may have no end, or is read only once."""

    how: str

    def __getattr__(self, name):
        return getattr(task(), name)

    def batches(self, split, *, seed, epoch):
        return ONCE if self.how == "once" else itertools.repeat((X[:4], Y[:4]))


ONCE = iter([(X, Y)])


@pytest.mark.parametrize(
    "made",
    [lambda: task(DataLoader(Endless(), 32)), lambda: task(Longer()), lambda: Own("endless")],
    ids=["loader", "wrong length", "own"],
)
def test_batches_without_end_are_an_error(made, monkeypatch):
    monkeypatch.setattr(protocol, "ENDLESS", 200)
    with pytest.raises(TaskError, match="no end after 200 batches"):
        trained(made())


def test_metrics_on_batches_without_end_are_an_error(monkeypatch):
    monkeypatch.setattr(protocol, "ENDLESS", 200)
    made = task(validation=DataLoader(Endless(), 32))
    with pytest.raises(TaskError, match="no end after 200 batches"):
        made.metrics(made.model(), "validation")


def test_batches_that_can_be_read_only_once_are_named():
    with pytest.raises(
        TaskError, match=r"no batches.*\nhint: batches\(\) returns an iterator that was read before"
    ):
        trained(Own("once"))


def test_labels_of_minus_100_are_ignored_by_loss_and_metrics():
    made = task()
    with torch.no_grad():
        labels = made.model()(X).argmax(1)
    hidden = labels.clone()
    hidden[::2] = -100
    right = task((X, hidden), validation=(X, hidden), test=(X, hidden))
    assert right.metrics(right.model(), "test")["accuracy"] == 1
    assert scores(right, right.model(), "test").mean() == pytest.approx(1)
    every = task(test=(X[1::2], labels[1::2])).metrics(made.model(), "test")
    assert right.metrics(right.model(), "test") == pytest.approx(every)
    ignored = torch.full((120,), -100)
    assert float(right.loss(right.model()(X).detach(), (X, ignored))) == 0
    none = task(test=(X, ignored))
    with pytest.raises(TaskError, match="no labels to compare with"):
        none.metrics(none.model(), "test")


def test_scores_of_dense_labels_have_the_mean_of_the_metric():
    pixels = torch.randn(8, 4, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 3, (8, 5), generator=torch.Generator().manual_seed(1))
    labels[0, :4], labels[1] = -100, -100
    torch.manual_seed(0)
    made = Classification(nn.Conv1d(4, 3, 1), train=(pixels, labels), test=(pixels, labels))
    network = made.model()
    assert scores(made, network, "test").mean() == pytest.approx(made.metrics(network, "test")["accuracy"])


def test_a_missing_label_is_an_error_at_once():
    for options in ({"test": X}, {"validation": X}, {"test": [(X, None)]}):
        with pytest.raises(TaskError, match=r"no labels.*\nhint: .*Agreement"):
            task(**options)
    with pytest.raises(TaskError, match="no labels"):
        Regression(network(), train=X, test=X)


def test_lists_of_labels():
    made = task((X, Y.tolist()), test=(X, Y.tolist()))
    assert made.metrics(made.model(), "test") == task().metrics(made.model(), "test")
    with pytest.raises(TaskError, match="a single sample"):
        samples = [(X[i], int(Y[i])) for i in range(120)]
        task(samples, validation=samples, test=samples)
    loader = DataLoader([(X[i], int(Y[i])) for i in range(120)], 30)
    assert len(list(task(loader).batches("train", seed=0, epoch=0))) == 4


def test_what_is_no_plain_tensor():
    with pytest.raises(TaskError, match="sparse"):
        task((X.to_sparse(), Y))
    odd = network()
    odd.register_parameter("phase", nn.Parameter(torch.zeros(3, dtype=torch.complex64)))
    with pytest.raises(UnsupportedError, match=r"phase: .*real numbers: got torch\.complex64"):
        Model.of(odd)


def test_outputs_without_scores_are_described():
    class Two(nn.Module):
        def forward(self, x):
            return {"a": x, "b": x}

    made = Classification(Two(), train=(X, Y), test=(X, Y))
    with pytest.raises(TaskError, match="got a dict of a, b"):
        made.metrics(made.model(), "test")


def test_the_fingerprint_follows_changes_in_place():
    x = X.clone()
    made = task((x, Y))
    seen = {made.fingerprint()}
    x[0] += 1
    seen.add(made.fingerprint())
    made.label_smoothing = 0.5
    seen.add(made.fingerprint())
    made.batch_size = 7
    seen.add(made.fingerprint())
    assert len(seen) == 4
    again = task((x, Y), label_smoothing=0.5, batch_size=7)
    assert again.fingerprint() == made.fingerprint()


def test_arrays_are_copied():
    x = X.numpy().copy()
    made = task((x, Y))
    before, batch = made.fingerprint(), next(iter(made.batches("validation", seed=0, epoch=0)))[0].clone()
    x += 1
    assert made.fingerprint() == before
    assert torch.equal(next(iter(made.batches("validation", seed=0, epoch=0)))[0], batch)


class Answers(nn.Module):
    """A network that returns what a function makes of its numbers."""

    def __init__(self, answer, layer=None) -> None:
        super().__init__()
        self.layer, self.answer = layer or network(), answer

    def forward(self, x):
        return self.answer(self.layer(x), x)


Pair = collections.namedtuple("Pair", "scores other")
LABELS = torch.randn(120, 3, generator=torch.Generator().manual_seed(1))


class OfShapes(Classification):
    def dynamic_shapes(self):
        raise KeyError("mine")


REFUSED = {
    "a named tuple without logits": (
        lambda: Classification(Answers(Pair), train=(X, Y), test=(X, Y)),
        "not scores of classes: got a named tuple of scores, other",
    ),
    "a dict of two without labels of their own": (
        lambda: Regression(Answers(lambda y, x: {"a": y, "b": x}), train=(X, LABELS), test=(X, LABELS)),
        "not numbers to compare with labels: got a dict of a, b",
    ),
    "words as labels": (lambda: task((X, ["cat"] * 120)), "train: not labels of many samples: got list"),
    "images of bytes": (
        lambda: task((X.byte(), Y), calibration=X.byte()),
        "hint: images of bytes as numbers",
    ),
    "a network without shapes": (
        lambda: Classification(nn.LazyLinear(3), train=(X, Y), test=(X, Y)),
        "weight: has no shape yet",
    ),
    "shapes that fail": (
        lambda: OfShapes(network(), train=(X, Y), test=(X, Y), name="own"),
        "own, dynamic_shapes: failed: KeyError: 'mine'",
    ),
}


@pytest.mark.parametrize(("made", "said"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_meant_is_said_before_the_work(made, said, tmp_path):
    with pytest.raises(FeatherweightError, match=re.escape(said)):
        compress(made(), "int8", threads=1, store=Store(tmp_path))


TAKEN = {
    "arrays read backwards": lambda: task((X.numpy()[::-1], Y.numpy()[::-1])),
    "strided tensors": lambda: task((torch.randn(240, 12)[::2, ::2], Y)),
    "numbers in a dict": lambda: Regression(
        Answers(lambda y, x: {"y": y}), train=(X, LABELS), test=(X, LABELS)
    ),
    "numbers first in a tuple": lambda: Regression(
        Answers(lambda y, x: (y, x)), train=(X, LABELS), test=(X, LABELS)
    ),
}


@pytest.mark.parametrize("made", TAKEN.values(), ids=TAKEN)
def test_unusual_forms_work_to_the_end(made, tmp_path):
    assert compress(made(), "int8", threads=1, store=Store(tmp_path)).summary.runtime == "onnxruntime"


def test_a_compiled_network_is_taken_as_it_was():
    assert type(task().model()) is nn.Linear
    made = Classification(torch.compile(network()), train=(X, Y), test=(X, Y))
    assert type(made.model()) is nn.Linear
