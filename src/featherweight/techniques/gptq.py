"""The step `gptq`: rounds weights column by column and compensates each error in the remaining columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from msgspec import Meta, field

from featherweight.events import Note
from featherweight.formats import AnyCoder, AnyFormat, Encoded, Fixed, Format, Importance, Int, View
from featherweight.formats.sweep import Order, sweep
from featherweight.formats.view import Array
from featherweight.integers import Pairing
from featherweight.task import Needs, Task
from featherweight.techniques.base import Context, Item, Step, Where
from featherweight.techniques.encode import again, array, finite, formats_of, nearest, recoded, same, unfit
from featherweight.techniques.portable import bounded, pairings, portable

WIDEST = 1 << 15  # inputs of an output: their Hessian takes 8.6 GB, and each doubling eight times as long

if TYPE_CHECKING:
    from torch import Tensor

    from featherweight.curvature.layerwise import Prefix
    from featherweight.curvature.linear_ops import LinearOp, Moments, Pairs
    from featherweight.model import Model


class Gptq(Step, frozen=True, kw_only=True, omit_defaults=True, tag="gptq"):
    """Encode the selected weights layer by layer so that the layers' outputs on unlabelled inputs change least.

    In a layer `y = W x` the columns of W are rounded one after the other. Each rounding error is compensated in the
    remaining columns (error feedback, `featherweight.formats.sweep`), with the Hessian `H = sum x x'` of the inputs.
    Scales and codebooks are fitted first; squared errors are weighted by the diagonal of H. Layers are treated in
    order of execution. Exact zeros stay zero.

    A tensor that is not the weight of exactly one convolution or linear layer is rounded to nearest, with a note; so is
    one of more than 32,768 columns, whose Hessian few memories hold. A tensor beyond the range of a floating-point
    format without a scale stays as it is, with a note. A tensor that already has this format stays.

    References: Frantar, Ashkboos, Hoefler, Alistarh, GPTQ, 2022, arXiv 2210.17323; Li et al., GPTAQ: Efficient
    finetuning-free quantization for asymmetric calibration, 2025, arXiv 2504.02692 (the targets of
    `asymmetric`; here the whole shift is made before the first column).

    Attributes:
        where: which tensors; see `featherweight.selectors`.
        format: how their numbers are written.
        formats: other formats for some of the tensors, by items of a `where`.
        coder: how their symbols are written, or `smallest`.
        samples: inputs of the calibration split to see.
        places: patches of a convolution (or elements of a sequence) to see of each input, about so many at most,
            evenly spaced because neighbours are alike; None: all.
        inputs: what x is. `float`: a layer's input in the float network; `quantized`: its input after all layers
            before it are encoded; `asymmetric`: the same, but the target is the output in the float network, so that
            a layer also compensates the errors of those before it.
        damping: share of the mean of H's diagonal that is added to the diagonal.
        order: of the columns: as `given`, or by `activation`, greatest diagonal of H first.
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
        """Return the model with these tensors encoded.

        Raises:
            UnsupportedError: a weight is not float32, or it or the inputs of its layer hold NaN or infinity.
        """
        import torch

        from featherweight.curvature.layerwise import layerwise, prefix

        wanted, had = formats_of(model, self.where, self.format, self.formats, "gptq"), model.weights
        left = unfit(model, wanted)
        formats = {name: format for name, format in wanted.items() if name not in left}
        kinds: dict[str, Pairing] = dict.fromkeys(formats, "none")
        kinds |= pairings(model, task) if self.portable else {}
        ahead = prefix(model, task, self.samples, seed=context.seed)
        fresh = [name for name in formats if not same(model, name, formats[name], kinds[name])]
        wide = {
            n: model.views[n].cols for n in fresh if n in ahead.linear_ops and model.views[n].cols > WIDEST
        }
        layers = [name for name in fresh if name in ahead.linear_ops and name not in wide]
        others = [name for name in formats if name not in layers]
        encoded = {name: nearest(model, name, formats[name], kinds[name]) for name in others}

        moments_of = self.moments(ahead, layers)

        def treat(layer: LinearOp, pairs: Pairs) -> Mapping[str, Tensor]:
            name = layer.weight
            weight, view = finite(array(model, name), name), model.views[name]
            settings: dict[str, Any] = {"damping": self.damping, "order": self.order, "kind": kinds[name]}
            matrix = view.matrix(weight)
            encoded[name] = swept(
                matrix, moments_of(layer, pairs, weight.shape[2:]), formats[name], view, **settings
            )
            return {name: torch.from_numpy(encoded[name].decode())}

        rounded = {name: torch.from_numpy(entry.decode()) for name, entry in encoded.items()}
        sequential = self.inputs != "float"
        layerwise(
            ahead, layers, treat, changed=rounded if sequential else None, sequential=sequential,
            events=context.events, name="gptq",
        )  # fmt: skip
        written = {name: recoded(encoded[name], self.coder, name) for name in formats}
        twice = [again(name, had[name], written[name]) for name in formats if name in had]
        notes = [Note("skipped", name, f"not encoded: {reason}") for name, reason in left.items()]
        notes += [Note("chose", name, f"rounded to nearest: {said_of(cols)}") for name, cols in wide.items()]
        unswept = [name for name in others if name in fresh and name not in wide]
        notes += ahead.notes(unswept, "rounded to nearest", self.samples)
        return model.with_encoded(written, [*notes, *twice])

    def moments(
        self, ahead: Prefix, weights: Iterable[str]
    ) -> Callable[[LinearOp, Pairs, tuple[int, ...]], Moments]:
        """Return what computes the moments of the inputs of layers with these `weights`, in order of execution.

        Linear layers that read one activation have the same; they are kept while another such layer is to come.
        """
        from featherweight.curvature.linear_ops import moments

        ops = [op for name, op in ahead.linear_ops.items() if name in set(weights)]
        left = Counter(op.source for op in ops if op.op == "linear")
        kept: dict[str, Moments] = {}

        def moments_of(layer: LinearOp, pairs: Pairs, kernel: tuple[int, ...]) -> Moments:
            known = kept.pop(layer.source, None) if layer.op == "linear" else None
            drift = self.inputs == "asymmetric"
            found = known or moments(layer, pairs, kernel, drift=drift, places=self.places)
            if layer.op == "linear":
                left[layer.source] -= 1
                if left[layer.source]:
                    kept[layer.source] = found
            return found

        return moments_of


