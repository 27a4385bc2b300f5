"""Running a network piece by piece gives what running it whole gives, with tensors of any network in its place."""

import pytest
import torch
from networks import NETWORKS, captured

from featherweight.graph.execution import Execution
from featherweight.graph.memory_format import channels_last
from featherweight.graph.program import capture
from featherweight.graph.pytree import flatten_inputs

RUNS = ["residual", "two inputs", "fixed batch", "writes", "constants"]


@pytest.mark.parametrize("name", RUNS)
def test_in_pieces_as_in_one(name):
    module, _, program = captured(name)
    execution = Execution(module, program)
    values = execution.start({name: tensor.clone() for name, tensor in program.example.items()})
    for position in range(len(execution)):
        values = execution.run(values, position, position + 1)
    whole = program.run({name: channels_last(tensor) for name, tensor in program.example.items()})
    for ours, theirs in zip(execution.outputs(values), whole, strict=True):
        assert torch.equal(ours, theirs)


def test_other_tensors_stand_in():
    module, example, program = captured("residual")
    other, _ = NETWORKS["residual"].build()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.1)
    execution = Execution(module, program)
    values = execution.run(
        execution.start(flatten_inputs(module, example)), 0, len(execution), dict(other.state_dict())
    )
    assert torch.equal(execution.outputs(values)[0], other(channels_last(example)))


def test_bytes_that_are_alive():
    network = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2)).eval()
    execution = Execution(network, capture(network, torch.ones(2, 4)))
    for position in range(len(execution) + 1):
        held = execution.run(execution.start({"input": torch.ones(5, 4)}), 0, position)
        alive = sum(value.nbytes for value in held.values() if isinstance(value, torch.Tensor))
        assert alive == 5 * execution.nbytes[position]
    assert sorted(set(execution.nbytes)) == [8, 16, 24]
