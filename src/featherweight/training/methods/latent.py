"""Methods that train a float weight: rounded in every forward pass (straight through), or projected now and then."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import numpy as np
from msgspec import Meta

from featherweight.errors import TaskError
from featherweight.formats import Encoded, Format, Int
from featherweight.formats.base import Parts
from featherweight.formats.floating import beyond
from featherweight.formats.integer import COUNTED_BITS
from featherweight.training.methods.base import Method, Surrogate

if TYPE_CHECKING:
    from torch import Tensor


class Latent(Surrogate):
    """A float weight that trains, and the parts (scale, codebook) that it was last encoded with."""

    def __init__(self, weight: Tensor, encoded: Encoded) -> None:
        from torch import nn

        self.weight = nn.Parameter(weight.detach().clone())
        self.format, self.view = encoded.format, encoded.view
        self.hold(encoded.parts)

    def hold(self, parts: Parts) -> None:
        """Keep these parts for the steps to come."""
        self.parts = {name: np.array(part) for name, part in parts.items()}

    def state(self) -> dict[str, Tensor]:
        """Return the weight and the parts."""
        from torch import from_numpy

        return super().state() | {f"part_{name}": from_numpy(part) for name, part in self.parts.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned; a codebook may have another length."""
        from torch import no_grad

        with no_grad():
            self.weight.copy_(state["weight"])
        self.hold({name: state[f"part_{name}"].numpy() for name in self.parts})

    def freeze(self) -> Encoded:
        """Return the weight encoded with newly fitted parts, or with those held if they are closer.

        Fitted to a weight that is decoded already, parts need not be those it decodes from: the range of
        `Int` by min-max shrinks each time.

        Raises:
            TaskError: the format has no scale, and the weight is beyond its range.
        """
        weight = self.weight.detach().numpy()
        if reason := beyond(weight, self.format):
            hint = "try a lower lr, or another format"
            raise TaskError(f"training has left the range: {reason}", hint=hint)
        choices = [self.format.encode(weight, view=self.view, parts=parts) for parts in (self.parts, None)]
        errors = [np.square(entry.decode() - weight, dtype=np.float64).sum() for entry in choices]
        encoded = choices[int(np.argmin(errors))]
        self.hold(encoded.parts)
        return encoded


class StraightThrough(Method, frozen=True, tag="straight_through"):
    """A float latent weight: `decode(encode(latent))` forward, the identity backward, in and out of range.

    Works for every format. Scales and codebooks are refitted to the latent weight every `refresh` steps
    and at the end; in between, each weight is assigned to its nearest representable value.

    References: Bengio, Leonard, Courville, Estimating or propagating gradients through stochastic neurons for
    conditional computation, 2013, section 4.

    With a price, weights that the loss does not hold in place drift to zero while they train, and an entropy
    coder takes fewer bits for what is left: the sum of |weight| / scale is a soft count of the bits.

    Attributes:
        refresh: steps between fits.
        price: loss that a weight costs for each step of the grid that it is away from zero (`Int` alone has
            such steps); about 1e-6 for a network of 300,000 weights, less for more.
    """

    refresh: Annotated[int, Meta(ge=1)] = 20
    price: Annotated[float, Meta(ge=0)] = 0.0

    def misfit(self, format: Format) -> str:
        """Return why this method cannot train tensors of such a format, or an empty string if it can."""
        stepped = isinstance(format, Int) and format.bits <= COUNTED_BITS
        return "only integers of 16 bits at most have steps to price" if self.price and not stepped else ""

    def surrogate(self, weight: Tensor, encoded: Encoded) -> Rounded:
        """Return the latent weight, which starts from `weight`."""
        return Rounded(weight, encoded, self)


class Rounded(Latent):
    """A float weight, in the forward pass rounded with scales or codebooks that are refitted every `refresh` steps."""

    def __init__(self, weight: Tensor, encoded: Encoded, method: StraightThrough) -> None:
        super().__init__(weight, encoded)
        self.method = method

    def __call__(self) -> Tensor:
        """Return the rounded weight."""
        from featherweight.training.gradients import straight_through

        return straight_through(self.rounded(self.weight.detach()), self.weight)

    def penalty(self, progress: float) -> Tensor | float:
        """Return the price of all weights: of their distance from zero in steps."""
        if not self.method.price or self.grid is None:
            return 0.0
        return self.method.price * (self.weight.abs() / self.grid[0]).sum()

    def after_step(self, step: int) -> None:
        """Fit the parts to the weight again, every `refresh` steps."""
        if step % self.method.refresh == 0:
            self.freeze()

    def hold(self, parts: Parts) -> None:
        """Round with these parts from now on: onto the uniform grid that they make, where they make one."""
        from torch import from_numpy

        super().hold(parts)
        self.grid: tuple[Tensor, ...] | None = None  # step of each weight, least and greatest count of steps
        if grid := self.format.uniform(parts, self.view):
            wide = (np.broadcast_to(part, grid.shape) for part in (grid.scale, grid.low, grid.high))
            self.grid = tuple(from_numpy(self.view.tensor(part.astype(np.float32))) for part in wide)

    def rounded(self, weight: Tensor) -> Tensor:
        """Return what `weight` decodes to with the current parts, bit for bit; zero is +0.0."""
        from torch import from_numpy

        if self.grid is None:
            return from_numpy(self.format.encode(weight.numpy(), view=self.view, parts=self.parts).decode())
        scale, least, most = self.grid
        return (weight / scale).round_().clamp_(least, most).add_(0.0).mul_(scale)


class Project(Method, frozen=True, tag="project"):
    """Interleaved re-training: train as float; every `every` steps `weight <- decode(encode(weight))`.

    Works for every format and needs no gradient of it. Training ends with a projection.

    Attributes:
        every: optimizer steps between projections.
    """

    every: Annotated[int, Meta(ge=1)] = 100

    def surrogate(self, weight: Tensor, encoded: Encoded) -> Projected:
        """Return the weight, projected every `every` steps."""
        return Projected(weight, encoded, self.every)


class Projected(Latent):
    """A float weight that every `every` steps becomes what its encoding decodes to."""

    def __init__(self, weight: Tensor, encoded: Encoded, every: int) -> None:
        super().__init__(weight, encoded)
        self.every = every
        self.projection: Encoded | None = None  # what the weight decodes from, while it does

    def __call__(self) -> Tensor:
        """Return the weight."""
        return self.weight

    def after_step(self, step: int) -> None:
        """Project, if it is time."""
        self.projection = None
        if step % self.every == 0:
            self.freeze()

    def freeze(self) -> Encoded:
        """Project the weight, unless it was since the last step: encoding is not idempotent."""
        from torch import from_numpy, no_grad

        if self.projection is None:
            self.projection = super().freeze()
            with no_grad():
                self.weight.copy_(from_numpy(self.projection.decode()))
        return self.projection
