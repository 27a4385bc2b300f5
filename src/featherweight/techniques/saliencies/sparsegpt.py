"""SparseGPT: weights go that the rest of their layer can make up for best, and the rest does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from featherweight.checked import check_fields
from featherweight.task import Needs, Task
from featherweight.techniques.base import Context
from featherweight.techniques.masks import Pattern, chosen

if TYPE_CHECKING:
    from torch import Tensor

    from featherweight.curvature.layerwise import Pairs
    from featherweight.curvature.linear_ops import LinearOp
    from featherweight.curvature.moments import Moments
    from featherweight.model import Model, Note

Array = NDArray[Any]
LAZY = 128  # columns in which weights compete: B of the paper


class SparseGpt(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    tag_field="saliency",
    tag="sparsegpt",
    forbid_unknown_fields=True,
    omit_defaults=True,
):
    """What a layer's outputs on unlabelled inputs lose by a weight, after those still to come made up for it.

    Of single weights: for `sparsify`, which then sets them to zero and the others to what makes up for them.

    Of a layer `y = W x` the columns of W are taken in turn, 128 at once or the m of a pattern. Of these the weights of
    least `w^2 / [H^-1]_jj` go, H the Hessian `sum x x'` of the columns that are left, and each is made good in the
    columns still to come: optimal brain surgery with one order of weights for all rows. The inputs x are those in the
    network pruned so far, the outputs to stay near those in the network as it was. Weights that are zero stay zero.

    References: Frantar, Alistarh, SparseGPT, 2023, arXiv 2301.00774, algorithm 1; Hassibi, Stork, Second order
    derivatives for network pruning: optimal brain surgeon, 1993, eq. 5; Li et al., GPTAQ, 2025, arXiv 2504.02692 (the
    outputs to stay near).

    Attributes:
        samples: inputs of the calibration split to see.
        places: of each of them, the patches of a convolution (or elements of a sequence) to see, about as many
            at most and evenly spaced, for neighbours are alike; None: all.
        damping: added to the diagonal of H, times its mean.
    """

    needs: ClassVar[Needs] = "unlabelled"
    samples: Annotated[int, msgspec.Meta(ge=1)] = 128
    places: Annotated[int, msgspec.Meta(ge=1)] | None = None
    damping: Annotated[float, msgspec.Meta(gt=0)] = 0.01

    def __post_init__(self) -> None:
        """Check every field against its annotation.

        Raises:
            ConfigError: names the field.
        """
        check_fields(self, "sparsegpt")

    def pruned(
        self,
        model: Model,
        targets: Mapping[str, float],
        pattern: Pattern | None,
        task: Task,
        context: Context,
    ) -> tuple[dict[str, Tensor], list[Note]]:
        """Return tensors with more zeros, layer by layer; by magnitude, with a note, what no layer multiplies.

        Args:
            model: whose they are.
            targets: the sparsity of each.
            pattern: in the place of all sparsities.
            task: whose calibration split is seen.
            context: of the step.
        """
        from featherweight.curvature.layerwise import layerwise, prefix
        from featherweight.techniques.tensors import masked, matrix

        ahead = prefix(model, task, self.samples, seed=context.seed)
        others = [name for name in targets if name not in ahead.linear_ops]
        saliency = {name: np.abs(matrix(model, name)) for name in others}
        gone = {name: chosen(saliency[name], targets[name], pattern) for name in others}
        by_magnitude = {name: masked(model, name, mask) for name, mask in gone.items()}

        def treat(layer: LinearOp, pairs: Pairs) -> Mapping[str, Tensor]:
            return {layer.weight: self.layer(model, layer, pairs, targets[layer.weight], pattern)}

        layers = [name for name in targets if name in ahead.linear_ops]
        made = layerwise(ahead, layers, treat, changed=by_magnitude, events=context.events, name="sparsegpt")
        return made, ahead.notes(others, "by magnitude", self.samples)

    def layer(
        self, model: Model, layer: LinearOp, pairs: Pairs, sparsity: float, pattern: Pattern | None
    ) -> Tensor:
        """Return the weight of one layer, with zeros, for these inputs."""
        import torch

        from featherweight.curvature.moments import moments
        from featherweight.techniques.tensors import matrix

        tensor = model.tensors[layer.weight]
        found = moments(layer, pairs, tensor.shape[2:], drift=True, places=self.places)
        made = zeroed(matrix(model, layer.weight), found, sparsity, pattern, damping=self.damping)
        return torch.from_numpy(model.views[layer.weight].tensor(made)).to(tensor.dtype)


def zeroed(
    weight: Array, moments: Moments, sparsity: float, pattern: Pattern | None, *, damping: float
) -> Array:
    """Return a layer's weight with zeros, those of before among them, and the other weights moved.

    Args:
        weight: `[rows, cols]`.
        moments: of the layer's inputs.
        sparsity: share of zeros.
        pattern: in its place.
        damping: of the Hessian.
    """
    from featherweight.formats.sweep import sweep

    zero = weight == 0
    target = np.where(zero, 0, moments.target(weight.astype(np.float64), damping))
    free = np.cumsum((~zero).sum(axis=0))
    more = max(0, round(sparsity * weight.size) - int(zero.sum()))
    share = more / max(weight.size - int(zero.sum()), 1)
    quota = np.diff(np.rint(share * free), prepend=0)
    width, lazy = (1, LAZY) if pattern is None else (pattern[1], pattern[1])
    return sweep(
        target, moments.hessian, Zeros(zero, quota, pattern), width=width, damping=damping, lazy=lazy
    )


@dataclass(frozen=True, eq=False)
class Zeros:
    """What the column sweep writes of a weight: itself, or zero.

    Attributes:
        zero: where the weight `[rows, cols]` is zero already.
        quota: how many more weights of each column `[cols]` go, were the columns of a run not to share them.
        pattern: in the place of a quota; then a run is m columns.
    """

    zero: Array
    quota: Array
    pattern: Pattern | None

    def in_turn(self, left: Array, corner: Array, columns: Array) -> tuple[Array, Array]:
        """Return what is written of a run of columns, and the errors that the columns after it make good.

        Args:
            left: `[groups, k, rows of a group]`; changes.
            corner: `[groups, k, k]`, the rows and columns of the inverse factor U that are theirs. Its squared
                diagonal is that of the inverse Hessian of a column and all after it.
            columns: which they are, `[k]`.
        """
        from featherweight.formats.sweep import by_rows, in_turn

        zero = self.zero[:, columns]
        cost = by_rows(left / np.einsum("gii->gi", corner)[:, :, None]) ** 2
        count = zero.sum() + self.quota[columns].sum()
        gone = zero | chosen(np.where(zero, -1, cost), count / max(cost.size, 1), self.pattern)
        places = np.arange(len(columns))
        return in_turn(left, corner, places, lambda block, at: np.where(gone[:, at], 0, block), 1)
