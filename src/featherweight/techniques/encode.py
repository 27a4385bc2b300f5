"""The step `encode`: tensors into a format, one by one, without data."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from featherweight.formats import AnyCoder, AnyFormat, Fixed, Int, tag
from featherweight.task import Needs, Task
from featherweight.techniques.base import Context, Step
from featherweight.techniques.coding import recoded

if TYPE_CHECKING:
    from featherweight.model import Model


class Encode(Step, frozen=True, tag="encode"):
    """Round the selected tensors to the nearest numbers of a format.

    A tensor that has this format already keeps its symbols, for encoding is not idempotent. One in another
    format is encoded from its decoded values. Both are noted.

    Attributes:
        where: which tensors; see `featherweight.selectors`.
        format: how their numbers are written.
        coder: how their symbols are written, or `smallest`: whichever of a few quick ones takes fewest bytes,
            tensor by tensor.
    """

    needs: ClassVar[Needs] = "none"
    where: str | list[str] = "weights"
    format: AnyFormat = Int()
    coder: AnyCoder | Literal["smallest"] = Fixed()

    def apply(self, model: Model, task: Task, context: Context) -> Model:
        """Return the model with these tensors encoded."""
        from featherweight.model import Note
        from featherweight.selectors import select
        from featherweight.techniques.floats import encode

        encoded, notes = {}, []
        for name in select(model, self.where):
            encoded[name] = recoded(encode(model, name, self.format), self.coder, name)
            if old := model.weights.get(name):
                had = tag(old.format)
                again = Note("thawed", name, f"encoded again, from its decoded {had} values")
                notes.append(
                    Note("skipped", name, f"is in this format: {had}") if old.format == self.format else again
                )
        return model.with_encoded(encoded, notes)
