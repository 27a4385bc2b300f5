"""Sessions: a stored graph and its tensors, run on the CPU by ONNX Runtime or OpenVINO, in float or in integers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from featherweight.artifact import Artifact, StoredGraph
from featherweight.errors import ConfigError, IntegrityError, MissingExtraError, UnsupportedError
from featherweight.runtime.build import build_onnx, graph_of, onnx_of, serialized
from featherweight.runtime.compiled import TITLES, Compute, Runtime, compiled, said
from featherweight.runtime.qdq import qdq_of
from featherweight.runtime.saturation import PORTABLE, saturating, with_own_weights

Array = NDArray[Any]

_MOST_NESTED = 32


@dataclass(frozen=True)
class Input:
    """What a network takes.

    Attributes:
        name: of the argument.
        dtype: as numpy names it.
        shape: sizes; a name where the size is free (equal names, equal sizes).
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, eq=False)
class Session:
    """A network that is ready to run. The same inputs, threads and machine give the same bits.

    Attributes:
        inputs: what `run` takes, in order.
        outputs: how its output is nested: an index of a flat output, None, a list or a dictionary.
    """

    inputs: tuple[Input, ...]
    outputs: Any
    _compute: Compute
    _name: str

    @classmethod
    def of(cls, graph: StoredGraph, tensors: Mapping[str, Array], *, threads: int = 1) -> Session:
        """Return a session of ONNX Runtime of a graph and its decoded tensors by canonical name.

        Raises:
            UnsupportedError: ONNX Runtime cannot run the graph.
            IntegrityError: the graph is damaged or does not fit the tensors.
        """
        return cls.of_onnx(build_onnx(graph, tensors), graph.outputs, threads=threads)

    @classmethod
    def of_onnx(
        cls,
        model: onnx.ModelProto,
        outputs: Any = 0,
        *,
        runtime: Runtime = "onnxruntime",
        threads: int = 1,
        exact: bool = True,
    ) -> Session:
        """Return a session of a complete ONNX model.

        Args:
            model: the model.
            outputs: as in `StoredGraph`.
            runtime: what runs it.
            threads: threads of one operator; operators run one after another.
            exact: where 8-bit products of the model can saturate on this processor (x86 without VNNI), have ONNX
                Runtime add them in int32, which is slower, and refuse to run in OpenVINO, which cannot.
                Otherwise let them saturate.

        Raises:
            UnsupportedError: the runtime cannot run the model, or not without saturation.
            IntegrityError: `outputs` does not fit the model.
            MissingExtraError: OpenVINO is not installed.
        """
        if threads < 1:
            raise ConfigError("not a number of threads", where="threads", got=threads, expected="1 or more")
        _check_outputs(outputs, len(model.graph.output))
        name = TITLES[runtime]
        narrow = saturating(model, runtime) if exact else []
        if narrow and runtime == "openvino":
            raise UnsupportedError(
                "8-bit products saturate on this processor, which has no VNNI", where=name,
                got=f"{len(narrow)} layers whose weights allow it, the first {narrow[0]}",
                hint=f"{PORTABLE}; or run in ONNX Runtime, which can add them in 32 bits",
            )  # fmt: skip
        content = serialized(with_own_weights(model) if narrow else model)
        try:
            compute = compiled(content, runtime, threads, wide=bool(narrow))
        except MissingExtraError:
            raise
        except Exception as error:
            raise UnsupportedError(f"{name} cannot run the graph: {said(error)}", where="graph") from error
        return cls(tuple(_inputs(model)), outputs, compute, name)

    def run(self, inputs: Any) -> Any:
        """Return the network's output as numpy arrays, nested as the module's (a dataclass as a dictionary).

        Args:
            inputs: what the network was exported with: one array, a tuple of them in order, or a mapping by
                argument name; what is nested in an argument may stay so.

        Raises:
            ConfigError: an input is missing, unknown, or of another type or shape.
            UnsupportedError: the runtime refuses to run it; says why.
        """
        feed = self._feed(inputs)
        try:
            flat = self._compute(feed)
        except Exception as error:
            raise UnsupportedError(f"{self._name} stopped: {said(error)}", where="graph") from error
        return _nested(self.outputs, flat)

    def _feed(self, inputs: Any) -> dict[str, Array]:
        if isinstance(inputs, Mapping):
            given = dict(pair for name, value in inputs.items() for pair in _arrays(str(name), value))
        else:
            flat = [array for _, array in _arrays("", inputs)]
            given = dict(zip((entry.name for entry in self.inputs), flat, strict=False))
            if len(flat) != len(self.inputs):
                raise ConfigError(
                    "number of inputs", got=len(flat), expected=f"{len(self.inputs)}: {self._signature()}"
                )
        if given.keys() != {entry.name for entry in self.inputs}:
            raise ConfigError("names of inputs", got=", ".join(given), expected=self._signature())
        sizes: dict[str, int] = {}
        for entry in self.inputs:
            array = given[entry.name]
            if array.dtype != entry.dtype:
                raise ConfigError("type of an input", where=entry.name, got=array.dtype, expected=entry.dtype)
            expected = [
                sizes.setdefault(n, m) if isinstance(n, str) else n
                for n, m in zip(entry.shape, array.shape, strict=False)
            ]
            if array.ndim != len(entry.shape) or list(array.shape) != expected:
                raise ConfigError(
                    "shape of an input", where=entry.name, got=list(array.shape), expected=list(entry.shape)
                )
        return given

    def _signature(self) -> str:
        return ", ".join(f"{entry.name}: {entry.dtype}{list(entry.shape)}" for entry in self.inputs)


