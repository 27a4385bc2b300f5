"""Compressed training: the endpoints and interpolation weights of ASTC blocks are what trains."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import numpy as np
from msgspec import Meta

from featherweight.formats import Astc, Encoded, Format
from featherweight.task.training import Rate
from featherweight.training.methods.base import Group, Method, Surrogate

if TYPE_CHECKING:
    from torch import Tensor

    from featherweight.formats.astc.blocks import Blocks

STAYING = ("mode", "partitions", "seed")


class AstcBlocks(Method, frozen=True, tag="astc_blocks"):
    """The endpoints of every partition and the grid of weights are the parameters; modes and partitions are fixed.

    The forward pass rounds them to their levels and decodes them as a GPU does, bit for bit. In the backward pass
    rounding is the identity, and a texel `x = (1 - a) e0 + a e1`, `a = M g`, gives
    `dL/de0 = sum (1 - a) dL/dx`, `dL/de1 = sum a dL/dx`, `dL/dg = M' (e1 - e0) dL/dx`. Parameters are scaled to
    0 to 1 over the tensor's range, which suits Adam and not plain gradient descent. No weight decay.

    With a `share`, the blocks that rounding changes most are re-encoded every `every` steps from their unrounded
    parameters, with new modes and partitions. It costs little and gained nothing in our experiments, so it is off
    by default.

    References: Sharma, Olson, Chalfin, Using ASTC compression for DNN weights, 2017 (compressed training); Bengio,
    Leonard, Courville, Estimating or propagating gradients through stochastic neurons for conditional
    computation, 2013, section 4 (rounding).

    Attributes:
        lr_scale: learning rate of the blocks over that of other parameters.
        every: optimizer steps between searches.
        share: of the blocks, the worst, that each search takes; 0: none.
    """

    lr_scale: Rate = 1.0
    every: Annotated[int, Meta(ge=1)] = 100
    share: Annotated[float, Meta(ge=0, le=1)] = 0.0

    def misfit(self, format: Format) -> str:
        """Return why this method cannot train tensors of such a format, or an empty string if it can."""
        if not isinstance(format, Astc):
            return "only ASTC tensors have blocks"
        arm = "Arm's encoder uses two planes and modes that do not train"
        return arm if format.preset == "astcenc" else ""

    def surrogate(self, weight: Tensor, encoded: Encoded) -> TrainedBlocks:
        """Return the blocks of `encoded`."""
        return TrainedBlocks(encoded, self)


class TrainedBlocks(Surrogate):
    """Ends `[n, 8 or 16]` and grids of weights `[n, points]` that train, 0 to 1; beside them what is `STAYING`."""

    def __init__(self, encoded: Encoded, method: AstcBlocks) -> None:
        from torch import from_numpy, nn

        from featherweight.formats.astc.blocks import Blocks
        from featherweight.formats.astc.trainable_blocks import levels

        assert isinstance(encoded.format, Astc)
        self.encoded, self.format, self.method = encoded, encoded.format, method
        view, channels = encoded.view, self.format.channels
        self.texels = view.rows, -(-view.cols // channels), channels
        self.start = Blocks.unpack(encoded.symbols.reshape(-1, 16), self.format.footprint)
        for name in STAYING:
            setattr(self, name, from_numpy(getattr(self.start, name).astype(np.int32)))
        self.ends, self.grid = (nn.Parameter(from_numpy(real)) for real in levels(self.start, channels))
        self.scale, self.offset = (
            np.repeat(part, view.rows // max(part.size, 1))[:, None]
            for part in (encoded.parts["scale"], encoded.parts["offset"])
        )

    @property
    def layout(self) -> Blocks:
        """The modes and partitions now, with the endpoints and weights of the start."""
        own = {name: getattr(self, name).numpy().astype(getattr(self.start, name).dtype) for name in STAYING}
        return replace(self.start, **own)

    @property
    def blocks(self) -> Blocks:
        """The blocks as they would be written now."""
        from featherweight.formats.astc.trainable_blocks import rounded

        return rounded(self.layout, self.ends.detach().numpy(), self.grid.detach().numpy())

    def __call__(self) -> Tensor:
        """Return `offset + scale * texel`."""
        from torch import from_numpy

        from featherweight.formats.astc.blocks import texel_values
        from featherweight.formats.astc.trainable_blocks import slopes, texture
        from featherweight.training.gradients import with_gradient

        blocks, view = self.blocks, self.encoded.view

        def backward(gradient: Tensor) -> tuple[Tensor, ...]:
            return tuple(map(from_numpy, slopes(blocks, gradient.contiguous().numpy())))

        decoded = from_numpy(texel_values(texture(blocks, self.texels), self.format.mode))
        texels = with_gradient(decoded, (self.ends, self.grid), backward)  # [height, width, channels]
        matrix = texels.flatten(1)[:, : view.cols] * from_numpy(self.scale) + from_numpy(self.offset)
        moved = matrix.reshape([view.shape[axis] for axis in view.permutation])
        inverse = np.argsort(np.array(view.permutation, dtype=int)).tolist()
        return moved.permute(inverse).contiguous()

    def groups(self) -> list[Group]:
        """Return ends and weights, at a learning rate of their own and without decay."""
        return [Group([self.ends, self.grid], self.method.lr_scale, decays=False)]

    def after_step(self, step: int) -> None:
        """Clamp the parameters to 0 to 1; search every so many steps."""
        self.ends.clamp_(0, 1)
        self.grid.clamp_(0, 1)
        if self.format.channels == 4:
            # ASTC reads ends in the opposite order differently: red, green and blue of the first may not sum to more
            # than those of the second. The nearest valid ends have equal sums.
            colours = self.ends.view(len(self.ends), 2, 4, 2)[:, :, :3]
            excess = (colours[..., 0] - colours[..., 1]).sum(dim=2, keepdim=True).clamp_(min=0) / 6
            colours[..., 0] -= excess
            colours[..., 1] += excess
        if self.method.share and step % self.method.every == 0:
            self.search()

    def search(self) -> None:
        """Re-encode the blocks that rounding changes most, where that lowers their error."""
        from torch import from_numpy

        from featherweight.formats.astc.encode import plan_of
        from featherweight.formats.astc.trainable_blocks import levels, searched

        ends, grid = self.ends.detach().numpy(), self.grid.detach().numpy()
        preset = "best" if self.format.preset == "best" else "fast"
        plan = plan_of(self.format.footprint, self.format.channels, self.format.mode, preset)
        places, found = searched(self.layout, ends, grid, self.texels, self.method.share, plan)
        for name in STAYING:
            getattr(self, name)[places] = from_numpy(getattr(found, name).astype(np.int32))
        for own, real in zip((ends, grid), levels(found, self.texels[2]), strict=True):
            own[places] = real

    def freeze(self) -> Encoded:
        """Return the blocks as bytes."""
        return replace(self.encoded, symbols=self.blocks.pack().reshape(-1))
