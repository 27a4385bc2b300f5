"""The step `smooth`: large channels of what linear layers read become smaller, and their weights larger."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, ClassVar

from msgspec import Meta

from featherweight.events import Note
from featherweight.structure import is_plain, spec_of
from featherweight.task import Needs, Task
from featherweight.techniques.base import Context, Step

if TYPE_CHECKING:
    from torch import Tensor

    from featherweight.graph.graph import Edge
    from featherweight.graph.smoothing import SmoothSite
    from featherweight.model import Model
    from featherweight.structure import LayerSpec

AT_ONCE = 16  # samples that run together
LEAST = 1e-5  # of the magnitudes of channels, and of their factors


class Smooth(Step, frozen=True, omit_defaults=True, tag="smooth"):
    """Move the range of channels from what the linear layers of a transformer read into their weights.

    Channel j is divided by `s_j = max |x_j|^alpha / max |W_j|^(1 - alpha)`, over calibration inputs and over the
    weights of all layers that read it, which are multiplied by it. The division is taken into the gain and the bias of
    the norm before them, or into the rows of the linear layer or of the gated one that writes the channels, if no one
    else reads them. Otherwise, as behind a norm that a residual sum reads too, or a GELU, the layers multiply what they
    read (`ScaledLinear`), where the largest channel is more than `spread` times the median one: one product a token and
    channel more. The network computes the same, which is checked on the task's example; 8-bit activations
    lose less. Layers that read no tokens stay; in a network of convolutions nothing changes.

    References: Xiao, Lin, Seznec, Wu, Demouth, Han, SmoothQuant: Accurate and efficient post-training quantization for
    large language models, 2023, arXiv 2211.10438, eq. 4.

    Attributes:
        alpha: how much of the range moves: 0 none of it, 1 all.
        spread: of an activation that nothing before it scales, from which on its layers scale it.
        samples: inputs of the calibration split to see.
    """

    needs: ClassVar[Needs] = "unlabelled"
    alpha: Annotated[float, Meta(ge=0, le=1)] = 0.7
    spread: Annotated[float, Meta(ge=1)] = 4.0
    samples: Annotated[int, Meta(ge=1)] = 48

    def apply(self, model: Model, task: Task, context: Context) -> Model:
        """Return the model with smoother activations."""
        from featherweight.graph.smoothing import smooth_sites
        from featherweight.techniques.surgery import failing

        sites, without = smooth_sites(model.program(task.example()).graph)
        notes = [Note("skipped", name, f"not smoothed: {reason}") for name, reason in without.items()]
        if not sites:
            return model.with_notes([Note("skipped", "smooth", "no linear layer reads tokens")])
        ranges = magnitudes(model, task, [site.edge for site in sites], self.samples, context.seed)
        plain = {path for path, layer in model.module.named_modules() if is_plain(layer)}
        possible = []
        for site in sites:
            most = ranges[site.edge]
            even = float(most.max()) <= self.spread * max(float(most.median()), LEAST)
            reason = (
                "its channels are alike, and nothing before it scales"
                if even
                else "its layer is no plain one"
            )
            if site.sources or not (even or {*site.layers} - plain):
                possible.append(site)
            else:
                notes += [Note("skipped", name, f"not smoothed: {reason}") for name in site.weights]
        failed = failing(possible, lambda some: self.smoothed(model, some, ranges), lambda _: model, task)
        notes += [Note("skipped", site.weights[0], f"not smoothed: {why}") for site, why in failed.items()]
        return self.smoothed(model, [site for site in possible if site not in failed], ranges, notes)

    def smoothed(
        self,
        model: Model,
        sites: Sequence[SmoothSite],
        ranges: dict[Edge, Tensor],
        notes: Iterable[Note] = (),
    ) -> Model:
        """Return the model with the channels at these sites divided by their factors."""
        import torch

        layers: dict[str, LayerSpec] = {}
        makers: dict[str, Callable[[], Tensor]] = {}  # in float64, a tensor at a time

        def original(name: str) -> Tensor:
            return model.tensors[name].detach().double()

        def value(name: str) -> Tensor:
            return makers.get(name, partial(original, name))()

        def scaled(name: str, factor: Tensor) -> None:
            before = makers.get(name, partial(original, name))
            makers[name] = lambda: before() * factor

        def divided(name: str, factor: Tensor) -> None:
            before = makers.get(name, partial(original, name))
            makers[name] = lambda: before() / factor

        for site in sites:
            columns = torch.stack([value(name).abs().amax(0) for name in site.weights]).amax(0)
            most = ranges[site.edge].double()
            factor = most.clamp(min=LEAST) ** self.alpha / columns.clamp(min=LEAST) ** (1 - self.alpha)
            factor[(most == 0) | (columns == 0)] = 1.0
            factor = factor.clamp(min=LEAST).float().double()
            for name in site.sources:
                divided(name, factor.reshape(-1, *[1] * (model.tensors[name].dim() - 1)))
            for name in site.weights:
                scaled(name, factor)
            for path in site.layers if not site.sources else ():
                spec = spec_of(model.module.get_submodule(path))
                layers[path] = type(spec)("ScaledLinear", spec.arguments)
                makers[f"{path}.scale"] = partial(torch.reciprocal, factor)
                bias = f"{path}.bias"
                if bias in model.tensors:
                    makers.setdefault(bias, partial(original, bias))
        given = ((name, make().float()) for name, make in makers.items())
        return model.with_structure(layers, given, notes) if layers else model.with_tensors(given, notes)


def magnitudes(
    model: Model, task: Task, edges: Iterable[Edge], samples: int, seed: int
) -> dict[Edge, Tensor]:
    """Return the greatest magnitude of each channel, the last axis, of these activations on calibration inputs."""
    import torch

    from featherweight.capture.execution import Execution
    from featherweight.capture.pytree import flatten_inputs
    from featherweight.task.sampling import drawn_inputs

    wanted, found = {*edges}, dict[str, torch.Tensor]()

    def visit(edge: Edge, value: Tensor) -> Tensor:
        if edge in wanted and value.numel():
            most = value.abs().flatten(0, -2).amax(0)
            found[edge] = torch.maximum(found[edge], most) if edge in found else most
        return value

    run = Execution(model.program(task.example()), visit)
    for item in drawn_inputs(task, "calibration", samples=samples, at_once=AT_ONCE, seed=seed):
        run(flatten_inputs(model.module, item))
    return found