def session(
    artifact: Artifact, *, runtime: Runtime = "onnxruntime", threads: int = 1, integers: bool = True
) -> Session:
    """Return a session that runs a file: its graph with the decoded tensors.

    Args:
        artifact: a loaded file.
        runtime: what runs it; `openvino` is an extra of its own.
        threads: threads of one operator; operators run one after another.
        integers: compute in integers if the file has quantizers of activations; else the float graph.

    Raises:
        UnsupportedError: the file holds no graph, or the runtime cannot run it; says why.
        IntegrityError: the graph, a tensor or a quantizer is damaged.
        MissingExtraError: OpenVINO is not installed.
    """
    model = model_of(artifact, integers=integers)
    return Session.of_onnx(model, graph_of(artifact).outputs, runtime=runtime, threads=threads)


def model_of(artifact: Artifact, *, integers: bool = True) -> onnx.ModelProto:
    """Return the graph that a session of a file runs, complete: raises as `session` does.

    Args:
        artifact: a loaded file.
        integers: as for `session`.
    """
    return qdq_of(artifact).onnx if artifact.activations and integers else onnx_of(artifact)


def _inputs(model: onnx.ModelProto) -> Iterator[Input]:
    for value in model.graph.input:
        tensor = value.type.tensor_type
        shape = tuple(n.dim_param if n.HasField("dim_param") else n.dim_value for n in tensor.shape.dim)
        yield Input(value.name, str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)), shape)


def _arrays(name: str, value: Any) -> Iterator[tuple[str, Array]]:
    """The arrays of nested inputs, named as the export names them; constants were fixed when it was made."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _arrays(f"{name}_{key}", part)
    elif isinstance(value, (tuple, list)):
        for index, part in enumerate(value):
            yield from _arrays(f"{name}_{index}", part)
    elif not isinstance(value, (bool, int, float, str, type(None))):
        yield re.sub(r"\W", "_", name), np.asarray(value)


def _nested(nest: Any, flat: list[Array]) -> Any:
    if isinstance(nest, dict):
        return {key: _nested(part, flat) for key, part in nest.items()}
    if isinstance(nest, (list, tuple)):
        return tuple(_nested(part, flat) for part in nest)
    return None if nest is None else flat[nest]


def _check_outputs(nest: Any, count: int, depth: int = 0) -> None:
    """Refuse a nesting of outputs that the graph does not have."""
    if isinstance(nest, (dict, list, tuple)) and depth < _MOST_NESTED:
        for part in nest.values() if isinstance(nest, dict) else nest:
            _check_outputs(part, count, depth + 1)
    elif nest is not None and not (type(nest) is int and 0 <= nest < count):
        raise IntegrityError("not an output of the stored graph", where="graph.outputs", got=nest)
