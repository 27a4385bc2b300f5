"""ONNX Runtime's own quantizers on a file: prepared, scales by channel, the same calibration inputs."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
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


def rivals(path: Path, calls: Sequence[Call], scratch: Path) -> Iterator[tuple[str, Path | str]]:
    """Yield the name of each of ONNX Runtime's quantizers with the file that it made, or its error.

    Args:
        path: the float file.
        calls: to calibrate on.
        scratch: takes the files.
    """
    ready, prepared = scratch / "prepared.onnx", ""
    for options in ({}, {"skip_symbolic_shape": True}):
        prepared = _attempt(lambda options=options: quant_pre_process(path, ready, **options))
        if not prepared:
            break
    source = path if prepared else ready

    def dynamic(out: Path) -> None:
        quantize_dynamic(source, out, per_channel=True, weight_type=QuantType.QInt8)

    def static(out: Path) -> None:
        quantize_static(
            source, out, Calls(calls), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip

    for name, quantize in (("quantize_dynamic", dynamic), ("quantize_static", static)):
        out = scratch / f"{name}.onnx"
        error = _attempt(lambda quantize=quantize, out=out: quantize(out))
        yield name, error or out


def _attempt(make: Callable[[], object]) -> str:
    """Call `make` in silence; return its error in one line, or an empty string."""
    disabled = logging.root.manager.disable
    try:
        logging.disable(logging.CRITICAL)
        with (
            warnings.catch_warnings(action="ignore"),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            make()
    except Exception as error:
        return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:160]}"
    finally:
        logging.disable(disabled)
    return ""
