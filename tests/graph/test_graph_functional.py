"""Rewriting by hand gives the graph that torch's second trace gives, and leaves to it all that is more."""

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_flatten

from featherweight.capture import Execution, capture, trace
from featherweight.capture import functional as module
from featherweight.export.onnx import export
from featherweight.zoo.efficientnet_lite import EfficientNetLite0
from featherweight.zoo.lenet import LeNet5
from featherweight.zoo.mobilenet_v2 import mobilenet_v2_32
from featherweight.zoo.resnet import resnet20
from featherweight.zoo.squeezenet import SqueezeNet32
from featherweight.zoo.vgg import VGG16


class Mixed(nn.Module):
    """All that is rewritten, where sizes are fixed and where they are not."""

    def __init__(self, first):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False)
        self.drop, self.first = nn.Dropout(0.3), first

    def forward(self, x):
        return self.drop(torch.relu(self.norm(self.conv(x)))).flatten(self.first)


class Last(nn.Module):
    """Returns what is rewritten, each of it."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout()

    def forward(self, x):
        x = self.norm(self.conv(x))
        return x, x.flatten(1), self.drop(x)


NETWORKS = {
    "lenet": (LeNet5, (2, 1, 28, 28)),
    "resnet": (resnet20, (2, 3, 32, 32)),
    "mobilenet": (mobilenet_v2_32, (2, 3, 32, 32)),
    "squeezenet": (SqueezeNet32, (2, 3, 32, 32)),
    "vgg": (VGG16, (2, 3, 32, 32)),
    "efficientnet": (EfficientNetLite0, (2, 3, 64, 64)),
    "returned": (Last, (2, 3, 6, 6)),
    "mixed": (lambda: Mixed(1), (2, 3, 6, 6)),
    "mixed, inner axes": (lambda: Mixed(2), (2, 3, 6, 6)),
    "mixed, batch too": (lambda: Mixed(0), (2, 3, 6, 6)),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dynamic", [None, {}])
def test_the_graph_is_that_of_the_second_trace(name, dynamic, monkeypatch):
    build, shape = NETWORKS[name]
    network = build().eval()
    quick = trace(network, torch.randn(shape), dynamic=dynamic)
    monkeypatch.setattr(module, "PLAIN", set())
    assert trace(network, torch.randn(shape), dynamic=dynamic) == quick


def test_what_is_rewritten_may_be_returned():
    export(Last().eval(), torch.randn(2, 3, 6, 6))  # compares every output with the network's


def test_only_what_needs_it_is_traced_twice(monkeypatch):
    def second(*_):
        raise AssertionError("traced twice")

    monkeypatch.setattr(torch.export.ExportedProgram, "run_decompositions", second)
    for name in ("resnet", "mobilenet", "efficientnet"):
        build, shape = NETWORKS[name]
        assert len(trace(build().eval(), torch.randn(shape)).nodes) > 50
    with pytest.raises(Exception, match="traced twice"):
        trace(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Softplus()), torch.randn(2, 3, 6, 6))


@pytest.mark.parametrize(("kind", "options"), [
    (nn.LSTM, {}), (nn.LSTM, {"batch_first": True, "proj_size": 3}), (nn.GRU, {"bidirectional": True, "num_layers": 2}),
    (nn.RNN, {}),
])  # fmt: skip
def test_sequences_of_any_length_and_the_sizes_that_their_steps_would_have(kind, options):
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.steps = kind(4, 5, **options)

        def forward(self, x):
            return tree_flatten(self.steps(x))[0]

    program = capture(Last().eval(), torch.randn(2, 6, 4), dynamic={"x": (0, 1)})
    graph = program.graph
    assert [graph.node(edge).shape for edge in graph.outputs] == [
        t.shape for t in program.run(program.example)
    ]
    assert {node.op for node in graph.nodes} <= {"input", "lstm", "gru", "rnn_tanh"}
    longer = {"x": torch.randn(9, 7, 4)}
    for ours, theirs in zip(Execution(program)(longer), program.run(longer), strict=True):
        assert torch.equal(ours, theirs)
