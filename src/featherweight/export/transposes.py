"""Weights behind a Transpose are kept transposed, so that a layer reads its weight from the table."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import helper, numpy_helper

from featherweight.artifact import Initialiser
from featherweight.errors import IntegrityError


def swap_weights(graph: onnx.GraphProto, initialisers: Iterable[Initialiser]) -> dict[str, Initialiser]:
    """Put what Transposes of whole tensors write in the place of those nodes; return the table of `graph`, by name.

    Args:
        graph: a complete one; changes, and computes the same.
        initialisers: where its own come from.

    Raises:
        IntegrityError: a Transpose does not fit its tensor.
    """
    table = {entry.name: entry for entry in initialisers}
    values = {tensor.name: tensor for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    for node in list(graph.node):
        entry = table.get(node.input[0]) if node.op_type == "Transpose" else None
        if entry is None or entry.shape or node.output[0] in outputs:
            continue
        array, made = numpy_helper.to_array(values[entry.name]), node.output[0]
        given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        order = given.get("perm", range(array.ndim)[::-1])
        if sorted(order) != list(range(array.ndim)):
            raise IntegrityError(
                "a Transpose of axes that are not there", where=made, got=list(order), expected=array.ndim
            )
        before = entry.permutation or range(array.ndim)
        table[made] = Initialiser(made, entry.tensor, tuple(before[axis] for axis in order))
        values[made] = numpy_helper.from_array(np.ascontiguousarray(array.transpose(order)), made)
        graph.initializer.append(values[made])
        graph.node.remove(node)
    read = {name for node in graph.node for name in node.input} | outputs
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in read]:
        graph.initializer.remove(tensor)
    return table
