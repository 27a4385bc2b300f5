"""The step `encode`: tensors into a format, one by one, without data."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from featherweight.formats import AnyCoder, AnyFormat, Encoded, Fixed, Int, tag
from featherweight.task import Needs, Task
from featherweight.techniques.base import Context, Step, Where
from featherweight.techniques.coding import recoded

if TYPE_CHECKING:
    from featherweight.model import Model, Note


class Encode(Step, frozen=True, tag="encode"):
    """Round the selected tensors to the nearest numbers of a format.

    A tensor that has this format already keeps its symbols, for encoding is not idempotent; its coder changes.
    One in another format is encoded from its decoded values. Both are noted.

    Attributes:
        where: which tensors; see `featherweight.selectors`.
        format: how their numbers are written.
        coder: how their symbols are written, or `smallest`: whichever of a few quick ones takes fewest bytes,
            tensor by tensor.
    """

    needs: ClassVar[Needs] = "none"
    where: Where = "weights"
    format: AnyFormat = Int()
    coder: AnyCoder | Literal["smallest"] = Fixed()

    def apply(self, model: Model, task: Task, context: Context) -> Model:
        """Return the model with these tensors encoded."""
        from featherweight.selectors import select
        from featherweight.techniques.floats import encode

        encoded, notes = {}, []
        for name in select(model, self.where):
            encoded[name] = recoded(encode(model, name, self.format), self.coder, name)
            if old := model.weights.get(name):
                notes.append(again(name, old, encoded[name]))
        return model.with_encoded(encoded, notes)


def again(name: str, old: Encoded, new: Encoded) -> Note:
    """Return what became of a tensor that was encoded already."""
    from featherweight.model import Note

    had = tag(old.format)
    if old.format != new.format:
        return Note("thawed", name, f"encoded again, from its decoded {had} values")
    if old.coder != new.coder:
        return Note(
            "chose", name, f"is in this format: {had}; only its coder changed, {old.coder} to {new.coder}"
        )
    return Note("skipped", name, f"is in this format: {had}")
