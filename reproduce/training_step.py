"""One step of the library's training loop, phase by phase: what runs, what it reads and writes, what it holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from featherweight.activations import Affine
from featherweight.formats.floating import BITS
from featherweight.model import Model
from featherweight.rounding import Rounding
from featherweight.task import Task
from featherweight.task.training import Training
from featherweight.techniques import AnyStep, Finetune
from featherweight.techniques.base import Context
from featherweight.training.loop import backward, loss_of, of_network, update
from featherweight.training.state import State
from reproduce.roofline import Operator, Phases, Work, counted

PHASES = ("forward", "backward", "update")
# A rate so low that a step stays what it is, however often it is repeated.
PLAIN = Training(epochs=1, lr=1e-6, schedule="constant")


@dataclass(frozen=True)
class Step:
    """A step of the training loop.

    Attributes:
        phases: what it does.
        state: what it changes.
        options: of the training.
    """

    phases: Phases
    state: State
    options: Training

    @classmethod
    def of(
        cls, task: Task, options: Training = PLAIN, *, prepared: Sequence[AnyStep] = (),
        towards: Finetune | None = None, last: int = 0,
    ) -> Step:  # fmt: skip
        """Return the step of a training.

        Args:
            task: gives one batch.
            options: of the training.
            prepared: what is done with the network before.
            towards: the format that weights train towards; None: they train as floats.
            last: how many parameters train, the last ones; 0: all.
        """
        model = Model.of(task.model())
        for step in prepared:
            model = step.apply(model, task, Context())
        names = [name for name, tensor in model.tensors.items() if isinstance(tensor, nn.Parameter)][-last:]
        formats = towards.selected(model, names, keep_zeros=False)[0] if towards else {}
        surrogates = towards.surrogates(model, formats) if towards else {}
        objective = of_network(model, task)
        state = State.of(model, [n for n in names if n not in surrogates], surrogates, {}, options)
        (batch,) = task.batches("train", seed=0, epoch=0)
        losses: list[Tensor] = []
        fits: list[bool] = [False]

        def first() -> None:
            losses[:] = [loss_of(objective, state, batch, options)]

        def second() -> None:
            fits[:] = [backward(state, losses[0], options, 1, 0)]

        def third() -> None:
            if fits[0]:
                update(state, options, 1, 0)

        while not fits[0]:  # until the loss has a scale that fits
            first()
            second()
        return cls(dict(zip(PHASES, (first, second, third), strict=True)), state, options)

    @cached_property
    def work(self) -> dict[str, Work]:
        """Return the operators of each phase; a rounding reads and writes each number."""
        found, weights = counted(self.phases), self.state.weights.values()
        size = sum(parameter.numel() for parameter in weights)
        moments = sum(moment.numel() for p in weights for moment in self._moments(p))
        numbers = {"backward": [(self.options.gradients, size)]}
        numbers["update"] = [(self.options.weights, size), (self.options.moments, moments)]
        for phase, roundings in numbers.items():
            rounds = [
                Operator("round", 0, 8 * count, torch.float32) for rounding, count in roundings if rounding
            ]
            found[phase] = Work([*found[phase].operators, *rounds])
        return found

    @cached_property
    def kept(self) -> int:
        """Return the bytes that the forward pass keeps for the backward pass, parameters left out."""
        own = {p.untyped_storage().data_ptr() for p in self.state.parameters()}
        found: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                found[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            self.phases["forward"]()
        return sum(found.values())

    def held(self) -> tuple[int, int]:
        """Return the bytes of weights, gradients and moments: as float32, and in the bits that their grids have."""
        bits = {name: _bits(getattr(self.options, name)) for name in ("weights", "gradients", "moments")}
        whole, least = 0, 0.0
        for parameter in self.state.parameters():
            count = 1 + (parameter.grad is not None) + len(self._moments(parameter))
            whole += 4 * count * parameter.numel()
            if parameter.dim() > 1:
                each = bits["weights"] + bits["gradients"] + (count - 2) * bits["moments"]
                least += each / 8 * parameter.numel()
            else:
                least += 4 * count * parameter.numel()
        return whole, round(least)

    def _moments(self, parameter: nn.Parameter) -> list[Tensor]:
        kept = self.state.optimizer.state[parameter].values()
        return [value for value in kept if isinstance(value, Tensor) and value.shape == parameter.shape]


def _bits(rounding: Rounding | None) -> int:
    if rounding is None:
        return 32
    return rounding.grid.bits if isinstance(rounding.grid, Affine) else BITS[rounding.grid.kind]
