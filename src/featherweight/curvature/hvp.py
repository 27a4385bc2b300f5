"""Gradients, Hessian-vector products and traces of the mean loss, the Fisher diagonal, batch by batch, in eval mode."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from featherweight.errors import UnsupportedError
from featherweight.model import Model
from featherweight.structure import to_call
from featherweight.task import Batch, Inputs, Output, Task, call
from featherweight.task.samples import size_of
from featherweight.task.sampling import check_finite, singly

Values = dict[str, Tensor]
Run = Callable[[Inputs], Output]
# The mean loss of a batch, given the network; and the samples of the batch.
BatchLoss = tuple[Callable[[Run], Tensor], int]
_WHAT = "derivatives of the loss"


def parameters(model: Model) -> Values:
    """Return the floating-point parameters, as leaves of a graph of their own that share their memory."""
    named = model.module.named_parameters()
    return {name: p.detach().requires_grad_() for name, p in named if p.is_floating_point()}


def outputs(module: nn.Module, values: Mapping[str, Tensor], inputs: Inputs) -> Output:
    """Return what a network computes with these parameters instead of its own; it may write to its buffers."""
    return call(lambda *args, **named: functional_call(module, dict(values), args, named), inputs)


def loss_of(module: nn.Module, task: Task, batch: Batch, values: Mapping[str, Tensor]) -> Tensor:
    """Return the mean loss of a batch with these parameters."""
    return task.loss(outputs(module, values, task.inputs(batch)), batch)


@contextlib.contextmanager
def differentiating() -> Iterator[None]:
    """Gradients on whatever the caller's mode, and attention by operators that can be differentiated twice."""
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.random.fork_rng(devices=[]),
        sdpa_kernel(SDPBackend.MATH),
    ):
        yield


def gradients(
    model: Model, task: Task, batches: Iterable[Batch], *, each: bool = False
) -> Iterator[tuple[Values, int]]:
    """Return the gradient of the mean loss of each batch, or of each sample alone, and its number of samples.

    Raises:
        TaskError: a gradient holds NaN or infinity; names the batch.
    """
    module = to_call(model.module)
    for number, batch in enumerate(batches):
        for part in singly(task, batch) if each else [batch]:
            with differentiating():
                values = parameters(model)
                found = _gradient(loss_of(module, task, part, values), values)
            check(found.values(), task, number, batch)
            yield found, size_of(task.inputs(part))


def check(values: Iterable[Tensor], task: Task, number: int, batch: Batch) -> None:
    """Refuse derivatives that hold NaN or infinity; TaskError names the batch."""
    check_finite(values, _WHAT, where=task.name, batch=number, inputs=task.inputs(batch))


def hessian_product(
    model: Model, task: Task, batches: Iterable[Batch], direction: Mapping[str, Tensor]
) -> tuple[Values, Values]:
    """Return the mean gradient and the mean of Hessian times `direction`, one product a batch.

    By double backward; by central differences of gradients where an operator cannot be differentiated twice. Memory is
    that of one batch.

    Args:
        model: the network; batch norm uses its running statistics.
        task: whose loss, a mean over the samples of a batch.
        batches: the data.
        direction: a tensor for some parameters, zero for the others.

    References: Pearlmutter, Fast exact multiplication by the Hessian, 1994, eq. 2.
    """
    gradient = {name: torch.zeros_like(value) for name, value in parameters(model).items()}
    product = {name: torch.zeros_like(value) for name, value in gradient.items()}
    samples, module = 0, to_call(model.module)
    for number, batch in enumerate(batches):
        count = size_of(task.inputs(batch))
        with differentiating():
            loss = partial(loss_of, module, task, batch)
            first, second = _product(loss, parameters(model), direction, task.name)
        check([*first.values(), *second.values()], task, number, batch)
        for name in gradient:
            gradient[name].add_(first[name], alpha=count)
            product[name].add_(second[name], alpha=count)
        samples += count
    for total in (*gradient.values(), *product.values()):
        total.div_(samples)
    return gradient, product


def _product(
    loss: Callable[[Values], Tensor], values: Values, direction: Mapping[str, Tensor], where: str
) -> tuple[Values, Values]:
    """Return the gradient of a loss by leaves, which get one, and its Hessian times a direction.

    Raises:
        UnsupportedError: the second derivative fails otherwise than for want of one; says `where`.
    """
    first = _gradient(loss(values), values, create_graph=True)
    plain = {name: value.detach() for name, value in first.items()}
    along = [(first[name], v) for name, v in direction.items() if first[name].requires_grad]
    if not along:  # the loss is linear in the parameters
        return plain, {name: torch.zeros_like(value) for name, value in plain.items()}
    try:
        # grad(along, inputs) would pass by an operator that forbids a second derivative, as if it were constant
        torch.autograd.backward([gradient for gradient, _ in along], [v for _, v in along])
        return plain, {n: torch.zeros_like(v) if v.grad is None else v.grad for n, v in values.items()}
    except RuntimeError as error:
        reason = str(error)
        if "differentiat" not in reason and "derivative" not in reason:
            raise UnsupportedError(f"no second derivative: {reason.splitlines()[0]}", where=where) from error
    return plain, central_difference(loss, values, direction)


