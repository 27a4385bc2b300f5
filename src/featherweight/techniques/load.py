"""The step `load`: weights out of a file, instead of training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from msgspec import Meta

from featherweight.task import Needs, Task
from featherweight.techniques.base import Context, Step

if TYPE_CHECKING:
    from featherweight.model import Model


class Load(Step, frozen=True, kw_only=True, tag="load"):
    """Replace the network's weights by those of a file; encoded tensors are thawed.

    The file has to hold every floating-point tensor of the network, by name and shape, and nothing else; tied
    tensors once or several times. Counters (`num_batches_tracked`) may be missing. Floating-point types are
    converted to the network's.

    Attributes:
        file: a `.safetensors` file, or a `.fw` file of a network of the same structure.
        sha256: what the bytes of the file have to hash to, so that a recipe always means the same weights.
    """

    needs: ClassVar[Needs] = "none"
    file: Annotated[str, Meta(min_length=1)]
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]

    def apply(self, model: Model, task: Task, context: Context) -> Model:
        """Return the model with these weights."""
        from featherweight.weights import fitting, read

        return model.with_tensors(fitting(read(Path(self.file), self.sha256), model, self.file))
