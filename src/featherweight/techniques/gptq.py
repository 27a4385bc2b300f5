"""The step `gptq`: rounding that makes up, in the weights still to come, for what it has done to a layer's output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from msgspec import Meta, field
from numpy.typing import NDArray

from featherweight.errors import ConfigError
from featherweight.formats import AnyCoder, AnyFormat, Encoded, Fixed, Format, Importance, Int, View
from featherweight.integers import Pairing
from featherweight.task import Needs, Task
from featherweight.techniques.base import Context, Item, Step, Where
from featherweight.techniques.coder_selection import recoded

if TYPE_CHECKING:
    from torch import Tensor

    from featherweight.curvature.layerwise import Pairs
    from featherweight.curvature.linear_ops import LinearOp
    from featherweight.curvature.moments import Moments
    from featherweight.model import Model

Array = NDArray[Any]
Order = Literal["given", "activation"]


class Gptq(Step, frozen=True, kw_only=True, omit_defaults=True, tag="gptq"):
    """Encode the selected weights layer by layer so that the layers' outputs on unlabelled inputs stay near.

    Of each layer `y = W x` the columns of W are assigned one after the other, and each error is made good in
    those still to come (`featherweight.formats.sweep`), under the Hessian `H = sum x x'` of its inputs. Scales
    and codebooks are fitted first, each squared error weighed by the diagonal of H. Layers come in order of
    execution. Exact zeros stay.

    A tensor that is no weight of a convolution or linear layer, or that several layers use, is rounded to
    nearest, and noted. One that has this format already stays.

    References: Frantar, Ashkboos, Hoefler, Alistarh, GPTQ, 2022, arXiv 2210.17323; Li et al., GPTAQ: Efficient
    finetuning-free quantization for asymmetric calibration, 2025, arXiv 2504.02692 (the targets of
    `asymmetric`; here the whole shift is made before the first column).

    Attributes:
        where: which tensors; see `featherweight.selectors`.
        format: how their numbers are written.
        formats: those of some of them in its place, by items of a `where`.
        coder: how their symbols are written, or `smallest`.
        samples: inputs of the calibration split to see.
        places: of each of them, the patches of a convolution (or elements of a sequence) to see, about as many
            at most and evenly spaced, for neighbours are alike; None: all.
        inputs: what x is. `float`: a layer's input in the network as it was; `quantized`: with all that was
            encoded before it; `asymmetric`: that too, and the output to stay near is the one in the network as
            it was, so that a layer also makes good what those before it did.
        damping: added to the diagonal of H, times its mean.
        order: columns as they are `given`, or those of greatest `activation` first.
        portable: bound the integers of 8-bit weights so that their products cannot saturate on x86 without VNNI
            (see `featherweight.techniques.portable`): the file runs exactly and at full speed on every processor,
            for about 0.7 dB.
    """

    needs: ClassVar[Needs] = "unlabelled"
    where: Where = "weights"
    format: AnyFormat = Int(bits=4, scale_by="mse")
    formats: dict[Item, AnyFormat] = field(default_factory=dict)
    coder: AnyCoder | Literal["smallest"] = Fixed()
    samples: Annotated[int, Meta(ge=1)] = 128
    places: Annotated[int, Meta(ge=1)] | None = None
    inputs: Literal["float", "quantized", "asymmetric"] = "asymmetric"
    damping: Annotated[float, Meta(gt=0)] = 0.01
    order: Order = "activation"
    portable: bool = False

    def apply(self, model: Model, task: Task, context: Context) -> Model:
        """Return the model with these tensors encoded."""
        import torch

        from featherweight.curvature.layerwise import layerwise, prefix
        from featherweight.techniques.encode import again, nearest, same
        from featherweight.techniques.portable import pairings

        formats, had = self.chosen(model), model.weights
        paired = pairings(model, task) if self.portable else {}
        ahead = prefix(model, task, self.samples, seed=context.seed)
        fresh = [name for name in formats if not same(model, name, formats[name], paired)]
        layers = [name for name in fresh if name in ahead.linear_ops]
        encoded = {
            name: nearest(model, name, formats[name], paired) for name in formats if name not in layers
        }

        def treat(layer: LinearOp, pairs: Pairs) -> Mapping[str, Tensor]:
            kind = paired.get(layer.weight, "none")
            encoded[layer.weight] = self.layer(model, layer, pairs, formats[layer.weight], kind)
            return {layer.weight: torch.from_numpy(encoded[layer.weight].decode())}

        rounded = {name: torch.from_numpy(entry.decode()) for name, entry in encoded.items()}
        sequential = self.inputs != "float"
        layerwise(
            ahead, layers, treat, changed=rounded if sequential else None, sequential=sequential,
            events=context.events, name="gptq",
        )  # fmt: skip
        written = {name: recoded(encoded[name], self.coder, name) for name in formats}
        twice = [again(name, had[name], written[name]) for name in formats if name in had]
        others = [name for name in fresh if name not in layers]
        notes = ahead.notes(others, "rounded to nearest", self.samples)
        return model.with_encoded(written, [*notes, *twice])

    def chosen(self, model: Model) -> dict[str, Format]:
        """Return the format of each selected tensor.

        Raises:
            ConfigError: an item of `formats` selects what `where` does not, or what another item does.
        """
        from featherweight.selectors import select

        chosen: dict[str, Format] = dict.fromkeys(select(model, self.where), self.format)
        taken: set[str] = set()
        for item, format in self.formats.items():
            names = select(model, item)
            if wrong := [name for name in names if name in taken or name not in chosen]:
                raise ConfigError(
                    "selected twice, or not by where", where=f"gptq.formats.{item}", got=", ".join(wrong)
                )
            chosen |= dict.fromkeys(names, format)
            taken |= set(names)
        return chosen

    def layer(
        self, model: Model, layer: LinearOp, pairs: Pairs, format: Format, kind: Pairing = "none"
    ) -> Encoded:
        """Return the weight of one layer, encoded for these inputs.

        Args:
            model: that it is of.
            layer: where the weight is used.
            pairs: inputs of the layer.
            format: of the weight.
            kind: which of its integers are bounded together.

        Raises:
            UnsupportedError: it is not float32, or holds NaN or infinity, or its inputs do.
        """
        from featherweight.curvature.moments import moments
        from featherweight.techniques.tensors import array, finite

        weight, view = finite(array(model, layer.weight), layer.weight), model.views[layer.weight]
        drift = self.inputs == "asymmetric"
        found = moments(layer, pairs, weight.shape[2:], drift=drift, places=self.places)
        matrix = view.matrix(weight)
        return swept(matrix, found, format, view, damping=self.damping, order=self.order, kind=kind)


def swept(
    weight: Array,
    moments: Moments,
    format: Format,
    view: View,
    *,
    damping: float,
    order: Order,
    kind: Pairing = "none",
) -> Encoded:
    """Return a layer's weight in `format`, at fixed rate.

    Args:
        weight: `[rows, cols]`.
        moments: of the layer's inputs.
        format: what to write it in.
        view: of the weight.
        damping: of the Hessian.
        order: of the columns.
        kind: which of its integers are bounded together, if the format has 8 bits.
    """
    from featherweight.formats.sweep import sweep
    from featherweight.techniques.portable import bounded, portable

    zero = weight == 0
    target = np.where(zero, 0, moments.target(weight.astype(np.float64), damping))
    importance = Importance(moments.diagonal(len(weight), damping))
    with np.errstate(over="ignore", under="ignore"):
        if kind != "none" and bounded(format):
            return portable(
                target, moments.hessian, format, view, kind,
                importance=importance, damping=damping, order=order,
            )  # fmt: skip
        parts = format.fit(target.astype(np.float32), view=view, importance=importance)

        settings: dict[str, Any] = {"width": format.width, "damping": damping, "order": order}
        uniform = format.uniform(parts, view)
        if uniform is not None:
            held = replace(uniform, low=np.where(zero, 0, uniform.low), high=np.where(zero, 0, uniform.high))
            made = sweep(target, moments.hessian, held, **settings).astype(np.float32)
            return Encoded(format, Fixed(), view, format.assign(made, parts, view=view).reshape(-1), parts)

        spec = format.stream(view, parts)
        symbols = np.zeros(spec.count, spec.dtype)

        def quantise_columns(block: Array, columns: Array) -> Array:
            alone, narrow, part = format.columns(parts, view, columns)
            known = np.where(zero[:, columns], 0, block).astype(np.float32)
            weigh = Importance(importance.diagonal[:, columns])
            found = alone.assign(known, narrow, view=part, importance=weigh).reshape(-1)
            format.put(symbols, columns, found, view=view)
            return alone.dequantize(found, narrow, view=part)

        sweep(target, moments.hessian, quantise_columns, **settings)
    return Encoded(format, Fixed(), view, symbols, parts)
