"""The Gauss-Newton form of pairs of structures: what removing two channels together costs beyond each alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from featherweight.curvature.hvp import check, differentiating
from featherweight.errors import UnsupportedError
from featherweight.graph.channels import Channels
from featherweight.model import Model
from featherweight.structure import to_call
from featherweight.task import Batch, Output, Task, call
from featherweight.task.samples import size_of

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
            output, gates = gated(model, task, batch, channels)
            hessian = output_hessian(task, output, batch)
            check([hessian], task, number, batch)
            found = channel_derivatives(flat_output(output), hessian, gates, channels, draws, generator)
        check([found], task, number, batch)
        flat = found.reshape(-1, channels.count).numpy()
        total += flat.T @ flat / (draws or 1)
        samples += len(found)
    return total / samples


def channel_derivatives(
    output: Tensor,
    hessian: Tensor,
    gates: dict[str, Tensor],
    channels: Channels,
    draws: int | None,
    generator: torch.Generator,
) -> Tensor:
    """Return `a' Phi theta_s` of each sample, for roots a of R: `[n, draws or outputs, channels]`, in float64.

    Args:
        output: of the network, `[n, outputs]`.
        hessian: R of each sample, `[n, outputs, outputs]`.
        gates: factors of one on outputs of layers.
        channels: those that can go.
        draws: random roots instead of all.
        generator: of the draws.
    """
    roots = roots_of(hessian)
    if draws:
        shape = len(roots), draws, roots.shape[1]
        roots = (2 * torch.randint(0, 2, shape, generator=generator) - 1).double() @ roots
    rows = []
    for along in roots.unbind(1):
        found = torch.autograd.grad(
            (output.double() * along).sum(), list(gates.values()), retain_graph=True, allow_unused=True
        )
        rows.append(_gathered(channels, dict(zip(gates, found, strict=True)), len(output)))
    return torch.stack(rows, 1)


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
            output, gates = gated(model, task, batch, channels)
            samples = size_of(task.inputs(batch))
            loss = task.loss(output, batch) * samples
            found = torch.autograd.grad(loss, list(gates.values()), allow_unused=True)
        derivatives = _gathered(channels, dict(zip(gates, found, strict=True)), samples)
        check([derivatives], task, number, batch)
        yield derivatives


def gated(model: Model, task: Task, batch: Batch, channels: Channels) -> tuple[Output, dict[str, Tensor]]:
    """Return the network's output, and factors of one on each sample's output of the layers that make channels."""
    module = to_call(model.module)
    gates: dict[str, Tensor] = {}
    for path in makers(channels):
        layer = module.get_submodule(path)
        layer.register_forward_hook(lambda layer, _, out, path=path: _gated(layer, out, gates, path))
    return call(module, task.inputs(batch)), gates


def roots_of(hessian: Tensor) -> Tensor:
    """Return rows a of each matrix of `[n, k, k]` with `sum of a a'` equal to it; what is negative counts as zero."""
    values, vectors = torch.linalg.eigh(hessian)
    found: Tensor = (vectors * values.clamp(min=0).sqrt()[:, None]).mT
    return found


def makers(channels: Channels) -> dict[str, None]:
    """Return the paths of the layers that make channels, each once."""
    return dict.fromkeys(m.tensor.rpartition(".")[0] for m, _ in _scaled(channels))


def _scaled(channels: Channels) -> list[tuple[Any, int]]:
    """Members whose layers' outputs scale with a channel, one a layer, and the number of their group."""
    return [
        (member, number)
        for number, group in enumerate(channels.groups)
        for member in group.makers
        if member.tensor.endswith(".weight")
    ]


def _gated(layer: nn.Module, out: Tensor, gates: dict[str, Tensor], path: str) -> Tensor:
    axis = out.dim() - 1 if isinstance(layer, nn.Linear | nn.Embedding) else 1
    sizes = [out.shape[0], *(out.shape[a] if a == axis else 1 for a in range(1, out.dim()))]
    if path not in gates:
        gates[path] = torch.ones(sizes, dtype=out.dtype, requires_grad=True)
    if list(gates[path].shape) != sizes:
        raise UnsupportedError("is called with inputs of several shapes", where=path)
    return out * gates[path]


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
    outputs = flat_output(output).shape[1]
    if outputs > OUTPUTS:
        raise UnsupportedError(
            "too many outputs for a Hessian in them", where=task.name, got=f"{outputs} a sample",
            expected=f"at most {OUTPUTS}", hint="use taylor, fisher or sosp_h",
        )  # fmt: skip
    assert isinstance(output, Tensor), "it is flat"
    leaf = output.detach().double().requires_grad_()
    loss = task.loss(leaf, batch) * len(leaf)
    (first,) = torch.autograd.grad(loss, leaf, create_graph=True)
    if not first.requires_grad:
        return torch.zeros(len(leaf), outputs, outputs, dtype=torch.float64)
    columns = first.reshape(len(leaf), -1).unbind(1)
    rows = [torch.autograd.grad(c.sum(), leaf, retain_graph=True)[0].reshape(len(leaf), -1) for c in columns]
    return torch.stack(rows, 1).reshape(len(leaf), outputs, outputs)
