"""Padding by zeros that a convolution can do itself; between integers, runtimes do not merge the two."""

from __future__ import annotations

import onnx
from onnx import NodeProto, numpy_helper


def merge_padding(graph: onnx.GraphProto) -> None:
    """Take out of `graph` every Pad by constant zeros that convolutions alone read, into their `pads`."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    for pad in [node for node in graph.node if node.op_type == "Pad"]:
        readers = [node for node in graph.node if pad.output[0] in node.input]
        amounts = _spatial(pad, constants)
        takes = all(node.op_type == "Conv" and not _automatic(node) for node in readers)
        if amounts is None or pad.output[0] in outputs or not readers or not takes:
            continue
        for convolution in readers:
            _pad_more(convolution, amounts)
            convolution.input[0] = pad.input[0]
        graph.node.remove(pad)


def _spatial(pad: NodeProto, constants: dict[str, onnx.TensorProto]) -> list[int] | None:
    """Return the padding of the spatial axes, starts and then ends; None if it is of another kind."""
    inputs = [*pad.input, "", "", ""]
    mode = next((a.s.decode() for a in pad.attribute if a.name == "mode"), "constant")
    filled = inputs[2] and (inputs[2] not in constants or numpy_helper.to_array(constants[inputs[2]]).any())
    if mode != "constant" or filled or inputs[3] or inputs[1] not in constants:
        return None
    amounts = numpy_helper.to_array(constants[inputs[1]]).tolist()
    starts, ends = amounts[: len(amounts) // 2], amounts[len(amounts) // 2 :]
    if any([*starts[:2], *ends[:2]]) or min(amounts) < 0:
        return None
    return [*starts[2:], *ends[2:]]


def _automatic(convolution: NodeProto) -> bool:
    return any(a.name == "auto_pad" and a.s not in (b"", b"NOTSET") for a in convolution.attribute)


def _pad_more(convolution: NodeProto, amounts: list[int]) -> None:
    old = next((list(a.ints) for a in convolution.attribute if a.name == "pads"), [0] * len(amounts))
    kept = [attribute for attribute in convolution.attribute if attribute.name != "pads"]
    del convolution.attribute[:]
    pads = [a + b for a, b in zip(old, amounts, strict=True)]
    convolution.attribute.extend([*kept, onnx.helper.make_attribute("pads", pads)])
