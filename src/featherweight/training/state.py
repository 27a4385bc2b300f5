"""The state of a training run, and the file (a checkpoint) from which a killed run continues."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from featherweight.data.indexed import number
from featherweight.errors import IntegrityError, UnsupportedError
from featherweight.events import Events, Message
from featherweight.files import write_whole
from featherweight.model import Model, to_bytes
from featherweight.rounding import Rounding
from featherweight.task.training import Training
from featherweight.training.methods.base import Group, Surrogate, Trained
from featherweight.training.scaling import LossScale


@dataclass(frozen=True, eq=False)
class State:
    """Copies of all that training changes, by the tensors' canonical names.

    Attributes:
        constants: tensors that stay as they are.
        floats: tensors trained as they are.
        surrogates: replace the others.
        others: what else trains, by name; see `Objective`.
        buffers: running statistics and the like, which the network itself changes.
        zeros: where weights stay zero; tensors not named have no such place.
        optimizer: over floats, surrogates and others.
        scale: of the loss, in float16; None in other types.
    """

    constants: dict[str, Tensor]
    floats: dict[str, nn.Parameter]
    surrogates: Mapping[str, Surrogate]
    others: Mapping[str, Trained]
    buffers: dict[str, Tensor]
    zeros: dict[str, Tensor]
    optimizer: torch.optim.Optimizer
    scale: LossScale | None

    @classmethod
    def of(
        cls, model: Model, floats: Iterable[str], surrogates: Mapping[str, Surrogate],
        others: Mapping[str, Trained], options: Training,
    ) -> State:  # fmt: skip
        """Return the start: `floats` train as they are, `surrogates` stand in for the rest, `others` train beside."""
        _, tensors = places(model)
        trained = {name: nn.Parameter(tensors[name].detach().clone()) for name in floats}
        constants = {name: t.detach() for name, t in tensors.items() if isinstance(t, nn.Parameter)}
        buffers = {name: t.detach().clone() for name, t in tensors.items() if name not in constants}
        groups = [
            Group([p for p in trained.values() if p.dim() > 1]),
            Group([p for p in trained.values() if p.dim() <= 1], decays=False),
            *(group for part in (*surrogates.values(), *others.values()) for group in part.groups()),
        ]
        weights = [name for name in (*trained, *surrogates) if tensors[name].dim() > 1]
        zeros = {name: constants[name] == 0 for name in weights} if options.keep_zeros else {}
        scale = LossScale() if options.precision == "float16" else None
        return cls(
            constants, trained, surrogates, others, buffers, zeros, make_optimizer(groups, options), scale
        )

    def values(self) -> dict[str, Tensor]:
        """Return every tensor of the network as it is now, by canonical name."""
        standing_in = {name: surrogate() for name, surrogate in self.surrogates.items()}
        values = {**self.constants, **self.buffers, **self.floats, **standing_in}
        # Neither a value nor a gradient passes through a pruned weight, so that none is ever moved.
        return values | {name: values[name].masked_fill(gone, 0.0) for name, gone in self.zeros.items()}

    @property
    def parts(self) -> dict[str, Trained]:
        """Surrogates and what else trains, by names that checkpoints know them by."""
        return {f"surrogate/{name}": part for name, part in self.surrogates.items()} | {**self.others}

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """The floats of two and more dimensions, which may be kept in low precision."""
        return {name: parameter for name, parameter in self.floats.items() if parameter.dim() > 1}

    def round_weights(self, rounding: Rounding | None, seed: int) -> int:
        """Round the weights; return how many were beyond the grid."""
        return rounded(self.weights.items(), rounding, seed)

    def round_gradients(self, rounding: Rounding | None, seed: int) -> int:
        """Round the gradients of the weights; return how many were beyond the grid."""
        gradients = ((name, p.grad) for name, p in self.weights.items() if p.grad is not None)
        return rounded(gradients, rounding, seed)

    def round_moments(self, rounding: Rounding | None, seed: int) -> int:
        """Round what the optimizer keeps for each number of the weights; return how many were beyond the grid."""
        moments = (
            (name, moment)
            for name, parameter in self.weights.items()
            for moment in self.optimizer.state[parameter].values()
            if isinstance(moment, Tensor) and moment.shape == parameter.shape
        )
        return rounded(moments, rounding, seed)

    def parameters(self) -> list[nn.Parameter]:
        """Return every parameter of the optimizer."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def trained(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every parameter of the optimizer with the name of the tensor that it makes, or of the edge."""
        yield from self.floats.items()
        for name, part in self.parts.items():
            yield from ((name.partition("/")[2], parameter) for parameter in part.parameters())

    def flat(self) -> dict[str, Tensor]:
        """Return every tensor that training has changed, by a name of its own."""
        flat: dict[str, Tensor] = {f"float/{name}": tensor for name, tensor in self.floats.items()}
        flat |= {f"buffer/{name}": tensor for name, tensor in self.buffers.items()}
        for name, part in self.parts.items():
            flat |= {f"{name}/{key}": tensor for key, tensor in part.state().items()}
        if self.scale:
            flat |= {f"scale/{key}": tensor for key, tensor in self.scale.state().items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            flat |= {f"optimizer/{index}/{key}": value for key, value in moments.items() if value is not None}
        return {name: t.detach().clone(memory_format=torch.contiguous_format) for name, t in flat.items()}

    def restore(self, flat: Mapping[str, Tensor]) -> None:
        """Take over what `flat` returned.

        Raises:
            IntegrityError: these are not the tensors of such a state.
        """
        try:
            with torch.no_grad():
                for name, parameter in self.floats.items():
                    parameter.copy_(flat[f"float/{name}"])
                for name in self.buffers:
                    self.buffers[name] = flat[f"buffer/{name}"].clone()
            for name, part in self.parts.items():
                part.load(under(f"{name}/", flat))
            if self.scale:
                self.scale.load(under("scale/", flat))
            moments: dict[int, dict[str, Tensor]] = {}
            for path, tensor in under("optimizer/", flat).items():
                index, _, key = path.partition("/")
                moments.setdefault(int(index), {})[key] = tensor
            groups = self.optimizer.state_dict()["param_groups"]
            self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        except (KeyError, ValueError, RuntimeError) as error:
            raise IntegrityError(f"not a checkpoint of this training: {error}") from error


def rounded(tensors: Iterable[tuple[str, Tensor]], rounding: Rounding | None, seed: int) -> int:
    """Round named tensors in place, each by a seed of its own; return how many numbers were beyond the grid.

    Raises:
        UnsupportedError: a tensor is not float32.
    """
    if rounding is None:
        return 0
    beyond = 0
    for index, (name, tensor) in enumerate(tensors):
        if tensor.dtype != torch.float32:
            raise UnsupportedError("only float32 is rounded to a grid", where=name, got=tensor.dtype)
        with torch.no_grad():
            values = tensor.detach().contiguous()
            beyond += rounding.round(values.numpy(), seed=number(seed, index))
            tensor.copy_(values)
    return beyond


def places(model: Model) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return every place of a network that holds a tensor, to its canonical name; and the tensors by that name.

    A module used in two places counts once; buffers that are not saved with the network are there too.
    """
    names = {id(tensor): name for name, tensor in model.tensors.items()}
    slots: dict[str, str] = {}
    tensors: dict[str, Tensor] = {}
    for path, module in model.module.named_modules():
        held = [*module.named_parameters(recurse=False, remove_duplicate=False)]
        held += [*module.named_buffers(recurse=False, remove_duplicate=False)]
        for key, tensor in held:
            slot = f"{path}.{key}" if path else key
            slots[slot] = names.setdefault(id(tensor), slot)
            tensors[slots[slot]] = tensor
    return slots, tensors


def make_optimizer(groups: Iterable[Group], options: Training) -> torch.optim.Optimizer:
    """Return the optimizer of `options` over `groups`; each keeps its `lr_scale` beside its settings."""
    settings = [
        {"params": group.parameters, "lr": options.lr * group.lr_scale, "lr_scale": group.lr_scale,
         "weight_decay": options.weight_decay if group.decays else 0.0}
        for group in groups if group.parameters
    ]  # fmt: skip
    if options.optimizer == "adam":
        return torch.optim.Adam(settings, betas=(options.momentum, 0.999))
    if options.optimizer == "adamw":
        return torch.optim.AdamW(settings, betas=(options.momentum, 0.999))
    return torch.optim.SGD(settings, momentum=options.momentum, nesterov=options.optimizer == "nesterov")


def under(prefix: str, flat: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the entries below `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in flat.items() if name.startswith(prefix)}


class Position(msgspec.Struct, frozen=True, order=True):
    """The step that comes next: its epoch, its batch in it, and how many steps were taken in all."""

    epoch: int = 0
    batch: int = 0
    taken: int = 0


@dataclass(frozen=True)
class Checkpoint:
    """A file that holds one run's state at one position; `key` tells that run from every other."""

    path: Path
    key: str

    def save(self, state: State, position: Position) -> None:
        """Write the state in which the step at `position` finds the network and torch's generator."""
        metadata = {"key": self.key, "position": msgspec.json.encode(position).decode()}
        tensors = {**state.flat(), "generator": torch.get_rng_state()}
        write_whole(self.path, safetensors.torch.save(tensors, metadata))

    def restore(self, state: State, events: Events) -> tuple[Position, Tensor] | None:
        """Put `state` where the file left it; return position and generator state, or None to start at the beginning.

        A file that is damaged or another run's is removed, and `events` hears of it.
        """
        if not self.path.is_file():
            return None
        before = state.flat()
        try:
            return self._read(state)
        except IntegrityError as error:
            state.restore(before)
            self.path.unlink(missing_ok=True)
            events(Message(f"a checkpoint cannot be used ({error}); training starts again"))
            return None

    def _read(self, state: State) -> tuple[Position, Tensor]:
        try:
            with safetensors.safe_open(self.path, "pt") as file:
                metadata: dict[str, Any] = file.metadata() or {}
                flat = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a mapping
            position = msgspec.json.decode(metadata["position"], type=Position)
            generator = flat.pop("generator")
        except (safetensors.SafetensorError, KeyError, msgspec.MsgspecError, OSError) as error:
            raise IntegrityError(f"not a checkpoint: {error}", where=str(self.path)) from error
        if metadata.get("key") != self.key:
            raise IntegrityError("a checkpoint of another run", where=str(self.path))
        state.restore(flat)
        return position, generator


def run_key(options: Training, seed: int, state: State) -> str:
    """Return a hash of what a run starts from: its options, seed and tensors."""
    digest = hashlib.sha256(msgspec.json.encode((options, seed)))
    everything: Mapping[str, Tensor] = {**state.flat(), **state.constants}
    for name, tensor in everything.items():
        digest.update(f" {name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(to_bytes(tensor))
    return digest.hexdigest()
