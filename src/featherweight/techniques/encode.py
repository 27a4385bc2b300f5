"""The step `encode`: tensors into a format, one by one, without data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from msgspec import Meta

from featherweight.errors import ConfigError, UnsupportedError
from featherweight.events import Note
from featherweight.formats import AnyCoder, AnyFormat, Coder, Encoded, Fixed, Format, Int, tag
from featherweight.formats.coders import QUICK, Rans, smallest
from featherweight.formats.floating import beyond
from featherweight.formats.view import Array
from featherweight.integers import Pairing
from featherweight.task import Task
from featherweight.techniques.base import Context, Step, Where
from featherweight.techniques.portable import bounded, fits, pairings, portable

if TYPE_CHECKING:
    from featherweight.model import Model


class Encode(Step, frozen=True, omit_defaults=True, tag="encode"):
    """Round the selected tensors to the nearest numbers of a format.

    A tensor that already has this format keeps its symbols, because encoding is not idempotent; only its coder
    changes. A tensor in another format is encoded from its decoded values. Both are noted.

    A tensor beyond the range of a floating-point format without a scale (float16: 65,504) stays as it is, with a note.

    With a `rate`, a weight is rounded not to the nearest number but to one nearer zero where the bits saved under the
    coder are worth the error (rate-distortion, `featherweight.formats.rate`). Then a tensor that already has this
    format is assigned again, from its decoded values and with its own parts (a trained codebook, say).

    Attributes:
        where: which tensors; see `featherweight.selectors`.
        format: how their numbers are written.
        coder: how their symbols are written, or `smallest`: for each tensor the quick coder with fewest bytes.
        rate: relative squared error (over the mean squared weight) that a bit a weight is worth; 0: nearest.
        portable: bound the integers of 8-bit weights so that their products cannot saturate on x86 without VNNI;
            see `featherweight.techniques.portable`. The step `gptq` loses less by it.
    """

    where: Where = "weights"
    format: AnyFormat = Int()
    coder: AnyCoder | Literal["smallest"] = Fixed()
    rate: Annotated[float, Meta(ge=0)] = 0.0
    portable: bool = False

    def __post_init__(self) -> None:
        """Refuse options that mean nothing together.

        Raises:
            ConfigError: a rate, where every symbol takes the same bits, or beside bounds.
        """
        super().__post_init__()
        if self.rate and self.portable:
            raise ConfigError("not both", where="encode", got="rate and portable", expected="one of them")
        if self.rate and isinstance(self.coder, Fixed):
            hint = "name an entropy coder, or smallest"
            raise ConfigError("means nothing at fixed rate", where="encode.rate", got=self.rate, hint=hint)

    def apply(self, model: Model, task: Task, context: Context) -> Model:
        """Return the model with these tensors encoded."""
        from featherweight.selectors import select

        paired = pairings(model, task) if self.portable else {}
        names = select(model, self.where)
        left = unfit(model, dict.fromkeys(names, self.format))
        notes, encoded = [Note("skipped", name, f"not encoded: {why}") for name, why in left.items()], {}
        for name in [name for name in names if name not in left]:
            rounded = nearest(model, name, self.format, paired.get(name, "none"))
            encoded[name] = self.written(model, name, rounded)
            if old := model.weights.get(name):
                notes.append(again(name, old, encoded[name]))
        return model.with_encoded(encoded, notes)

    def written(self, model: Model, name: str, nearest: Encoded) -> Encoded:
        """Return a tensor, rounded to the `nearest` numbers, under this step's coder and rate."""
        from featherweight.formats.rate import rate_aware

        if not self.rate:
            return recoded(nearest, self.coder, name)
        planned = recoded(nearest, Rans() if self.coder == "smallest" else self.coder, name)
        weight, fresh = model.tensors[name].detach().numpy(), nearest is not model.weights.get(name)
        try:
            cheaper = rate_aware(planned, weight, self.rate, refit=fresh)
        except UnsupportedError as error:
            raise UnsupportedError(error.what, where=name) from None
        return recoded(cheaper, self.coder, name)


