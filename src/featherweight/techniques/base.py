"""What a step is: a frozen value with one verb, `apply`: model in, new model out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar

import msgspec

from featherweight.checked import Options
from featherweight.events import Events, silent
from featherweight.files import Store
from featherweight.processors import taken_processors
from featherweight.task import Needs, Task

if TYPE_CHECKING:
    from featherweight.model import Model
    from featherweight.work import Subject

Question = TypeVar("Question")
Answer = TypeVar("Answer")
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
        threads: compute threads.
        store: where answers are kept; None: nowhere after the step.
        executor: where questions are answered; None: here, one after another.
    """

    seed: int = 0
    events: Events = silent
    scratch: Path | None = None
    baseline: Model | None = None
    uncoded: Model | None = None
    steps: Sequence[Model] = ()
    threads: int = field(default_factory=taken_processors)
    store: Store | None = None
    executor: Executor | None = None

    def answers(
        self,
        ask: Callable[[Subject, Question], Answer],
        task: Task,
        models: Sequence[Model],
        questions: Sequence[Question],
        known: dict[Any, Any] | None = None,
    ) -> Iterator[Answer]:
        """Yield the answers to questions about models, in the order of the questions: units of work.

        What a step works out in parts that do not depend on each other it asks for here. See
        `featherweight.work.Subject.answers`.

        Args:
            ask: answers a question: `ask(subject, question)`; `subject.models` are the models.
            task: as the step sees it.
            models: what the questions are about; the first is the one that answers change.
            questions: data.
            known: what was worked out already; see `Subject.once`.
        """
        from featherweight.work import Subject
        from featherweight.workspace import Workspace

        with nullcontext() if self.store else TemporaryDirectory() as folder:
            place = self.store or Store(folder)
            workspace = Workspace(task, self.seed, self.threads, place, self.events, self.executor)
            yield from Subject(models, workspace, known={} if known is None else known).answers(
                ask, questions
            )


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
