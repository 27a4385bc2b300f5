"""Channels last in memory: the layout that torch's convolutions are quickest in on a processor.

EfficientNet-Lite0 takes half the time in it. Convolutions, and all that works element by element, hand it on from
the network's inputs; what a captured network asks of its layout, `ANY` asks not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# Operators that refuse some layouts, and those that compute the same of all.
ANY: dict[Any, Callable[..., Any]] = {torch.ops.aten.view.default: torch.ops.aten.reshape.default}


def channels_last(tensor: Tensor) -> Tensor:
    """Return `tensor`, its channels next to each other in memory where it is `[n, channels, height, width]`."""
    images = tensor.dim() == 4 and tensor.is_floating_point()
    return tensor.contiguous(memory_format=torch.channels_last) if images else tensor
