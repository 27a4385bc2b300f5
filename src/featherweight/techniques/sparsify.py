"""The step `sparsify`: the weights that matter least become exact zeros; no other mask exists."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from msgspec import Meta

from featherweight.errors import ConfigError, UnsupportedError
from featherweight.events import Note
from featherweight.formats.view import Array
from featherweight.task import Needs, Task
from featherweight.techniques.base import Context, Step, Where
from featherweight.techniques.encode import finite
from featherweight.techniques.saliencies import Obd, SparseGpt, WoodFisher
from featherweight.techniques.saliencies.base import chosen, masked, matrix, together

if TYPE_CHECKING:
    from featherweight.curvature.gauss_newton import Blocks
    from featherweight.model import Model

Sparsity = Annotated[float, Meta(ge=0, le=1)]
Scope = Literal["layer", "global", "lamp"]
Count = Annotated[int, Meta(ge=1)]


class Sparsify(Step, frozen=True, kw_only=True, omit_defaults=True, tag="sparsify"):
    """Set the least salient of the selected weights to zero.

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
        scope: what competes: the weights of one tensor (`layer`), or of all selected tensors, by saliency
            (`global`) or by magnitude relative to the weights of their tensor that outlive them (`lamp`).
        pattern: `[n, m]` instead of a sparsity: of every m neighbours in a row at most n are not zero.
        saliency: how much a weight matters: its `magnitude`; `obd`, the increase of the loss if it is removed;
            `wood_fisher`, the same if its neighbours compensate; or `sparsegpt`, the error in its layer's outputs if
            the other weights compensate. In the last two the other weights are changed so.
    """

    where: Where | None = None
    sparsity: Sparsity | dict[str, Sparsity] | None = None
    scope: Scope = "layer"
    pattern: tuple[Count, Count] | None = None
    saliency: Literal["magnitude"] | Obd | WoodFisher | SparseGpt = "magnitude"

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
        if self.scope == "lamp" and self.saliency != "magnitude":
            raise ConfigError("is a comparison of magnitudes", where="sparsify.scope", got="lamp")
        if self.scope == "global" and isinstance(self.saliency, SparseGpt):
            raise ConfigError("sparsegpt treats layer after layer", where="sparsify.scope", got="global")

    @property
    def needs(self) -> Needs:  # type: ignore[override]
        """What its saliency needs; magnitude needs none."""
        return "none" if self.saliency == "magnitude" else self.saliency.needs

    def apply(self, model: Model, task: Task, context: Context) -> Model:
        """Return the model with these zeros."""
        from torch import from_numpy

        targets = self.targets(model)
        if isinstance(self.saliency, SparseGpt):
            return model.with_tensors(*self.saliency.pruned(model, targets, self.pattern, task, context))
        saliency, curvature = self.saliencies(model, targets, task, context.seed)
        notes, made = [], {}
        if self.scope == "layer":
            gone = {name: chosen(values, targets[name], self.pattern) for name, values in saliency.items()}
        else:
            gone = together(saliency, next(iter(targets.values())), relative=self.scope == "lamp")
            notes = [Note("chose", name, f"{mask.mean():.2%} of it is zero") for name, mask in gone.items()]
        for name, mask in gone.items():
            if curvature:
                moved = model.views[name].tensor(curvature[name].without(matrix(model, name), mask))
                made[name] = from_numpy(moved).to(model.tensors[name].dtype)
            else:
                made[name] = masked(model, name, mask)
        return model.with_tensors(made, notes)

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

    def saliencies(
        self, model: Model, names: Iterable[str], task: Task, seed: int
    ) -> tuple[dict[str, Array], dict[str, Blocks]]:
        """Return how much each weight of some tensors matters, as their matrices `[rows, cols]`; of zeros, least.

        Beside it, the curvature by which the weights that stay are moved, if they are.

        Raises:
            UnsupportedError: a tensor holds NaN or infinity, or is no parameter and the loss is differentiated.
        """
        from featherweight.curvature.hvp import parameters
        from featherweight.training.gradients import isolated

        matrices = {name: matrix(model, name) for name in names}
        if self.saliency == "magnitude":
            return {name: np.abs(weight) for name, weight in matrices.items()}, {}
        if missing := matrices.keys() - parameters(model):
            raise UnsupportedError("is no parameter", where=min(missing), hint="saliency = magnitude")
        curvature: dict[str, Blocks] = {}
        with isolated():
            if isinstance(self.saliency, Obd):
                layout, found = model.views, self.saliency.of_parameters(model, task, seed)
                lost = {name: layout[name].matrix(found[name].double().numpy()) for name in matrices}
            else:
                assert isinstance(self.saliency, WoodFisher), "sparsegpt prunes by itself"
                curvature = self.saliency.blocks(model, list(matrices), task, seed)
                lost = {name: blocks.lost(matrices[name]) for name, blocks in curvature.items()}
        known = {name: finite(values, name) for name, values in lost.items()}
        return {name: np.where(weight == 0, -1, known[name]) for name, weight in matrices.items()}, curvature
