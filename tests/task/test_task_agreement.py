"""Agreement: the network itself is the measure, whatever it returns; no label is ever read."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from featherweight import Agreement, Classification, compress
from featherweight.errors import ConfigError, TaskError
from featherweight.evaluation.metrics import predictor, scores
from featherweight.model import Model
from featherweight.recipe import Recipe, Store
from featherweight.task import Restricted
from featherweight.task.training import Training
from featherweight.techniques import Context, Prune
from featherweight.techniques.saliencies import Taylor

X = torch.randn(120, 6, generator=torch.Generator().manual_seed(0))


class Detector(nn.Module):
    """Boxes of hundreds of pixels beside scores of hundredths."""

    def __init__(self) -> None:
        super().__init__()
        self.boxes, self.classes = nn.Linear(6, 4), nn.Linear(6, 5)

    def forward(self, x):
        return torch.cat([400 * self.boxes(x), 0.05 * self.classes(x).sigmoid()], 1)


def network(outputs=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, outputs))


def test_the_share_of_the_same_top_class():
    task = Agreement(network(), train=X, test=X)
    assert (task.outputs, task.primary) == ("classes", "agreement")
    other = network()
    with torch.no_grad():
        other[2].bias += torch.tensor([0.3, 0.0, 0.0])
        expected = (other(X).argmax(1) == task.model()(X).argmax(1)).double()
    assert 0.5 < float(expected.mean()) < 1
    assert task.metrics(other, "test")["agreement"] == pytest.approx(float(expected.mean()))
    assert scores(task, other, "test").tolist() == expected.tolist()
    assert task.metrics(task.model(), "test")["agreement"] == 1


def test_of_scores_the_top_classes_are_kept_and_of_values_what_there_is_room_for(monkeypatch):
    wide = nn.Sequential(nn.Linear(6, 500)).eval()
    task = Agreement(wide, train=X, test=X, batch_size=20)
    task.metrics(wide, "test")
    assert sum(answer.numel() for answer in task._answers.values()) == len(X)
    found = []
    for room in (1 << 20, 100_000, 0):
        monkeypatch.setattr("featherweight.task.tasks.ANSWERS", room)
        task = Agreement(wide, train=X, test=X, outputs="values", batch_size=20)
        found.append(task.metrics(network(500), "test"))
        kept = sum(answer.nbytes for answer in task._answers.values())
        assert kept == min(room // 40_000, 6) * 40_000
    assert found[0] == found[1] == found[2]


def test_agreement_on_values_does_not_depend_on_the_size_of_batches():
    found = [
        Agreement(network(4), train=X, test=X, outputs="values", batch_size=size).metrics(
            lambda x: network(4)(x) + 0.1 * x[:, :4], "test"
        )
        for size in (120, 50, 1)
    ]
    with torch.no_grad():
        answers = network(4)(X).double()
    expected = 1 - ((0.1 * X[:, :4].double()).square() / answers.var(0, correction=0)).mean()
    for metrics in found:
        assert metrics["agreement"] == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("columns", [1, 2])
def test_values_are_compared_by_explained_variance(columns):
    task = Agreement(network(columns), train=X, test=X, outputs=None if columns == 1 else "values")
    assert task.outputs == "values"
    with torch.no_grad():
        answers = task.model()(X)
    assert task.metrics(task.model(), "test")["agreement"] == 1
    assert task.metrics(lambda x: answers.mean(0).expand(len(x), columns), "test")[
        "agreement"
    ] == pytest.approx(0)
    noise = answers.std(0, correction=0) * torch.tensor([1.0, -1.0]).repeat(60)[:, None]
    found = task.metrics(lambda x: task.answer(x) + 0.5 * noise[: len(x)], "test")["agreement"]
    assert found == pytest.approx(0.75, abs=1e-5)
    assert scores(task, task.model(), "test").mean() == 1


def test_small_outputs_count_as_much_as_large_ones_beside_them():
    task = Agreement(Detector(), train=X, test=X, outputs="values")

    def without_scores(x):
        found = task.answer(x).clone()
        found[:, 4:] = 0
        return found

    assert task.metrics(without_scores, "test")["agreement"] < 0.5


class Several(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 3), nn.Linear(6, 1)

    def forward(self, x, y=None):
        x = x if y is None else x + y
        return {"a": self.a(x), "b": [self.b(x), torch.arange(3)], "c": None}


def test_nested_outputs_and_several_inputs():
    task = Agreement(Several(), train=((X, X), None), test=({"x": X, "y": X}, None))
    assert task.metrics(lambda x: task.answer(x), "test")["agreement"] == 1
    assert task.outputs == "values"
    with pytest.raises(TaskError, match="shapes of the answers"):
        task.metrics(lambda x: {"a": task.answer(x)["a"]}, "test")


class Images(Dataset):
    def __len__(self) -> int:
        return 120

    def __getitem__(self, i):
        return X[i]


def test_data_sets_and_loaders_of_inputs_alone_and_of_pairs_whose_labels_are_left():
    for data in (Images(), DataLoader(Images(), 30), [X[:60], X[60:]], (X, torch.full((120,), -7))):
        task = Agreement(network(), train=data, validation=data, test=data)
        assert task.metrics(task.model(), "test")["agreement"] == 1
        assert all(isinstance(batch, torch.Tensor) for batch in task.batches("train", seed=0, epoch=0))


def test_of_another_task():
    labelled = Classification(
        network(), train=(X, torch.zeros(120).long()), test=(X, torch.zeros(120).long())
    )
    task = Agreement.of(labelled)
    assert task.metrics(task.model(), "validation")["agreement"] == 1
    assert task.fingerprint() != labelled.fingerprint()


def test_a_network_to_train_is_refused():
    with pytest.raises(ConfigError, match="untrained"):
        Agreement(network(), train=X, test=X, training=Training())


def test_its_loss_has_gradients_for_saliencies():
    task = Agreement(network(), train=X, test=X, batch_size=30)
    step = Prune(keep=0.6, saliency=Taylor(samples=60))
    pruned = step.apply(Model.of(task.model()), Restricted(task, step.needs), Context())
    assert task.metrics(pruned.module, "validation")["agreement"] > 0.6


@pytest.mark.parametrize("recipe", ["w8a8", "int8"])
def test_recipes_without_training_run_without_labels(tmp_path, recipe):
    task = Agreement(network(), train=X, test=X)
    found = compress(task, recipe, threads=1, store=Store(tmp_path))
    assert found.summary.test["agreement"] > 0.9 and found.summary.baseline["test"]["agreement"] == 1


def test_auto_runs_without_labels(tmp_path):
    found = compress(Agreement(network(), train=X, test=X), max_drop=5, threads=1, store=Store(tmp_path))
    assert found.summary.ratio > 1 and isinstance(found.recipe, Recipe)


def test_keyword_arguments_as_tokenizers_give_them():
    class Both(nn.Module):
        def forward(self, words, mask):
            return torch.stack([words * mask, words + mask], -1).sum(1)

    words, mask = torch.randn(20, 4), torch.ones(20, 4)
    given = {"words": words, "mask": mask}
    alone = Agreement(Both(), train=given, test={"words": words.numpy(), "mask": mask})
    assert alone.fingerprint() == Agreement(Both(), train=(given, None), test=(given, None)).fingerprint()
    assert alone.metrics(predictor(alone.model()), "test")["agreement"] == 1
    loader = DataLoader([{"words": w, "mask": m} for w, m in zip(words, mask, strict=True)], batch_size=5)
    streamed = Agreement(Both(), train=loader, test=loader)
    assert sorted(streamed.example()) == ["mask", "words"]
    with pytest.raises(TaskError, match="not as many labels as inputs"):
        Agreement(Both(), train={"words": words, "mask": mask[:3]}, test={"words": words, "mask": mask})


def test_labels_among_keyword_arguments_are_labels():
    class Scores(nn.Module):
        def forward(self, x):
            return x

    x, y = torch.eye(6), torch.arange(6)
    task = Classification(Scores(), train={"x": x, "labels": y}, test={"x": x, "labels": y})
    assert task.metrics(predictor(task.model()), "test")["accuracy"] == 1
