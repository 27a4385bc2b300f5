"""An ONNX file, checked and made plain: functions inlined, constants folded, branches taken that are known."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnx_ir as ir
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx_ir.passes import common
from onnxscript import optimizer

from featherweight.capture.onnx.operators import OPERATORS, refused
from featherweight.errors import ConfigError, FeatherweightError, IntegrityError, UnsupportedError

Array = NDArray[Any]

# What the checker says of files that run. Unknown operators are named later, all together.
_HARMLESS = (
    "No Op registered", "No opset import", "Field 'shape' of 'type' is required",
    "is marked single but has an empty string",
)  # fmt: skip
OLDEST = 11  # version of the operators
_HALF = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
HALF = "half precision is computed in float32; inputs and outputs keep their types"
_CONTROL = ("If", "Loop", "Scan")
_ROUNDS = 4  # of folding: a branch that is taken may make another known
# Folded by onnxscript's optimizer where their inputs are constants, however large.
_FOLDED = {
    "Transpose",
    "Reshape",
    "Cast",
    "Identity",
    "Unsqueeze",
    "Squeeze",
    "Mul",
    "Add",
    "Sub",
}


def opened(path: Path, settings: Mapping[str, Array]) -> tuple[ir.Model, list[str]]:
    """Return the model in a file, flat and folded, and notes on what was done to it.

    Args:
        path: the ONNX file; what it keeps in files beside it is read too.
        settings: inputs that are constants, by name.

    Raises:
        OSError: it cannot be read.
        IntegrityError: it is no ONNX file, or a broken one.
        UnsupportedError: its operators are too old.
        ConfigError: a setting that is none of its inputs, or of another type or shape.
    """
    _check(path)
    with reading(path):
        model = ir.load(str(path))
    version = model.opset_imports.get("", model.opset_imports.get("ai.onnx", 0))
    if model.graph.opset_imports and version and version < OLDEST:
        raise UnsupportedError(
            "its operators are too old", where=str(path), got=f"opset {version}", expected=f"{OLDEST} or newer",
            hint="onnx.version_converter.convert_version(model, 17) makes it newer",
        )  # fmt: skip
    notes: list[str] = []
    with reading(path):
        common.InlinePass()(model)
        common.RemoveInitializersFromInputsPass()(model)
        model = _expanded(model)
        for node in model.graph.all_nodes():  # what a file says of sizes may not be so
            for value in node.outputs:
                if not value.is_graph_output():
                    value.shape = value.type = None
    _settle(model, settings, notes)
    with reading(path):
        _fold(model, notes)
        _widen(model, notes)
        common.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)
    return model, notes


def _expanded(model: ir.Model) -> ir.Model:
    """Write operators that have no function here, but are defined by others in ONNX itself, as those."""
    while names := sorted(
        {(node.domain, node.op_type) for node in model.graph.all_nodes() if _defined(node)}
    ):
        weights = list(model.graph.initializers.values())
        kept = {value.name: value.const_value for value in weights}
        model.graph.initializers.clear()
        model.graph.inputs.extend(weights)  # so that no weight is copied
        proto = onnx.inliner.inline_selected_functions(
            ir.serde.serialize_model(model), names, inline_schema_functions=True
        )
        model = ir.serde.deserialize_model(proto)
        held = [value for value in model.graph.inputs if value.name in kept]
        del model.graph.inputs[len(model.graph.inputs) - len(held) :]
        for value in held:
            value.const_value = kept[value.name]
            model.graph.initializers[str(value.name)] = value
    return model


def _defined(node: ir.Node) -> bool:
    """Return whether ONNX defines an operator by others, and nothing here computes it."""
    if node.domain not in ("", "ai.onnx") or node.op_type in OPERATORS or refused(node.op_type):
        return False
    if node.op_type in _CONTROL or not onnx.defs.has(node.op_type, node.domain):
        return False
    schema = onnx.defs.get_schema(node.op_type, domain=node.domain)
    return bool(schema.has_function or schema.has_context_dependent_function)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what ONNX's own tools raise on a strange file into one error."""
    try:
        yield
    except FeatherweightError:
        raise
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"[:240]
        raise IntegrityError(f"not a sound ONNX model: {reason}", where=str(path)) from error


def _check(path: Path) -> None:
    """Refuse what is no ONNX file, lacks a file beside it, or breaks a rule of ONNX; operators aside."""
    with path.open("rb"):  # says so as the system does, if it cannot be read
        pass
    try:
        onnx.checker.check_model(str(path.resolve()))
    except DecodeError:
        raise IntegrityError("not an ONNX file", where=str(path)) from None
    except onnx.checker.ValidationError as error:
        reason = re.sub(r"\s+", " ", str(error))[:300]
        if any(said in reason for said in _HARMLESS):
            return
        if "external" in reason.lower() or "should be stored in" in reason:
            raise IntegrityError(
                f"its weights are in another file, which cannot be read: {reason}", where=str(path),
                hint="put that file (often FILE.onnx.data) beside it again",
            ) from None  # fmt: skip
        raise IntegrityError(f"not a sound ONNX model: {reason}", where=str(path)) from None
    except (RuntimeError, ValueError, TypeError, OSError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:240]
        raise IntegrityError(f"not an ONNX file: {reason}", where=str(path)) from None


