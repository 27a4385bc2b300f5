"""Bit operations: what a multiplication costs where hardware multiplies numbers of any width."""

from __future__ import annotations

from collections.abc import Sequence

from featherweight.formats import Float, Int, Log2
from featherweight.formats.floating import BITS
from featherweight.graph import Graph
from featherweight.search.candidates import Option
from featherweight.search.sensitivity import Cell


def bit_operations(
    graph: Graph, rows: Sequence[Sequence[Cell]], *, activations: int = 8
) -> list[list[float]]:
    """Return the bit operations of one sample for each cell: multiply-accumulates times both widths.

    In the place of bytes this is what `allocate` limits: `allocate(damage, bit_operations(graph, rows), limit)`.
    A tensor that nothing is multiplied with costs none.

    References: Yao et al., HAWQ-V3, 2021, arXiv 2011.10680, section 3.4.

    Args:
        graph: says what reads each tensor, and its multiply-accumulates.
        rows: the cells of each tensor.
        activations: bits of the other operand.
    """
    macs: dict[str, int] = {}
    for node in graph.nodes:
        weight = dict(node.roles).get("weight")
        if weight is not None:
            macs[weight] = macs.get(weight, 0) + (node.macs or 0)
    return [
        [float(macs.get(cell.tensor, 0) * operand_bits(cell.option) * activations) for cell in row]
        for row in rows
    ]


def operand_bits(option: Option) -> int:
    """Return the width of what is multiplied: of a codebook, its float32 values.

    >>> operand_bits(Option(Int(bits=4))), operand_bits(Option())
    (4, 32)
    """
    match option.format:
        case Int(bits=bits) | Log2(bits=bits):
            return bits
        case Float(kind=kind):
            return BITS[kind]
    return 32
