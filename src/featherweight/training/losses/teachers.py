"""Teachers of distillation: networks by reference, so that a recipe can name them. No torch yet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from featherweight.checked import Options
from featherweight.errors import ConfigError

if TYPE_CHECKING:
    from featherweight.model import Model
    from featherweight.task import Task


class Teacher(Options, frozen=True, kw_only=True, tag_field="teacher"):
    """A network that another one learns to answer like. A subclass writes `model`."""

    def model(self, task: Task, original: Model, steps: Sequence[Model]) -> Model:
        """Return the network.

        Args:
            task: builds the network that a file's weights belong to.
            original: the float network that the result is compared with.
            steps: the model after each step so far.
        """
        raise NotImplementedError


class Original(Teacher, frozen=True, tag="original"):
    """The float network that the result is compared with: after the `load` and `train` steps that come first."""

    def model(self, task: Task, original: Model, steps: Sequence[Model]) -> Model:
        """Return the float network."""
        return original


class AfterStep(Teacher, frozen=True, kw_only=True, tag="step"):
    """The model after an earlier step of the recipe.

    Attributes:
        number: which step, counted from 0 as errors count them.
    """

    number: Annotated[int, Meta(ge=0)]

    def model(self, task: Task, original: Model, steps: Sequence[Model]) -> Model:
        """Return the network after that step; ConfigError if it does not come earlier in the recipe."""
        if self.number >= len(steps):
            raise ConfigError(
                "a teacher is a step that comes earlier", where="teacher.number", got=self.number,
                expected=f"0 to {len(steps) - 1}" if steps else "a later place in the recipe",
            )  # fmt: skip
        return steps[self.number]


class InFile(Teacher, frozen=True, kw_only=True, tag="file"):
    """The task's own network with the weights of a file; of a `.fw` file with the structure too.

    Attributes:
        file: a `.safetensors` or `.fw` file.
        sha256: what the bytes of the file have to hash to, so that a recipe always means the same weights.
    """

    file: Annotated[str, Meta(min_length=1)]
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]

    def model(self, task: Task, original: Model, steps: Sequence[Model]) -> Model:
        """Return the network with these weights; IntegrityError if the file cannot be read or has another hash."""
        from featherweight.model import Model as Network
        from featherweight.weights import network_in

        return Network.of(network_in(Path(self.file), self.sha256, task.model()))


TEACHERS: tuple[type[Teacher], ...] = (Original, AfterStep, InFile)
