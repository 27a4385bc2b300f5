"""The step `sparsify`: the weights that matter least become exact zeros; no other mask exists."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from featherweight.errors import ConfigError, UnsupportedError
from featherweight.task import Needs, Task
from featherweight.techniques.base import Context, Step, Where

if TYPE_CHECKING:
    from featherweight.model import Model

Array = NDArray[Any]
Sparsity = Annotated[float, Meta(ge=0, le=1)]
Scope = Literal["layer", "global", "lamp"]
Count = Annotated[int, Meta(ge=1)]


class Sparsify(Step, frozen=True, kw_only=True, omit_defaults=True, tag="sparsify"):
    """Set the selected weights of least magnitude to zero.

    A fraction `sparsity` is zero afterwards, weights that were zero before included, so that a rising
    sequence of these steps, each followed by `finetune` with `keep_zeros`, prunes little by little: after
    step t of n, Zhu and Gupta's `s_t = s_n - (s_n - s_0) (1 - t/n)^3`. Encoded tensors are thawed.

    References: Han, Pool, Tran, Dally, Learning both weights and connections, 2015, arXiv 1506.02626; Zhu,
    Gupta, To prune, or not to prune, 2017, arXiv 1710.01878, eq. 1; Lee et al., Layer-adaptive sparsity for
    the magnitude-based pruning, 2021, arXiv 2010.07611, eq. 4; Mishra et al., Accelerating sparse deep neural
    networks, 2021, arXiv 2104.08378 (2:4).

    Attributes:
        where: which tensors; see `featherweight.selectors`. By default `weights`.
        sparsity: fraction of zeros; or one for each item of a `where`, in its place.
        scope: what competes: the weights of one tensor (`layer`), or of all selected tensors, by magnitude
            (`global`) or by magnitude relative to the weights of their tensor that outlive them (`lamp`).
        pattern: `[n, m]` instead of a sparsity: of every m neighbours in a row, from its start, at most n
            are not zero.
    """

    needs: ClassVar[Needs] = "none"
    where: Where | None = None
    sparsity: Sparsity | dict[str, Sparsity] | None = None
    scope: Scope = "layer"
    pattern: tuple[Count, Count] | None = None

    def __post_init__(self) -> None:
        """Refuse options that mean nothing together.

        Raises:
            ConfigError: not one of sparsity and pattern; or options that have no meaning beside it.
        """
        super().__post_init__()
        if (self.sparsity is None) == (self.pattern is None):
            raise ConfigError("one of sparsity and pattern says how much", where="sparsify")
        if self.pattern is not None and self.pattern[0] > self.pattern[1]:
            raise ConfigError("keeps more than there are", where="sparsify.pattern", got=list(self.pattern))
        if self.scope != "layer" and (self.sparsity is None or isinstance(self.sparsity, dict)):
            raise ConfigError("means nothing without one sparsity for all", where="sparsify.scope")
        if self.where is not None and isinstance(self.sparsity, dict):
            raise ConfigError("means nothing beside a sparsity for each item", where="sparsify.where")

    def apply(self, model: Model, task: Task, context: Context) -> Model:
        """Return the model with these zeros."""
        import torch

        from featherweight.graph.views import views
        from featherweight.model import Note

        targets, layout = self.targets(model), views(model.module)
        saliency = {name: layout[name].matrix(magnitude(model, name)) for name in targets}
        if self.pattern is not None:
            gone = {name: outside_pattern(matrix, *self.pattern) for name, matrix in saliency.items()}
        elif self.scope == "layer":
            gone = {name: least(matrix, targets[name]) for name, matrix in saliency.items()}
        else:
            gone = together(saliency, next(iter(targets.values())), relative=self.scope == "lamp")
        masks = {name: torch.from_numpy(layout[name].tensor(matrix)) for name, matrix in gone.items()}
        values = {name: model.tensors[name].detach().masked_fill(mask, 0.0) for name, mask in masks.items()}
        shares = {name: f"{mask.float().mean():.2%} of it is zero" for name, mask in masks.items()}
        chosen = [] if self.scope == "layer" else [Note("chose", *share) for share in shares.items()]
        return model.with_tensors(values, chosen)

    def targets(self, model: Model) -> dict[str, float]:
        """Return the selected tensors and the sparsity of each; of a pattern, 0.

        Raises:
            ConfigError: two items of `sparsity` select one tensor.
        """
        from featherweight.selectors import select

        if not isinstance(self.sparsity, dict):
            return dict.fromkeys(select(model, self.where or "weights"), self.sparsity or 0.0)
        targets: dict[str, float] = {}
        for item, sparsity in self.sparsity.items():
            names = select(model, item)
            if twice := targets.keys() & names:
                raise ConfigError("selected twice", where="sparsify.sparsity", got=", ".join(sorted(twice)))
            targets |= dict.fromkeys(names, sparsity)
        return targets


def magnitude(model: Model, name: str) -> Array:
    """Return the absolute values of a tensor, of its shape.

    Raises:
        UnsupportedError: it holds NaN or infinity.
    """
    tensor = model.tensors[name].detach()
    found: Array = np.abs(tensor.float().numpy())
    if not np.isfinite(found).all():
        raise UnsupportedError("NaN or infinity", where=name, hint="look for a diverged training run")
    return found


def least(saliency: Array, sparsity: float) -> Array:
    """Return where the `sparsity` share of least saliency is; of equals, those that come first.

    >>> least(np.array([3.0, 0.0, 1.0, 1.0]), 0.5)
    array([False,  True,  True, False])
    """
    flat = saliency.reshape(-1)
    mask = np.zeros(flat.size, bool)
    mask[np.argsort(flat, kind="stable")[: round(sparsity * flat.size)]] = True
    return mask.reshape(saliency.shape)


def together(saliency: Mapping[str, Array], sparsity: float, *, relative: bool) -> dict[str, Array]:
    """Return where the `sparsity` share of least saliency of all tensors is, tensor by tensor.

    Args:
        saliency: magnitudes, one array a tensor.
        sparsity: share of all of them together.
        relative: compare LAMP scores.
    """
    flat = [(lamp(matrix) if relative else matrix).reshape(-1) for matrix in saliency.values()]
    ends = np.cumsum([part.size for part in flat])
    masks = np.split(least(np.concatenate(flat), sparsity), ends[:-1])
    return {
        name: mask.reshape(matrix.shape) for (name, matrix), mask in zip(saliency.items(), masks, strict=True)
    }


def lamp(magnitude: Array) -> Array:
    """Return `w^2 / sum of all w'^2 with |w'| >= |w|`, of the shape of `magnitude`.

    Of equals, the later one counts as greater. The greatest weight of every tensor scores 1, so that no
    tensor is emptied before all are down to one.

    >>> lamp(np.array([2.0, 2.0, 0.0])).tolist()
    [0.5, 1.0, 0.0]
    """
    flat = magnitude.reshape(-1)
    order = np.argsort(flat, kind="stable")
    squares = np.square(flat[order] / (flat.max(initial=0) or 1), dtype=np.float64)
    outlive = np.cumsum(squares[::-1])[::-1]
    score = np.empty(flat.size)
    score[order] = squares / np.where(outlive > 0, outlive, 1)
    return score.reshape(magnitude.shape)


def outside_pattern(saliency: Array, n: int, m: int) -> Array:
    """Return where all but the n greatest of every m neighbours in a row are; of equals, the first stay.

    >>> outside_pattern(np.array([[1.0, 2.0, 3.0, 4.0, 5.0, 5.0, 5.0]]), 2, 4).astype(int)
    array([[1, 1, 0, 0, 0, 0, 1]])
    """
    rows, cols = saliency.shape
    padded = np.full((rows, -(-cols // m) * m), -1.0)
    padded[:, :cols] = saliency
    blocks = padded.reshape(-1, m)
    mask = np.zeros(blocks.shape, bool)
    np.put_along_axis(mask, np.argsort(-blocks, axis=1, kind="stable")[:, n:], True, axis=1)
    return mask.reshape(padded.shape)[:, :cols]
