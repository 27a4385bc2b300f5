"""Training that is killed before a step, as a process is."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import pytest
import torch


class Killed(BaseException):
    """What no code catches."""


@contextmanager
def killed_at(step: int) -> Iterator[None]:
    """Kill what trains inside when it begins a step, counted from 1; it is an error if none is."""
    original, steps = torch.optim.Optimizer.zero_grad, count(1)

    def dying(self, *args):
        if next(steps) == step:
            raise Killed
        return original(self, *args)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(torch.optim.Optimizer, "zero_grad", dying)
        yield
