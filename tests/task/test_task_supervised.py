"""Tasks around a user's module and data: splits, order, fingerprint, metrics, refusals."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, WeightedRandomSampler

from featherweight.errors import TaskError
from featherweight.task import Task, call
from featherweight.task.tasks import Classification, Regression

X, Y = torch.randn(200, 4, generator=torch.Generator().manual_seed(0)), torch.arange(200) % 3
NET = nn.Linear(4, 3)


class Pairs(Dataset):
    def __init__(self, noise=0.0):
        self.noise = noise

    def __len__(self):
        return 50

    def __getitem__(self, i):
        return X[i] + self.noise * torch.randn(4), int(Y[i])


class Batches:
    def __iter__(self):
        return iter([(X[:30], Y[:30]), (X[30:50], Y[30:50])])


def task(model=NET, **options):
    return Classification(model, **({"train": (X, Y), "test": (X[:40], Y[:40])} | options))


def seen(task, split, seed=0, epoch=0):
    return [(x.tolist(), y.tolist()) for x, y in task.batches(split, seed=seed, epoch=epoch)]


def rows(task, split):
    return [tuple(row) for x, _ in seen(task, split) for row in x]


def test_it_is_a_task_and_splits_are_disjoint():
    made = task()
    assert isinstance(made, Task)
    train, validation = rows(made, "train"), rows(made, "validation")
    assert (len(train), len(validation), len(rows(made, "test"))) == (180, 20, 40)
    assert sorted(train + validation) == sorted(tuple(row) for row in X.tolist())
    assert set(rows(made, "calibration")) <= set(train)
    assert made.example().shape == (2, 4)


@pytest.mark.parametrize("train", [(X[:50], Y[:50]), Pairs(0.5), DataLoader(Pairs(0.5), 8, shuffle=True)])
def test_order_is_a_function_of_seed_and_epoch_and_global_state_is_left_alone(train):
    made = task(train=train, augment=lambda x, generator: x + torch.rand(x.shape, generator=generator))
    before = torch.get_rng_state()
    assert seen(made, "train", 1, 2) == seen(made, "train", 1, 2)
    assert seen(made, "validation", 1, 2) == seen(made, "validation", 5, 6)
    assert len({str(seen(made, "train", *key)) for key in [(1, 2), (1, 3), (2, 2), (2, 1)]}) == 4
    assert torch.equal(torch.get_rng_state(), before)


def test_batches_are_equal_parts():
    sizes = [len(y) for _, y in task(batch_size=32).batches("train", seed=0, epoch=0)]
    assert sum(sizes) == 180 and max(sizes) <= 32 and max(sizes) - min(sizes) <= 1


def test_loaders_are_taken_apart_only_where_that_changes_nothing():
    assert task(train=DataLoader(Pairs(), 8, shuffle=True)).batch_size == 8
    assert task(train=DataLoader(TensorDataset(X, Y), 16)).batch_size == 16
    weighted = DataLoader(Pairs(), 8, sampler=WeightedRandomSampler([1.0] * 50, 50))
    for loader in (weighted, Batches()):
        with pytest.raises(TaskError, match="validation="):
            task(train=loader)
    streamed = task(train=Batches(), validation=(X, Y))
    assert [len(y) for _, y in streamed.batches("train", seed=0, epoch=0)] == [30, 20]
    assert streamed.example().shape == (2, 4) and len(rows(streamed, "calibration")) == 50
    assert streamed.fingerprint() == task(train=Batches(), validation=(X, Y)).fingerprint()


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, left, right):
        return {"logits": self.a(left) + self.b(right), "features": left}


@pytest.mark.parametrize("inputs", [{"left": X, "right": X}, (X, X)])
def test_several_inputs_and_dict_outputs(inputs):
    made = task(Two, train=(inputs, Y), test=(inputs, Y))
    module = made.model()
    batch = next(iter(made.batches("train", seed=0, epoch=0)))
    made.loss(call(module, made.inputs(batch)), batch).backward()
    assert set(made.metrics(lambda x: call(module, x), "test")) == {"accuracy", "loss"}


def test_metrics_against_the_definition_from_tensors_and_arrays():
    made = task(batch_size=7)
    module = made.model()
    scores = module(X[:40]).detach().double()
    accuracy = np.mean([int(scores[i].argmax()) == int(Y[i]) for i in range(40)])
    loss = np.mean([float(torch.logsumexp(scores[i], 0) - scores[i, Y[i]]) for i in range(40)])
    for predict in (module, lambda x: module(x).detach().numpy()):
        found = made.metrics(predict, "test")
        assert found["accuracy"] == pytest.approx(accuracy)
        assert found["loss"] == pytest.approx(loss, abs=1e-6)


def test_the_network_is_a_copy_and_a_function_is_seeded():
    own = nn.Linear(4, 3)
    made = task(own)
    start = made.model().weight.clone()
    with torch.no_grad():
        own.weight.zero_()
    made.model().weight.data.zero_()
    assert torch.equal(made.model().weight, start)
    built = [task(lambda: nn.Linear(4, 3)) for _ in range(2)]
    assert torch.equal(built[0].model().weight, built[1].model().weight)


class Leaky(nn.Linear):
    def forward(self, x):
        return nn.functional.leaky_relu(super().forward(x), 0.1)


def test_fingerprint_changes_with_what_results_depend_on():
    assert task().fingerprint() == task(name="another").fingerprint()
    other = nn.Linear(4, 3)
    leaky = Leaky(4, 3)
    leaky.load_state_dict(NET.state_dict())
    relabelled = Y.clone()
    relabelled[7] = (relabelled[7] + 1) % 3
    others = [
        task(other),
        task(leaky),
        task(train=(X, relabelled)),
        task(test=(X, Y)),
        task(batch_size=64),
        task(label_smoothing=0.1),
        task(augment=lambda x, g: x),
        task(augment=lambda x, g: -x),
        task(validation=(X, Y)),
    ]
    assert len({task().fingerprint(), *(made.fingerprint() for made in others)}) == 1 + len(others)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": 3}, "model: not a network"),
        ({"model": lambda: 3}, "returned no network"),
        ({"train": 3}, "train: not data"),
        ({"train": iter([(X, Y)])}, "only once"),
        ({"train": (X, Y[:5])}, "as many labels"),
        ({"test": (X[:0], Y[:0])}, "test: no samples"),
        (
            {"test": type("Endless", (IterableDataset,), {"__iter__": lambda self: iter([])})()},
            "test: not data",
        ),
    ],
)
def test_refusals(options, message):
    with pytest.raises(TaskError, match=message):
        task(**options)


def test_labels_and_outputs_that_do_not_fit_are_one_clear_error():
    made = task(test=(X, Y + 5))
    with pytest.raises(TaskError, match="labels do not fit"):
        made.metrics(made.model(), "test")
    with pytest.raises(TaskError, match="not scores"):
        made.metrics(lambda x: x.sum(), "test")
    unlabelled = task(calibration=X[:9])
    assert [labels for _, labels in unlabelled.batches("calibration", seed=0, epoch=0)] == [None]


def test_arrays_of_float64_become_float32():
    made = task(train=(X.numpy().astype(np.float64), Y.numpy().astype(np.int32)))
    inputs, labels = next(iter(made.batches("train", seed=0, epoch=0)))
    assert inputs.dtype == torch.float32
    made.loss(made.model()(inputs), (inputs, labels))


def test_regression():
    target = X @ torch.tensor([[1.0], [2.0], [0.0], [-1.0]])
    made = Regression(nn.Linear(4, 1), train=(X, target), test=(X, target))
    exact = made.metrics(lambda x: x @ torch.tensor([[1.0], [2.0], [0.0], [-1.0]]), "test")
    assert exact["r2"] == pytest.approx(1) and exact["loss"] == pytest.approx(0, abs=1e-10)
    assert made.metrics(lambda x: x[:, :1] * 0 + target.mean(), "test")["r2"] == pytest.approx(0, abs=1e-5)
    with pytest.raises(TaskError, match="shape"):
        made.metrics(lambda x: x[:, 0], "test")


def broken(*_):
    raise ZeroDivisionError("oh")


def test_what_a_users_code_raises_is_one_error_with_the_place_and_the_cause():
    class Broken(Pairs):
        __getitem__ = broken

    for use in (
        lambda: task(broken, name="mine"),
        lambda: list(task(augment=broken, name="mine").batches("train", seed=0, epoch=0)),
        lambda: list(task(train=Broken(), name="mine").batches("train", seed=0, epoch=0)),
        lambda: task(train=Broken(), name="mine").fingerprint(),
    ):
        with pytest.raises(TaskError, match=r"mine, .*ZeroDivisionError: oh") as caught:
            use()
        assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_labels_that_are_no_whole_numbers_are_refused():
    made = task(test=(X, Y + 0.5))
    with pytest.raises(TaskError, match=r"not class indices: got torch.float32[^$]*hint"):
        made.metrics(made.model(), "test")


def test_the_shared_network_has_the_tasks_own_tensors_and_an_overridden_model_its_own():
    network = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    data = torch.randn(20, 4), torch.arange(20) % 3
    task = Classification(network, train=data, test=data)
    first, second = task.shared(), task.shared()
    assert first is not second and all(
        a is b for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )
    assert not {id(t) for t in task.model().parameters()} & {id(t) for t in first.parameters()}

    class Own(Classification):
        def model(self):
            return nn.Linear(4, 3)

    assert isinstance(Own(network, train=data, test=data).shared(), nn.Linear)
