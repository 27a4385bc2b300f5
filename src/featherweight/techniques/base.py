"""What a step is: a frozen value with one verb, `apply`: model in, new model out."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import msgspec

from featherweight.checked import Options
from featherweight.events import Events, silent
from featherweight.task import Needs, Task

if TYPE_CHECKING:
    from featherweight.model import Model


Item = Annotated[str, msgspec.Meta(min_length=1)]
Where = Item | Annotated[list[Item], msgspec.Meta(min_length=1)]


@dataclass(frozen=True)
class Context:
    """What surrounds a step and must not change its result.

    Attributes:
        seed: the run's seed; a step draws from generators that it makes out of it.
        events: where progress goes.
        scratch: folder of its own where long work may leave checkpoints; None: nowhere.
        baseline: the float network that the result is compared with. None: there is none.
        uncoded: the network as it last was with nothing encoded. None: it never was.
        steps: the model after each step so far.
    """

    seed: int = 0
    events: Events = silent
    scratch: Path | None = None
    baseline: Model | None = None
    uncoded: Model | None = None
    steps: Sequence[Model] = ()


class Step(Options, frozen=True, tag_field="step"):
    """A pure function of a model, a task and a seed; its fields are its options, and the whole of them.

    `apply` never changes its input and leaves torch's global state as it was. `needs` says what of the task
    it may see, and is enforced: `none`, `unlabelled` or `labelled`.
    """

    needs: ClassVar[Needs] = "none"

    def apply(self, model: Model, task: Task, context: Context) -> Model:
        """Return the model after this step."""
        raise NotImplementedError


def said_needs(kind: type[Any]) -> str:
    """Return what a kind of step needs of the data, or on what that depends where options decide."""
    needs = kind.needs
    return str(inspect.getdoc(needs)).rstrip(".") if isinstance(needs, property) else str(needs)
