"""Evaluation: what is remembered of outputs, scores beside metrics of one's own, rounding of one's own type."""

import torch
from torch import nn

from featherweight import Classification, Int, Recipe, Regression, Store, compress
from featherweight.evaluation.metrics import evaluated, parity, predictor, remembered
from featherweight.model import equal_bits
from featherweight.techniques import Encode


def test_each_input_is_computed_once():
    asked = []

    def predict(inputs):
        asked.append(inputs)
        return inputs["x"] + 1

    ask = remembered(predict)
    first, second = {"x": torch.zeros(3)}, {"x": torch.ones(3)}
    for _ in range(2):
        assert ask(first).tolist() == [1, 1, 1] and ask(second).tolist() == [2, 2, 2]
    assert ask({"x": torch.zeros(3)}).tolist() == [1, 1, 1]  # equal, another object
    assert ask({"x": torch.zeros(1, 3)}).shape == (1, 3)  # same numbers, another shape
    assert len(asked) == 3


def test_no_more_is_remembered_than_a_bound():
    asked = []

    def predict(inputs):
        asked.append(inputs)
        return inputs + 1

    ask = remembered(predict, most=3 * 4 * 10)
    for _ in range(2):
        for value in range(5):
            assert ask(torch.full((10,), float(value))).tolist() == [value + 1] * 10
    assert len(asked) == 5 + 2, "three of five outputs are kept"


class Boxes(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x):
        return {"box": self.layer(x), "other": x}


class OfBoxes(Regression):
    def loss(self, output, batch):
        return (output["box"] - batch[1]).square().mean()

    def metrics(self, predict, split):
        parts = self.batches(split, seed=0, epoch=0)
        errors = [(predict(x)["box"] - y).square().mean() for x, y in parts]
        return {"r2": 1 - float(torch.stack(errors).mean())}


def test_metrics_of_ones_own_need_no_scores_of_samples(tmp_path):
    torch.manual_seed(0)
    x, network = torch.randn(60, 4), Boxes()
    y = network(x)["box"].detach()
    task = OfBoxes(network, train=(x, y), test=(x, y))
    assert evaluated(predictor(task.model()), task, "test").scores is None
    steps = Recipe([Encode(format=Int(bits=8))])
    assert compress(task, steps, threads=1, store=Store(tmp_path)).summary.paired is None


def test_a_network_in_half_precision_is_compared_at_its_own_rounding(tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 3)).half()
    x = torch.randn(60, 3, 8, 8).half()
    task = Classification(network, train=(x, network(x).argmax(1)), test=(x, network(x).argmax(1)))
    found = compress(task, threads=1, store=Store(tmp_path)).summary
    assert found.runtime == "onnxruntime"
    assert found.difference < 0.01


def test_parity_leaves_the_network_as_it_is(tmp_path):
    torch.manual_seed(0)
    network, x = nn.Sequential(nn.Linear(8, 3)), torch.randn(40, 8)
    data = x, network(x).argmax(1)
    task = Classification(network, train=data, validation=data, test=data)
    session = compress(task, "int8", threads=1, store=Store(tmp_path)).artifact.session()
    module = task.model()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    parity(session, module, task)
    after = module.state_dict()
    assert all(equal_bits(after[name], tensor) for name, tensor in before.items())
    assert all(after[name].dtype == tensor.dtype for name, tensor in before.items())
