"""The surrogate of compressed training: endpoints and weights of ASTC blocks that train, decoded to a texture."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from featherweight.formats import Astc, Encoded
from featherweight.formats.astc.blocks import Blocks, texel_values
from featherweight.formats.astc.presets import Preset, plan_of
from featherweight.formats.astc.trainable_blocks import levels, rounded, searched, slopes, texture
from featherweight.training.surrogates.base import Group, Surrogate

STAYING = ("mode", "partitions", "seed")


class Decode(torch.autograd.Function):
    """Forward the texels of rounded blocks; backward the gradient of their ends and weights."""

    @staticmethod
    def forward(ctx: Any, ends: Tensor, grid: Tensor, blocks: TrainedBlocks) -> Tensor:
        """Return texels, 0 to 1, `[height, width, channels]`."""
        ctx.blocks = blocks.blocks
        return torch.from_numpy(texel_values(texture(ctx.blocks, blocks.texels), blocks.format.mode))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        """Return the gradients of ends and weights."""
        ends, grid = slopes(ctx.blocks, gradients[0].contiguous().numpy())
        return torch.from_numpy(ends), torch.from_numpy(grid), None


class TrainedBlocks(Surrogate):
    """Ends `[n, 8 or 16]` and grids of weights `[n, points]` as parameters, 0 to 1; layouts as buffers."""

    offset: Tensor
    scale: Tensor

    def __init__(self, encoded: Encoded, lr_scale: float, every: int, share: float) -> None:
        super().__init__()
        assert isinstance(encoded.format, Astc)
        self.encoded, self.format = encoded, encoded.format
        self.lr_scale, self.every, self.share = lr_scale, every, share
        view, channels = encoded.view, self.format.channels
        self.texels = view.rows, -(-view.cols // channels), channels
        self.start = Blocks.unpack(encoded.symbols.reshape(-1, 16), self.format.footprint)
        for name in STAYING:
            self.register_buffer(name, torch.from_numpy(getattr(self.start, name).astype(np.int32)))
        self.ends, self.grid = (nn.Parameter(torch.from_numpy(real)) for real in levels(self.start, channels))
        spread = {
            name: np.repeat(part, view.rows // max(part.size, 1)) for name, part in encoded.parts.items()
        }
        for name, part in spread.items():
            self.register_buffer(name, torch.from_numpy(part[:, None]), persistent=False)

    @property
    def layout(self) -> Blocks:
        """The modes and partitions now, with the endpoints and weights of the start."""
        own = {name: getattr(self, name).numpy() for name in STAYING}
        return replace(
            self.start, **{name: part.astype(getattr(self.start, name).dtype) for name, part in own.items()}
        )

    @property
    def blocks(self) -> Blocks:
        """The blocks as they would be written now."""
        return rounded(self.layout, self.ends.detach().numpy(), self.grid.detach().numpy())

    def forward(self) -> Tensor:
        """Return `offset + scale * texel`."""
        texels: Tensor = Decode.apply(self.ends, self.grid, self)  # type: ignore[no-untyped-call]
        view = self.encoded.view
        matrix = texels.flatten(1)[:, : view.cols] * self.scale + self.offset
        moved = matrix.reshape([view.shape[axis] for axis in view.permutation])
        inverse = np.argsort(np.array(view.permutation, dtype=int)).tolist()
        return moved.permute(inverse).contiguous()

    def groups(self) -> list[Group]:
        """Return ends and weights, at a learning rate of their own and without decay."""
        return [Group([self.ends, self.grid], self.lr_scale, decays=False)]

    def after_step(self, step: int) -> None:
        """Clamp the parameters to 0 to 1; search every so many steps."""
        self.ends.clamp_(0, 1)
        self.grid.clamp_(0, 1)
        if self.format.channels == 4:
            put_in_order(self.ends)
        if self.share and step % self.every == 0:
            self.search()

    def search(self) -> None:
        """Re-encode the blocks that rounding changes most, where that lowers their error."""
        ends, grid = self.ends.detach().numpy(), self.grid.detach().numpy()
        preset: Preset = "best" if self.format.preset == "best" else "fast"
        plan = plan_of(self.format.footprint, self.format.channels, self.format.mode, preset)
        places, found = searched(self.layout, ends, grid, self.texels, self.share, plan)
        for name in STAYING:
            getattr(self, name)[places] = torch.from_numpy(getattr(found, name).astype(np.int32))
        for own, real in zip((ends, grid), levels(found, self.texels[2]), strict=True):
            own[places] = real

    def freeze(self) -> Encoded:
        """Return the blocks as bytes."""
        return replace(self.encoded, symbols=self.blocks.pack().reshape(-1))


def put_in_order(ends: Tensor) -> None:
    """Make the red, green and blue of the first ends `[n, 16]` sum to no more than those of the second, in place.

    ASTC reads ends in the opposite order differently. The nearest valid ends have equal sums.
    """
    colours = ends.view(len(ends), 2, 4, 2)[:, :, :3]
    excess = (colours[..., 0] - colours[..., 1]).sum(dim=2, keepdim=True).clamp_(min=0) / 6
    colours[..., 0] -= excess
    colours[..., 1] += excess
