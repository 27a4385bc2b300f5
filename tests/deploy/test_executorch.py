"""ExecuTorch programs: integers as ONNX Runtime's; the extra is not in `dev`, so these run where it is installed."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from featherweight.deploy.executorch import fixed
from featherweight.deploy.torch_program import OnnxProgram
from featherweight.engines import onnxruntime_session
from featherweight.errors import UnsupportedError

rng = np.random.default_rng(3)


def node(op, inputs, output="y", **given):
    return helper.make_node(op, inputs.split(" "), output.split(" "), **given)


def quantized(name, source, scale, zero):
    """Return the nodes and constants that round `source` to uint8 and give `name`."""
    nodes = [node("QuantizeLinear", f"{source} {name}/s {name}/z", f"{name}/q")]
    nodes.append(node("DequantizeLinear", f"{name}/q {name}/s {name}/z", name))
    return nodes, {f"{name}/s": np.float32(scale), f"{name}/z": np.uint8(zero)}


def network() -> onnx.ModelProto:
    """A convolution with uneven padding and a linear layer in integers, and one that writes floats.

    No sum of two products saturates 16 bits.
    """
    nodes, tensors = quantized("a", "x", 0.0203, 120)
    for name, shape in (("w", (4, 3, 3, 2)), ("v", (5, 4)), ("u", (5, 3))):
        axis = 1 if name == "u" else 0
        tensors[name] = rng.integers(-64, 65, shape).astype(np.int8)
        tensors[f"{name}/s"] = rng.uniform(0.001, 0.01, shape[axis]).astype(np.float32)
        nodes.append(node("DequantizeLinear", f"{name} {name}/s", f"{name}/real", axis=axis))
    nodes.append(node("Conv", "a w/real", "c", pads=[1, 0, 1, 1], strides=[2, 1]))
    parts = [quantized("d", "c", 0.0311, 0), quantized("f", "e", 0.0213, 3), quantized("h", "g", 0.0217, 130)]
    for (more, numbers), between in zip(
        parts,
        (
            [node("GlobalAveragePool", "d", "p"), node("Flatten", "p", "e")],
            [node("Gemm", "f v/real", "g", transB=1)],
            [],
        ),
        strict=True,
    ):
        nodes += [*more, *between]
        tensors |= numbers
    nodes.append(node("MatMul", "h u/real", "y"))
    made = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 9, 7])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in tensors.items()],
    )  # fmt: skip
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_the_torch_program_computes_the_graph_in_integers():
    model = network()
    program = OnnxProgram(model)
    x = rng.uniform(-2.4, 2.7, (4, 3, 9, 7)).astype(np.float32)
    (wanted,) = onnxruntime_session(model.SerializeToString(), 1).run(None, {"x": x})
    (got,) = program(torch.from_numpy(x))
    assert np.abs(got.numpy() - wanted).max() < 0.05 * np.abs(wanted).max()  # a step of the last integers
    assert [*program.floats.values()] == ["nothing quantizes what it writes"]


def test_what_torch_cannot_say_is_refused_by_name():
    model = network()
    model.graph.node[-1].op_type = "NonMaxSuppression"
    with pytest.raises(UnsupportedError, match="NonMaxSuppression y"):
        OnnxProgram(model)


def test_sizes_are_fixed_and_asked_for():
    model = network()
    assert fixed(model, {}) == {"n": 1}
    assert fixed(model, {"n": 4}) == {"n": 4}
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "h"
    with pytest.raises(UnsupportedError, match="--size h=N"):
        fixed(model, {})


@pytest.mark.filterwarnings("ignore")
def test_a_program_computes_what_onnx_runtime_does():
    pytest.importorskip("executorch", reason="the extra executorch is not in dev: some 500 MB")
    from featherweight.deploy.executorch import make_executorch, opened_executorch

    model = network()
    made = make_executorch(model, {"n": 2})
    assert "outside XNNPACK" not in made.checked
    x = rng.uniform(-2.4, 2.7, (2, 3, 9, 7)).astype(np.float32)
    (wanted,) = onnxruntime_session(model.SerializeToString(), 1).run(None, {"x": x})
    (got,) = opened_executorch(made.files[".pte"])([x])
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)
