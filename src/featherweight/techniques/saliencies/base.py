"""What a saliency is: a frozen value that scores every channel of a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import msgspec
from numpy.typing import NDArray

from featherweight.checked import check_fields
from featherweight.task import Batch, Needs, Task

if TYPE_CHECKING:
    from featherweight.graph.channels import Channels
    from featherweight.model import Model

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Scores:
    """What removing channels is thought to cost; least first to go.

    Attributes:
        linear: cost of each channel alone `[channels]`.
        pair: symmetric `[channels, channels]`; removing a set M costs the sum of `linear` over M and half the sum
            of `pair` over M x M. None: costs add up.
    """

    linear: Array
    pair: Array | None = None


class Saliency(
    msgspec.Struct, frozen=True, tag_field="saliency", forbid_unknown_fields=True, omit_defaults=True
):
    """How much a channel matters. A pure function of model, data and seed; in eval mode.

    A channel is all parameters that make it: rows of weights, biases, scales and shifts of batch norm.

    Attributes:
        in_loss: whether scores tell what is lost; then those go first that lose least for what they save.
    """

    needs: ClassVar[Needs] = "none"
    in_loss: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check every field against its annotation.

        Raises:
            ConfigError: names the field.
        """
        check_fields(self, str(self.__struct_config__.tag))

    def scores(self, model: Model, channels: Channels, task: Task, seed: int) -> Scores:
        """Return the scores of all channels."""
        raise NotImplementedError


class Sampled(Saliency, frozen=True):
    """A saliency from the loss on labelled samples.

    Attributes:
        samples: how many to see, at least; whole batches are taken.
        split: where they come from.
    """

    needs: ClassVar[Needs] = "labelled"
    in_loss: ClassVar[bool] = True
    samples: Annotated[int, msgspec.Meta(ge=1)] = 1000
    split: Literal["train", "calibration"] = "train"

    def drawn(self, task: Task, seed: int) -> list[Batch]:
        """Return the batches to see."""
        from featherweight.task.sampling import drawn

        return drawn(task, self.split, self.samples, seed)
