"""Every operator that is read computes what ONNX Runtime does, in its forms over the versions."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from capture.onnx_cases import VERSIONS, Case, cases, model_of
from onnx.reference import ReferenceEvaluator

from featherweight.capture.onnx import read_network
from featherweight.capture.onnx.check import largest_difference
from featherweight.errors import UnsupportedError

CASES = list(cases())


def expected_of(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """What ONNX Runtime computes; where it has no kernel, what ONNX's own reference does."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    except Exception:
        return list(ReferenceEvaluator(model).run(None, feeds))
    return list(session.run(None, feeds))


def versions(case: Case) -> list[int]:
    """The first and the last version of each form of the operator within the case's."""
    fits = [version for version in VERSIONS if case.since <= version <= case.until]
    if case.domain or case.op == "SimplifiedLayerNormalization":
        return fits
    forms: dict[int, list[int]] = {}
    for version in fits:
        schema = onnx.defs.get_schema(case.op, version)
        forms.setdefault(schema.since_version, []).append(version)
    return [same[-1] for same in forms.values()]


def run(network, feeds):
    with torch.no_grad():
        made = network(
            **{network.identifiers[name]: torch.from_numpy(np.array(a)) for name, a in feeds.items()}
        )
    return [tensor.numpy() for tensor in (made.values() if isinstance(made, dict) else [made])]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_operator_is_what_onnx_runtime_computes(case, tmp_path):
    path = tmp_path / "one.onnx"
    for version in versions(case):
        for constant in (True, False)[: 1 + (version == versions(case)[-1])]:
            model = model_of(case, version, constant)
            feeds = {f"v{n}": array for n, array in case.data.items()}
            if not constant:
                if not case.constants or not computes(case):
                    continue
                feeds |= {
                    f"v{n}": np.asarray(array) for n, array in case.constants.items() if array is not None
                }
            onnx.save(model, path)
            network = read_network(path)
            for found, wanted in zip(run(network, feeds), expected_of(model, feeds), strict=True):
                assert found.shape == wanted.shape, (version, constant, found.shape, wanted.shape)
                apart = largest_difference(found, wanted)
                assert apart <= case.bound, (version, constant, apart, found.dtype, wanted.dtype)


def computes(case: Case) -> bool:
    """Whether a case can be read with its constants as inputs of the network: its tensors, not its sizes and axes."""
    tensors = {
        "Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization", "InstanceNormalization", "GroupNormalization",
        "LayerNormalization", "PRelu", "Where", "Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "Concat", "Mod",
        "BiasGelu", "FastGelu", "RMSNormalization",
    }  # fmt: skip
    return case.op in tensors


def test_every_operator_that_is_read_has_a_case():
    from featherweight.capture.onnx.operators import CONTRIBUTED, OPERATORS, refused

    tried = {(case.domain, case.op) for case in CASES}
    known = {("", op) for op in OPERATORS if not refused(op)} | {("com.microsoft", op) for op in CONTRIBUTED}
    elsewhere = {
        "Upsample",
        "Scatter",
        "ConstantOfShape",
        "Range",
        "Constant",
    }  # too old, or in test_onnx_reading
    assert {op for _, op in known - tried} - elsewhere == {"TransposeMatMul"}


def test_a_weight_that_is_computed_is_no_layer_and_a_recurrent_one_says_so(tmp_path):
    case = next(case for case in CASES if case.op == "LSTM")
    onnx.save(model_of(case, 14, constant=False), tmp_path / "one.onnx")
    network = read_network(tmp_path / "one.onnx")
    with pytest.raises(UnsupportedError, match=r"node /layer/LSTM \(LSTM\): .*weights are computed"):
        run(network, {f"v{n}": a for n, a in {**case.data, **case.constants}.items()})
