"""The options of steps with a training loop, and their defaults."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from featherweight.errors import ConfigError, TaskError
from featherweight.task import Needs, Task
from featherweight.task.training import (
    Clip,
    Decay,
    Epochs,
    Momentum,
    Optimizer,
    Precision,
    Rate,
    Schedule,
    Training,
    Warmup,
)
from featherweight.techniques.base import Context, Step
from featherweight.training.losses import AnyLoss, TaskLoss

if TYPE_CHECKING:
    from torch import Tensor

    from featherweight.model import Model
    from featherweight.training.surrogates.base import Surrogate


class TrainingStep(Step, frozen=True, kw_only=True, omit_defaults=True):
    """A step that trains. Options left out are the task's own (`task.training`), then those of `Training`.

    The batch size is the task's.

    Attributes:
        epochs: passes over the training split.
        optimizer: `sgd`, `nesterov`, `adam` or `adamw`.
        lr: highest learning rate.
        momentum: of gradient descent; decay of the first moment of Adam.
        weight_decay: on tensors of two and more dimensions.
        schedule: `constant`, `cosine`, or the fractions of the run after which the rate is a tenth.
        warmup: fraction of the run in which the rate rises linearly.
        clip: bound of the gradient's L2 norm.
        keep_zeros: what is zero in a tensor of two and more dimensions stays zero: pruned weights.
        precision: `float32`, or `bfloat16` for the products of matrices.
        loss: what training minimises: `task` or `distillation`. By default `task`.
    """

    epochs: Epochs | None = None
    optimizer: Optimizer | None = None
    lr: Rate | None = None
    momentum: Momentum | None = None
    weight_decay: Decay | None = None
    schedule: Schedule | None = None
    warmup: Warmup | None = None
    clip: Clip | None = None
    keep_zeros: bool | None = None
    precision: Precision | None = None
    loss: AnyLoss | None = None

    @property
    def needs(self) -> Needs:  # type: ignore[override]
        """What its loss needs; the task's needs labels."""
        return (self.loss or TaskLoss()).needs

    def __post_init__(self) -> None:
        """Refuse options that mean nothing together.

        Raises:
            ConfigError: names the option.
        """
        super().__post_init__()
        try:
            Training(**self.given())
        except ConfigError as error:
            raise ConfigError(
                error.what, where=f"{self.__struct_config__.tag}.{error.where}", got=error.got
            ) from None

    def given(self) -> dict[str, Any]:
        """Return the options that are not left open."""
        own = {name: getattr(self, name) for name in Training.__struct_fields__}
        return {name: value for name, value in own.items() if value is not None}

    def options(self, task: Task) -> Training:
        """Return the options, complete.

        Raises:
            ConfigError: they cannot be meant together.
            TaskError: what the task offers are not options.
        """
        offered = self.offered(task)
        try:
            msgspec.convert(offered, Training)
        except msgspec.ValidationError as error:
            raise TaskError(f"training options of the task: {error}", where=task.name) from None
        try:
            return msgspec.convert({**offered, **self.given()}, Training)
        except msgspec.ValidationError as error:
            raise ConfigError(str(error)) from None

    def trained(
        self,
        model: Model,
        floats: Iterable[str],
        surrogates: Mapping[str, Surrogate],
        task: Task,
        context: Context,
    ) -> dict[str, Tensor]:
        """Train, and return the trained floats and the buffers by canonical name.

        Args:
            model: where training starts.
            floats: canonical names of the parameters that train as floats.
            surrogates: replace other parameters.
            task: gives the training batches.
            context: gives seed, events, scratch folder and teachers.
        """
        from featherweight.training.loop import fit

        return fit(
            model,
            floats,
            surrogates,
            task,
            self.options(task),
            loss=(self.loss or TaskLoss()).of(task, context.baseline or model, context.steps),
            seed=context.seed,
            events=context.events,
            scratch=context.scratch,
            name=str(self.__struct_config__.tag),
        )

    def offered(self, task: Task) -> dict[str, Any]:
        """Return the options that the task offers for those left open here."""
        offered = getattr(task, "training", None)
        if offered is None:
            return {}
        return dict(offered) if isinstance(offered, Mapping) else msgspec.to_builtins(offered)
