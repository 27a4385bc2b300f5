"""Gauss-Newton and Fisher: of pairs of channels, of each parameter, and within runs of neighbouring weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import isfinite
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from featherweight.curvature.hvp import Values, check, differentiating, gradients, outputs, parameters
from featherweight.errors import UnsupportedError
from featherweight.formats.view import Array
from featherweight.graph.channels import Channels, Member
from featherweight.model import Model
from featherweight.structure import to_call
from featherweight.task import Batch, Output, Task, call
from featherweight.task.samples import size_of
from featherweight.task.sampling import singly

Place = tuple[str, bool]  # path of a layer, and whether its input is meant, not its output

OUTPUTS = 4096  # a sample's Hessian in them takes 128 MiB
TOGETHER = 16  # gradients that are multiplied at once
AT_ONCE = 1 << 12  # blocks that are inverted at once


def pair_matrix(
    model: Model, task: Task, batches: Iterable[Batch], channels: Channels, draws: int | None = None, seed: int = 0
) -> Array:  # fmt: skip
    """Return `Q[s, t] = mean over samples of (Phi theta_s)' R (Phi theta_t)`, `[channels, channels]`.

    `Phi` is the Jacobian of a sample's outputs, `R` the Hessian of its loss in them, `theta_s` the parameters that
    make channel s. Scaling `theta_s` scales outputs of layers, so that `Phi theta_s` is the derivative by factors
    on these outputs, which exist for each sample: one backward pass a batch and output.

    Args:
        model: the network.
        task: whose loss, a mean over the samples of a batch.
        batches: the data.
        channels: those that can go.
        draws: backward passes a batch, each along a random root of R, the same in expectation; None: all outputs.
        seed: of the draws.

    References: Nonnenmacher et al., SOSP, 2022, arXiv 2110.11395, section 3 (SOSP-I).
    """
    generator = torch.Generator().manual_seed(seed)
    total = np.zeros((channels.count, channels.count))
    samples = 0
    for number, batch in enumerate(batches):
        with differentiating():
            output, gates = _gated(model, task, batch, channels)
            hessian = output_hessian(task, output, batch)
            check([hessian], task, number, batch)
            roots = _roots(hessian)
            if draws:
                signs = torch.randint(0, 2, (len(roots), draws, roots.shape[1]), generator=generator)
                roots = (2 * signs - 1).double() @ roots
            flat, rows = flat_output(output), []
            for root in roots.unbind(1):
                along = (flat.double() * root).sum()
                rows.append(_gathered(channels, along, gates, len(flat), retain_graph=True))
        derivatives = torch.stack(rows, 1)  # a' Phi theta_s of each sample and root a
        check([derivatives], task, number, batch)
        matrix = derivatives.reshape(-1, channels.count).numpy()
        total += matrix.T @ matrix / (draws or 1)
        samples += len(derivatives)
    return total / samples


def gate_gradients(
    model: Model, task: Task, batches: Iterable[Batch], channels: Channels
) -> Iterator[Tensor]:
    """Yield the derivative of each sample's loss by a factor on each channel, float64 `[n, channels]` of each batch.

    The task's loss is a mean over the samples of a batch.

    Raises:
        TaskError: a derivative holds NaN or infinity; names the batch.
    """
    for number, batch in enumerate(batches):
        with differentiating():
            output, gates = _gated(model, task, batch, channels)
            samples = size_of(task.inputs(batch))
            derivatives = _gathered(channels, task.loss(output, batch) * samples, gates, samples)
        check([derivatives], task, number, batch)
        yield derivatives


def _gated(model: Model, task: Task, batch: Batch, channels: Channels) -> tuple[Output, dict[Place, Tensor]]:
    """Return the network's output, and factors of one on each sample's channels, where layers make or read them."""
    module, gates = to_call(model.module), dict[Place, Tensor]()

    def scaled(place: Place, layer: nn.Module, value: Tensor) -> Tensor:
        axis = value.dim() - 1 if isinstance(layer, nn.Linear | nn.Embedding) else 1
        sizes = [value.shape[0], *(value.shape[a] if a == axis else 1 for a in range(1, value.dim()))]
        gate = gates.setdefault(place, torch.ones(sizes, dtype=value.dtype, requires_grad=True))
        if list(gate.shape) != sizes:
            raise UnsupportedError("is called with inputs of several shapes", where=place[0])
        return value * gate

    def before(place: Place, layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return scaled(place, layer, inputs[0]), *inputs[1:]

    def after(place: Place, layer: nn.Module, _: Any, out: Tensor) -> Tensor:
        return scaled(place, layer, out)

    for place in dict.fromkeys(_place(member) for member, _ in _scaled(channels)):
        layer = module.get_submodule(place[0])
        if place[1]:
            layer.register_forward_pre_hook(partial(before, place))
        else:
            layer.register_forward_hook(partial(after, place))
    return call(module, task.inputs(batch)), gates


def _place(member: Member) -> Place:
    return member.tensor.rpartition(".")[0], member.reads


def _roots(hessian: Tensor) -> Tensor:
    """Return rows a of each matrix of `[n, k, k]` with `sum of a a'` equal to it; what is negative counts as zero."""
    values, vectors = torch.linalg.eigh(hessian)
    found: Tensor = (vectors * values.clamp(min=0).sqrt()[:, None]).mT
    return found


def _scaled(channels: Channels) -> list[tuple[Member, int]]:
    """Members whose layers' outputs, or inputs, scale with a channel, one a layer, and the number of their group."""
    return [
        (member, number)
        for number, group in enumerate(channels.groups)
        for member in group.makers
        if member.tensor.endswith(".weight")
    ]


