"""Teachers, held by reference: the float network, the model after a step, or weights in a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Union

from msgspec import Meta, Struct

from featherweight.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

    from featherweight.model import Model
    from featherweight.task import Task


class Teacher(Struct, frozen=True, kw_only=True, tag_field="teacher", forbid_unknown_fields=True):
    """A network that another one learns to answer like."""

    def network(self, task: Task, original: Model, steps: Sequence[Model]) -> nn.Module:
        """Return the network, in eval mode, with buffers of its own.

        Args:
            task: builds the network that a file's weights belong to.
            original: the float network that the result is compared with.
            steps: the model after each step so far.
        """
        raise NotImplementedError


class Original(Teacher, frozen=True, tag="original"):
    """The float network that the result is compared with: after the `load` and `train` steps that come first."""

    def network(self, task: Task, original: Model, steps: Sequence[Model]) -> nn.Module:
        """Return the float network."""
        from featherweight.structure import to_call

        return to_call(original.module)


class AfterStep(Teacher, frozen=True, kw_only=True, tag="step"):
    """The model after an earlier step of the recipe.

    Attributes:
        number: which step, counted from 0 as errors count them.
    """

    number: Annotated[int, Meta(ge=0)]

    def network(self, task: Task, original: Model, steps: Sequence[Model]) -> nn.Module:
        """Return the network after that step.

        Raises:
            ConfigError: it does not come earlier in the recipe.
        """
        from featherweight.structure import to_call

        if self.number >= len(steps):
            raise ConfigError(
                "a teacher is a step that comes earlier", where="teacher.number", got=self.number,
                expected=f"0 to {len(steps) - 1}" if steps else "a later place in the recipe",
            )  # fmt: skip
        return to_call(steps[self.number].module)


class InFile(Teacher, frozen=True, kw_only=True, tag="file"):
    """The task's own network with the weights of a file; of a `.fw` file with the structure too.

    Attributes:
        file: a `.safetensors` or `.fw` file.
        sha256: what the bytes of the file have to hash to, so that a recipe always means the same weights.
    """

    file: Annotated[str, Meta(min_length=1)]
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]

    def network(self, task: Task, original: Model, steps: Sequence[Model]) -> nn.Module:
        """Return the network with these weights.

        Raises:
            IntegrityError: the file cannot be read, has another hash, or is of another network.
        """
        from featherweight.structure import to_call
        from featherweight.weights import network_in

        return to_call(network_in(Path(self.file), self.sha256, task.model()))


TEACHERS: tuple[type[Teacher], ...] = (Original, AfterStep, InFile)

if TYPE_CHECKING:
    AnyTeacher = Teacher
else:
    AnyTeacher: Any = Union[TEACHERS]  # noqa: UP007
