"""ONNX Runtime's own quantizers on a file: prepared, scales by channel, the same calibration inputs."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

Call = dict[str, NDArray[Any]]


class Calls(CalibrationDataReader):  # type: ignore[misc]
    """Hands ONNX Runtime the calls to calibrate on."""

    def __init__(self, calls: Sequence[Call]) -> None:
        self._left = iter(calls)

    def get_next(self) -> Call | None:
        """Return the next call; None at the end."""
        return next(self._left, None)


def rivals(path: Path, calls: Sequence[Call], scratch: Path) -> Iterator[tuple[str, str, list[bytes]]]:
    """Yield the name of each of ONNX Runtime's quantizers, its last error, and the files that it made.

    Args:
        path: the float file; it is quantized as it is, and prepared by `quant_pre_process`.
        calls: to calibrate on.
        scratch: takes files.
    """
    ready = scratch / "prepared.onnx"
    for options in ({}, {"skip_symbolic_shape": True}):
        if not attempted(partial(quant_pre_process, path, ready, **options), scratch):
            break
    sources = [source for source in (ready, path) if source.exists()]

    def dynamic(source: Path, out: Path) -> None:
        quantize_dynamic(source, out, per_channel=True, weight_type=QuantType.QInt8)

    def static(source: Path, out: Path) -> None:
        quantize_static(
            source, out, Calls(calls), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip

    for quantize in (dynamic, static):
        error, made, out = "", [], scratch / f"{quantize.__name__}.onnx"
        for source in sources:
            out.unlink(missing_ok=True)
            failed = attempted(partial(quantize, source, out), scratch)
            error = failed or error
            if not failed and out.exists():
                made.append(out.read_bytes())
        yield f"quantize_{quantize.__name__}", error, made


def attempted(make: Callable[[], object], scratch: Path) -> str:
    """Call `make` in silence, in a folder for what it leaves; return its error in one line, or an empty string."""
    disabled = logging.root.manager.disable
    try:
        logging.disable(logging.CRITICAL)
        with (
            warnings.catch_warnings(action="ignore"),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            contextlib.chdir(scratch),
        ):
            make()
    except Exception as error:
        return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:160]}"
    finally:
        logging.disable(disabled)
    return ""
