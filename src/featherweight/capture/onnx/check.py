"""Is the network that was read the one in the file? Both on the same inputs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from featherweight.capture.onnx.file import HALF
from featherweight.capture.onnx.network import OnnxNetwork
from featherweight.capture.rounding import TOLERANCE, Jitter, in_float64, rounding
from featherweight.engines import refusals
from featherweight.errors import UnsupportedError
from featherweight.structure import to_call

Array = NDArray[Any]

_OF_HALF = 1e-2  # of the largest: ONNX Runtime computes such a file in half precision


def check_against_runtime(network: OnnxNetwork, path: Path, inputs: Mapping[str, Array]) -> float:
    """Return the largest difference from ONNX Runtime on the file, as a share of the largest of each output.

    Args:
        network: read from it.
        path: the file.
        inputs: arrays by the names of the file.

    Raises:
        UnsupportedError: they differ by more than 1e-5, or than another order of the operations explains; in files of
            half precision by more than 1e-2. Or ONNX Runtime cannot run the file.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    # beyond that, weights that are stored as integers would be multiplied as integers
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with refusals("ONNX Runtime cannot run the file"):
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        expected = session.run([value.name for value in network.outputs], dict(inputs))
    del session  # its own copies of weights
    named = {network.identifiers[n]: torch.from_numpy(np.array(array)) for n, array in inputs.items()}
    found, worst = _outputs(to_call(network), named), 0.0
    bound = _OF_HALF if HALF in network.notes else _bound(network, named, found)
    for value, ours, theirs in zip(network.outputs, found, expected, strict=True):
        difference = largest_difference(ours.numpy(), theirs, 1.0 if value.name in network.shares else 0.0)
        if not difference <= bound:
            raise UnsupportedError(
                "the network that was read is not the one in the file", where=f"output {value.name}",
                got=f"{difference:.2g} of its largest number", expected=f"at most {bound:.1g}",
            )  # fmt: skip
        worst = max(worst, difference)
    return worst


def _outputs(network: nn.Module, named: Mapping[str, Tensor]) -> list[Tensor]:
    with torch.no_grad():
        made = network(**named)
    return list(made.values()) if isinstance(made, dict) else [made]


def _bound(network: OnnxNetwork, named: Mapping[str, Tensor], found: list[Tensor]) -> float:
    wide = {n: x.double() if x.is_floating_point() else x for n, x in named.items()}
    try:
        exact = in_float64(network, lambda module: _outputs(module, wide))
    except RuntimeError:  # the graph fixes its types somewhere
        return TOLERANCE
    with Jitter():
        moved = _outputs(to_call(network), named)
    return rounding([*found, *moved], [*exact, *found])


def largest_difference(ours: Array, theirs: Array, least: float = 0.0) -> float:
    """Return the largest difference as a share of the largest number; infinite where shapes or types differ.

    `least`: what the largest number is taken to be at least.
    """
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return float("inf")
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    with np.errstate(invalid="ignore"):
        gaps = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
    finite = np.abs(b[np.isfinite(b)])
    return float(np.nan_to_num(gaps, nan=np.inf).max(initial=0.0)) / (
        max(float(finite.max(initial=0.0)), least) or 1.0
    )
