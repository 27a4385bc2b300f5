"""Saliencies of single weights that count what the others can compensate: SparseGPT and WoodFisher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from msgspec import Meta

from featherweight.checked import Options
from featherweight.events import Note
from featherweight.formats.sweep import by_rows, in_turn, sweep
from featherweight.formats.view import Array
from featherweight.task import Needs, Task
from featherweight.techniques.base import Context
from featherweight.techniques.saliencies.base import Pattern, chosen, masked, matrix

if TYPE_CHECKING:
    from torch import Tensor

    from featherweight.curvature.gauss_newton import Blocks
    from featherweight.curvature.linear_ops import LinearOp, Moments, Pairs
    from featherweight.model import Model

LAZY = 128  # columns in which weights compete: B of the paper


class SparseGpt(
    Options, frozen=True, kw_only=True, tag_field="saliency", tag="sparsegpt", omit_defaults=True
):
    """Error in a layer's outputs on unlabelled inputs if a weight is removed and the remaining columns compensate.

    Of single weights: `sparsify` sets the least salient to zero and moves the others so that they compensate.

    In a layer `y = W x` the columns of W are visited in order, 128 at once or the m of a pattern. Among these the
    weights of least `w^2 / [H^-1]_jj` are removed, with H the Hessian `sum x x'` of the remaining columns, and each
    error is compensated in the remaining columns: optimal brain surgeon with one order of columns for all rows. The
    inputs x come from the network pruned so far; the targets are the outputs of the network before pruning. Weights
    that are zero stay zero.

    References: Frantar, Alistarh, SparseGPT, 2023, arXiv 2301.00774, algorithm 1; Hassibi, Stork, Second order
    derivatives for network pruning: optimal brain surgeon, 1993, eq. 5; Li et al., GPTAQ, 2025, arXiv 2504.02692 (the
    targets).

    Attributes:
        samples: inputs of the calibration split to see.
        places: patches of a convolution (or elements of a sequence) to see of each input, about so many at most,
            evenly spaced because neighbours are alike; None: all.
        damping: share of the mean of H's diagonal that is added to the diagonal.
    """

    needs: ClassVar[Needs] = "unlabelled"
    samples: Annotated[int, Meta(ge=1)] = 128
    places: Annotated[int, Meta(ge=1)] | None = None
    damping: Annotated[float, Meta(gt=0)] = 0.01

    def pruned(
        self, model: Model, targets: Mapping[str, float], pattern: Pattern | None, task: Task, context: Context
    ) -> tuple[dict[str, Tensor], list[Note]]:  # fmt: skip
        """Return sparser tensors, layer by layer; those that no layer multiplies by magnitude, with a note.

        Args:
            model: whose they are.
            targets: the sparsity of each.
            pattern: replaces the sparsities.
            task: whose calibration split is seen.
            context: of the step.
        """
        from torch import from_numpy

        from featherweight.curvature.layerwise import layerwise, prefix
        from featherweight.curvature.linear_ops import moments

        ahead = prefix(model, task, self.samples, seed=context.seed)
        others = [name for name in targets if name not in ahead.linear_ops]
        gone = {name: chosen(np.abs(matrix(model, name)), targets[name], pattern) for name in others}
        by_magnitude = {name: masked(model, name, mask) for name, mask in gone.items()}
        made = dict(by_magnitude)

        def treat(layer: LinearOp, pairs: Pairs) -> Mapping[str, Tensor]:
            name, tensor = layer.weight, model.tensors[layer.weight]
            found = moments(layer, pairs, tensor.shape[2:], drift=True, places=self.places)
            left = zeroed(matrix(model, name), found, targets[name], pattern, damping=self.damping)
            made[name] = from_numpy(model.views[name].tensor(left)).to(tensor.dtype)
            return {name: made[name]}

        layers = [name for name in targets if name in ahead.linear_ops]
        layerwise(ahead, layers, treat, changed=by_magnitude, events=context.events, name="sparsegpt")
        return made, ahead.notes(others, "by magnitude", self.samples)


def zeroed(
    weight: Array, moments: Moments, sparsity: float, pattern: Pattern | None, *, damping: float
) -> Array:
    """Return a layer's weight, `[rows, cols]`, with a share of zeros or in a pattern; the other weights compensate."""
    zero = weight == 0
    target = np.where(zero, 0, moments.target(weight.astype(np.float64), damping))
    free = np.cumsum((~zero).sum(axis=0))
    more = max(0, round(sparsity * weight.size) - int(zero.sum()))
    share = more / max(weight.size - int(zero.sum()), 1)
    quota = np.diff(np.rint(share * free), prepend=0)
    width, lazy = (1, LAZY) if pattern is None else (pattern[1], pattern[1])
    zeros = Zeros(zero, quota, pattern)
    return sweep(target, moments.hessian, zeros, width=width, damping=damping, lazy=lazy)


@dataclass(frozen=True, eq=False)
class Zeros:
    """What the column sweep writes of a weight: itself, or zero.

    Attributes:
        zero: where the weight `[rows, cols]` is zero already.
        quota: how many more weights of each column `[cols]` become zero; the columns of a run share their quotas.
        pattern: replaces the quota; then a run is m columns.
    """

    zero: Array
    quota: Array
    pattern: Pattern | None

    def in_turn(self, left: Array, corner: Array, columns: Array) -> tuple[Array, Array]:
        """Return what is written of a run of columns, and the errors that the remaining columns compensate.

        Args:
            left: `[groups, k, rows of a group]`; changes.
            corner: `[groups, k, k]`, the rows and columns of the inverse factor U that are theirs. Its squared
                diagonal is that of the inverse Hessian of a column and all after it.
            columns: which they are, `[k]`.
        """
        zero = self.zero[:, columns]
        cost = by_rows(left / np.einsum("gii->gi", corner)[:, :, None]) ** 2
        count = zero.sum() + self.quota[columns].sum()
        gone = zero | chosen(np.where(zero, -1, cost), count / max(cost.size, 1), self.pattern)
        places = np.arange(len(columns))
        return in_turn(left, corner, places, lambda block, at: np.where(gone[:, at], 0, block), 1)


class WoodFisher(
    Options, frozen=True, kw_only=True, tag_field="saliency", tag="wood_fisher", omit_defaults=True
):
    """`w^2 / (2 [F^-1]_qq)`, F the empirical Fisher information within a run of neighbouring weights.

    Of single weights: `sparsify` sets the least salient to zero and moves the rest of their runs so that the loss
    rises least to second order (optimal brain surgeon, for all weights removed from a run at once). Weights that are
    zero stay zero.

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
    samples: Annotated[int, Meta(ge=1)] = 256
    split: Literal["train", "calibration"] = "train"
    block: Annotated[int, Meta(ge=1)] = 64
    damping: Annotated[float, Meta(gt=0)] = 0.1

    def blocks(self, model: Model, names: Sequence[str], task: Task, seed: int) -> dict[str, Blocks]:
        """Return the curvature of some parameters."""
        from featherweight.curvature.gauss_newton import fisher_blocks
        from featherweight.task.sampling import drawn

        batches = drawn(task, self.split, samples=self.samples, seed=seed)
        return fisher_blocks(model, task, batches, names, width=self.block, damping=self.damping)
