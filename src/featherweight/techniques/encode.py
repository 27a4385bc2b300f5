"""The step `encode`: tensors into a format, one by one, without data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from msgspec import Meta

from featherweight.errors import ConfigError, UnsupportedError
from featherweight.events import Note
from featherweight.formats import AnyCoder, AnyFormat, Coder, Encoded, Fixed, Format, Int, tag
from featherweight.formats.coders import QUICK, Rans, smallest
from featherweight.integers import Pairing
from featherweight.task import Needs, Task
from featherweight.techniques.base import Context, Step, Where

if TYPE_CHECKING:
    from featherweight.model import Model

CoderChoice = Coder | Literal["smallest"]


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

    needs: ClassVar[Needs] = "none"
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
            raise ConfigError(
                "means nothing at fixed rate", where="encode.rate", got=self.rate,
                hint="name an entropy coder, or smallest",
            )  # fmt: skip

    def apply(self, model: Model, task: Task, context: Context) -> Model:
        """Return the model with these tensors encoded."""
        from featherweight.selectors import select
        from featherweight.techniques.portable import pairings
        from featherweight.techniques.tensors import unfit

        encoded = {}
        paired = pairings(model, task) if self.portable else {}
        names = select(model, self.where)
        left = unfit(model, dict.fromkeys(names, self.format))
        notes = [Note("skipped", name, f"not encoded: {reason}") for name, reason in left.items()]
        for name in [name for name in names if name not in left]:
            encoded[name] = self.written(model, name, nearest(model, name, self.format, paired))
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


def same(model: Model, name: str, format: Format, paired: Mapping[str, Pairing]) -> bool:
    """Return whether a tensor has this format already, and fits the bounds of `paired`."""
    from featherweight.techniques.portable import fits

    old = model.weights.get(name)
    return old is not None and old.format == format and fits(old, paired.get(name, "none"))


def nearest(model: Model, name: str, format: Format, paired: Mapping[str, Pairing]) -> Encoded:
    """Return a tensor rounded to the nearest numbers of `format`, within the bounds of `paired`.

    Args:
        model: that it is of.
        name: of the tensor; one that is in this format already keeps its symbols.
        format: how its numbers are written.
        paired: which integers of a weight are bounded together, by name.

    Raises:
        UnsupportedError: the format cannot take the tensor; names it.
    """
    from featherweight.techniques.portable import bounded, portable
    from featherweight.techniques.tensors import array, encode, finite

    kind = paired.get(name, "none")
    if kind == "none" or not bounded(format) or same(model, name, format, paired):
        return encode(model, name, format)
    view = model.views[name]
    matrix = view.matrix(finite(array(model, name), name))
    return portable(matrix, None, format, view, kind)


def again(name: str, old: Encoded, new: Encoded) -> Note:
    """Return what became of a tensor that was encoded already."""
    had = tag(old.format)
    if old.format != new.format:
        return Note("thawed", name, f"encoded again, from its decoded {had} values")
    if moved := np.count_nonzero(old.symbols != new.symbols):
        return Note(
            "thawed", name, f"is in this format: {had}; {moved / old.symbols.size:.1%} of its symbols changed"
        )
    if old.coder != new.coder:
        return Note(
            "chose", name, f"is in this format: {had}; only its coder changed, {old.coder} to {new.coder}"
        )
    return Note("skipped", name, f"is in this format: {had}")


def recoded(encoded: Encoded, coder: CoderChoice, where: str) -> Encoded:
    """Return the same numbers under `coder`, or under the one of `QUICK` that takes fewest bytes.

    Raises:
        UnsupportedError: the coder cannot take the stream of the tensor named `where`.
    """
    spec = encoded.spec
    if coder == "smallest":
        return encoded.recoded(smallest(encoded.symbols, spec, QUICK))
    if reason := coder.misfit(spec):
        raise UnsupportedError(f"coder {tag(coder)} cannot take its symbols: {reason}", where=where)
    return encoded.recoded(coder)
