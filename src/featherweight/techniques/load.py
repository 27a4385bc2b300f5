"""The step `load`: weights out of a file, instead of training."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from featherweight.errors import IntegrityError, UnsupportedError
from featherweight.task import Needs, Task
from featherweight.techniques.base import Context, Step

if TYPE_CHECKING:
    from torch import Tensor

    from featherweight.model import Model

SAFETENSORS = ".safetensors"


class Load(Step, frozen=True, kw_only=True, tag="load"):
    """Put the weights of a file in the place of those that are there; encoded tensors are thawed.

    Every floating-point tensor of the network has to be in the file, by its name and of its shape, and nothing
    else may be; counters (`num_batches_tracked`) may be missing.

    Attributes:
        file: a `.safetensors` file, or a `.fw` file of a network of the same structure.
        sha256: what the bytes of the file have to hash to, so that a recipe means the same weights for ever.
    """

    needs: ClassVar[Needs] = "none"
    file: Annotated[str, Meta(min_length=1)]
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]

    def apply(self, model: Model, task: Task, context: Context) -> Model:
        """Return the model with these weights."""
        return model.with_tensors(fitting(read(Path(self.file), self.sha256), model.tensors, self.file))


def read(path: Path, sha256: str = "") -> dict[str, NDArray[Any]]:
    """Return the tensors of a file by name.

    Raises:
        IntegrityError: it cannot be read, does not have this hash, or is damaged.
        UnsupportedError: a `.fw` file of a network of another structure.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise IntegrityError(error.strerror or str(error), where=str(path)) from None
    found = hashlib.sha256(content).hexdigest()
    if sha256 and found != sha256:
        raise IntegrityError(
            "another file than was meant: SHA-256", where=str(path), got=found, expected=sha256
        )
    if path.suffix == SAFETENSORS:
        from safetensors import SafetensorError, numpy

        try:
            return dict(numpy.load(content))
        except (SafetensorError, KeyError, ValueError) as error:
            raise IntegrityError(f"not a safetensors file: {error}", where=str(path)) from None
    from featherweight.artifact import loads

    artifact = loads(content)
    if artifact.structure:
        changed = ", ".join(artifact.structure)
        raise UnsupportedError("weights of a network of another structure", where=str(path), got=changed)
    return artifact.weights()


def fitting(
    values: Mapping[str, NDArray[Any]], tensors: Mapping[str, Tensor], where: str
) -> dict[str, Tensor]:
    """Return `values` as tensors of the types of the network's own.

    Raises:
        IntegrityError: names or shapes differ, or a value is not finite.
    """
    import torch

    needed = {name for name, tensor in tensors.items() if tensor.is_floating_point()}
    if needed - values.keys() or values.keys() - tensors.keys():
        odd = sorted(needed ^ (values.keys() - (tensors.keys() - needed)))
        raise IntegrityError(
            "not the weights of this network", where=where, got=f"{len(odd)} names in one alone: {odd[:3]}"
        )
    loaded = {}
    for name, value in values.items():
        if value.shape != tuple(tensors[name].shape):
            raise IntegrityError(
                "shape", where=f"{where}: {name}", got=value.shape, expected=tuple(tensors[name].shape)
            )
        if not np.isfinite(value).all():
            raise IntegrityError("holds NaN or infinity", where=f"{where}: {name}")
        loaded[name] = torch.from_numpy(np.array(value)).to(tensors[name].dtype)
    return loaded