def central_difference(
    loss: Callable[[Values], Tensor], values: Values, direction: Mapping[str, Tensor]
) -> Values:
    """Return `(g(theta + eps v) - g(theta - eps v)) / 2 eps`, with eps the third root of the machine's."""
    length = float(torch.stack([v.norm() for v in direction.values()]).norm())
    scale = float(torch.stack([v.detach().norm() for v in values.values()]).norm())
    precision = torch.finfo(next(iter(values.values())).dtype).eps
    eps = precision ** (1 / 3) * max(scale, 1.0) / (length or 1.0)
    sides = []
    for step in (eps, -eps):
        moved = {name: v.detach() for name, v in values.items()}
        moved |= {name: moved[name] + step * v for name, v in direction.items()}
        leaves = {name: v.requires_grad_() for name, v in moved.items()}
        sides.append(_gradient(loss(leaves), leaves))
    return {name: (sides[0][name] - sides[1][name]) / (2 * eps) for name in values}


def _gradient(loss: Tensor, values: Values, *, create_graph: bool = False) -> Values:
    leaves = list(values.values())
    found: tuple[Any, ...] = torch.autograd.grad(loss, leaves, create_graph=create_graph, allow_unused=True)
    parts = dict(zip(values, found, strict=True))
    return {n: torch.zeros_like(values[n]) if part is None else part for n, part in parts.items()}


def fisher_by_batch(model: Model, names: Sequence[str], losses: Iterable[BatchLoss]) -> dict[str, Tensor]:
    """Return the mean square of each weight's gradient, as of single samples, float64 of the tensor's shape.

    `n g^2` with the gradient g of the mean loss of n samples. Where the samples' gradients have no mean (labels
    drawn from the network's own outputs, see `own_loss`) its expectation is that of single samples: the diagonal
    of the Fisher matrix, which is the Hessian of the divergence (KL) from the outputs as they are. With true
    labels it is the empirical Fisher matrix, plus n times the squared mean gradient, small after training.

    References: Amari, Natural gradient works efficiently in learning, 1998, eq. 3.3; Martens, New insights and
    perspectives on the natural gradient method, 2020, arXiv 1412.1193, sections 5 and 11.
    """
    total = {name: torch.zeros(model.tensors[name].shape, dtype=torch.float64) for name in names}
    module, count = to_call(model.module), 0
    for count, (loss, samples) in enumerate(losses, 1):
        values = _copies(model, names)
        found = torch.autograd.grad(_run(module, loss, values), list(values.values()), materialize_grads=True)
        check_finite(found, _WHAT, where="sensitivity", batch=count - 1)
        for name, gradient in zip(names, found, strict=True):
            total[name] += samples * gradient.double().square()
    return {name: value / max(count, 1) for name, value in total.items()}


def hessian_traces(
    model: Model, names: Sequence[str], losses: Iterable[BatchLoss], *, seed: int = 0, draws: int = 1
) -> dict[str, float]:
    """Return the trace of the Hessian of the mean loss by each tensor alone.

    Hutchinson's estimator: the mean of `v' H v` over vectors v of random signs, some for each batch. One
    product with the Hessian by all tensors serves each of them: what couples two has no mean.

    References: Hutchinson, A stochastic estimator of the trace of the influence matrix, 1989; Dong et al.,
    HAWQ-V2, 2020, arXiv 1911.03852, section 3.1.

    Args:
        model: the network.
        names: of the tensors.
        losses: one a batch.
        seed: of the signs.
        draws: of each batch.

    Raises:
        TaskError: a derivative holds NaN or infinity; names the batch.
    """
    generator = torch.Generator().manual_seed(seed)
    total, count, module = dict.fromkeys(names, 0.0), 0, to_call(model.module)
    for number, (loss, _) in enumerate(losses):
        for _ in range(draws):
            values = _copies(model, names)
            draw = partial(torch.randint, 0, 2, generator=generator)
            signs = {name: draw(t.shape).to(t.dtype) * 2 - 1 for name, t in values.items()}
            with differentiating():
                _, product = _product(partial(_run, module, loss), values, signs, "sensitivity")
            check_finite(product.values(), _WHAT, where="sensitivity", batch=number)
            for name, v in signs.items():
                total[name] += float((product[name] * v).sum(dtype=torch.float64))
            count += 1
    return {name: value / max(count, 1) for name, value in total.items()}


def _copies(model: Model, names: Sequence[str]) -> Values:
    return {name: model.tensors[name].detach().clone().requires_grad_() for name in names}


def _run(module: nn.Module, loss: Callable[[Run], Tensor], values: Values) -> Tensor:
    return loss(lambda inputs: outputs(module, values, inputs))


def own_loss(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Return the cross-entropy of `logits: [n, classes, ...]` against labels drawn from them."""
    scores = logits.movedim(1, -1).flatten(0, -2)
    with torch.no_grad():
        drawn = torch.multinomial(scores.double().softmax(-1), 1, generator=generator)[:, 0]
    return F.cross_entropy(scores, drawn)