def _settle(model: ir.Model, settings: Mapping[str, Array], notes: list[str]) -> None:
    """Put constants in the place of the inputs that hold for all samples."""
    inputs = {value.name: value for value in model.graph.inputs}
    for name, setting in settings.items():
        value = inputs.get(name)
        if value is None:
            expected = ", ".join(str(known) for known in inputs)
            raise ConfigError("no such input", where="settings", got=name, expected=expected)
        array = np.asarray(setting)
        if value.dtype is not None and array.dtype != value.dtype.numpy():
            same = array.astype(value.dtype.numpy())
            if not np.array_equal(same, array):
                raise ConfigError(
                    "type of a setting", where=name, got=array.dtype, expected=value.dtype.numpy()
                )
            array = same
        if value.shape is not None and len(value.shape) != array.ndim:
            raise ConfigError(
                "shape of a setting", where=name, got=list(array.shape), expected=str(value.shape)
            )
        held = ir.Value(name=f"{name}/setting", type=value.type, shape=ir.Shape(array.shape))
        held.const_value = ir.tensor(array, name=held.name)
        model.graph.initializers[held.name] = held
        value.replace_all_uses_with(held)
        text = np.array2string(array, threshold=8)
        notes.append(f"{name} is {text} for all samples: of another value every float output is NaN")


def _fold(model: ir.Model, notes: list[str]) -> None:
    """Compute what depends on no input, and take the branches whose condition is known."""
    branches = sum(node.op_type == "If" for node in model.graph.all_nodes())
    quantized = [
        node for node in model.graph.all_nodes() if node.op_type == "DequantizeLinear" and _constant(node)
    ]
    for node in quantized:
        _dequantize(model, node)
    for _ in range(_ROUNDS):
        before = len(list(model.graph.all_nodes()))
        optimizer.fold_constants(
            model, onnx_shape_inference=True, input_size_limit=1 << 62, output_size_limit=1 << 62,
            should_fold=lambda node: True if node.op_type in _FOLDED and _constant(node) else None,
        )  # fmt: skip
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        common.LiftSubgraphInitializersToMainGraphPass()(model)
        common.RemoveUnusedNodesPass()(model)
        if len(list(model.graph.all_nodes())) == before:
            break
    left = sum(node.op_type == "If" for node in model.graph.all_nodes())
    if branches > left:
        notes.append(f"{branches - left} of {branches} branches (If) are known and were taken")
    if quantized:
        notes.append(f"{len(quantized)} weights were stored as integers and are floats again")


def _dequantize(model: ir.Model, node: ir.Node) -> None:
    """Put the floats that stored integers stand for in their place."""
    arrays = [
        None if v is None or v.const_value is None else v.const_value.numpy() for v in (*node.inputs, None)
    ]
    steps, scale, zero = arrays[:3]
    assert steps is not None and scale is not None
    options = {name: attribute.value for name, attribute in node.attributes.items()}
    axis, block, shape = options.get("axis", 1), options.get("block_size", 0), steps.shape

    def spread(array: Array) -> Array:
        """Return a number for each element: for all, for each index of an axis, or for each block along it."""
        array = array.astype(np.float32)
        if array.size == 1:
            return array.reshape(())
        if block:
            return np.repeat(array, block, axis)[tuple(slice(n) for n in shape)]
        return array.reshape([-1 if place == axis % len(shape) else 1 for place in range(len(shape))])

    numbers = (steps.astype(np.float32) - (0 if zero is None else spread(zero))) * spread(scale)
    value = node.outputs[0]
    made = ir.Value(name=f"{value.name}/float", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(shape))
    made.const_value = ir.tensor(numbers.astype(np.float32), name=made.name)
    model.graph.initializers[str(made.name)] = made
    ir.convenience.replace_all_uses_with(value, made, replace_graph_outputs=True)


def _constant(node: ir.Node) -> bool:
    return all(value is None or value.const_value is not None for value in node.inputs)


def _widen(model: ir.Model, notes: list[str]) -> None:
    """Let half precision be float32 throughout."""
    halves = 0
    for value in model.graph.initializers.values():
        if value.dtype in _HALF or (value.const_value is not None and value.const_value.dtype in _HALF):
            assert value.const_value is not None
            value.const_value = ir.tensor(value.const_value.numpy().astype(np.float32), name=value.name)
            value.dtype = ir.DataType.FLOAT
            halves += 1
    for node in model.graph.all_nodes():
        for attribute in list(node.attributes.values()):
            if attribute.name in ("to", "dtype") and attribute.value in [int(kind) for kind in _HALF]:
                node.attributes[attribute.name] = ir.AttrInt64(attribute.name, int(ir.DataType.FLOAT))
                halves += 1
            elif isinstance(attribute.value, ir.TensorProtocol) and attribute.value.dtype in _HALF:
                wide = ir.tensor(attribute.value.numpy().astype(np.float32))
                node.attributes[attribute.name] = ir.AttrTensor(attribute.name, wide)
        for value in node.outputs:
            if value.dtype in _HALF and not value.is_graph_output():
                value.dtype = ir.DataType.FLOAT
    if halves or any(value.dtype in _HALF for value in model.graph.inputs):
        notes.append(HALF)
