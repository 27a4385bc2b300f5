"""What every part of a run shares: task, seed, threads, store, events, executor; keys of results; pinned threads."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeVar

import msgspec
import torch
from threadpoolctl import threadpool_limits

import featherweight
from featherweight.errors import ConfigError
from featherweight.events import Events, silent
from featherweight.files import Store, key_of
from featherweight.processors import thread_limit, usable_processors
from featherweight.task import Task
from featherweight.task.identity import identity_of
from featherweight.task.protocol import failures

T = TypeVar("T")
# Packages whose version may decide the bytes of a result. Those before `scipy` are named in every file.
PACKAGES = (
    "torch", "numpy", "msgspec", "scipy", "numba", "onnx", "onnxscript", "onnx-ir", "onnxruntime", "openvino",
    "constriction", "zstandard", "astc-encoder-py", "torch-pruning", "pillow",
)  # fmt: skip
NAMED = ("featherweight", *PACKAGES[:3], "machine", "instructions")


@dataclass(frozen=True, eq=False)
class Workspace:
    """Where a run takes place.

    Attributes:
        task: the network, its data and its measure.
        seed: of everything random.
        threads: compute threads (they decide output bytes); default: all processors that this process may use.
        store: where results are kept, so that a killed run resumes; default: the user's.
        events: where progress goes.
        executor: where the units of work of a search run; None: here, one after another.
    """

    task: Task
    seed: int = 0
    threads: int = field(default_factory=usable_processors)
    store: Store = field(default_factory=Store)
    events: Events = silent
    executor: Executor | None = None

    def __post_init__(self) -> None:
        """Refuse a number of threads that cannot be.

        Raises:
            ConfigError: fewer than one thread.
        """
        if self.threads < 1:
            raise ConfigError("threads", got=self.threads, expected="1 or more")

    @cached_property
    def fingerprint(self) -> str:
        """The hash of all that results depend on in the task, as it is now; computed once for a workspace.

        Raises:
            TaskError: the task's own code fails.
        """
        with failures(f"{self.task.name}, fingerprint"):
            return self.task.fingerprint()

    @cached_property
    def _offered(self) -> str:
        """The identity of what a task may have beside what its fingerprint has to count."""
        task = self.task
        return identity_of([getattr(task, "training", None), getattr(type(task), "scores", None)])

    def key(self, kind: str, *inputs: Any) -> str:
        """Return the key of a result: its kind, its inputs and their code, the task and the versions.

        Args:
            kind: what the result is, for instance `metrics`.
            inputs: what else it depends on (seed and threads too, where they matter), as JSON can hold it; of
                plug-ins among them the code counts too.
        """
        return key_of(kind, inputs, sorted(own_code(inputs)), self.fingerprint, self._offered, versions())

    def recall(self, key: str, kind: Any, make: Callable[[], T]) -> T:
        """Return what the store holds under a key, else make it and keep it.

        Args:
            key: of `key`.
            kind: type of the result, which msgspec can write as JSON.
            make: computes the result.
        """
        kept = self.store.get(key)
        if kept is not None:
            found: T = msgspec.json.decode(kept, type=kind)
            return found
        made = make()
        self.store.put(key, msgspec.json.encode(made))
        return made

    def pinned(self) -> AbstractContextManager[None]:
        """Return a context in which arithmetic takes the threads of this workspace."""
        return pinned(self.threads)


def own_code(value: Any) -> set[str]:
    """Return the identity of the classes of steps, formats and other values that are not of this package.

    The code of this package has a version, which is in every key; that of a plug-in, or of a notebook, has none.
    """
    found, parts = set[str](), value.values() if isinstance(value, Mapping) else value
    if isinstance(value, msgspec.Struct):
        if type(value).__module__.partition(".")[0] != "featherweight":
            found.add(identity_of(type(value)))
        parts = [getattr(value, name) for name in value.__struct_fields__]
    elif not isinstance(value, Mapping | list | tuple):
        return found
    return found.union(*map(own_code, parts))


@cache
def versions() -> dict[str, str]:
    """Return what, beside recipe, task, seed and threads, decides the bytes of a result."""
    found = {"featherweight": featherweight.__version__}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    found |= {"machine": platform.machine(), "instructions": torch.backends.cpu.get_cpu_capability()}
    return found


@contextmanager
def pinned(threads: int) -> Iterator[None]:
    """Pin the number of threads of torch's arithmetic and of our encoders, and restore it after.

    numpy's products take one: threads of their own and torch's wait for each other, turning (measured: a fifth
    more time for GPTQ of EfficientNet-Lite0).
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with thread_limit(threads), threadpool_limits(1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)
