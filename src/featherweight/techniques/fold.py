"""Factors on channels move to another layer, without data: `fold` moves those of batch norm, `equalize` any."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from featherweight.activations import renamed
from featherweight.errors import UnsupportedError
from featherweight.events import Note
from featherweight.formats import Basis, Encoded, Int
from featherweight.formats.integer import COUNTED_BITS, within_float32
from featherweight.formats.view import Array
from featherweight.structure import is_plain, spec_of
from featherweight.task import Task
from featherweight.techniques.base import Context, Step

if TYPE_CHECKING:
    from torch import Tensor

    from featherweight.graph.folding import FoldSite, ScalePair
    from featherweight.graph.graph import Edge, Graph
    from featherweight.model import Model
    from featherweight.structure import LayerSpec

ROUNDS = 30  # of equalizing all pairs of layers, at most
CONVERGED = 1e-3  # the greatest logarithm of a scale that is left
LEAST = 2.0**-100  # that a basis is multiplied by: one of zeros would be geometric no longer


class Fold(Step, frozen=True, tag="fold"):
    """Fold each batch norm that directly follows a convolution or linear layer into it.

    An identity remains, or the activation that the module of the batch norm applies too. Inference computes the
    same with fewer tensors, which is checked on the task's example. Computed in float64 and rounded once. A batch norm
    that cannot be folded stays, with a note; encoded tensors that are in the way are thawed.

    A weight of integers keeps them, and its steps are multiplied instead, one a channel from then on: what was trained
    through the norm is what remains. Where the norm multiplies by a negative number, the integers of that channel
    change their signs; if one is the lowest, whose negative there is none of, the norm stays. A weight in `Basis` keeps
    its signs likewise, and its bases are multiplied. Quantizers of activations stay too: those behind a norm stand
    behind its layer then.
    """

    def apply(self, model: Model, task: Task, context: Context) -> Model:
        """Return the folded model."""
        from featherweight.graph.folding import fold_sites
        from featherweight.techniques.surgery import failing

        graph = model.program(task.example()).graph
        sites, refused = fold_sites(graph)
        refused |= {site.norm: reason for site in sites if (reason := obstacle(model, graph, site))}
        possible = {site.norm: site for site in sites if site.norm not in refused}
        integers = {site.weight: multiplied(model, site) for site in possible.values() if keeps(model, site)}
        kept = {name: entry for name, entry in model.weights.items() if name not in integers}
        bare = replace(model, weights=kept, activations={})

        def made(norms: Iterable[str], notes: Iterable[Note] = ()) -> Model:
            layers: dict[str, LayerSpec] = {}
            values: dict[str, Tensor] = {}
            for site in (possible[norm] for norm in norms):
                weight, bias = folded_site(model, site)
                layers[site.norm] = site.rest
                if site.bias is None:
                    layers[site.layer] = spec_of(model.module.get_submodule(site.layer), bias=True)
                values |= {site.weight: weight, site.bias or f"{site.layer}.bias": bias}
            return bare.with_structure(layers, values, notes) if layers else bare.with_notes(notes)

        failed = failing(possible, made, lambda _: model, task)
        notes = [Note("skipped", norm, f"not folded: {why}") for norm, why in (refused | failed).items()]
        if not (sites or refused):
            notes = [Note("skipped", "batch norm", "nothing to fold: the network computes none")]
        done = [norm for norm in possible if norm not in failed]
        stay = {possible[norm].weight for norm in failed} & integers.keys()
        encoded = {name: model.weights[name] if name in stay else entry for name, entry in integers.items()}
        after = made(done, notes).with_encoded(encoded)
        if not model.activations:
            return after
        edges = moved(graph, after.program(task.example()).graph, done)
        return after.with_activations(
            {renamed(edge, edges): quantizer for edge, quantizer in model.activations.items()}
        )


def moved(before: Graph, after: Graph, norms: Iterable[str]) -> dict[Edge, Edge]:
    """Return where each edge of a network is after some batch norms were folded, by the paths of their modules.

    Raises:
        UnsupportedError: the rest of the network did not stay as it was.
    """
    gone = {*norms}
    folded = {n.name: n for n in before.nodes if n.op == "batch_norm" and (n.module or n.name) in gone}
    old = [node for node in before.nodes if node.name not in folded]
    if [node.op for node in old] != [node.op for node in after.nodes]:
        hint = "fold before the step calibrate"
        raise UnsupportedError("folding changed the network behind its quantizers", where="fold", hint=hint)
    edges = {node.name: new.name for node, new in zip(old, after.nodes, strict=True)}
    return edges | {name: edges[node.inputs[0]] for name, node in folded.items()}


def keeps(model: Model, site: FoldSite) -> bool:
    """Return whether the weight of `site` keeps its integers, or its signs, when its channels are multiplied."""
    encoded = model.weights.get(site.weight)
    if encoded is None or encoded.view.groups != 1 or encoded.view.rows != len(model.tensors[site.var]):
        return False
    if not isinstance(encoded.format, Int):
        return isinstance(encoded.format, Basis)
    symmetric = encoded.format.scheme == "symmetric" and encoded.format.bits <= COUNTED_BITS
    return symmetric and not encoded.format.half


def multiplied(model: Model, site: FoldSite) -> Encoded:
    """Return the weight of `site` in its own integers or signs; its steps or bases are multiplied by the norm."""
    encoded, factor = model.weights[site.weight], factors(model, site)
    format, view = encoded.format, encoded.view
    assert isinstance(format, Int | Basis)
    made = format if format.per != "tensor" else msgspec.structs.replace(format, per="channel")
    ((name, part),), most = encoded.parts.items(), (1 << format.bits) - 1
    symbols = encoded.symbols.reshape(view.rows, view.cols).astype(np.int32)
    size = np.abs(factor)
    if isinstance(format, Basis):
        symbols = np.where(factor[:, None] < 0, most - symbols, symbols)
        size = np.maximum(size, LEAST)
    else:
        symbols = symbols * np.sign(factor).astype(np.int32)[:, None] & most
    each = np.repeat(part.astype(np.float64), view.rows // len(part), axis=0)
    product = each * size.reshape(-1, *[1] * (each.ndim - 1))
    scaled = product.astype(np.float32) if isinstance(format, Basis) else within_float32(product, format.bits)
    kept = symbols.astype(encoded.symbols.dtype).reshape(-1)
    return replace(encoded, format=made, symbols=kept, parts={name: scaled})


def factors(model: Model, site: FoldSite) -> Array:
    """Return what the norm of `site` multiplies each channel by, `[channels]`, float64."""
    var = model.tensors[site.var].detach().double()
    factor = (var + site.eps).rsqrt()
    return (factor * model.tensors[site.gamma].detach().double() if site.gamma else factor).numpy()


def obstacle(model: Model, graph: Graph, site: FoldSite) -> str:
    """Return why `site` cannot be folded for what its layer is or has been encoded to, or an empty string."""
    edge = next(node.name for node in graph.readers(site.weight))
    if edge in model.activations:
        return f"what {site.layer} writes has a quantizer before it"
    if keeps(model, site) and isinstance(model.weights[site.weight].format, Int):
        encoded = model.weights[site.weight]
        lowest = encoded.symbols == 1 << encoded.format.bits - 1  # type: ignore[attr-defined]
        if (lowest.reshape(encoded.view.rows, -1).any(axis=1) & (factors(model, site) < 0)).any():
            return "its factor on a channel is negative, and the integers there hold the lowest, which has no negative"
    if site.bias is not None:
        return ""
    layer = dict(model.module.named_modules()).get(site.layer)
    if layer is None or not is_plain(layer):
        return f"{site.layer} has no bias and is not a plain layer of torch.nn"
    plain = str(model.tensors[site.weight].dtype) == "torch.float32"
    return "" if plain else f"{site.layer} has no bias and is not float32"


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
    weight: Tensor, bias: Tensor | None, gamma: Tensor | None, beta: Tensor | None, mean: Tensor, var: Tensor,
    eps: float, *, transposed_groups: int = 0,
) -> tuple[Tensor, Tensor]:  # fmt: skip
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
    ones = [1] * (weight.dim() - 2)
    if transposed_groups:
        blocks = weight.double().reshape(transposed_groups, -1, *weight.shape[1:])
        whole = (blocks * factor.reshape(transposed_groups, 1, -1, *ones)).flatten(0, 1)
    else:
        whole = weight.double() * factor.reshape(-1, 1, *ones)
    return whole.to(weight.dtype), shift.to(weight.dtype)


class Equalize(Step, frozen=True, tag="equalize"):
    """Scale each channel between two layers so that it has the same range in the weights of both.

    Where one layer alone reads another through operators with `f(s x) = s f(x)` (ReLU, leaky ReLU, pooling, zero
    padding, flattening), row i of the first weight and its bias are divided by `s_i = sqrt(r_i / q_i)`, and what
    meets channel i in the second is multiplied by it; r and q are the greatest magnitudes there. Chains of layers
    are repeated until nothing moves. The network computes the same, which is checked on the task's example; formats
    with few scales lose less. ReLU6 clips at 6 whatever the scale: pairs through it stay, with a note, as do those
    through a batch norm (`fold` it before). Encoded tensors that are scaled are thawed.

    References: Nagel, van Baalen, Blankevoort, Welling, Data-free quantization through weight equalization and
    bias correction, 2019, arXiv 1906.04721, eq. 11.
    """

    def apply(self, model: Model, task: Task, context: Context) -> Model:
        """Return the model with equal ranges."""
        from featherweight.graph.folding import scale_pairs
        from featherweight.selectors import weights
        from featherweight.techniques.surgery import failing

        pairs, without = scale_pairs(model.program(task.example()).graph)
        failed = failing(pairs, lambda some: scaled(model, some), lambda _: model, task)
        taken = without.keys() | {name for pair in pairs for name in (pair.first, pair.second)}
        other = "is no weight of a linear layer or a convolution (transposed ones are not equalized)"
        skipped = without | {name: other for name in weights(model) if name not in taken}
        skipped |= {pair.first: f"not equalized with {pair.second}: {why}" for pair, why in failed.items()}
        notes = [Note("skipped", name, why) for name, why in skipped.items()]
        return scaled(model, [pair for pair in pairs if pair not in failed], notes)


def scaled(model: Model, pairs: Sequence[ScalePair], notes: Iterable[Note] = ()) -> Model:
    """Return the model with equal ranges in these pairs of layers."""
    names = dict.fromkeys(name for p in pairs for name in (p.first, p.bias, p.second) if name)
    values = {name: model.tensors[name].detach().double() for name in names}
    for _ in range(ROUNDS):
        if max([equalized(values, pair) for pair in pairs], default=0.0) < CONVERGED:
            break
    return model.with_tensors(
        {name: value.to(model.tensors[name].dtype) for name, value in values.items()}, notes
    )


def equalized(values: dict[str, Tensor], pair: ScalePair) -> float:
    """Scale the channels of a pair in `values`; return the greatest logarithm of a scale.

    A channel without a range on one side stays.
    """
    first, second = values[pair.first], values[pair.second]
    channels = len(first)
    # [groups, out of a group, channels of a group, what meets one channel: taps, or places that were flattened]
    blocks = second.reshape(pair.groups, len(second) // pair.groups, channels // pair.groups, -1)
    scale = (first.flatten(1).abs().amax(1) / blocks.abs().amax((1, 3)).flatten()).sqrt()
    scale[~scale.isfinite() | (scale == 0)] = 1.0
    values[pair.first] = first / scale.reshape(-1, *[1] * (first.dim() - 1))
    if pair.bias:
        values[pair.bias] = values[pair.bias] / scale
    values[pair.second] = (blocks * scale.reshape(pair.groups, 1, -1, 1)).reshape(second.shape)
    return float(scale.log().abs().max())