def _gathered(
    channels: Channels, value: Tensor, gates: dict[Place, Tensor], samples: int, *, retain_graph: bool = False
) -> Tensor:
    """The derivatives of a sum over samples by factors, summed over the places of each channel: `[n, channels]`."""
    parts = [torch.zeros(samples, group.size, dtype=torch.float64) for group in channels.groups]
    found = torch.autograd.grad(value, list(gates.values()), retain_graph=retain_graph, allow_unused=True)
    by_place: dict[Place, Tensor | None] = dict(zip(gates, found, strict=True))
    for member, number in _scaled(channels):
        gradient = by_place.get(_place(member))
        if gradient is not None:
            if len(gradient) != samples:
                raise UnsupportedError("its first axis is not the sample", where=member.tensor)
            parts[number] += gradient.double().reshape(samples, -1)[:, torch.from_numpy(member.index)].sum(-1)
    return torch.cat(parts, 1)


def flat_output(output: Output) -> Tensor:
    """Return the network's output as `[n, outputs]`.

    Raises:
        UnsupportedError: it is not one tensor.
    """
    if not isinstance(output, Tensor) or output.dim() < 1:
        what, got = "Gauss-Newton needs a network that returns one tensor", type(output).__name__
        raise UnsupportedError(what, got=got, hint="use taylor or sosp_h")
    return output.flatten(1) if output.dim() > 1 else output[:, None]


def output_hessian(task: Task, output: Output, batch: Batch) -> Tensor:
    """Return the Hessian of each sample's loss in its outputs `[n, outputs, outputs]`, in float64.

    The loss is a mean over samples, each of its own outputs. For cross-entropy this is `diag(p) - p p'`. The output is
    of whatever shape the loss takes, the samples first.

    Raises:
        UnsupportedError: the output is not one tensor, or too large for such a matrix.
    """
    count = flat_output(output).shape[1]
    if count > OUTPUTS:
        raise UnsupportedError(
            "too many outputs for a Hessian in them", where=task.name, got=f"{count} a sample",
            expected=f"at most {OUTPUTS}", hint="use taylor, fisher or sosp_h",
        )  # fmt: skip
    assert isinstance(output, Tensor), "it is flat"
    leaf = output.detach().double().requires_grad_()
    loss = task.loss(leaf, batch) * len(leaf)
    (first,) = torch.autograd.grad(loss, leaf, create_graph=True)
    if not first.requires_grad:
        return torch.zeros(len(leaf), count, count, dtype=torch.float64)
    columns = first.reshape(len(leaf), -1).unbind(1)
    rows = [torch.autograd.grad(c.sum(), leaf, retain_graph=True)[0].reshape(len(leaf), -1) for c in columns]
    return torch.stack(rows, 1).reshape(len(leaf), count, count)


def fisher_diagonal(model: Model, task: Task, batches: Iterable[Batch]) -> Values:
    """Return the mean over samples of the squared gradient of each one's loss (the empirical Fisher)."""
    total: Values = {}
    count = 0
    for gradient, _ in gradients(model, task, batches, each=True):
        _add_squares(total, gradient)
        count += 1
    return {name: value / count for name, value in total.items()}


def gauss_newton_diagonal(model: Model, task: Task, batches: Iterable[Batch]) -> Values:
    """Return the diagonal of the mean over samples of `Phi' R Phi`, never negative.

    `Phi` is the Jacobian of a sample's outputs, `R` the Hessian of its loss in them. One backward pass a sample and
    output. Without the terms of second derivatives of the network, this is the recursion of Optimal Brain Damage.

    References: LeCun, Denker, Solla, Optimal brain damage, 1989, eq. 10 without its second term.
    """
    total: Values = {}
    count, module = 0, to_call(model.module)
    for number, batch in enumerate(batches):
        for sample in singly(task, batch):
            with differentiating():
                values = parameters(model)
                output = outputs(module, values, task.inputs(sample))
                hessian = output_hessian(task, output, sample)
                check([hessian], task, number, batch)
                roots = _roots(hessian)[0]
                lengths = roots.square().sum(1)
                leaves = list(values.values())
                for weights in roots[lengths > lengths.max() * 1e-12]:
                    along = (flat_output(output)[0] * weights).sum()
                    found = torch.autograd.grad(along, leaves, retain_graph=True, allow_unused=True)
                    _add_squares(total, {n: g for n, g in zip(values, found, strict=True) if g is not None})
            count += 1
    return {name: value / count for name, value in total.items()}