def said_of(cols: int) -> str:
    """Return why a weight of so many columns is not swept."""
    return f"the Hessian of {cols:,} inputs takes {8 * cols**2 / 1e9:.1f} GB"


def swept(
    weight: Array, moments: Moments, format: Format, view: View,
    *, damping: float, order: Order, kind: Pairing = "none",
) -> Encoded:  # fmt: skip
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
    zero = weight == 0
    target = np.where(zero, 0, moments.target(weight.astype(np.float64), damping))
    importance, only = Importance(moments.diagonal(len(weight), damping)), [moments.hessian]
    del moments  # of a wide layer each matrix counts: the sweep is handed the only one
    with np.errstate(over="ignore", under="ignore"):
        settings: dict[str, Any] = {"damping": damping, "order": order}
        if kind != "none" and bounded(format):
            return portable(target, only.pop(), format, view, kind, importance=importance, **settings)
        parts = format.fit(target.astype(np.float32), view=view, importance=importance)
        settings["width"] = format.width
        uniform = format.uniform(parts, view)
        if uniform is not None:
            held = replace(uniform, low=np.where(zero, 0, uniform.low), high=np.where(zero, 0, uniform.high))
            made = sweep(target, only.pop(), held, **settings).astype(np.float32)
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

        sweep(target, only.pop(), quantise_columns, **settings)
    return Encoded(format, Fixed(), view, symbols, parts)
