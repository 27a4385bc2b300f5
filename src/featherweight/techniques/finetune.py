"""The step `finetune`: training that ends in encoded tensors."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Literal

from featherweight.errors import ConfigError, UnsupportedError
from featherweight.formats import AnyCoder, AnyFormat, Fixed, tag
from featherweight.task import Task
from featherweight.task.training import Training
from featherweight.techniques.base import Context, Where
from featherweight.techniques.coder_selection import recoded
from featherweight.techniques.training import TrainingStep
from featherweight.training.methods import AnyMethod, StraightThrough

if TYPE_CHECKING:
    from featherweight.model import Model, Note
    from featherweight.training.surrogates.base import Surrogate


class Finetune(TrainingStep, frozen=True, kw_only=True, tag="finetune"):
    """Continue training from the current weights; the selected tensors train towards a format and end encoded.

    All other tensors train as floats, except encoded ones, which stay as they are. Without a format the step is
    float training of everything that is not encoded.

    The defaults are those of `train`, except: one epoch, no warm-up, and a tenth of the task's learning rate.

    Attributes:
        where: which tensors train towards the format; see `featherweight.selectors`. By default `weights`.
        format: how their numbers are to be written; None: train floats only.
        method: how the weights train towards the format. By default `StraightThrough`.
        coder: how their symbols are written, or `smallest`. By default `Fixed`.
    """

    where: Where | None = None
    format: AnyFormat | None = None
    method: AnyMethod | None = None
    coder: AnyCoder | Literal["smallest"] | None = None

    def __post_init__(self) -> None:
        """Refuse options that mean nothing together.

        Raises:
            ConfigError: how to reach a format, without one; or a method that cannot reach it.
        """
        super().__post_init__()
        if self.format is None:
            for name in ("where", "method", "coder"):
                if getattr(self, name) is not None:
                    raise ConfigError("means nothing without a format", where=f"finetune.{name}")
        elif self.method is not None and (reason := self.method.misfit(self.format)):
            raise ConfigError(
                f"{tag(self.method)} cannot train {tag(self.format)}: {reason}", where="finetune.method"
            )

    def offered(self, task: Task) -> dict[str, Any]:
        """Return the task's options, slowed down."""
        offered = super().offered(task)
        return {**offered, "epochs": 1, "warmup": 0.0, "lr": offered.get("lr", Training().lr) / 10}

    def apply(self, model: Model, task: Task, context: Context) -> Model:
        """Return the model with the selected tensors encoded and everything else trained."""
        from featherweight.techniques.tensors import trainable
        from featherweight.training.loop import isolated

        names, notes = trainable(model)
        with isolated():
            surrogates, thawed = self.surrogates(model, names, self.options(task).keep_zeros)
            floats = [name for name in names if name not in surrogates and name not in model.weights]
            values = self.trained(model, floats, surrogates, task, context)
            frozen = {name: surrogate.freeze() for name, surrogate in surrogates.items()}
        encoded = {name: recoded(entry, self.coder or Fixed(), name) for name, entry in frozen.items()}
        left = {name: value for name, value in values.items() if name not in model.weights}
        return model.with_tensors(left).with_encoded(encoded, [*notes, *thawed])

    def surrogates(
        self, model: Model, names: Collection[str], keep_zeros: bool
    ) -> tuple[dict[str, Surrogate], list[Note]]:
        """Return the surrogate of each selected tensor among `names`; notes on those encoded, and on buffers.

        Raises:
            ConfigError: nothing but buffers is selected.
            UnsupportedError: zeros are to stay, and the format of a tensor that has some has none.
        """
        from torch import nn

        from featherweight.model import Note
        from featherweight.selectors import select
        from featherweight.techniques.tensors import encode

        if self.format is None:
            return {}, []
        method = self.method or StraightThrough()
        selected = select(model, self.where or "weights")
        buffers = [name for name in selected if not isinstance(model.tensors[name], nn.Parameter)]
        if buffers == selected:
            raise ConfigError(
                "selects buffers, which do not train", where="finetune.where", got=repr(self.where),
                hint="encode them after training, by the step encode",
            )  # fmt: skip
        chosen = [name for name in selected if name in names]
        made = {}
        for name in chosen:
            weight, entry = model.tensors[name], encode(model, name, self.format)
            if keep_zeros and weight.dim() > 1 and entry.spec.zero is None and bool((weight == 0).any()):
                raise UnsupportedError(
                    f"keep_zeros: {tag(self.format)} has no exact zero to keep", where=name,
                    hint="prune whole channels (step prune), or leave keep_zeros out",
                )  # fmt: skip
            made[name] = method.surrogate(weight, entry)
        had = {name: tag(model.weights[name].format) for name in chosen if name in model.weights}
        return made, [
            *(Note("skipped", name, "a buffer: does not train, not encoded") for name in buffers),
            *(Note("thawed", name, f"trained on from its {format} values") for name, format in had.items()),
        ]
