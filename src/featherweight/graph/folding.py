"""Where a batch normalisation can be folded into the convolution or linear layer before it."""

from __future__ import annotations

from dataclasses import dataclass

from featherweight.graph.graph import Graph, Node
from featherweight.graph.operators import operator
from featherweight.structure import LayerSpec


@dataclass(frozen=True)
class FoldSite:
    """A layer whose output x feeds one normalisation alone: gamma (x - mean) / sqrt(var + eps) + beta.

    Attributes:
        layer: path of the layer's module.
        norm: path of the normalisation's module.
        op: the layer's operator (`conv2d`, `conv_transpose2d`, `linear`).
        weight: canonical name of the layer's weight.
        bias: of its bias, or None.
        gamma: of the normalisation's weight `[channels]`, or None.
        beta: of its bias, or None.
        mean: of its running mean.
        var: of its running variance.
        eps: added to the variance.
        rest: what remains in the place of the normalisation's module: an identity, or the activation that the
            module applies too (timm's `BatchNormAct2d`).
    """

    layer: str
    norm: str
    op: str
    weight: str
    bias: str | None
    gamma: str | None
    beta: str | None
    mean: str
    var: str
    eps: float
    rest: LayerSpec


def fold_sites(graph: Graph) -> tuple[tuple[FoldSite, ...], dict[str, str]]:
    """Return where normalisations can be folded, and the path of every other one with the reason why not."""
    sites: list[FoldSite] = []
    refused: dict[str, str] = {}
    for norm in graph.nodes:
        if not norm.op.startswith("batch_norm"):
            continue
        reason = _obstacle(graph, norm)
        if reason:
            refused[norm.module or norm.name] = reason
        else:
            sites.append(_site(graph, graph.node(norm.inputs[0]), norm))
    return tuple(sites), refused


def _obstacle(graph: Graph, norm: Node) -> str:
    """Why `norm` cannot be folded into what comes before it, or an empty string."""
    layer = graph.node(norm.inputs[0])
    if norm.op != "batch_norm":
        return "it normalises by the batch, not by running statistics"
    axes = operator(layer.op).axes
    if axes is None:
        return f"it follows {layer.op}, not a convolution or linear layer"
    if len(layer.shape) != axes + 2:
        return "its channels are not the output channels of the layer before it"
    if (
        len(layer.roles) < len(layer.tensors)
        or len(norm.roles) < len(norm.tensors)
        or "weight" not in layer.roles
    ):
        return "a weight of it or of the layer before it is computed, not stored"
    if len(graph.consumers(layer.name)) > 1 or layer.name in graph.outputs:
        return f"the output of {layer.module or layer.name} is also used elsewhere"
    if any(len(graph.readers(tensor)) > 1 for tensor in layer.tensors):
        return f"the weights of {layer.module or layer.name} are used more than once"
    if any(len(graph.readers(tensor)) > 1 for tensor in norm.tensors):
        return "its tensors are used more than once"
    if _rest(graph, norm) is None:
        return "its module computes more than a batch norm and an activation"
    return ""


def _rest(graph: Graph, norm: Node) -> LayerSpec | None:
    """What the module of `norm` computes behind it, None where that is no layer of its own; judged by the trace."""
    inside = [n for n in graph.nodes if n.module == norm.module or n.module.startswith(f"{norm.module}.")]
    if not norm.module or inside[0] is not norm:
        return None
    if len(inside) == 1:
        return LayerSpec("Identity")
    act = inside[1]
    alone = act.inputs == (norm.name,) and graph.consumers(norm.name) == (act,) and not act.tensors
    kind = operator(act.op).layer
    if len(inside) > 2 or not kind or not alone or norm.name in graph.outputs:
        return None
    return LayerSpec(kind, dict(act.arguments))


def _site(graph: Graph, layer: Node, norm: Node) -> FoldSite:
    weights, statistics = layer.roles, norm.roles
    return FoldSite(
        layer=layer.module or layer.name,
        norm=norm.module or norm.name,
        op=layer.op,
        weight=weights["weight"],
        bias=weights.get("bias"),
        gamma=statistics.get("weight"),
        beta=statistics.get("bias"),
        mean=statistics["running_mean"],
        var=statistics["running_var"],
        eps=float(norm.options["eps"]),
        rest=_rest(graph, norm) or LayerSpec("Identity"),
    )
