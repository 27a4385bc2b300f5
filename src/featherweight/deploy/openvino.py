"""OpenVINO IR: the model as a `.xml` of operators and a `.bin` of weights, read back and compared."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx

from featherweight.deploy.base import Array, Made
from featherweight.deploy.check import bound_of, compare, distance, made_up, reference
from featherweight.engines import openvino_core
from featherweight.errors import UnsupportedError
from featherweight.export import serialized
from featherweight.runtime.backend import onnx_backend

FREE = 0.02  # root of the mean square that outputs may differ by, with free axes and with fixed ones


def make_openvino(model: onnx.ModelProto, sizes: Mapping[str, int]) -> Made:
    """Return a graph as OpenVINO IR. Weights keep their type: none becomes float16.

    The IR computes what OpenVINO computes of the graph itself, bit for bit; and what ONNX Runtime does, but for
    roundings.

    Args:
        model: a complete graph, float or in integers.
        sizes: of free axes by name, which are then fixed.

    Raises:
        MissingExtraError: OpenVINO is not installed.
        UnsupportedError: it cannot run the graph, or not exactly on this processor; or its file computes otherwise,
            or with free axes something else than with fixed ones.
    """
    used = onnx_backend("openvino")
    inputs = made_up(model, sizes)
    model = fixed(model, lambda _, axis: sizes.get(axis.dim_param))
    direct = used.compute(model, threads=1)(inputs)
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        openvino.save_model(openvino_core().read_model(serialized(model)), path, compress_to_fp16=False)
        files = {suffix: path.with_suffix(suffix).read_bytes() for suffix in (".xml", ".bin")}
        options = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
        compiled = openvino_core().compile_model(path, "CPU", options)

    def run(arrays: Sequence[Array]) -> list[Array]:
        results = compiled(dict(enumerate(arrays)))
        return [np.array(results[port]) for port in compiled.outputs]

    got = run(list(inputs.values()))
    names = [value.name for value in model.graph.output]
    for name, ours, theirs in zip(names, direct, got, strict=True):
        if not np.array_equal(ours, theirs, equal_nan=ours.dtype.kind == "f"):
            raise UnsupportedError("OpenVINO reads its file as another network", where=name)
    if free := sorted({axis.dim_param for axis in _axes(model) if axis.dim_param}):
        shapes = {name: iter(array.shape) for name, array in inputs.items()}
        whole = fixed(model, lambda name, _: next(shapes[name]))
        for name, ours, theirs in zip(names, used.compute(whole, threads=1)(inputs), got, strict=True):
            if not (apart := distance(ours, theirs)) <= FREE:
                raise UnsupportedError(
                    "OpenVINO computes something else where sizes are free, so nothing was written", where=name,
                    got=f"{apart:.2g} of its size apart", expected=f"at most {FREE:g}",
                    hint=" ".join(f"--size {axis}=N" for axis in free),
                )  # fmt: skip
    expected = reference(model, inputs)
    apart = compare(
        used.title, names, [expected[name] for name in names], got, bound_of(model, inputs, expected)
    )
    return Made(files, {}, f"equal to the graph in OpenVINO, {apart:.1e} from ONNX Runtime", run)


def fixed(
    model: onnx.ModelProto, size: Callable[[str, onnx.TensorShapeProto.Dimension], int | None]
) -> onnx.ModelProto:
    """Return a graph with the free axes of its inputs of the sizes that `size` says of an input's name and an axis."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for value in made.graph.input:
        for axis in value.type.tensor_type.shape.dim:
            if (n := size(value.name, axis)) is not None:
                axis.dim_value = n
    return made


def _axes(model: onnx.ModelProto) -> list[onnx.TensorShapeProto.Dimension]:
    return [axis for value in model.graph.input for axis in value.type.tensor_type.shape.dim]
