"""Files for other runtimes, from a `.fw` file: made, run in their runtime, compared, and only then written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import onnx

from featherweight.activations import Affine, Quantizer, Scaled
from featherweight.artifact import Artifact
from featherweight.deploy.base import Made
from featherweight.deploy.executorch import make_executorch
from featherweight.deploy.litert_runtime import make_litert
from featherweight.deploy.openvino import make_openvino
from featherweight.errors import UnsupportedError
from featherweight.export import build_onnx, build_qdq, opened
from featherweight.files import write_whole

Name = Literal[
    "openvino", "openvino-int8", "litert", "litert-int8", "litert-integer", "litert-16x8", "executorch",
    "executorch-int8",
]  # fmt: skip
_INTEGER = "integer"
NAMES: tuple[Name, ...] = get_args(Name)
_MAKERS: dict[str, Callable[[onnx.ModelProto, Mapping[str, int]], Made]] = {
    "openvino": make_openvino, "litert": make_litert, "executorch": make_executorch,
}  # fmt: skip


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        paths: the files.
        nbytes: of all of them.
        floats: layers that compute in float where integers were asked for, with the reason.
        checked: what was compared, in words.
    """

    paths: tuple[Path, ...]
    nbytes: int
    floats: Mapping[str, str]
    checked: str


def write(
    artifact: Artifact, to: Name, path: str | Path, *, sizes: Mapping[str, int] | None = None
) -> Written:
    """Write a file for another runtime, where it computes what ONNX Runtime does of the same graph; else nothing.

    Args:
        artifact: a loaded file.
        to: which: a runtime alone takes the float network; `-int8` the integers of the file; `-16x8` activations in
            16 bits over the ranges that the file has, weights as they are; `litert-integer` integers alone, those of
            inputs and outputs too.
        path: of the file, without its suffix: that is the runtime's.
        sizes: of free axes by name. LiteRT fixes all but the batch, ExecuTorch all (the batch
            at 1).

    Raises:
        UnsupportedError: the file has no graph or no quantizers, or the runtime cannot say the network, or computes
            it otherwise.
        MissingExtraError: the runtime is not installed.
        WriteError: a file cannot be written.
    """
    made = make(artifact, to, sizes)
    written, base = [], Path(path)
    for suffix, content in made.files.items():
        written.append(write_whole(base.with_name(base.name + suffix), content))
    total = sum(map(len, made.files.values()))
    return Written(tuple(written), total, made.floats, made.checked)


def make(artifact: Artifact, to: Name, sizes: Mapping[str, int] | None = None) -> Made:
    """Return the files that `write` writes, and what runs them; raises as it does."""
    runtime, _, kind = to.partition("-")
    model, floats = graph_for(artifact, kind)
    maker = partial(make_litert, integers=True) if kind == _INTEGER else _MAKERS[runtime]
    made = maker(model, sizes or {})
    return replace(made, floats={**floats, **made.floats})


def graph_for(artifact: Artifact, kind: str) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Return the ONNX graph that the files are made from, and its layers in float: by `kind`.

    Args:
        artifact: a loaded file.
        kind: `int8` or `integer`, `16x8`; empty: float.
    """
    graph, tensors, weights = opened(artifact)
    if not kind:
        return build_onnx(graph, tensors), {}
    activations = artifact.activations
    if not activations:
        hint = "add the step calibrate to its recipe"
        raise UnsupportedError("no quantizers of activations", where="the file", hint=hint)
    if odd := next((edge for edge, one in activations.items() if not isinstance(one, Scaled)), ""):
        what, hint = "its activations are levels of no one step", "export float, which rounds none"
        raise UnsupportedError(what, where=odd, got=type(activations[odd]).__name__, hint=hint)
    if kind == "16x8":
        activations = {edge: widened(quantizer) for edge, quantizer in activations.items()}
    elif wrong := [edge for edge, one in activations.items() if not isinstance(one, Affine) or one.bits != 8]:
        what = "its activations are no integers of 8 bits"
        raise UnsupportedError(
            what, where=wrong[0], got=type(activations[wrong[0]]).__name__, hint="calibrate with bits = 8"
        )
    made = build_qdq(graph, tensors, weights, activations)
    return made.onnx, made.floats


def widened(quantizer: Quantizer) -> Affine:
    """Return the integers of 16 bits, zero point 0, that hold the range of a quantizer.

    >>> widened(Affine.of(0, 6))
    Affine(scale=0.00018311105202883482, zero_point=0, bits=16, signed=True)
    """
    low, high = quantizer.range
    if isinstance(quantizer, Affine) and (quantizer.bits, quantizer.signed, quantizer.zero_point) == (
        16,
        True,
        0,
    ):
        return quantizer
    return Affine.of(-max(-low, high), max(-low, high), bits=16, signed=True, symmetric=True)
