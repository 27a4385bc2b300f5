"""LiteRT files run in LiteRT, and compared with ONNX Runtime: every operator in integers by itself, then the whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from featherweight.deploy.base import Array, Made, Run
from featherweight.deploy.check import Parity, bound_of, check_parities, compare, made_up, reference
from featherweight.deploy.litert import build_litert
from featherweight.deploy.litert_file import LitertFile
from featherweight.engines import refusals
from featherweight.errors import MissingExtraError


def make_litert(model: onnx.ModelProto, sizes: Mapping[str, int], *, integers: bool = False) -> Made:
    """Return a graph as a LiteRT file that ran in LiteRT, on one thread.

    Every operator in integers is compared by itself, fed with the integers of ONNX Runtime; then the outputs.

    Args:
        model: a complete graph, float or in integers.
        sizes: of free axes, which are then fixed.
        integers: whether inputs and outputs are integers too, and all between.

    Raises:
        MissingExtraError: LiteRT is not installed.
        UnsupportedError: LiteRT cannot say the graph, or computes it otherwise.
    """
    made = build_litert(model, sizes, integers=integers)
    content, inputs = made.file.serialized(), made_up(model, sizes)
    tensors = made.file.tensors
    held = {n: found for n, found in made.named.items() if tensors[n].quantized is not None}
    expected = reference(model, inputs, [name for name, _ in held.values()])
    given = {n: as_held(expected[name], order, tensors[n].dtype) for n, (name, order) in held.items()}
    fed = [as_held(inputs[name], order) for name, order in made.inputs]
    for number, array in zip(made.file.inputs, fed, strict=True):
        given.setdefault(number, array)
    produced = {number for operator in made.file.operators for number in operator.outputs}
    parities = []
    for number, (name, _) in held.items():
        if number in produced:
            part, read = made.file.part((n for n in given if n != number), number)
            (got,) = opened_litert(part.serialized())([given[n] for n in read])
            parities.append(Parity.of(name, given[number], got))
    said = [check_parities("LiteRT", parities)] if parities else []
    run = of_numbers(opened_litert(content), made.file)
    names, wanted = (
        [name for name, _ in made.outputs],
        [as_held(expected[name], k) for name, k in made.outputs],
    )
    apart = compare("LiteRT", names, wanted, run(fed), bound_of(model, inputs, expected))
    said.append(f"outputs {apart:.1e} from ONNX Runtime")
    return Made({".tflite": content}, made.floats, "; ".join(said), run)


def as_held(values: Array, order: Sequence[int], dtype: str = "") -> Array:
    """Return values of the ONNX graph as the file holds them: their axes in another order, and of int8 signed ones."""
    moved = np.ascontiguousarray(values.transpose(order))
    return (moved ^ 0x80).view(np.int8) if moved.dtype == np.uint8 and dtype == "int8" else moved


def of_numbers(run: Run, file: LitertFile) -> Run:
    """Return what a file computes as a function of numbers, whose inputs and outputs may be integers in the file."""
    read, written = ([file.tensors[n].quantized for n in numbers] for numbers in (file.inputs, file.outputs))

    def call(inputs: Sequence[Array]) -> list[Array]:
        given = [a if q is None else q.quantize(a) for a, q in zip(inputs, read, strict=True)]
        return [a if q is None else q.dequantize(a) for a, q in zip(run(given), written, strict=True)]

    return call if any(q is not None for q in (*read, *written)) else run


def opened_litert(content: bytes, threads: int = 1) -> Run:
    """Return what a LiteRT file computes of its inputs, in order; free axes are those of the arrays.

    Raises:
        MissingExtraError: LiteRT is not installed.
        UnsupportedError: LiteRT refuses the file or the inputs.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ModuleNotFoundError as error:
        hint = "pip install 'featherweight[litert]'"
        raise MissingExtraError("not installed", where="LiteRT", hint=hint) from error
    with refusals("LiteRT cannot open the file"):
        used = Interpreter(model_content=content, num_threads=threads)
    places = [entry["index"] for entry in used.get_input_details()]
    shapes: list[tuple[int, ...]] = []

    def run(inputs: Sequence[Array]) -> list[Array]:
        with refusals("LiteRT stopped"):
            if [array.shape for array in inputs] != shapes:
                shapes[:] = [array.shape for array in inputs]
                for place, shape in zip(places, shapes, strict=True):
                    used.resize_tensor_input(place, shape, strict=True)
                used.allocate_tensors()
            for place, array in zip(places, inputs, strict=True):
                used.set_tensor(place, array)
            used.invoke()
            return [used.get_tensor(entry["index"]) for entry in used.get_output_details()]

    return run
