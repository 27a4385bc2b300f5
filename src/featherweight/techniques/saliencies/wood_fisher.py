"""WoodFisher: what the loss loses by a weight when its neighbours make up for it, by blocks of the Fisher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import msgspec

from featherweight.checked import check_fields
from featherweight.task import Needs, Task

if TYPE_CHECKING:
    from featherweight.curvature.blocks import Blocks
    from featherweight.model import Model


class WoodFisher(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    tag_field="saliency",
    tag="wood_fisher",
    forbid_unknown_fields=True,
    omit_defaults=True,
):
    """`w^2 / (2 [F^-1]_qq)`, F the empirical Fisher information within a run of neighbouring weights.

    Of single weights: for `sparsify`, which then sets them to zero and moves the rest of their runs so that the loss
    rises least, by its second order: optimal brain surgery, of all that go from a run at once. Weights that are zero
    stay zero.

    The paper updates `F^-1` gradient by gradient by Woodbury's identity, for blocks of thousands; these are small, so
    F is summed and inverted. The paper removes each weight as if alone, and adds their updates.

    References: Singh, Alistarh, WoodFisher: efficient second-order approximation for neural network compression,
    2020, arXiv 2004.14340; Hassibi, Stork, Second order derivatives for network pruning: optimal brain surgeon, 1993,
    eq. 5; Kurtic et al., The optimal BERT surgeon, 2022, arXiv 2203.07259 (sets of weights at once).

    Attributes:
        samples: labelled samples to see, at least, one backward pass each; whole batches are taken.
        split: where they come from.
        block: weights in a run; memory is as many numbers a weight.
        damping: added to the diagonal of F, times its mean.
    """

    needs: ClassVar[Needs] = "labelled"
    samples: Annotated[int, msgspec.Meta(ge=1)] = 256
    split: Literal["train", "calibration"] = "train"
    block: Annotated[int, msgspec.Meta(ge=1)] = 64
    damping: Annotated[float, msgspec.Meta(gt=0)] = 0.1

    def __post_init__(self) -> None:
        """Check every field against its annotation.

        Raises:
            ConfigError: names the field.
        """
        check_fields(self, "wood_fisher")

    def blocks(self, model: Model, names: Sequence[str], task: Task, seed: int) -> dict[str, Blocks]:
        """Return the curvature of some parameters."""
        from featherweight.curvature.blocks import fisher_blocks
        from featherweight.task.sampling import drawn

        batches = drawn(task, self.split, self.samples, seed)
        return fisher_blocks(model, task, batches, names, width=self.block, damping=self.damping)
