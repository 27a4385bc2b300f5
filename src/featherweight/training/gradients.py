"""Gradients that rounding, lookups and decoders do not have by themselves; and a context in which gradients flow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from featherweight.task.samples import kept_generators

# From the gradient by a value to those by what it was made of, one for each.
Backward = Callable[[Tensor], tuple[Tensor, ...]]


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: list[Tensor], backward: Backward, *inputs: Tensor) -> Tensor:
        ctx.of = backward
        return value[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *ctx.of(gradients[0])


def with_gradient(value: Tensor, inputs: tuple[Tensor, ...], backward: Backward) -> Tensor:
    """Return `value` itself as a function of `inputs` whose gradients are what `backward` says.

    It is no view, so that a network may write into it; give one that nobody else holds.
    """
    return _WithGradient.apply([value], backward, *inputs)  # type: ignore[no-any-return, no-untyped-call]


def straight_through(rounded: Tensor, latent: Tensor) -> Tensor:
    """Return `rounded`, bit for bit (`latent + (rounded - latent)` is not), with the identity as its gradient."""
    return with_gradient(rounded, (latent,), lambda gradient: (gradient,))


@contextmanager
def isolated() -> Iterator[None]:
    """Let gradients flow and the global generators be used; leave modes and generators as they were."""
    with torch.inference_mode(False), torch.enable_grad(), kept_generators():
        yield
