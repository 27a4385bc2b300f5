"""The step `fold`: batch norm into the convolution or linear layer before it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from featherweight.events import Note
from featherweight.structure import is_plain, spec_of
from featherweight.task import Needs, Task
from featherweight.techniques.base import Context, Step

if TYPE_CHECKING:
    from torch import Tensor

    from featherweight.graph.folding import FoldSite
    from featherweight.model import Model
    from featherweight.structure import LayerSpec


class Fold(Step, frozen=True, tag="fold"):
    """Fold each batch norm that directly follows a convolution or linear layer into it.

    An identity remains, or the activation that the module of the batch norm applies too. Inference computes the
    same with fewer tensors, which is checked on the task's example. Computed in float64 and rounded once. A batch norm
    that cannot be folded stays, with a note; encoded tensors that are in the way are thawed.
    """

    needs: ClassVar[Needs] = "none"

    def apply(self, model: Model, task: Task, context: Context) -> Model:
        """Return the folded model."""
        from featherweight.graph.folding import fold_sites
        from featherweight.techniques.surgery import difference, failing

        sites, refused = fold_sites(model.program(task.example()).graph)
        refused |= {site.norm: reason for site in sites if (reason := obstacle(model, site))}
        possible = {site.norm: site for site in sites if site.norm not in refused}

        def made(norms: Iterable[str], notes: Iterable[Note] = ()) -> Model:
            layers: dict[str, LayerSpec] = {}
            values: dict[str, Tensor] = {}
            for site in (possible[norm] for norm in norms):
                weight, bias = folded_site(model, site)
                layers[site.norm] = site.rest
                if site.bias is None:
                    layers[site.layer] = spec_of(model.module.get_submodule(site.layer), bias=True)
                values |= {site.weight: weight, site.bias or f"{site.layer}.bias": bias}
            return model.with_structure(layers, values, notes) if layers else model.with_notes(notes)

        failed = failing(
            possible, lambda norms: difference(lambda: made(norms), model, task.example()), task.name
        )
        notes = [Note("skipped", norm, f"not folded: {why}") for norm, why in (refused | failed).items()]
        if not (sites or refused):
            notes = [Note("skipped", "batch norm", "nothing to fold: the network computes none")]
        return made([norm for norm in possible if norm not in failed], notes)


def obstacle(model: Model, site: FoldSite) -> str:
    """Return why the layer of `site` cannot get a bias, or an empty string."""
    import torch

    modules = dict(model.module.named_modules())
    if site.bias is None and not (site.layer in modules and is_plain(modules[site.layer])):
        return f"{site.layer} has no bias and is not a plain layer of torch.nn"
    if site.bias is None and model.tensors[site.weight].dtype != torch.float32:
        return f"{site.layer} has no bias and is not float32"
    return ""


def folded_site(model: Model, site: FoldSite) -> tuple[Tensor, Tensor]:
    """Return the weight and bias of the layer of `site` that do what layer and norm did."""

    def value(name: str | None) -> Any:
        return None if name is None else model.tensors[name].detach()

    groups = int(getattr(model.module.get_submodule(site.layer), "groups", 1))
    return folded(
        value(site.weight), value(site.bias), value(site.gamma), value(site.beta), value(site.mean), value(site.var),
        site.eps, transposed_groups=groups if site.op.startswith("conv_transpose") else 0,
    )  # fmt: skip


def folded(
    weight: Tensor,
    bias: Tensor | None,
    gamma: Tensor | None,
    beta: Tensor | None,
    mean: Tensor,
    var: Tensor,
    eps: float,
    *,
    transposed_groups: int = 0,
) -> tuple[Tensor, Tensor]:
    """Return `weight * f` and `(bias - mean) * f + beta`, where `f = gamma / sqrt(var + eps)`.

    Args:
        weight: `[out, ...]`; of a transposed convolution `[in, out / groups, ...]`.
        bias: `[out]`, or None for zeros.
        gamma: scale of the norm `[out]`, or None for ones.
        beta: shift of the norm `[out]`, or None for zeros.
        mean: running mean `[out]`.
        var: running variance `[out]`.
        eps: added to the variance.
        transposed_groups: groups of a transposed convolution; 0: it is none.
    """
    factor = (var.double() + eps).rsqrt() * (1.0 if gamma is None else gamma.double())
    shift = ((0.0 if bias is None else bias.double()) - mean.double()) * factor
    shift = shift if beta is None else shift + beta.double()
    wide = weight.double()
    if transposed_groups:
        blocks = wide.reshape(
            transposed_groups, -1, *weight.shape[1:]
        )  # [groups, in / groups, out / groups, ...]
        scale = factor.reshape(transposed_groups, 1, -1, *[1] * (weight.dim() - 2))
        scaled = (blocks * scale).flatten(0, 1)
    else:
        scaled = wide * factor.reshape(-1, *[1] * (weight.dim() - 1))
    return scaled.to(weight.dtype), shift.to(weight.dtype)
