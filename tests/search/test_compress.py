"""`compress` through the public API: tasks of every kind, and the errors their users will meet."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from featherweight import Classification, Fixed, Int, Option, Recipe, Store, Zstd, compress, load
from featherweight.errors import ConfigError, TaskError
from featherweight.task.training import Training
from featherweight.techniques import Encode

ENCODE = Recipe([Encode(format=Int(bits=8), coder="smallest")])


def data(count=200, width=6):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, width, generator=generator)
    return x, (x[:, 0] > 0).long()


def network(width=6):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(width, 8), nn.ReLU(), nn.Linear(8, 2))


class ByHand:
    """A task written out: the protocol's methods and nothing else; sequences of many lengths, a dict as output."""

    name, primary = "by hand", "score"

    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(10, 6)
            self.near = nn.Conv1d(6, 5, 3, padding=1)
            self.head = nn.Linear(5, 2)

        def forward(self, words):
            states = self.near(self.embedding(words).transpose(1, 2)).relu()
            return {"logits": self.head(states.mean(2)), "attention": states.mean(1)}

    class Recurrent(Tagger):
        def __init__(self):
            super().__init__()
            self.near = nn.LSTM(6, 5, batch_first=True)

        def forward(self, words):
            states, _ = self.near(self.embedding(words))
            return {"logits": self.head(states[:, -1])}

    class Unrolled(Recurrent):
        def forward(self, words):
            state = None
            for step in range(words.shape[1]):
                states, state = self.near(self.embedding(words[:, step : step + 1]), state)
            return {"logits": self.head(states[:, -1])}

    def __init__(self, network=Tagger):
        self.network = network

    def model(self):
        torch.manual_seed(0)
        return self.network()

    def example(self):
        return torch.arange(6).reshape(2, 3)

    def batches(self, split, *, seed, epoch):
        for length in (3, 5, 4):
            words = torch.arange(4 * length).reshape(4, length) % 10
            yield words, words[:, -1] % 2

    def inputs(self, batch):
        return batch[0]

    def loss(self, output, batch):
        return nn.functional.cross_entropy(output["logits"], batch[1])

    def metrics(self, predict, split):
        hits = [
            np.asarray(predict(words)["logits"]).argmax(1) == y.numpy()
            for words, y in self.batches(split, seed=0, epoch=0)
        ]
        return {"score": np.float32(np.concatenate(hits).mean())}

    def fingerprint(self):
        return f"by hand {self.network.__name__}"


def test_a_task_by_hand_with_many_lengths_and_a_dict(tmp_path):
    result = compress(ByHand(), ENCODE, threads=1, store=Store(tmp_path))
    assert result.summary.runtime == "onnxruntime"
    result.save(tmp_path / "model.fw")
    session = load(tmp_path / "model.fw").session()
    output = session.run(np.arange(14).reshape(2, 7) % 10)
    assert list(output) == ["logits", "attention"]
    assert output["attention"].shape == (2, 7)


def test_a_recurrent_network_runs_on_sequences_of_other_lengths(tmp_path):
    result = compress(ByHand(ByHand.Recurrent), ENCODE, threads=1, store=Store(tmp_path))
    assert result.summary.runtime == "onnxruntime"
    assert result.artifact.session().run(np.arange(14).reshape(2, 7) % 10)["logits"].shape == (2, 2)


def test_lengths_that_torch_fixes_leave_weights_and_the_reason(tmp_path):
    result = compress(ByHand(ByHand.Unrolled), ENCODE, threads=1, store=Store(tmp_path))
    assert result.summary.runtime == "torch"
    assert any("axis 1 of words is to be free" in note.reason for note in result.summary.notes)


def test_a_network_without_a_graph_is_a_file_of_weights_that_says_why(tmp_path):
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(6, 2)

        def forward(self, x):
            return self.fc(x) if x.sum() > 0 else -self.fc(x)

    task = Classification(Branches(), train=data(), test=data(), name="branches")
    result = compress(task, ENCODE, threads=1, store=Store(tmp_path))
    assert result.summary.runtime == "torch"
    assert result.summary.difference is None
    assert any(note.name == "graph" and "control flow" in note.reason for note in result.summary.notes)
    result.save(tmp_path / "model.fw")
    with pytest.raises(Exception, match="control flow"):
        load(tmp_path / "model.fw").session()


