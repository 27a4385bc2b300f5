"""Gauss-Newton and Fisher: of pairs of channels, what removing both costs; of each parameter, the diagonal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from featherweight.curvature.hvp import Values, check, differentiating, gradients, outputs, parameters
from featherweight.errors import UnsupportedError
from featherweight.graph.channels import Channels, Member
from featherweight.model import Model
from featherweight.structure import to_call
from featherweight.task import Batch, Output, Task, call
from featherweight.task.samples import size_of
from featherweight.task.sampling import singly

Array = NDArray[Any]
OUTPUTS = 4096  # a sample's Hessian in them takes 128 MiB


def pair_matrix(
    model: Model,
    task: Task,
    batches: Iterable[Batch],
    channels: Channels,
    draws: int | None = None,
    seed: int = 0,
) -> Array:
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
            for along in roots.unbind(1):
                found = torch.autograd.grad(
                    (flat.double() * along).sum(), list(gates.values()), retain_graph=True, allow_unused=True
                )
                rows.append(_gathered(channels, dict(zip(gates, found, strict=True)), len(flat)))
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

    Args:
        model: the network.
        task: whose loss, a mean over the samples of a batch.
        batches: the data.
        channels: those that can go.

    Raises:
        TaskError: a derivative holds NaN or infinity; names the batch.
    """
    for number, batch in enumerate(batches):
        with differentiating():
            output, gates = _gated(model, task, batch, channels)
            samples = size_of(task.inputs(batch))
            loss = task.loss(output, batch) * samples
            found = torch.autograd.grad(loss, list(gates.values()), allow_unused=True)
        derivatives = _gathered(channels, dict(zip(gates, found, strict=True)), samples)
        check([derivatives], task, number, batch)
        yield derivatives


def _gated(model: Model, task: Task, batch: Batch, channels: Channels) -> tuple[Output, dict[str, Tensor]]:
    """Return the network's output, and factors of one on each sample's output of the layers that make channels."""
    module, gates = to_call(model.module), dict[str, Tensor]()

    def scale(path: str, layer: nn.Module, _: Any, out: Tensor) -> Tensor:
        axis = out.dim() - 1 if isinstance(layer, nn.Linear | nn.Embedding) else 1
        sizes = [out.shape[0], *(out.shape[a] if a == axis else 1 for a in range(1, out.dim()))]
        gate = gates.setdefault(path, torch.ones(sizes, dtype=out.dtype, requires_grad=True))
        if list(gate.shape) != sizes:
            raise UnsupportedError("is called with inputs of several shapes", where=path)
        return out * gate

    for path in dict.fromkeys(member.tensor.rpartition(".")[0] for member, _ in _scaled(channels)):
        module.get_submodule(path).register_forward_hook(partial(scale, path))
    return call(module, task.inputs(batch)), gates


def _roots(hessian: Tensor) -> Tensor:
    """Return rows a of each matrix of `[n, k, k]` with `sum of a a'` equal to it; what is negative counts as zero."""
    values, vectors = torch.linalg.eigh(hessian)
    found: Tensor = (vectors * values.clamp(min=0).sqrt()[:, None]).mT
    return found


def _scaled(channels: Channels) -> list[tuple[Member, int]]:
    """Members whose layers' outputs scale with a channel, one a layer, and the number of their group."""
    return [
        (member, number)
        for number, group in enumerate(channels.groups)
        for member in group.makers
        if member.tensor.endswith(".weight")
    ]


def _gathered(channels: Channels, found: dict[str, Tensor | None], samples: int) -> Tensor:
    """Sum the derivatives by factors over the places of each channel: `[n, channels]`."""
    parts = [torch.zeros(samples, group.size, dtype=torch.float64) for group in channels.groups]
    for member, number in _scaled(channels):
        gradient = found.get(member.tensor.rpartition(".")[0])
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
        raise UnsupportedError(
            "Gauss-Newton needs a network that returns one tensor",
            got=type(output).__name__,
            hint="use taylor or sosp_h",
        )
    return output.flatten(1) if output.dim() > 1 else output[:, None]


def output_hessian(task: Task, output: Output, batch: Batch) -> Tensor:
    """Return the Hessian of each sample's loss in its outputs `[n, outputs, outputs]`, in float64.

    The loss is a mean over samples, each of its own outputs. For cross-entropy this is `diag(p) - p p'`.

    Args:
        task: whose loss.
        output: of the network, of whatever shape the loss takes, the samples first.
        batch: the data.

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
                for weights in roots[lengths > lengths.max() * 1e-12]:
                    along = (flat_output(output)[0] * weights).sum()
                    found = torch.autograd.grad(
                        along, list(values.values()), retain_graph=True, allow_unused=True
                    )
                    _add_squares(total, {n: g for n, g in zip(values, found, strict=True) if g is not None})
            count += 1
    return {name: value / count for name, value in total.items()}


def _add_squares(total: Values, gradient: Values) -> None:
    for name, value in gradient.items():
        total[name] = total.get(name, 0) + value.detach().square()
