"""The step `factorize`: a layer becomes two or three thinner ones of low rank."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Annotated

import numpy as np
from msgspec import Meta

from featherweight.errors import ConfigError
from featherweight.events import Note
from featherweight.formats.view import Array
from featherweight.structure import LayerSpec
from featherweight.task import Needs, Task
from featherweight.techniques.base import Context, Step, Where
from featherweight.techniques.lowrank import AnyRank, Evbmf, Factor, Form, factors, product

if TYPE_CHECKING:
    from torch import Tensor, nn

    from featherweight.curvature.linear_ops import LinearOp, Pairs
    from featherweight.graph.graph import Graph
    from featherweight.model import Model

DAMPING = 1e-3  # of the moments, by their mean: directions that no sample has keep a little weight
KINDS = ("Linear", "Conv1d", "Conv2d", "Conv3d")


class Factorize(Step, frozen=True, kw_only=True, omit_defaults=True, tag="factorize"):
    """Replace linear layers and convolutions by products of thinner ones, by singular values.

    A linear layer becomes two. A convolution becomes one of few channels and one of single pixels (`channel`), a
    vertical and a horizontal one (`spatial`), or one that mixes channels on either side of a small core (`tucker`).
    Factors are ordinary weights: encode, prune and finetune them. A layer whose factors would cost no less, in
    multiply-accumulates and in parameters, is left alone, with a note.

    References: Denton, Zaremba, Bruna, LeCun, Fergus, Exploiting linear structure within convolutional networks,
    2014, arXiv 1404.0736 (linear layers); `lowrank` names those of convolutions.

    Attributes:
        where: weights of which layers; see `featherweight.selectors`.
        form: what becomes of a convolution.
        rank: how the rank of each matrix is chosen: `evbmf`, `energy` or `given`.
        samples: calibration inputs by whose second moment errors are weighed, in `channel`; None: all weigh alike.
    """

    where: Where = "weights"
    form: Form = "tucker"
    rank: AnyRank = Evbmf()
    samples: Annotated[int, Meta(ge=1)] | None = None

    def __post_init__(self) -> None:
        """Refuse options that mean nothing together.

        Raises:
            ConfigError: inputs weigh whole filters, which no other form keeps.
        """
        super().__post_init__()
        if self.samples and self.form != "channel":
            where = "factorize.samples"
            raise ConfigError("weighs whole filters", where=where, got=self.form, expected="channel")

    @property
    def needs(self) -> Needs:  # type: ignore[override]
        """`none`; `unlabelled` where samples weigh the errors."""
        return "unlabelled" if self.samples else "none"

    def apply(self, model: Model, task: Task, context: Context) -> Model:
        """Return the model with these layers factorised."""
        import torch

        from featherweight.selectors import select
        from featherweight.techniques.surgery import failing

        graph = model.program(task.example()).graph
        refused, plan = obstacles(model, graph), dict[str, list[Factor]]()
        paths = list(dict.fromkeys(name.rpartition(".")[0] for name in select(model, self.where)))
        roots = input_roots(model, task, paths, self.samples, context) if self.samples else {}
        for path in paths:
            layer = model.module.get_submodule(path)
            if path not in refused:
                use = graph.readers(f"{path}.weight")[0]
                read = graph.node(use.inputs[0]).shape
                made = factors(layer, self.form, self.rank, read, use.shape, roots.get(f"{path}.weight"))
                if cheaper(layer, made):
                    plan[path] = made
                else:
                    refused[path] = f"its factors ({ranks(made)}) would cost no less"

        def made_of(paths: Iterable[str], notes: Sequence[Note] = ()) -> Model:
            return factorised(model, {path: plan[path] for path in paths}, notes)

        def multiplied(paths: Iterable[str]) -> Model:
            products = {f"{path}.weight": product([factor.weight for factor in plan[path]]) for path in paths}
            return model.with_tensors({name: torch.from_numpy(w).float() for name, w in products.items()})

        failed = failing(plan, made_of, multiplied, task)
        skipped = {path: refused[path] for path in paths if path in refused} | failed
        notes = [Note("skipped", p or "network", f"not factorised: {why}") for p, why in skipped.items()]
        return made_of([path for path in plan if path not in failed], notes)


def input_roots(
    model: Model, task: Task, paths: list[str], samples: int, context: Context
) -> dict[str, Array]:
    """Return the Cholesky factors `[cols, cols]` of the damped second moments of what weights of layers meet."""
    from featherweight.curvature.layerwise import layerwise, prefix
    from featherweight.curvature.linear_ops import moments
    from featherweight.formats.sweep import damped

    ahead = prefix(model, task, samples, seed=context.seed)
    roots: dict[str, Array] = {}

    def look(layer: LinearOp, pairs: Pairs) -> dict[str, Tensor]:
        found = moments(layer, pairs, model.tensors[layer.weight].shape[2:], drift=False)
        if layer.groups == 1:
            roots[layer.weight] = np.linalg.cholesky(damped(found.hessian, DAMPING)[0])
        return {}

    weights = [name for name in ahead.linear_ops if name.rpartition(".")[0] in paths]
    layerwise(ahead, weights, look, sequential=False, events=context.events, name="factorize")
    return roots


def obstacles(model: Model, graph: Graph) -> dict[str, str]:
    """Return the modules that cannot be replaced by a sequence, with the reason."""
    fixed = {name.rpartition(".")[0]: reason for name, reason in graph.rigid.items()}
    found = {}
    for path, layer in model.module.named_modules():
        readers = graph.readers(f"{path}.weight")
        if type(layer).__name__ not in KINDS or not type(layer).__module__.startswith("torch."):
            found[path] = f"{type(layer).__name__} is no linear layer or convolution"
        elif path in fixed:
            found[path] = fixed[path]
        elif getattr(layer, "groups", 1) != 1:
            found[path] = "its channels are in groups"
        elif not readers or any(node.module != path for node in readers):
            found[path] = "its weight is not used by the layer alone"
        elif any(node.op not in ("linear", "conv1d", "conv2d", "conv3d") for node in readers):
            found[path] = "it is not computed as the layer it is"
    return found


def cheaper(layer: nn.Module, made: list[Factor]) -> bool:
    """Return whether factors cost less than the layer, in multiply-accumulates and in weights."""
    weight = prod(layer.weight.shape)  # type: ignore[arg-type]
    macs = sum(factor.places * factor.weight.size for factor in made)
    return macs < made[-1].places * weight and sum(factor.weight.size for factor in made) < weight


def ranks(made: list[Factor]) -> str:
    """Return the ranks between factors, for a note."""
    between = [str(factor.weight.shape[0]) for factor in made[:-1]]
    return f"rank {', '.join(between)}" if between else "full rank"


def factorised(model: Model, plan: Mapping[str, list[Factor]], notes: Sequence[Note]) -> Model:
    """Return the model with every layer of `plan` a sequence of its factors; the last one has the bias."""
    import torch

    layers, values, chosen = {}, {}, list(notes)
    for path, made in plan.items():
        layers[path], last = LayerSpec("Sequential"), len(made) - 1
        bias = model.module.get_submodule(path).bias
        for number, factor in enumerate(made):
            arguments = {**factor.spec.arguments, "bias": number == last and bias is not None}
            layers[f"{path}.{number}"] = LayerSpec(factor.spec.kind, arguments)
            values[f"{path}.{number}.weight"] = torch.from_numpy(factor.weight.copy()).float()
        if isinstance(bias, torch.Tensor):
            values[f"{path}.{last}.bias"] = bias.detach()
        chosen.append(Note("chose", path, f"{len(made)} factors of {ranks(made)}"))
    return model.with_structure(layers, values, chosen) if layers else model.with_notes(chosen)