def test_max_bytes_is_kept_by_the_whole_file(tmp_path):
    task = Classification(network(), train=data(), test=data(), name="budget")
    result = compress(task, max_bytes=1500, threads=1, store=Store(tmp_path))
    assert result.summary.file_bytes <= 1500
    with pytest.raises(ConfigError, match="smallest file"):
        compress(task, max_bytes=300, threads=1, store=Store(tmp_path))


def test_of_two_coders_the_smaller_is_chosen(tmp_path):
    wide = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 2))
    with torch.no_grad():
        wide[0].weight[8:] = 0
    task = Classification(wide, train=data(), test=data(), name="coders")
    options = [Option(Int(bits=8, per="tensor"), Fixed()), Option(Int(bits=8, per="tensor"), Zstd())]
    result = compress(task, max_drop=5, options=options, threads=1, store=Store(tmp_path))
    coders = {row.name: row.coder for row in result.summary.rows}
    assert coders["0.weight"] == "zstd"


def test_a_search_out_of_the_store_makes_the_same_bytes(tmp_path):
    task = Classification(network(), train=data(), test=data(), name="again")
    first, second = (compress(task, max_drop=5, threads=1, store=Store(tmp_path)).content for _ in range(2))
    assert first == second
    assert compress(task, max_drop=5, threads=1, store=Store(tmp_path / "other")).content == first


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"options": []}, ConfigError, "options"),
        ({"options": [Int()]}, ConfigError, "Option"),
        ({"recipe": "int8", "max_drop": 1.0}, ConfigError, "max_drop: belongs to auto"),
        ({"recipe": "int8", "where": "weights"}, ConfigError, "where: belongs to auto"),
        ({"recipe": [Encode()]}, ConfigError, "not a recipe"),
    ],
)
def test_arguments_that_cannot_be_meant(arguments, error, message, tmp_path):
    task = Classification(network(), train=data(), test=data(), name="arguments")
    with pytest.raises(error, match=message):
        compress(task, **arguments, threads=1, store=Store(tmp_path))


def test_a_module_is_no_task():
    with pytest.raises(TaskError, match="not a task"):
        compress(network())


def test_nan_is_named_where_it_is_met(tmp_path):
    x, y = data()
    x[3] = math.nan
    task = Classification(network(), train=(x, y), test=(x, y), name="holes")
    with pytest.raises(TaskError, match="is not finite"):
        compress(task, ENCODE, threads=1, store=Store(tmp_path))


class Failing(Classification):
    """A task whose own code fails at one place."""

    def __init__(self, place, **options):
        super().__init__(network(), train=data(), test=data(), name="failing", **options)
        self.place = place

    def at(self, place):
        if self.place == place:
            raise KeyError("mine")

    def loss(self, output, batch):
        self.at("loss")
        return super().loss(output, batch)

    def metrics(self, predict, split):
        self.at("metrics")
        return super().metrics(predict, split)

    def batches(self, split, *, seed, epoch):
        for number, batch in enumerate(super().batches(split, seed=seed, epoch=epoch)):
            if number == 1:
                self.at(f"{split} split")
            yield batch

    def inputs(self, batch):
        self.at("inputs")
        return super().inputs(batch)

    def example(self):
        self.at("example")
        return super().example()


TRAINED = {"training": Training(epochs=1), "batch_size": 50}