def _add_squares(total: Values, gradient: Values) -> None:
    for name, value in gradient.items():
        total[name] = total.get(name, 0) + value.detach().square()


@dataclass(frozen=True, eq=False)
class Blocks:
    """The curvature of a weight of `n` numbers, as its matrix `[rows, cols]` has them, in runs of b.

    Attributes:
        curvature: positive definite, float32 `[runs, b, b]`; of what fills up the last run, zero.
        damping: added to its diagonal.
    """

    curvature: Tensor
    damping: float

    def lost(self, weight: Array) -> Array:
        """Return `w^2 / (2 [F^-1]_qq)`: the loss of removing each weight when its run compensates; of zeros 0.

        Weights that are zero stay zero: they compensate nothing.
        """
        found = []
        for values, curvature in self._runs(weight):
            inverse = torch.linalg.inv(held(curvature, values != 0))
            found.append(values.square() / (2 * inverse.diagonal(dim1=1, dim2=2)))
        return _matrix(found, weight)

    def without(self, weight: Array, gone: Array) -> Array:
        """Return the weight with zeros where `gone: [rows, cols]` is true, and the rest of each run moved.

        With Q what goes and R what stays and is not zero, R becomes `w_R + [F_RR]^-1 F_RQ w_Q`, of all changes the one
        of least `d' F d / 2`: optimal brain surgery of all of Q at once.
        """
        found = []
        out = next_of(gone, self.curvature.shape[1])
        for values, curvature in self._runs(weight):
            goes = next(out)
            stays = (values != 0) & ~goes
            pull = torch.einsum("nij,nj->ni", curvature, values * goes) * stays
            moved = torch.linalg.solve(held(curvature, stays), pull)
            found.append(torch.where(goes, 0, values + moved))
        return _matrix(found, weight).astype(weight.dtype)

    def _runs(self, weight: Array) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield some runs of the weight, and their damped curvature, in double precision."""
        runs, width, _ = self.curvature.shape
        shift = self.damping * torch.eye(width, dtype=torch.float64)
        values = next_of(weight, width)
        for start in range(0, runs, AT_ONCE):
            yield next(values).double(), self.curvature[start : start + AT_ONCE].double() + shift


def next_of(matrix: Array, width: int) -> Iterator[Tensor]:
    """Yield the numbers of a matrix in runs, zeros at the end, `AT_ONCE` runs at a time: `[runs, width]`."""
    flat = np.zeros(-(-matrix.size // width) * width, matrix.dtype)
    flat[: matrix.size] = matrix.reshape(-1)
    yield from torch.split(torch.from_numpy(flat.reshape(-1, width)), AT_ONCE)


def held(curvature: Tensor, free: Tensor) -> Tensor:
    """Return `curvature: [runs, b, b]` with the identity in rows and columns that are not `free: [runs, b]`."""
    both = free[:, :, None] & free[:, None, :]
    return torch.where(both, curvature, torch.eye(curvature.shape[1], dtype=curvature.dtype))


def _matrix(runs: Sequence[Tensor], like: Array) -> Array:
    whole: Array = torch.cat(list(runs)).numpy().reshape(-1)[: like.size].reshape(like.shape)
    return whole


def fisher_blocks(
    model: Model, task: Task, batches: Iterable[Batch], names: Sequence[str], *, width: int, damping: float
) -> dict[str, Blocks]:
    """Return the mean over samples of `g g'`, g the gradient of a sample's loss, within runs of `width` weights.

    Memory is `width` numbers a weight.

    Args:
        model: the network, in eval mode.
        task: whose loss.
        batches: the samples.
        names: parameters.
        width: of a run.
        damping: times the mean diagonal of the tensor.

    Raises:
        TaskError: a gradient holds NaN or infinity; names the batch.
        UnsupportedError: sums of their squares do; names the parameter.
    """
    layout = model.views
    sums: dict[str, Tensor] = {}
    waiting: dict[str, list[Tensor]] = {name: [] for name in names}
    count = 0

    def multiply() -> None:
        for name, runs in waiting.items():
            if runs:
                g = torch.stack(runs, dim=1)
                sums[name] = sums.get(name, torch.zeros(())) + g.transpose(1, 2) @ g
                runs.clear()

    for gradient, _ in gradients(model, task, batches, each=True):
        for name in names:
            matrix = layout[name].matrix(gradient[name].float().numpy())
            waiting[name].append(torch.cat(list(next_of(matrix, width))))
        count += 1
        if count % TOGETHER == 0:
            multiply()
    multiply()
    found = {}
    for name, total in sums.items():
        mean = total / count
        diagonal = float(mean.diagonal(dim1=1, dim2=2).sum()) / max(layout[name].size, 1)
        if not isfinite(diagonal):
            raise UnsupportedError("squares of its gradients exceed float32", where=name)
        found[name] = Blocks(mean, damping * diagonal if diagonal > 0 else 1.0)
    return found
