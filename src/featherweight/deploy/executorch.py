"""ExecuTorch programs (`.pte`) whose work XNNPACK does, run by ExecuTorch's own runtime and compared."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import onnx

from featherweight.deploy.base import Array, Made, Run
from featherweight.deploy.check import bound_of, compare, made_up, reference
from featherweight.engines import refusals
from featherweight.errors import MissingExtraError, UnsupportedError

TITLE = "ExecuTorch"


def make_executorch(model: onnx.ModelProto, sizes: Mapping[str, int]) -> Made:
    """Return a graph as an ExecuTorch program that ran in ExecuTorch.

    A layer between integers has integer weights; others have float ones, for XNNPACK has no product of both.

    Args:
        model: a complete graph, float or in integers of 8 bits.
        sizes: of free axes by name; the first axis of an input is 1 without.

    Raises:
        MissingExtraError: ExecuTorch or torch is not installed.
        UnsupportedError: an operator that cannot be said in torch, or that its runtime does not have; or it computes
            otherwise.
    """
    sizes = fixed(model, sizes)
    inputs = made_up(model, sizes)
    content, floats, left = lowered(model, list(inputs.values()))
    names = [value.name for value in model.graph.output]
    run, expected = opened_executorch(content), reference(model, inputs)
    got = run(list(inputs.values()))
    apart = compare(TITLE, names, [expected[n] for n in names], got, bound_of(model, inputs, expected))
    said = f"outputs {apart:.1e} from ONNX Runtime"
    if left:
        said += f"; outside XNNPACK: {', '.join(left)}"
    return Made({".pte": content}, floats, said, run)


def fixed(model: onnx.ModelProto, sizes: Mapping[str, int]) -> dict[str, int]:
    """Return the size of every free axis: 1 for the first of an input, else as given.

    Raises:
        UnsupportedError: an axis has no size.
    """
    found = dict(sizes)
    for value in model.graph.input:
        for axis, n in enumerate(value.type.tensor_type.shape.dim):
            if n.dim_param and n.dim_param not in found:
                if axis:
                    hint = f"--size {n.dim_param}=N"
                    where = f"input {value.name}"
                    raise UnsupportedError(
                        "an ExecuTorch program has fixed sizes", where=where, got=n.dim_param, hint=hint
                    )
                found[n.dim_param] = 1
    return found


def lowered(model: onnx.ModelProto, inputs: Sequence[Array]) -> tuple[bytes, dict[str, str], list[str]]:
    """Return a program, its layers in float with the reason, and the operators that XNNPACK leaves to others."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import torch
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import to_edge_transform_and_lower
        except ModuleNotFoundError as error:
            hint = "pip install 'featherweight[compress,executorch]'"
            raise MissingExtraError(f"not installed: {error.name}", where=TITLE, hint=hint) from error
        from featherweight.deploy.torch_program import OnnxProgram

        module = OnnxProgram(model).eval()
        with refusals(f"{TITLE} cannot say the graph"), torch.no_grad():
            traced = torch.export.export(module, tuple(map(torch.from_numpy, inputs)))
            edge = to_edge_transform_and_lower(traced, partitioner=[XnnpackPartitioner()])
            called = {
                getattr(node.target, "__name__", str(node.target))
                for node in edge.exported_program().graph.nodes
                if node.op == "call_function"
            }
            left = sorted(name for name in called if "delegate" not in name and "getitem" not in name)
            return bytes(edge.to_executorch().buffer), module.floats, left


def opened_executorch(content: bytes) -> Run:
    """Return what a program computes of its inputs, in order, on one thread."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch
        from executorch.extension.pybindings import portable_lib
        from executorch.runtime import Runtime

        portable_lib._unsafe_reset_threadpool(1)
        with refusals(f"{TITLE} cannot open the program"):
            program = Runtime.get().load_program(content)
            method = program.load_method("forward")

    def run(inputs: Sequence[Array]) -> list[Array]:
        with refusals(f"{TITLE} stopped"):
            return [out.detach().numpy() for out in method.execute([torch.from_numpy(a) for a in inputs])]

    run.__dict__["program"] = program  # lives as long as what it runs
    return run
