"""Running a captured network, whole or in pieces, in eval or training mode, is running the network."""

import copy

import pytest
import torch
from networks import NETWORKS, captured
from torch import nn

from featherweight.capture.execution import Execution
from featherweight.capture.memory_format import channels_last
from featherweight.capture.program import capture
from featherweight.capture.pytree import flatten_inputs, flatten_outputs, rebuild
from featherweight.errors import TaskError, UnsupportedError

RUNS = ["residual", "two inputs", "fixed batch", "writes", "constants"]
TRAINED = [
    "shared", "separable", "residual", "transposed", "volumes", "attention", "transformer", "norms", "excite",
    "windows", "lstm", "gru", "writes", "tied", "two inputs", "dataclass", "parametrized", "buffers", "depth",
]  # fmt: skip


class Depth(nn.Module):
    """A residual block that training drops now and then, dropout inside attention, a ReLU in place."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.relu = (
            nn.Conv2d(3, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(inplace=True),
        )
        self.attention = nn.MultiheadAttention(4, 2, dropout=0.3, batch_first=True)
        self.drop, self.fc = nn.Dropout(0.5), nn.Linear(4, 5)

    def forward(self, x):
        x = self.relu(self.norm(self.conv(x)))
        x = x.flatten(2).transpose(1, 2)
        y = self.attention(x, x, x, need_weights=False)[0]
        if self.training:
            y = y * torch.empty(len(x), 1, 1).bernoulli_(0.5)
        return self.fc(self.drop((x + y).mean(1)))


def network(name):
    if name != "depth":
        return captured(name)
    torch.manual_seed(0)
    module, example = Depth().eval(), torch.randn(3, 3, 6, 6)
    return module, example, capture(module, example)


def weighted(outputs):
    """A number that depends on every output."""
    return sum((o.double() * torch.arange(1.0, o.numel() + 1).reshape(o.shape).sin()).sum() for o in outputs)


@pytest.mark.parametrize("name", RUNS)
def test_in_pieces_as_in_one(name):
    _, _, program = captured(name)
    seen = []
    execution = Execution(program)
    inputs = {name: tensor.clone() for name, tensor in program.example.items()}
    values = execution.start(inputs)
    for position in range(len(execution)):
        values = execution.run(values, position, position + 1)
    whole = program.run({name: channels_last(tensor) for name, tensor in program.example.items()})
    once = Execution(program, lambda edge, value: seen.append(edge) or value)(inputs)
    for ours, again, theirs in zip(execution.outputs(values), once, whole, strict=True):
        assert torch.equal(ours, theirs) and torch.equal(again, theirs)
    constants = {node.name for node in program.graph.nodes if node.op == "constant"}
    assert [edge for edge in seen if edge not in constants] == [
        node.name for node in program.graph.nodes if node.name not in constants
    ]


@pytest.mark.parametrize("grad", [False, True])
def test_other_tensors_stand_in(grad):
    module, example, program = captured("residual")
    other, _ = NETWORKS["residual"].build()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.1)
    execution = Execution(program, grad=grad)
    (made,) = execution(flatten_inputs(module, example), other.state_dict(keep_vars=True))
    expected = other(channels_last(example))
    assert torch.equal(made, expected) and made.requires_grad == grad
    if grad:
        parameters = list(other.parameters())
        found, wanted = (torch.autograd.grad(weighted([o]), parameters) for o in (made, expected))
        for ours, theirs in zip(found, wanted, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_bytes_that_are_alive():
    network = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2)).eval()
    execution = Execution(capture(network, torch.ones(2, 4)))
    for position in range(len(execution) + 1):
        held = execution.run(execution.start({"input": torch.ones(5, 4)}), 0, position)
        alive = sum(value.nbytes for value in held.values() if isinstance(value, torch.Tensor))
        assert alive == 5 * execution.nbytes[position]
    assert sorted(set(execution.nbytes)) == [8, 16, 24]


@pytest.mark.parametrize("name", TRAINED)
def test_trains_as_the_network_itself(name):
    module, example, program = network(name)
    theirs, ours = copy.deepcopy(module).train(), copy.deepcopy(module).train()
    before = copy.deepcopy(ours.state_dict())
    flat = {name: channels_last(tensor.clone()) for name, tensor in program.example.items()}
    trained = program.training(ours)
    assert all(torch.equal(tensor, before[name]) for name, tensor in ours.state_dict().items())
    seen = []
    execution = Execution(trained, lambda edge, value: seen.append(edge) or value, grad=True)
    torch.manual_seed(1)
    found = execution(flat)
    torch.manual_seed(1)
    inputs = rebuild(example, iter([tensor.clone() for tensor in flat.values()]))
    _, expected = flatten_outputs(
        theirs(**inputs)
        if isinstance(inputs, dict)
        else theirs(*inputs if isinstance(inputs, tuple) else [inputs])
    )
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)
    for outputs in (found, expected):
        weighted(outputs).backward()
    for (path, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), path
        if a.grad is not None:
            assert torch.equal(a.grad, b.grad), path
    for path, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[path], value), path
    assert len(seen) == len(set(seen)) == len(execution.edges)
    known = {node.name for node in program.graph.nodes}
    assert execution.edges <= known
    weighted_edges = {node.name for node in program.graph.nodes if "weight" in dict(node.roles)}
    assert weighted_edges <= execution.edges


def test_an_activation_that_training_computes_twice_is_seen_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.drop = nn.Linear(4, 3), nn.Dropout(0.5)

        def forward(self, x):
            x = self.fc(x)
            return torch.relu(x) + self.drop(torch.relu(x))

    module, seen = Twice().eval(), []
    program = capture(module, torch.randn(2, 4))
    Execution(program, lambda edge, value: seen.append(edge) or value)(program.example)
    assert seen == ["x", "linear", "relu", "add"]
    trained = program.training(copy.deepcopy(module).train())
    visited = Execution(trained, lambda edge, value: value * 0 if edge == "relu" else value, grad=True)
    assert torch.equal(visited(program.example)[0], torch.zeros(2, 3))


def test_parts_in_eval_mode_stay_so_and_what_no_trace_shows_is_refused():
    module, _, program = captured("residual")
    frozen = copy.deepcopy(module).train()
    frozen.norm1.eval()
    Execution(program.training(frozen))(program.example)
    counts = [frozen.norm1.num_batches_tracked, frozen.norm2.num_batches_tracked]
    assert [int(count - 0) for count in counts] == [0, 1]
    mean = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, momentum=None)).eval()
    with pytest.raises(UnsupportedError, match=r"1 .BatchNorm1d.: cannot be traced in training mode"):
        capture(mean, torch.randn(2, 4)).training(copy.deepcopy(mean).train())
    with pytest.raises(TaskError, match="fails on its own example: Expected more than 1 value"):
        capture(mean, torch.randn(1, 4), dynamic={}).training(copy.deepcopy(mean).train())