def formats_of(
    model: Model, where: Where, format: Format, formats: Mapping[str, Format], step: str
) -> dict[str, Format]:
    """Return the format of each tensor that `where` selects: `format`, or that of the item of `formats` it is in.

    Raises:
        ConfigError: an item of `formats` selects what `where` does not, or what another item does; names the `step`.
    """
    from featherweight.selectors import select

    chosen = dict.fromkeys(select(model, where), format)
    taken: set[str] = set()
    for item, other in formats.items():
        names = select(model, item)
        if wrong := ", ".join(name for name in names if name in taken or name not in chosen):
            raise ConfigError("selected twice, or not by where", where=f"{step}.formats.{item}", got=wrong)
        chosen |= dict.fromkeys(names, other)
        taken |= set(names)
    return chosen


def unfit(model: Model, formats: Mapping[str, Format]) -> dict[str, str]:
    """Return which tensors their formats cannot hold without clamping them, with the reason."""
    values = {name: model.tensors[name].detach().float().numpy() for name in formats}
    return {name: reason for name, format in formats.items() if (reason := beyond(values[name], format))}


def same(model: Model, name: str, format: Format, kind: Pairing = "none") -> bool:
    """Return whether a tensor has this format already, and fits the bounds of `kind`."""
    old = model.weights.get(name)
    return old is not None and old.format == format and fits(old, kind)


def nearest(model: Model, name: str, format: Format, kind: Pairing = "none") -> Encoded:
    """Return a tensor rounded to the nearest numbers of `format`; one that is in this format keeps its symbols.

    Args:
        model: that it is of.
        name: of the tensor.
        format: how its numbers are written.
        kind: which integers of a weight are bounded together.

    Raises:
        UnsupportedError: the format cannot take the tensor; names it.
    """
    if same(model, name, format, kind):
        return model.weights[name]
    weight, view = array(model, name), model.views[name]
    if kind != "none" and bounded(format):
        return portable(view.matrix(finite(weight, name)), None, format, view, kind)
    try:
        return format.encode(weight, view=view)
    except UnsupportedError as error:
        known = {"got": error.got, "expected": error.expected, "hint": error.hint}
        raise UnsupportedError(error.what, where=name, **known) from None


def array(model: Model, name: str) -> Array:
    """Return the values of a tensor that is to be encoded.

    Raises:
        UnsupportedError: it is not float32.
    """
    tensor = model.tensors[name]
    kind = str(tensor.dtype).removeprefix("torch.")
    if kind != "float32":
        hint = "convert the network: module.float()"
        raise UnsupportedError("only float32 tensors are encoded", where=name, got=kind, hint=hint)
    return tensor.detach().numpy()


def finite(values: Array, name: str) -> Array:
    """Return the values of a tensor, or raise `UnsupportedError` that names it: they hold NaN or infinity."""
    if not np.isfinite(values).all():
        raise UnsupportedError("NaN or infinity", where=name, hint="look for a diverged training run")
    return values


def again(name: str, old: Encoded, new: Encoded) -> Note:
    """Return what became of a tensor that was encoded already."""
    had = tag(old.format)
    if old.format != new.format:
        return Note("thawed", name, f"encoded again, from its decoded {had} values")
    keeps = f"is in this format: {had}"
    if moved := np.count_nonzero(old.symbols != new.symbols):
        return Note("thawed", name, f"{keeps}; {moved / old.symbols.size:.1%} of its symbols changed")
    if old.coder != new.coder:
        return Note("chose", name, f"{keeps}; only its coder changed, {old.coder} to {new.coder}")
    return Note("skipped", name, keeps)


def recoded(encoded: Encoded, coder: Coder | Literal["smallest"], where: str) -> Encoded:
    """Return the same numbers under `coder`, or under the one of `QUICK` that takes fewest bytes.

    Raises:
        UnsupportedError: the coder cannot take the stream of the tensor named `where`.
    """
    if coder == "smallest":
        return encoded.recoded(smallest(encoded.symbols, encoded.spec, QUICK))
    if reason := coder.misfit(encoded.spec):
        raise UnsupportedError(f"coder {tag(coder)} cannot take its symbols: {reason}", where=where)
    return encoded.recoded(coder)
