"""The laws of steps as a test suite: subclass `StepSuite`, say which step, and run pytest."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import torch

from featherweight.errors import TaskError
from featherweight.model import Model, to_bytes
from featherweight.task import Restricted, Task
from featherweight.techniques import Context, Step

State = dict[str, bytes]


class StepSuite:
    """What every step keeps. `step` is an instance, `task` a small task, `model` where the step starts.

    class TestMine(StepSuite):
        step = Mine(strength=0.5)
        task = tiny_task()
    """

    step: Step
    task: Task

    def model(self) -> Model:
        """Return the model that the step starts from; an encoded one makes for harder tests."""
        return Model.of(self.task.model())

    def apply(self, model: Model, seed: int = 0) -> Model:
        """Return the model after the step, which sees of the task what it declared to need."""
        context = Context(seed=seed, uncoded=Model.of(self.task.model()))
        return self.step.apply(model, Restricted(self.task, self.step.needs), context)

    def test_leaves_its_input_alone(self) -> None:
        """Law: a step never changes the model it is given, nor leaves gradients on it."""
        model = self.model()
        before, weights = contents(model), dict(model.weights)
        modes = [part.training for part in model.module.modules()]
        self.apply(model)
        assert contents(model) == before
        assert dict(model.weights) == weights
        assert [part.training for part in model.module.modules()] == modes
        assert all(parameter.grad is None for parameter in model.module.parameters())

    def test_what_is_evaluated_is_what_ships(self) -> None:
        """Law: every encoded tensor of the result equals its decoded bytes; the network is in eval mode."""
        after = self.apply(self.model())
        for name, entry in after.weights.items():
            assert to_bytes(after.tensors[name]) == entry.decode().tobytes(), name
        assert not any(part.training for part in after.module.modules())
        assert all(parameter.grad is None for parameter in after.module.parameters())
        assert all(tensor.grad_fn is None for tensor in after.tensors.values())

    def test_same_seed_same_bytes(self) -> None:
        """Law: the result is a function of model, task and seed, whatever state torch is in."""
        torch.manual_seed(1)
        first = self.apply(self.model(), seed=3)
        torch.manual_seed(2)
        second = self.apply(self.model(), seed=3)
        assert contents(first) == contents(second)
        assert first.hash == second.hash
        assert first.notes == second.notes

    def test_leaves_torch_as_it_was(self) -> None:
        """Law: generator, gradient mode, thread count and default type are the caller's; any will do."""
        expected = self.apply(self.model()).hash
        torch.manual_seed(5)
        before = global_state()
        self.apply(self.model())
        assert global_state() == before
        for mode in (torch.no_grad(), torch.inference_mode()):
            model = self.model()
            with mode:
                before = global_state()
                after = self.apply(model)
                assert global_state() == before
            assert after.hash == expected

    def test_is_data(self) -> None:
        """Law: a step is its fields: written and read again, it is equal and does the same."""
        for codec in (msgspec.json, msgspec.msgpack):
            assert codec.decode(codec.encode(self.step), type=type(self.step)) == self.step
        assert msgspec.toml.decode(msgspec.toml.encode(self.step), type=type(self.step)) == self.step

    def test_needs_no_more_than_it_says(self) -> None:
        """Law: the step works on a task restricted to what it declared, and the restriction holds."""
        restricted = Restricted(self.task, self.step.needs)
        with pytest.raises(TaskError):
            restricted.batches("test", seed=0, epoch=0)
        self.apply(self.model())


def contents(model: Model) -> State:
    """Return the bytes of every tensor of a model."""
    return {name: to_bytes(tensor) for name, tensor in model.tensors.items()}


def global_state() -> tuple[Any, ...]:
    """Return what of torch a step could disturb."""
    return (
        to_bytes(torch.get_rng_state()), torch.is_grad_enabled(), torch.is_inference_mode_enabled(),
        torch.get_num_threads(), torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled(),
    )  # fmt: skip
