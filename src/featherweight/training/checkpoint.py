"""Checkpoints: the state of a training run in a safetensors file, from which a killed run continues."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from featherweight.errors import IntegrityError
from featherweight.events import Events, Message
from featherweight.files import write_whole
from featherweight.model import to_bytes
from featherweight.task.training import Training
from featherweight.training.state import State


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
        """Put `state` where the file left it; return position and generator state.

        Raises:
            IntegrityError: the file is damaged, or another run's.
        """
        try:
            with safetensors.safe_open(self.path, "pt") as file:
                metadata: dict[str, Any] = file.metadata() or {}
                flat = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a mapping
            position = msgspec.json.decode(metadata["position"], type=Position)
        except (safetensors.SafetensorError, KeyError, msgspec.MsgspecError, OSError) as error:
            raise IntegrityError(f"not a checkpoint: {error}", where=str(self.path)) from error
        if metadata.get("key") != self.key:
            raise IntegrityError("a checkpoint of another run", where=str(self.path))
        if "generator" not in flat:
            raise IntegrityError("a checkpoint without a generator", where=str(self.path))
        generator = flat.pop("generator")
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
