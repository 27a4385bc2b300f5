"""How long and how fast to train, as plain data, and the learning rate that follows. No torch here."""

from __future__ import annotations

from itertools import pairwise
from math import cos, pi
from typing import Annotated, Literal

from msgspec import Meta, Struct

from featherweight.errors import ConfigError
from featherweight.rounding import Rounding

Fraction = Annotated[float, Meta(gt=0, lt=1)]
Epochs = Annotated[int, Meta(ge=1)]
Optimizer = Literal["sgd", "nesterov", "adam", "adamw"]
Rate = Annotated[float, Meta(gt=0)]
Momentum = Annotated[float, Meta(ge=0, lt=1)]
Decay = Annotated[float, Meta(ge=0)]
Schedule = Literal["constant", "cosine"] | Annotated[list[Fraction], Meta(min_length=1)]
Warmup = Annotated[float, Meta(ge=0, le=1)]
Clip = Annotated[float, Meta(gt=0)]
Precision = Literal["float32", "bfloat16", "float16"]


class Training(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a network is trained: every option, none left open. The batch size is the task's.

    Attributes:
        epochs: passes over the training split.
        optimizer: `sgd` (heavy ball), `nesterov`, `adam`, or `adamw` (decoupled weight decay).
        lr: highest learning rate.
        momentum: of gradient descent; decay of the first moment of Adam.
        weight_decay: L2 penalty on tensors of two and more dimensions; biases and batch norm have none.
        schedule: `constant`; `cosine` to zero; or the fractions of the run after which the rate is a tenth.
        warmup: fraction of the run in which the rate rises linearly from zero, on top of the schedule.
        clip: bound of the gradient's L2 norm over all parameters; None: none.
        keep_zeros: weights that are exactly 0 at the start (pruned) stay so, in tensors of two and more
            dimensions. Off by default: rounding makes zeros too, and those are not meant to stay.
        precision: `bfloat16` and `float16` multiply matrices in that type (torch's autocast), and keep activations
            in it; the weights that are trained, the statistics of batch norm, gradients of weights, `clip`, the
            optimizer and the loss stay float32 (Micikevicius et al., 2018). In `float16` the loss is scaled, so that
            small gradients do not become 0: by 2**16 at first; a step whose gradients overflow is left out and halves
            the scale, 2,000 others double it. Faster where the processor has units for the type, and many times
            slower where it has none.
        weights: a grid, and how tensors of two and more dimensions are rounded to it at the start and after every
            update, so that there is no float copy of them: a `rounding`. Biases, batch norm and other tensors of one
            dimension stay float32.
        gradients: the same of their gradients, before `clip`.
        moments: the same of what the optimizer keeps for them: momentum, squares.
    """

    epochs: Epochs = 10
    optimizer: Optimizer = "sgd"
    lr: Rate = 0.01
    momentum: Momentum = 0.9
    weight_decay: Decay = 0.0
    schedule: Schedule = "cosine"
    warmup: Warmup = 0.0
    clip: Clip | None = None
    keep_zeros: bool = False
    precision: Precision = "float32"
    weights: Rounding | None = None
    gradients: Rounding | None = None
    moments: Rounding | None = None

    def __post_init__(self) -> None:
        """Refuse what the types cannot."""
        if self.optimizer == "nesterov" and self.momentum == 0:
            raise ConfigError("Nesterov's method needs momentum", where="momentum", got=0)
        if isinstance(self.schedule, list) and any(a >= b for a, b in pairwise(self.schedule)):
            raise ConfigError("not in ascending order", where="schedule", got=self.schedule)
        if self.moments and self.momentum == 0 and self.optimizer == "sgd":
            raise ConfigError("gradient descent without momentum keeps none", where="moments")
        for name in ("weights", "gradients", "moments"):
            rounding = getattr(self, name)
            if rounding and rounding.grid.range[0] == 0:
                hint = "affine integers have them if signed"
                raise ConfigError("a grid without negative numbers", where=f"{name}.grid", hint=hint)


def learning_rate(training: Training, epoch: float) -> float:
    """Return the learning rate after `epoch` epochs, a fraction included.

    >>> [round(learning_rate(Training(epochs=4, lr=1.0), e), 3) for e in (0, 1, 2, 3, 4)]
    [1.0, 0.854, 0.5, 0.146, 0.0]
    >>> [round(learning_rate(Training(epochs=4, lr=1.0, schedule=[0.5, 0.75]), e), 3) for e in (1.9, 2, 3)]
    [1.0, 0.1, 0.01]
    """
    done = epoch / training.epochs
    if training.schedule == "constant":
        factor = 1.0
    elif training.schedule == "cosine":
        factor = (1 + cos(pi * done)) / 2
    else:
        factor = 0.1 ** sum(done >= drop for drop in training.schedule)
    warm = min(1.0, done / training.warmup) if training.warmup else 1.0
    return training.lr * factor * warm
