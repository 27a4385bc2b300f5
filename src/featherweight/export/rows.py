"""Embeddings in integer graphs: rows are gathered as integers, and told apart and scaled behind that."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto

from featherweight.artifact import Initialiser
from featherweight.export.onnx_graph import Writer, attributes
from featherweight.export.packed import BITS, WHOLE, packed, packing_obstacle
from featherweight.formats import Encoded

Array = NDArray[Any]

Layout = Literal["int8", "MatMulNBits"]
OPSET = 18  # the first of ONNX that knows BitwiseAnd


def tied_tables(nodes: Iterable[NodeProto], table: Mapping[str, Initialiser]) -> set[str]:
    """Return the canonical names of the tensors that matrix products read."""
    read = (node.input[1] for node in nodes if node.op_type in ("Gemm", "MatMul"))
    return {table[name].tensor for name in read if name in table}


def write_rows(
    writer: Writer, node: NodeProto, table: Mapping[str, Initialiser], weights: Mapping[str, Encoded],
    result: str, *, opset: int, heads: Collection[str] = (), layout: Layout = "int8",
) -> bool:  # fmt: skip
    """Look rows up in a table of integers, in the place of a Gather of the float table; return whether that is done.

    The numbers are those of the decoded table, bit for bit: rows are scaled after they are gathered. Integers of at
    most 4 bits stay packed in bytes.

    Args:
        writer: gets the nodes, the integers and their scales.
        node: any node.
        table: where the initialisers of the graph come from.
        weights: encoded tensors by canonical name.
        result: the value to write.
        opset: of the graph.
        heads: tensors that matrix products read, as `tied_tables` finds them; stored once ...
        layout: ... as they are read there.
    """
    gathers = node.op_type == "Gather" and not attributes(node).get("axis")
    entry = table.get(node.input[0]) if gathers else None
    encoded = weights.get(entry.tensor) if entry and not entry.shape and not entry.permutation else None
    if encoded is None or packing_obstacle(encoded) or len(encoded.view.shape) != 2:
        return False
    (name, indices), cols = node.input, encoded.view.cols
    tied = entry is not None and entry.tensor in heads
    whole = WHOLE if tied and layout == "MatMulNBits" else 0
    made = packed(encoded, whole, least=BITS if opset < OPSET or (tied and not whole) else 1)
    blocks, step = made.scale.shape[1], f"{result}/rows"
    codes, signed = made.codes, made.bits == BITS and not whole
    if signed:
        codes = (codes ^ (1 << BITS - 1)).view(np.int8)
        codes = codes[:, 0, :cols] if blocks == 1 else codes

    def gathered(array: Array, kind: str) -> str:
        stored = writer.constant(array, f"{name}/{kind}")
        return writer.add(
            "Gather", [stored, indices], f"{step}/{kind}", name=node.name if kind == "rows" else ""
        )

    numbers = gathered(codes, "rows")
    if made.bits < BITS:  # no shift: OpenVINO rounds what it shifts
        places = np.arange(0, BITS, made.bits, dtype=np.uint8)
        axis = writer.constant(np.array([-1], np.int64), f"{name}/last")
        masks = writer.constant(np.uint8((1 << made.bits) - 1) << places, f"{name}/masks")
        each = writer.add("Unsqueeze", [numbers, axis], f"{step}/bytes")
        numbers = writer.add("BitwiseAnd", [each, masks], f"{step}/masked")
    numbers = writer.add("Cast", [numbers], f"{step}/steps", to=TensorProto.FLOAT)
    if made.bits < BITS:
        factors = writer.constant(np.float32(0.5) ** places, f"{name}/factors")
        numbers = writer.add("Mul", [numbers, factors], f"{step}/codes")
    if codes.ndim == 3:
        numbers = _shaped(writer, numbers, indices, [blocks, made.block], f"{step}/blocks")
    scale, zero = made.scale[..., None] if codes.ndim == 3 else made.scale, made.zero
    if zero is not None:
        zero = zero[..., None] if codes.ndim == 3 else zero
        zero = (zero ^ (1 << BITS - 1)).view(np.int8) if signed else zero
        zeros = writer.add("Cast", [gathered(zero, "zeros")], f"{step}/zero", to=TensorProto.FLOAT)
        numbers = writer.add("Sub", [numbers, zeros], f"{step}/centred")
    elif not signed:
        half = writer.constant(np.float32(1 << made.bits - 1))
        numbers = writer.add("Sub", [numbers, half], f"{step}/centred")
    one = scale.flat[0] if scale.size and (scale == scale.flat[0]).all() else None
    scales = gathered(scale, "scale") if one is None else writer.constant(np.float32(one))
    if codes.ndim == 2:
        writer.add("Mul", [numbers, scales], result)
        return True
    product = writer.add("Mul", [numbers, scales], f"{step}/scaled")
    flat = result if blocks * made.block == cols else f"{step}/filled"
    _shaped(writer, product, indices, [blocks * made.block], flat)
    if flat != result:
        ends = [writer.constant(np.array([at], np.int64), f"{name}/{at}") for at in (0, cols, -1)]
        writer.add("Slice", [flat, *ends], result)
    return True


def _shaped(writer: Writer, value: str, indices: str, sizes: list[int], result: str) -> str:
    """Reshape what was gathered by `indices` so that its rows have these sizes."""
    places = writer.add("Shape", [indices], f"{result}/places")
    rows = writer.constant(np.array(sizes, np.int64), f"{result}/sizes")
    return writer.add(
        "Reshape", [value, writer.add("Concat", [places, rows], f"{result}/shape", axis=0)], result
    )
