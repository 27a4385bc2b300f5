"""Latency and throughput of files against the float network, in one run, in every runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from featherweight.artifact import load
from featherweight.errors import ConfigError
from featherweight.runtime.build import read_onnx
from featherweight.runtime.compiled import Runtime
from featherweight.runtime.session import Input, Session
from featherweight.runtime.timing import Timing, interleaved

Array = NDArray[Any]
FLOAT = "float32"


class Speed(msgspec.Struct, frozen=True):
    """How fast one file runs in one runtime.

    Attributes:
        runtime: what ran it.
        name: the file, or `float32`: the float network of the first file, with float32 arithmetic.
        batch: samples in a call.
        timing: milliseconds of a call.
        frames: samples a second.
        gain: how many times as fast as `float32` in the same runtime and run.
    """

    runtime: Runtime
    name: str
    batch: int
    timing: Timing
    frames: float
    gain: float


def bench(
    files: Sequence[str | Path],
    *,
    runtimes: Sequence[Runtime],
    threads: int = 1,
    batch: int = 1,
    sizes: Mapping[str, int] | None = None,
    seconds: float = 2.0,
) -> list[Speed]:
    """Return the speed of `files` and of the float network of the first, all measured in turns.

    Args:
        files: `.fw` files of one network; ONNX files may stand beside them.
        runtimes: where they run.
        threads: of every session.
        batch: samples in a call: the first axis of every input.
        sizes: of other free axes, by name.
        seconds: of measurement for each.

    Raises:
        ConfigError: the first is no `.fw` file, two have one name, or a free axis has no size.
        UnsupportedError: a runtime refuses a graph.
    """
    paths = [Path(file) for file in files]
    if not paths or paths[0].suffix == ".onnx":
        raise ConfigError("the first file gives the float network", got=str(paths[:1]), expected="a .fw file")
    names = [path.name if len({p.name for p in paths}) == len(paths) else str(path) for path in paths]
    sessions: dict[tuple[Runtime, str], Session] = {}
    for runtime in runtimes:
        sessions[runtime, FLOAT] = load(paths[0]).session(runtime=runtime, threads=threads, integers=False)
        for name, path in zip(names, paths, strict=True):
            sessions[runtime, name] = _session(path, runtime, threads)
    calls = {
        f"{runtime} {name}": _call(session, batch, sizes or {})
        for (runtime, name), session in sessions.items()
    }
    timings = interleaved(calls, seconds=seconds)
    return [
        _speed(key, timing, timings[list(sessions).index((key[0], FLOAT))], batch)
        for key, timing in zip(sessions, timings, strict=True)
    ]


def _session(path: Path, runtime: Runtime, threads: int) -> Session:
    if path.suffix != ".onnx":
        return load(path).session(runtime=runtime, threads=threads)
    return Session.of_onnx(read_onnx(path), runtime=runtime, threads=threads)


def _call(session: Session, batch: int, sizes: Mapping[str, int]) -> Callable[[], object]:
    generator = np.random.default_rng(0)
    feed = {entry.name: _values(entry, batch, sizes, generator) for entry in session.inputs}
    return lambda: session.run(feed)


def _values(entry: Input, batch: int, sizes: Mapping[str, int], generator: np.random.Generator) -> Array:
    """Normal numbers for a float input; zeros, which are indices everywhere, for another."""
    shape = []
    for axis, n in enumerate(entry.shape):
        size = n if isinstance(n, int) else batch if axis == 0 else sizes.get(n)
        if size is None:
            raise ConfigError(
                "a free axis without a size", where=f"{entry.name}, {n}", hint=f"--size {n}=128"
            )
        shape.append(size)
    kind = np.dtype(entry.dtype)
    return generator.standard_normal(shape).astype(kind) if kind.kind == "f" else np.zeros(shape, kind)


def _speed(key: tuple[Runtime, str], timing: Timing, base: Timing, batch: int) -> Speed:
    runtime, name = key
    return Speed(
        runtime, name, batch, timing,
        frames=1000 * batch / timing.milliseconds, gain=base.milliseconds / timing.milliseconds,
    )  # fmt: skip
