"""ONNX models compiled by ONNX Runtime or OpenVINO: the one place where their options are set."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from featherweight.errors import FeatherweightError, UnsupportedError

# Rounds float weights between quantizers to int8 by tensor: EfficientNet-Lite0 falls to 7 dB.
_DISABLED = ["WeightBiasQuantization"]


@contextmanager
def refusals(what: str) -> Iterator[None]:
    """Turn a runtime's own exception into one error that says what it does not do, and why.

    Raises:
        UnsupportedError: keeps the cause.
    """
    try:
        yield
    except FeatherweightError:
        raise
    except Exception as error:
        raise UnsupportedError(f"{what}: {said(error)}", where="graph") from error


def onnxruntime_session(
    content: bytes | Path,
    threads: int,
    *,
    wide: bool = False,
    optimized: Path | None = None,
    plain: bool = False,
) -> Any:
    """Return an `InferenceSession`; the same inputs, threads and machine give the same bits.

    Args:
        content: a serialised ONNX model, or where it lies: then its weights are read where they are, and have no copies
            in the order of kernels.
        threads: of one operator; operators run one after another.
        wide: add 8-bit products in int32 on x86 without VNNI too, where int16 sums would saturate; slower.
        optimized: where to write the graph that is run.
        plain: run the graph as it stands, without optimizations.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.use_deterministic_compute = True
    options.log_severity_level = 4  # errors come as exceptions, not as lines on stderr
    if wide:
        options.add_session_config_entry("session.x64quantprecision", "1")
    if plain:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    cpu = ["CPUExecutionProvider"]
    source = str(content) if isinstance(content, Path) else content
    if isinstance(content, Path):
        options.add_session_config_entry("session.disable_prepacking", "1")
    session = onnxruntime.InferenceSession(source, options, providers=cpu, disabled_optimizers=_DISABLED)
    session._model_bytes = None  # it would keep the file beside what it made of it, for providers that fail
    return session


def openvino_model(content: bytes | Path, threads: int, *, precision: str | None = "f32") -> Any:
    """Return a `CompiledModel` for the CPU.

    Args:
        content: a serialised ONNX model, or where it lies.
        threads: of one inference.
        precision: of floats; None leaves it to OpenVINO, which takes bfloat16 on processors that have it.
    """
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    pinned = {} if precision is None else {"INFERENCE_PRECISION_HINT": precision}
    core = openvino_core()
    return core.compile_model(core.read_model(content), "CPU", {**options, **pinned})


@cache
def openvino_core() -> Any:
    """Return the process's own `Core`, which lives as long as the process.

    Each `Core` sets the thread's alternate signal stack and frees it when it goes. Of two whose lives overlap, the
    second puts back the freed stack of the first, and the next signal (Ctrl-C, a DataLoader's worker that ends)
    kills the process.
    """
    import openvino

    return openvino.Core()


def said(error: Exception) -> str:
    """Return what a runtime says is wrong, in one line, without its codes and the places in its sources."""
    lines = [line.strip() for line in str(error).splitlines()]
    told = [line for line in lines if line and not line.startswith("Exception from")]
    text = " ".join(told or [line for line in lines if line]) or type(error).__name__
    return re.sub(r"\[ONNXRuntimeError\] : \d+ : \w+ : | at src/\S+|/\S+\.(cc|h):\d+ ", "", text)[:500]
