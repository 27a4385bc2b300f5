"""Does a written file compute what ONNX Runtime computes of the graph that it was made from? On inputs made up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from featherweight.engines import onnxruntime_session, refusals
from featherweight.errors import UnsupportedError
from featherweight.export import serialized
from featherweight.export.onnx_graph import OnnxGraph
from featherweight.runtime.backend import onnx_backend

Array = NDArray[Any]

SEED, SAMPLES, PLACES = 0, 2, 64
# Integers of one operator, fed alike: how many steps they may be apart, and the share that is equal at least. Where
# one step is twice another, half of all numbers are ties, which runtimes round to even or away from 0.
APART, EQUAL = 1, 0.7
FINE = 2  # steps that integers of 16 bits may be apart: a hundredth of a step of 8 bits
OFF = 4.0
EXACT = 1e-4  # of the greatest magnitude of an output in float: what another order of sums may make
# Root of the mean square, of outputs behind many layers in integers: where each rounds alike but for a step
# now and then, they are up to 3 % apart; a wrong graph is over 50.
NOISE = 0.1


@dataclass(frozen=True)
class Parity:
    """How one operator's integers compare with the reference, both fed with the reference's.

    Attributes:
        value: what it writes.
        equal: share of them that are equal.
        most: the greatest difference, in steps.
        numbers: how many were compared.
        bits: width of the integers.
    """

    value: str
    equal: float
    most: int
    numbers: int
    bits: int = 8

    @classmethod
    def of(cls, value: str, expected: Array, got: Array) -> Parity:
        """Compare integers of one shape."""
        apart = np.abs(expected.astype(np.int64) - got.astype(np.int64))
        equal = float((apart == 0).mean()) if apart.size else 1.0
        return cls(value, equal, int(apart.max(initial=0)), apart.size, 8 * got.dtype.itemsize)

    @property
    def right(self) -> bool:
        """Whether at most one step lies between, and no more differ than ties explain (and what chance adds to few).

        Of 16 bits, at most two steps: runtimes scale their sums by 16 bits, ONNX Runtime in float32.
        """
        if self.bits == 16:
            return self.most <= FINE
        expected = (1 - EQUAL) * self.numbers
        return self.most <= APART and (1 - self.equal) * self.numbers <= expected + 3 * expected**0.5

    def __str__(self) -> str:
        return f"{self.value}: {self.equal:.2%} equal, {self.most} steps apart at most"


def made_up(model: onnx.ModelProto, sizes: Mapping[str, int] | None = None) -> dict[str, Array]:
    """Return inputs for a graph: over the range of the quantizer that reads them, else normal; indices are 0.

    Args:
        model: a complete graph.
        sizes: of free axes by name; others count `SAMPLES`, and behind the first `PLACES`: on fewer, poolings have
            nothing left, which OpenVINO does not survive.
    """
    graph, generator, found, chosen = OnnxGraph(model), np.random.default_rng(SEED), {}, dict(sizes or {})
    for value in model.graph.input:
        kind = value.type.tensor_type
        shape = [
            chosen.setdefault(n.dim_param, PLACES if axis else SAMPLES)
            if n.HasField("dim_param")
            else n.dim_value
            for axis, n in enumerate(kind.shape.dim)
        ]
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type))
        if dtype.kind != "f":
            found[value.name] = np.zeros(shape, dtype)
            continue
        reads = [n for n in graph.readers.get(value.name, []) if n.op_type == "QuantizeLinear"]
        numbers = generator.standard_normal(shape)
        if reads and (ends := _range(graph, reads[0])) is not None:
            numbers = generator.uniform(*ends, shape)
        found[value.name] = numbers.astype(dtype)
    return found


def _range(graph: OnnxGraph, node: onnx.NodeProto) -> tuple[float, float] | None:
    scale, zero = (graph.numbers(name) for name in node.input[1:3])
    if scale is None or zero is None or zero.dtype.kind not in "iu":
        return None
    info, step, middle = np.iinfo(zero.dtype), float(scale.reshape(())), int(zero.reshape(()))
    return (info.min - middle) * step, (info.max - middle) * step


def reference(
    model: onnx.ModelProto, inputs: Mapping[str, Array], more: Iterable[str] = ()
) -> dict[str, Array]:
    """Return the outputs of a graph in ONNX Runtime, and `more` of its integers, by value."""
    copied, kinds = onnx.ModelProto(), _integer_types(model)
    copied.CopyFrom(model)
    names = [value.name for value in model.graph.output]
    for name in dict.fromkeys(more):
        if name not in names:
            copied.graph.output.append(helper.make_tensor_value_info(name, kinds[name], None))
            names.append(name)
    with refusals("ONNX Runtime cannot run the graph"):
        outputs = onnx_backend("onnxruntime").compute(copied, threads=1)(dict(inputs))
    return dict(zip(names, outputs, strict=True))


def _integer_types(model: onnx.ModelProto) -> dict[str, int]:
    graph = OnnxGraph(model)
    return {n.output[0]: graph.type_of(n) for n in model.graph.node if n.op_type == "QuantizeLinear"}


def in_integers(model: onnx.ModelProto) -> bool:
    """Return whether a graph rounds activations."""
    return any(node.op_type == "QuantizeLinear" for node in model.graph.node)


def bound_of(model: onnx.ModelProto, inputs: Mapping[str, Array], expected: Mapping[str, Array]) -> float:
    """Return how far outputs of a graph may be from ONNX Runtime's, as a share of them.

    In float, `EXACT`; or `OFF` times as far as ONNX Runtime's are without its optimizations, where another order of
    sums makes more (an output of a sigmoid that is nearly 0), but `NOISE` at most; behind layers in integers, `NOISE`.
    """
    if in_integers(model):
        return NOISE
    with refusals("ONNX Runtime cannot run the graph"):
        plain = onnxruntime_session(serialized(model), 1, plain=True).run(None, dict(inputs))
    names = [value.name for value in model.graph.output]
    own = max((distance(expected[n], other) for n, other in zip(names, plain, strict=True)), default=0.0)
    return min(max(EXACT, OFF * own), NOISE)


def compare(
    title: str, names: Sequence[str], expected: Sequence[Array], got: Sequence[Array], bound: float
) -> float:
    """Return how far outputs are from the reference, as a share of it: the root of the mean square, of the worst.

    Args:
        title: what computed `got`.
        names: of the outputs.
        expected: of ONNX Runtime.
        got: of the file.
        bound: see `bound_of`.

    Raises:
        UnsupportedError: one is further than the bound.
    """
    worst = 0.0
    for name, wanted, found in zip(names, expected, got, strict=True):
        if wanted.shape != found.shape:
            raise UnsupportedError(
                f"{title} makes another shape of {name}", got=found.shape, expected=wanted.shape
            )
        apart = distance(wanted, found)
        if not apart <= bound:
            raise UnsupportedError(
                f"{title} does not compute what ONNX Runtime does, so nothing was written", where=name,
                got=f"{apart:.2g} of its size apart", expected=f"at most {bound:g}",
            )  # fmt: skip
        worst = max(worst, apart)
    return worst


def distance(expected: Array, got: Array) -> float:
    """Return the root of the mean square of a difference, as a share of that of `expected`; NaN where both are is 0."""
    both = (
        np.isnan(expected) & np.isnan(got) if expected.dtype.kind == "f" else np.zeros(expected.shape, bool)
    )
    a, b = (np.where(both, 0, array).astype(np.float64) for array in (expected, got))
    with np.errstate(invalid="ignore"):
        gap, size = (float(np.sqrt(np.mean(np.square(part)))) if part.size else 0.0 for part in (a - b, a))
    return 0.0 if not gap else gap / size if size else float("inf")


def check_parities(title: str, found: Sequence[Parity]) -> str:
    """Return in words that operators compute the reference's integers.

    Raises:
        UnsupportedError: one does not; names it.
    """
    if wrong := [one for one in found if not one.right]:
        raise UnsupportedError(
            f"{title} computes {len(wrong)} of {len(found)} activations otherwise, so nothing was written",
            got=f"first {wrong[0]}",
            expected=f"{EQUAL:.0%} equal, {APART} step apart; of 16 bits, {FINE} steps",
        )  # fmt: skip
    least, most = min(one.equal for one in found), max(one.most for one in found)
    near = f"each at least {least:.2%} equal to ONNX Runtime's, {most} steps apart at most"
    return f"{len(found)} activations in integers, {near}"
