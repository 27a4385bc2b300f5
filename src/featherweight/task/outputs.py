"""What networks return: scores of classes or values, and how near two answers of either kind are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from functools import reduce
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
    tensors = all_tensors(output)
    single = len(tensors) == 1 and tensors[0].is_floating_point()
    scores = single and tensors[0].ndim == 2 and tensors[0].shape[1] > 1
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


def scores_of(task: Any, output: Output) -> Tensor:
    """Return the scores `[n, classes, ...]` of what a task's network returned, in nats.

    The classes stand along axis 1, or where the task says so by an attribute `axis`. Probabilities become their
    logarithms, which are scores of the same softmax.
    """
    found = logits(output)
    axis = getattr(task, "axis", 1)
    if not -found.ndim <= axis < found.ndim:
        raise TaskError(
            "no such axis of scores", where="axis", got=axis, expected=f"one of {tuple(found.shape)}"
        )
    found = found.movedim(axis, 1)
    return found.clamp_min(torch.finfo(found.dtype).tiny).log() if are_probabilities(found, 1) else found


def are_probabilities(found: Tensor, axis: int) -> bool:
    """Return whether numbers are of a softmax along an axis of two or more: none negative, sums of 1."""
    if not found.is_floating_point() or found.ndim < 2 or found.shape[axis] < 2 or not found.numel():
        return False
    sums = found.float().sum(axis)
    return bool((found >= 0).all()) and bool(((sums - 1).abs() < 1e-3).all())


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
    floats = [tensor for tensor in all_tensors(output) if tensor.is_floating_point()]
    if not floats:
        got, expected = type(output).__name__, "what the network returns"
        raise TaskError("no floating-point tensor", got=got, expected=expected)
    return floats


def all_tensors(output: Output) -> list[Tensor]:
    """Return the tensors of any nesting, in order, arrays as tensors."""
    return [torch.as_tensor(leaf) for leaf in leaves(plain(output)) if hasattr(leaf, "__array__")]


def plain(output: Output) -> Output:
    """Return the fields of a dataclass, and anything else as it is."""
    return vars(output) if is_dataclass(output) and not isinstance(output, Mapping | tuple) else output


def paired(output: Output, answer: Output, *, integers: bool = False) -> list[tuple[Tensor, Tensor]]:
    """Return the floating-point tensors of two outputs of one network side by side, or all of them."""
    ours, theirs = map(all_tensors if integers else tensors_of, (output, answer))
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
        flat = theirs.transpose(0, 1).flatten(1)
        variance, power, whole = flat.var(1, correction=0), flat.square().mean(1), flat.var(correction=0)
        errors.append((squared / scale_of(variance, power, whole)).mean())
    return torch.stack(errors).mean()


@dataclass(frozen=True)
class Spread:
    """How far the numbers of each channel are from one another, so that it can be joined from parts.

    References: Chan, Golub, LeVeque, Updating formulae and a pairwise algorithm for computing sample variances, 1979.

    Attributes:
        count: numbers of each channel.
        mean: of each channel, `[c]`.
        squares: sums of the squared distances from the mean, `[c]`.
    """

    count: int
    mean: Tensor
    squares: Tensor

    @classmethod
    def of(cls, values: Tensor) -> Spread:
        """Return that of `values: [n, c, places]`."""
        mean = values.mean((0, 2))
        return cls(len(values) * values.shape[2], mean, (values - mean[:, None]).square_().sum((0, 2)))

    @classmethod
    def joined(cls, parts: Sequence[Spread]) -> Spread:
        """Return that of all numbers of parts of as many channels."""
        return reduce(_merged, parts)

    def over_channels(self) -> Spread:
        """Return that of all numbers, in one channel."""
        mean = self.mean.mean(0, keepdim=True)
        between = self.count * (self.mean - mean).square().sum()
        return Spread(self.count * len(self.mean), mean, self.squares.sum(0, keepdim=True) + between)

    def scale(self) -> Tensor:
        """Return what squared errors in each channel are compared with, `[c]`: see `scale_of`."""
        variance, every = self.squares / self.count, self.over_channels()
        return scale_of(variance, variance + self.mean.square(), every.squares / every.count)


def scale_of(variance: Tensor, power: Tensor, whole: Tensor) -> Tensor:
    """Return what squared errors in each channel are compared with: its `variance`, `[c]`, never 0.

    A channel that hardly varies is compared with a ten-thousandth of its mean square, its `power`; one that is 0, with
    a millionth of the variance of all channels, the `whole`.
    """
    least = torch.where(power > 1e-12 * power.max(), 1e-4 * power, 1e-6 * whole)
    return torch.maximum(variance, least).clamp_min(torch.finfo(variance.dtype).tiny)


def _merged(a: Spread, b: Spread) -> Spread:
    count, apart = a.count + b.count, b.mean - a.mean
    mean = a.mean + apart * (b.count / count)
    return Spread(count, mean, a.squares + b.squares + apart.square() * (a.count * b.count / count))
