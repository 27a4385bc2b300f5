"""Sessions: a stored graph and its tensors, run by a backend, in float or in integers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray

from featherweight.activations import Quantizer
from featherweight.artifact import Artifact, StoredGraph, load
from featherweight.engines import refusals
from featherweight.errors import ConfigError, IntegrityError
from featherweight.export import opened
from featherweight.formats import Encoded
from featherweight.runtime.backend import Backend, Compute, onnx_backend, usable

Array = NDArray[Any]
AnyBackend = TypeVar("AnyBackend", bound=Backend)

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

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}{list(self.shape)}"


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
    def of(
        cls, graph: StoredGraph, tensors: Mapping[str, Array], weights: Mapping[str, Encoded] | None = None,
        activations: Mapping[str, Quantizer] | None = None, *, runtime: str = "onnxruntime", threads: int = 1,
    ) -> Session:  # fmt: skip
        """Return a session of a graph and its tensors.

        Args:
            graph: a float graph.
            tensors: decoded, by canonical name.
            weights: those that are encoded.
            activations: quantizers by value of the graph; without any, the network is computed in float.
            runtime: what runs it.
            threads: threads of one operator; operators run one after another.

        Raises:
            UnsupportedError: the runtime cannot run the graph, or not as the simulation computes it.
            IntegrityError: the graph is damaged or does not fit the tensors.
            MissingExtraError: the runtime is not installed.
        """
        used = _checked(usable(runtime), threads)
        with refusals(f"{used.title} cannot run the graph"):
            compute = used.open(graph, tensors, weights or {}, activations or {}, threads=threads)
        return cls._of(onnx.ModelProto.FromString(graph.onnx), graph.outputs, compute, used)

    @classmethod
    def of_onnx(
        cls, model: onnx.ModelProto, outputs: Any = 0, *, runtime: str = "onnxruntime", threads: int = 1,
        exact: bool = True,
    ) -> Session:  # fmt: skip
        """Return a session of a complete ONNX model.

        Args:
            model: the model.
            outputs: as in `StoredGraph`.
            runtime: what runs it.
            threads: threads of one operator; operators run one after another.
            exact: see `OnnxBackend.compute`.

        Raises:
            UnsupportedError: the runtime cannot run the model, or not without saturation.
            IntegrityError: `outputs` does not fit the model.
            MissingExtraError: the runtime is not installed.
        """
        used = _checked(onnx_backend(runtime), threads)
        with refusals(f"{used.title} cannot run the graph"):
            compute = used.compute(model, threads=threads, exact=exact)
        return cls._of(model, outputs, compute, used)

    @classmethod
    def _of(cls, model: onnx.ModelProto, outputs: Any, compute: Compute, used: Backend) -> Session:
        _check_outputs(outputs, len(model.graph.output))
        return cls(tuple(_inputs(model)), outputs, compute, used.title)

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
        with refusals(f"{self._name} stopped"):
            flat = self._compute(feed)
        return _nested(self.outputs, flat)

    def _feed(self, inputs: Any) -> dict[str, Array]:
        if isinstance(inputs, Mapping):
            given = dict(pair for name, value in inputs.items() for pair in _arrays(str(name), value))
        else:
            flat = [array for _, array in _arrays("", inputs)]
            given = dict(zip((entry.name for entry in self.inputs), flat, strict=False))
            if len(flat) != len(self.inputs):
                expected = f"{len(self.inputs)}: {self._signature()}"
                raise ConfigError("number of inputs", got=len(flat), expected=expected)
        if given.keys() != {entry.name for entry in self.inputs}:
            raise ConfigError("names of inputs", got=", ".join(given), expected=self._signature())
        sizes: dict[str, int] = {}
        for entry in self.inputs:
            array = given[entry.name]
            if array.dtype != entry.dtype:
                raise ConfigError("type of an input", where=entry.name, got=array.dtype, expected=entry.dtype)
            pairs, got = zip(entry.shape, array.shape, strict=False), list(array.shape)
            sized = [sizes.setdefault(n, m) if isinstance(n, str) else n for n, m in pairs]
            if array.ndim != len(entry.shape) or got != sized:
                raise ConfigError("shape of an input", where=entry.name, got=got, expected=list(entry.shape))
        return given

    def _signature(self) -> str:
        return ", ".join(map(str, self.inputs))


def session(
    file: Artifact | str | Path, *, runtime: str = "onnxruntime", threads: int = 1, integers: bool = True
) -> Session:
    """Return a session that runs a file: its graph with the decoded tensors.

    Args:
        file: a loaded file, or where it lies.
        runtime: what runs it, see `featherweight list runtimes`; `openvino` is an extra of its own.
        threads: threads of one operator; operators run one after another.
        integers: compute in integers if the file has quantizers of activations; else the float graph.

    Raises:
        UnsupportedError: the file holds no graph, or the runtime cannot run it; says why.
        IntegrityError: the graph, a tensor or a quantizer is damaged.
        MissingExtraError: the runtime is not installed.
    """
    artifact = load(file) if isinstance(file, str | Path) else file
    activations = artifact.activations if integers else {}
    return Session.of(*opened(artifact), activations, runtime=runtime, threads=threads)


def _checked(used: AnyBackend, threads: int) -> AnyBackend:
    if threads < 1:
        raise ConfigError("not a number of threads", where="threads", got=threads, expected="1 or more")
    return used


def _inputs(model: onnx.ModelProto) -> Iterator[Input]:
    for value in model.graph.input:
        tensor = value.type.tensor_type
        shape = tuple(n.dim_param if n.HasField("dim_param") else n.dim_value for n in tensor.shape.dim)
        yield Input(value.name, str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)), shape)


def _arrays(name: str, value: Any) -> Iterator[tuple[str, Array]]:
    """The arrays of nested inputs, named as the export names them; constants were fixed when it was made."""
    if isinstance(value, Mapping | tuple | list):
        for key, part in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _arrays(f"{name}_{key}", part)
    elif not isinstance(value, int | float | str | None):
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
