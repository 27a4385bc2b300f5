"""Latency and throughput of files against the float network, in one run, in every runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray

from featherweight.artifact import load
from featherweight.errors import ConfigError
from featherweight.export import model_of, onnx_of, read_onnx
from featherweight.runtime.backend import onnx_backend
from featherweight.runtime.sessions import Input, Session
from featherweight.runtime.timing import SPREAD, Timing, interleaved

Array = NDArray[Any]
FLOAT, AGAIN = "float32", "float32, once more"


class Speed(msgspec.Struct, frozen=True):
    """How fast one file runs in one runtime.

    Attributes:
        runtime: what ran it.
        name: the file, or `float32`: the float network of the first file, with float32 arithmetic. A file whose
            8-bit products saturate on this processor stands a second time, as `NAME, saturating`: what it
            would take without the sums in 32 bits that make it right. Where the runtime has no such sums it
            stands so alone, and sessions refuse it.
        batch: samples in a call.
        timing: milliseconds of a call.
        frames: samples a second.
        gain: how many times as fast as `float32` in the same runtime and run.
    """

    runtime: str
    name: str
    batch: int
    timing: Timing
    frames: float
    gain: float


def bench(
    files: Sequence[str | Path], *, runtimes: Sequence[str], threads: int = 1, batch: int = 1,
    sizes: Mapping[str, int] | None = None, seconds: float = 2.0,
) -> list[Speed]:  # fmt: skip
    """Return the speed of `files` and of the float network of the first, all measured in turns.

    A second session of the float network runs among them. Where it is not as quick as the first, equal work took
    unequal time, and nothing measured in that runtime counts as quiet.

    Args:
        files: `.fw` files of one network; ONNX files may stand beside them.
        runtimes: where they run.
        threads: of every session.
        batch: samples in a call: the first axis of every input.
        sizes: of other free axes, by name.
        seconds: of measurement for each.

    Raises:
        ConfigError: the first is no `.fw` file, two have one name, their inputs differ, a free axis has no size,
            or a size is of no free axis.
        UnsupportedError: a runtime refuses a graph.
    """
    paths = [Path(file) for file in files]
    if not paths or paths[0].suffix == ".onnx":
        raise ConfigError("the first file gives the float network", got=str(paths[:1]), expected="a .fw file")
    names = [path.name if len({p.name for p in paths}) == len(paths) else str(path) for path in paths]
    plain = onnx_of(load(paths[0]))
    models = dict(zip(names, map(_model, paths), strict=True))
    sessions: dict[tuple[str, str], Session] = {}
    for runtime in runtimes:
        used, opened = onnx_backend(runtime), partial(Session.of_onnx, runtime=runtime, threads=threads)
        sessions |= {(runtime, name): opened(plain) for name in (FLOAT, AGAIN)}
        for name, model in models.items():
            narrow = used.saturating(model)
            if not narrow or used.widens:
                sessions[runtime, name] = opened(model)
            if narrow:
                sessions[runtime, f"{name}, saturating"] = opened(model, exact=False)
    _check_inputs(sessions, sizes or {})
    calls = {" ".join(key): _call(session, batch, sizes or {}) for key, session in sessions.items()}
    timings = dict(zip(sessions, interleaved(calls, seconds=seconds), strict=True))
    return [
        _speed(key, timing, timings[key[0], FLOAT], timings[key[0], AGAIN], batch)
        for key, timing in timings.items()
        if key[1] != AGAIN
    ]


def _model(path: Path) -> onnx.ModelProto:
    return read_onnx(path) if path.suffix == ".onnx" else model_of(load(path))


def _check_inputs(sessions: Mapping[tuple[str, str], Session], sizes: Mapping[str, int]) -> None:
    """Refuse files that do not take what the first takes, and sizes of axes that nothing has."""
    first = next(iter(sessions.values())).inputs
    for (_, name), session in sessions.items():
        if len(session.inputs) != len(first) or not all(map(_alike, session.inputs, first)):
            got, expected = (", ".join(map(str, inputs)) for inputs in (session.inputs, first))
            what, hint = (
                "does not take the inputs of the first file",
                "only files of one network are comparable",
            )
            raise ConfigError(what, where=name, got=got, expected=expected, hint=hint)
    entries = [entry for session in sessions.values() for entry in session.inputs]
    free = {n for entry in entries for n in entry.shape if isinstance(n, str)}
    if unknown := sorted(sizes.keys() - free):
        raise ConfigError(
            "no free axis of this name", where="size", got=unknown[0],
            expected=", ".join(sorted(free)) or "none",
        )  # fmt: skip


def _alike(a: Input, b: Input) -> bool:
    """Return whether two inputs can have one value: one type, and sizes that are equal or free."""
    sizes = zip(a.shape, b.shape, strict=False)
    fitting = all(n == m or isinstance(n, str) or isinstance(m, str) for n, m in sizes)
    return fitting and (a.dtype, len(a.shape)) == (b.dtype, len(b.shape))


def _call(session: Session, batch: int, sizes: Mapping[str, int]) -> Callable[[], object]:
    generator = np.random.default_rng(0)
    feed = {entry.name: _values(entry, batch, sizes, generator) for entry in session.inputs}
    return lambda: session.run(feed)


def _values(entry: Input, batch: int, sizes: Mapping[str, int], generator: np.random.Generator) -> Array:
    """Return normal numbers for a float input; zeros, which are indices everywhere, for another."""
    shape = []
    for axis, n in enumerate(entry.shape):
        size = n if isinstance(n, int) else batch if axis == 0 else sizes.get(n)
        if size is None:
            where = f"{entry.name}, {n}"
            raise ConfigError("a free axis without a size", where=where, hint=f"--size {n}=128")
        shape.append(size)
    kind = np.dtype(entry.dtype)
    return generator.standard_normal(shape).astype(kind) if kind.kind == "f" else np.zeros(shape, kind)


def _speed(key: tuple[str, str], timing: Timing, base: Timing, again: Timing, batch: int) -> Speed:
    runtime, name = key
    steady = abs(again.milliseconds / base.milliseconds - 1) <= SPREAD
    timing = msgspec.structs.replace(timing, quiet=timing.quiet and steady)
    return Speed(
        runtime, name, batch, timing,
        frames=1000 * batch / timing.milliseconds, gain=base.milliseconds / timing.milliseconds,
    )  # fmt: skip