@pytest.mark.parametrize(
    ("place", "recipe", "where", "options"),
    [
        ("metrics", ENCODE, "failing, metrics on validation", {}),
        ("loss", "auto", "failing, loss on validation", {}),
        ("validation split", "auto", "failing, metrics on validation", {"batch_size": 5}),
        ("inputs", "auto", "failing, loss on validation", {}),
        ("example", "auto", "failing, example", {}),
        ("loss", "auto", r"steps\[0\] \(train\): failing, loss", TRAINED),
        ("train split", "auto", r"steps\[0\] \(train\): failing, train split", TRAINED),
        ("inputs", "auto", r"steps\[0\] \(train\): failing, network", TRAINED),
    ],
)
def test_what_a_users_code_raises_is_one_error_that_says_where(place, recipe, where, options, tmp_path):
    with pytest.raises(TaskError, match=f"{where}: failed: KeyError: 'mine'") as caught:
        compress(Failing(place, **options), recipe, threads=1, store=Store(tmp_path))
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_network_that_does_not_take_its_data_is_refused_at_once(tmp_path):
    x, y = data()
    narrow = Classification(network(5), train=(x, y), test=(x, y), name="narrow")
    with pytest.raises(TaskError, match="narrow, network on its example: failed: RuntimeError"):
        compress(narrow, ENCODE, threads=1, store=Store(tmp_path))
    arrays = (x.double().numpy(), y.numpy())
    double = Classification(network().double(), train=arrays, test=arrays, name="double")
    with pytest.raises(TaskError, match=r"torch\.float32, expected torch\.float64"):
        compress(double, ENCODE, threads=1, store=Store(tmp_path))


def test_without_weights_the_float_file_is_written_and_the_report_says_so(tmp_path):
    task = Classification(nn.BatchNorm1d(6), train=data(), test=data(), name="norm alone")
    result = compress(task, threads=1, store=Store(tmp_path))
    assert result.summary.runtime == "onnxruntime"
    assert "weights" in [note.name for note in result.summary.notes]
    with pytest.raises(ConfigError, match="matches no tensor"):
        compress(task, where="weights", threads=1, store=Store(tmp_path))


def test_the_report_compares_sample_by_sample(tmp_path):
    task = Classification(network(), train=data(), test=data(), name="paired")
    found = compress(task, ENCODE, threads=1, store=Store(tmp_path)).summary
    change = found.test["accuracy"] - found.baseline["test"]["accuracy"]
    assert found.paired.difference == pytest.approx(change)
    assert (found.paired.gained - found.paired.lost) / 200 == pytest.approx(change)

    class Renamed(Classification):
        def metrics(self, predict, split):
            return {"accuracy": 0.5}

    task = Renamed(network(), train=data(), test=data(), name="another measure")
    found = compress(task, ENCODE, threads=1, store=Store(tmp_path)).summary
    assert found.paired is None
    assert "paired test" in [note.name for note in found.notes]


def test_the_choice_is_no_larger_than_the_best_uniform_setting(tmp_path):
    task = Classification(network(), train=data(), test=data(), name="uniform")
    found = compress(task, max_drop=5, threads=1, store=Store(tmp_path)).summary
    alike = [p for p in found.points if len(set(p.formats.values())) == 1]
    assert len(alike) >= 8
    chosen = next(p for p in found.points if p.chosen)
    assert chosen.nbytes <= min(p.nbytes for p in alike if p.drop + 1.64 * p.error <= 0.05)


def test_a_metric_that_does_not_work_is_found_before_the_work(tmp_path):
    class Odd(Classification):
        def metrics(self, predict, split):
            if split == "test":
                raise KeyError("labels")
            return super().metrics(predict, split)

    started = []
    task = Odd(network(), train=data(), test=data(), name="odd")
    with pytest.raises(TaskError, match="odd, metrics on test: failed: KeyError: 'labels'"):
        compress(task, threads=1, store=Store(tmp_path), events=started.append)
    assert not started


def test_a_validation_that_was_trained_on_is_noted(tmp_path):
    (x, y), (other, labels) = data(1200), data(400, width=6)
    torch.manual_seed(1)
    noisy = torch.where(torch.rand(400) < 0.2, 1 - labels, labels)
    memorised = nn.Linear(6, 2)
    with torch.no_grad():
        memorised.weight.copy_(torch.tensor([[-1.0, 0, 0, 0, 0, 0], [1.0, 0, 0, 0, 0, 0]]))
        memorised.bias.zero_()
    task = Classification(memorised, train=(x, y), test=(other, noisy), name="memorised")
    notes = compress(task, ENCODE, threads=1, store=Store(tmp_path)).summary.notes
    assert any(note.name == "validation" and "trained on these samples" in note.reason for note in notes)
