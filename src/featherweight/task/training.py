"""How a network is best trained from the start: facts about a task, as plain data."""

from __future__ import annotations

from typing import Literal

import msgspec


class Training(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a training run needs to know; the batch size is the task's.

    Attributes:
        epochs: passes over the training set.
        learning_rate: its highest value; it rises linearly over the first `warmup` share of the steps and
            falls to 0 along a cosine over the rest.
        optimizer: `sgd` (with Nesterov momentum) or `adam` (decoupled weight decay).
        momentum: of `sgd`.
        weight_decay: per unit of learning rate, on weights of more than one axis.
        warmup: share of all steps, 0 to 1.
    """

    epochs: int = 10
    learning_rate: float = 1e-3
    optimizer: Literal["sgd", "adam"] = "adam"
    momentum: float = 0.9
    weight_decay: float = 0.0
    warmup: float = 0.1
