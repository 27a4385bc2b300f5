"""Where factors on channels move to another layer: norms into the layer before, scales between two layers."""

from __future__ import annotations

from dataclasses import dataclass

from featherweight.graph.graph import Graph, Node
from featherweight.graph.operators import operator
from featherweight.structure import LayerSpec


@dataclass(frozen=True)
class FoldSite:
    """A layer whose output x feeds one normalisation alone: gamma (x - mean) / sqrt(var + eps) + beta.

    Attributes:
        layer, norm: paths of their modules.
        op: the layer's operator (`conv2d`, `conv_transpose2d`, `linear`).
        weight, bias: canonical names of the layer's tensors; None: it has none.
        gamma, beta, mean, var: of the normalisation's weight, bias and running statistics `[channels]`.
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
        layer, rest, own = graph.node(norm.inputs[0]), _rest(graph, norm), norm.roles
        reason = _obstacle(graph, layer, norm)
        if reason or rest is None:
            reason = reason or "its module computes more than a batch norm and an activation"
            refused[norm.module or norm.name] = reason
            continue
        sites.append(FoldSite(
            layer.module or layer.name, norm.module or norm.name, layer.op,
            layer.roles["weight"], layer.roles.get("bias"), own.get("weight"), own.get("bias"),
            own["running_mean"], own["running_var"], float(norm.options["eps"]), rest,
        ))  # fmt: skip
    return tuple(sites), refused


def foldable(graph: Graph, layer: Node) -> Node | None:
    """Return the normalisation that can be folded into `layer`, or None."""
    for norm in graph.consumers(layer.name):
        if norm.op == "batch_norm" and not _obstacle(graph, layer, norm) and _rest(graph, norm):
            return norm
    return None


def _obstacle(graph: Graph, layer: Node, norm: Node) -> str:
    """Return why `norm` cannot be folded into the operator before it, or an empty string."""
    if norm.op != "batch_norm":
        return "it normalises by the batch, not by running statistics"
    axes = operator(layer.op).axes
    if axes is None:
        return f"it follows {layer.op}, not a convolution or linear layer"
    if len(layer.shape) != axes + 2:
        return "its channels are not the output channels of the layer before it"
    if any(len(node.roles) < len(node.tensors) for node in (layer, norm)) or "weight" not in layer.roles:
        return "a weight of it or of the layer before it is computed, not stored"
    if len(graph.consumers(layer.name)) > 1 or layer.name in graph.outputs:
        return f"the output of {layer.module or layer.name} is also used elsewhere"
    if any(len(graph.readers(tensor)) > 1 for tensor in layer.tensors):
        return f"the weights of {layer.module or layer.name} are used more than once"
    if any(len(graph.readers(tensor)) > 1 for tensor in norm.tensors):
        return "its tensors are used more than once"
    return ""


def _rest(graph: Graph, norm: Node) -> LayerSpec | None:
    """Return what the module of `norm` computes behind it; None where that is no layer of its own in the trace."""
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


@dataclass(frozen=True)
class ScalePair:
    """Two layers, the second of which alone reads the first, through operators that scale with their input.

    Attributes:
        first, bias: canonical names of the first layer's weight `[channels, ...]`, and of its bias, or None.
        second, groups: of the second layer's weight `[out, channels / groups, ...]`.
    """

    first: str
    bias: str | None
    second: str
    groups: int


def scale_pairs(graph: Graph) -> tuple[tuple[ScalePair, ...], dict[str, str]]:
    """Return the pairs, in order of execution; and of each other layer's weight, why it begins none."""
    pairs: list[ScalePair] = []
    without: dict[str, str] = {}
    for node in graph.nodes:
        weight = node.roles.get("weight")
        if operator(node.op).integer != "layer" or weight is None:
            continue
        end = _reader(graph, node)
        if isinstance(end, str):
            without[weight] = end
        else:
            groups = int(end.options.get("groups", 1))
            pairs.append(ScalePair(weight, node.roles.get("bias"), end.roles["weight"], groups))
    return tuple(pairs), without


def _reader(graph: Graph, node: Node) -> Node | str:
    """Return the layer that alone reads what `node` produces, or why there is none."""
    if _own(graph, node) != node.tensors:
        return "its tensors are used more than once, or computed"
    at = node
    while True:
        readers = graph.consumers(at.name)
        if at.name in graph.outputs or len(readers) != 1:
            return "what it produces is read in more than one place, or returned"
        (reader,) = readers
        if operator(reader.op).integer == "layer" and reader.inputs == (at.name,):
            if _own(graph, reader) != reader.tensors or "weight" not in reader.roles:
                return f"the tensors of {reader.module} are used more than once, or computed"
            elsewhere = len(at.shape) > 2 and (node.op == "linear") != (reader.op == "linear")
            return f"{reader.module} takes its channels from another axis" if elsewhere else reader
        if reason := _mixes(node, at, reader):
            return reason
        at = reader


def _own(graph: Graph, node: Node) -> tuple[str, ...]:
    """Return the tensors that `node` alone reads, as they are stored."""
    stored = {*node.roles.values()}
    return tuple(name for name in node.tensors if name in stored and len(graph.readers(name)) == 1)


def _mixes(node: Node, at: Node, reader: Node) -> str:
    """Return why scaled channels do not come out of `reader` as they came in, or an empty string."""
    scales = operator(reader.op).scales
    if scales == "element":
        return ""
    if scales == "clip":
        return f"{reader.op} clips at a fixed value, which does not scale"
    if reader.op.startswith("batch_norm"):
        return "a batch norm follows: fold it first"
    if node.op == "linear" and len(at.shape) > 2:
        return f"{reader.op} may mix its channels with other axes"
    if scales == "reshape":
        kept = at.shape[:2] == reader.shape[:2] or (len(reader.shape) == 2 and at.shape[0] == reader.shape[0])
        return "" if kept else f"{reader.op} mixes its channels with other axes"
    if scales == "mean":
        axes = {axis % len(at.shape) for axis in reader.options.get("dim") or range(len(at.shape))}
        return "mean is taken over its channels" if axes & {0, 1} else ""
    zeros = reader.options.get("mode", "constant") == "constant" and not reader.options.get("value")
    if scales == "channel" or (reader.op == "pad" and zeros):
        return ""
    return f"{reader.op} does not scale with its input"
