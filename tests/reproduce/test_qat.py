"""What the reproduction `qat` measures: recipes of papers, choices on validation, tables."""

import torch
from torch import nn

from featherweight.recipe import Recipe, run
from featherweight.task.tasks import Classification
from reproduce import qat, reproduce
from reproduce.tasks import Short


class Network(nn.Module):
    """Two convolutions, the second beside a skip connection, and a linear layer."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8)
        self.linear = nn.Linear(8, 4)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)) + x)
        return self.linear(x.mean((2, 3)))


def small(*_):
    """A task as `short` returns it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        x, y = torch.randn(160, 3, 8, 8), torch.randint(0, 4, (160,))
        whole = Classification(
            Network().eval(), train=(x[:96], y[:96]), validation=(x[96:128], y[96:128]), test=(x[128:], y[128:]),
            name="resnet20-cifar10", batch_size=16,
        )  # fmt: skip
    return Short(whole, 3, 32)


def test_every_way_ends_in_its_bits_but_for_the_ends(tmp_path, monkeypatch):
    monkeypatch.setenv("FEATHERWEIGHT_DATA", str(tmp_path))
    task = small()
    for way in qat.WAYS:
        model = run(Recipe(way.steps(qat.ENDS, 2, 0.01)), task, threads=1)[-1].model
        assert {name: entry.format.bits for name, entry in model.weights.items()} == {
            "conv1.weight": 8, "conv2.weight": 2, "linear.weight": 8,
        }, way.name  # fmt: skip
        read = {edge: getattr(quantizer, "bits", 2) for edge, quantizer in model.activations.items()}
        assert read == {"x": 8, "relu>conv2d_1": 2, "mean": 8}, way.name


def test_the_learning_rate_is_the_best_on_validation():
    tried = qat.Tried(qat.LSQ, {0.01: 0.5, 0.03: 0.7, 0.1: 0.6}, [0.4])
    assert tried.rate == 0.03


def test_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr(qat, "short", small)
    monkeypatch.setenv("FEATHERWEIGHT_DATA", str(tmp_path / "store"))
    results = reproduce("qat", tmp_path, quick=True, threads=1)
    assert [len(sheet.rows) for sheet in results.sheets] == [3, 2, 1, 2]
    page = (tmp_path / "README.md").read_text()
    assert "LSQ" in page and "Quick form" in page
