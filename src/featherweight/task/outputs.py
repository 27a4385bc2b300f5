"""What networks return: scores of classes or values, and how near two answers of either kind are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from featherweight.errors import TaskError
from featherweight.task.protocol import Output
from featherweight.task.samples import leaves

Outputs = Literal["classes", "values"]


def outputs_of(task: Any, output: Output) -> Outputs:
    """Return whether the outputs of a task's network are scores of classes, or values.

    A task says so by an attribute `outputs`. Of another one, a single tensor `[n, classes]` of two classes or
    more (or the `logits` of a dict) has scores, and everything else has values.
    """
    said: Outputs | None = getattr(task, "outputs", None)
    if said is not None:
        return said
    if isinstance(output, Mapping) and "logits" in output:
        output = output["logits"]
    tensors = tensors_of(output)
    scores = len(tensors) == 1 and tensors[0].ndim == 2 and tensors[0].shape[1] > 1
    return "classes" if scores else "values"


def logits(output: Output) -> Tensor:
    """Return the scores `[n, classes, ...]` of what a network returned."""
    found = main_output(output)
    if found is None or found.ndim < 2:
        raise TaskError(
            "not scores of classes", got=described(output if found is None else found),
            expected="a tensor [n, classes], alone, first in a tuple, or `logits` of a dict",
        )  # fmt: skip
    return found


def main_output(output: Output) -> Tensor | None:
    """Return the tensor that counts: alone, first in a tuple, `logits` or the only entry of a dict; None without one.

    A dataclass and a named tuple are as a dict: runtimes return them as one.
    """
    if isinstance(output, tuple) and hasattr(output, "_asdict"):
        output = output._asdict()
    output = plain(output)
    if isinstance(output, Mapping):
        output = output.get("logits", next(iter(output.values())) if len(output) == 1 else None)
    elif isinstance(output, tuple | list) and output:
        output = output[0]
    if not isinstance(output, Tensor) and hasattr(output, "__array__"):
        output = torch.as_tensor(output)
    return output if isinstance(output, Tensor) else None


def described(output: Output) -> str:
    """Return what an output is, for a message."""
    if isinstance(output, Tensor):
        return f"shape {tuple(output.shape)}"
    names = getattr(output, "_fields", output if isinstance(output, Mapping) else None)
    if names is not None:
        return f"a {'dict' if isinstance(output, Mapping) else 'named tuple'} of {', '.join(map(str, names))}"
    return type(output).__name__


def tensors_of(output: Output) -> list[Tensor]:
    """Return the floating-point tensors of any nesting, in order."""
    arrays = [leaf for leaf in leaves(plain(output)) if hasattr(leaf, "__array__")]
    floats = [tensor for tensor in map(torch.as_tensor, arrays) if tensor.is_floating_point()]
    if not floats:
        got, expected = type(output).__name__, "what the network returns"
        raise TaskError("no floating-point tensor", got=got, expected=expected)
    return floats


def plain(output: Output) -> Output:
    """Return the fields of a dataclass, and anything else as it is."""
    return vars(output) if is_dataclass(output) and not isinstance(output, Mapping | tuple) else output


def paired(output: Output, answer: Output) -> list[tuple[Tensor, Tensor]]:
    """Return the tensors of two outputs of one network side by side."""
    ours, theirs = tensors_of(output), tensors_of(answer)
    shapes = [[tuple(tensor.shape) for tensor in side] for side in (ours, theirs)]
    if shapes[0] != shapes[1]:
        raise TaskError("outputs are not of the shapes of the answers", got=shapes[0], expected=shapes[1])
    return list(zip(ours, theirs, strict=True))


def by_channel(values: Tensor) -> Tensor:
    """Return values `[n, c, ...]` as `[n, c, places]`, and `[n]` as `[n, 1, 1]`."""
    return values.reshape(len(values), values.shape[1] if values.ndim > 1 else 1, -1)


def distance(output: Output, answer: Output) -> Tensor:
    """Return the mean squared error over the variance of the answers, the mean over channels and tensors."""
    errors = []
    for ours, theirs in paired(output, answer):
        ours, theirs = by_channel(ours.float()), by_channel(theirs.float())
        squared = (ours - theirs).square().mean((0, 2))
        errors.append((squared / spread(theirs.transpose(0, 1).flatten(1))).mean())
    return torch.stack(errors).mean()


def spread(flat: Tensor) -> Tensor:
    """Return what squared errors in each channel of `[c, numbers]` are compared with: its variance, `[c]`, never 0.

    A channel that hardly varies is compared with a ten-thousandth of its mean square; one that is 0, with a
    millionth of the variance of all channels.
    """
    power = flat.square().mean(1)
    least = torch.where(power > 1e-12 * power.max(), 1e-4 * power, 1e-6 * flat.var(correction=0))
    return torch.maximum(flat.var(1, correction=0), least).clamp_min(torch.finfo(flat.dtype).tiny)
