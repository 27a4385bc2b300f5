"""Who makes and who reads each value of an ONNX graph, and the quantizers around its layers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import onnx
from onnx import NodeProto, TensorProto

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
CLAMPS = ("Relu", "Clip")


@dataclass(frozen=True, eq=False)
class OnnxGraph:
    """A graph, read-only, by its values."""

    model: onnx.ModelProto

    @cached_property
    def makers(self) -> dict[str, NodeProto]:
        """The node that makes each value."""
        return {value: node for node in self.model.graph.node for value in node.output}

    @cached_property
    def readers(self) -> dict[str, list[NodeProto]]:
        """The nodes that read each value."""
        found: dict[str, list[NodeProto]] = defaultdict(list)
        for node in self.model.graph.node:
            for value in node.input:
                found[value].append(node)
        return dict(found)

    @cached_property
    def stored(self) -> dict[str, TensorProto]:
        """The tensors that the graph holds, by the value they are."""
        constants = {
            node.output[0]: attribute.t
            for node in self.model.graph.node
            if node.op_type == "Constant"
            for attribute in node.attribute
            if attribute.name == "value"
        }
        return constants | {tensor.name: tensor for tensor in self.model.graph.initializer}

    @property
    def layers(self) -> Iterator[NodeProto]:
        """The nodes that multiply an activation by stored weights."""
        for node in self.model.graph.node:
            if node.op_type in LAYERS and self.weight(node) is not None:
                yield node

    def weight(self, layer: NodeProto, place: int = 1) -> TensorProto | None:
        """Return the stored weights of a layer, as they are before dequantization and transposition; or None.

        `place`: of the weights among the inputs.
        """
        value = layer.input[place]
        while value not in self.stored:
            maker = self.makers.get(value)
            if maker is None or maker.op_type not in ("DequantizeLinear", "Transpose", "Reshape", "Identity"):
                return None
            value = maker.input[0]
        return self.stored[value]

    def quantizer_before(self, layer: NodeProto) -> NodeProto | None:
        """Return the node that quantizes what a layer reads, or None if it reads floats."""
        maker = self.makers.get(layer.input[0])
        if maker is None or maker.op_type != "DequantizeLinear":
            return None
        while maker is not None and maker.op_type != "QuantizeLinear":
            maker = self.makers.get(maker.input[0])
        return maker

    def clamp_after(self, layer: NodeProto) -> NodeProto | None:
        """Return a ReLU or Clip that stands between a layer and the quantizer of its output, or None."""
        readers = self.readers.get(layer.output[0], [])
        if len(readers) != 1 or readers[0].op_type not in CLAMPS:
            return None
        after = self.readers.get(readers[0].output[0], [])
        return readers[0] if any(node.op_type == "QuantizeLinear" for node in after) else None

    def type_of(self, quantizer: NodeProto) -> int:
        """Return the element type that a QuantizeLinear makes; U8 where it names none."""
        if len(quantizer.input) > 2 and quantizer.input[2] in self.stored:
            return int(self.stored[quantizer.input[2]].data_type)
        named = [int(a.i) for a in quantizer.attribute if a.name == "output_dtype" and a.i]
        return named[0] if named else TensorProto.UINT8
