"""What every part of a run shares: the versions that decide its bytes, and its pinned threads."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import numpy as np
import torch
from threadpoolctl import threadpool_limits

import featherweight
from featherweight.errors import ConfigError
from featherweight.processors import thread_limit


def versions() -> dict[str, str]:
    """Return what, beside recipe, task, seed and threads, decides the bytes of a result."""
    return {
        "featherweight": featherweight.__version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "msgspec": msgspec.__version__,
        "machine": platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }


@contextmanager
def pinned(threads: int) -> Iterator[None]:
    """Pin the number of threads of torch's arithmetic and of our encoders, and restore it after.

    numpy's products take one: threads of their own and torch's wait for each other, turning (measured: a fifth
    more time for GPTQ of EfficientNet-Lite0).
    """
    if threads < 1:
        raise ConfigError("threads", got=threads, expected="1 or more")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with thread_limit(threads), threadpool_limits(1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)
