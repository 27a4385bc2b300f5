"""`Astc`: weights as blocks of a texture, which GPUs decode while they fetch them."""

from __future__ import annotations

from typing import Literal

import numpy as np

from featherweight.formats.astc.blocks import DecodeMode, decode_texels, texel_values
from featherweight.formats.astc.tables import NBYTES, Array, Footprint, Size, size
from featherweight.formats.base import Encoded, Format, Importance, Part, Parts
from featherweight.formats.coders import StreamSpec
from featherweight.formats.view import View, split, spread, units_shape

Preset = Literal["fast", "best", "astcenc"]

CLIPS = (np.inf, 5.0, 4.0, 3.5, 3.0)  # standard deviations to which ranges may be clipped
SAMPLE = 1 << 13  # texels on which the choice is made


class Astc(Format, frozen=True, tag="astc"):
    """Blocks of 16 bytes for 16 to 144 texels: 8 to 0.22 bits a weight, at a fixed rate, each readable alone.

    The matrix of a tensor is a texture: a row of weights is a row of texels, of one channel or of four neighbours in a
    row. A texel in 0 .. 1 is a weight by `offset + scale * texel`; the range, from the least to the greatest weight or
    clipped to a few standard deviations, is the one with the least error on a sample of blocks. Of a range wider than
    float32's greatest number, the middle is kept: the ends are off by half that at most. Errors are weighted by an
    importance if one is given, else in units of the range; padding in the last blocks of a row or column has weight 0.

    The symbols are the bytes of the blocks, as a GPU reads them; entropy coding saves little.

    >>> weight = np.linspace(-1, 1, 64, dtype=np.float32).reshape(8, 8)
    >>> encoded = Astc(footprint="4x4", per="tensor").encode(weight)
    >>> len(encoded.payload), bool(np.abs(encoded.decode() - weight).max() < 0.02)
    (64, True)

    References: Nystad, Lassen, Pomianowski, Ellis, Olson, Adaptive scalable texture compression, 2012; Khronos
    Data Format Specification, ASTC compressed texture image formats. Covered by US patent 10,599,935 B2 (Arm)
    where it is applied to weights: see docs/concepts/astc.md.

    Attributes:
        footprint: texels of a block, width by height, `4x4` to `12x12`.
        channels: weights of a texel: 1 (luminance) or 4 (RGBA, which share one position between two ends).
        mode: how the texture is decoded: `unorm8`, to eight bits, or `float16`.
        per: what shares a range: the tensor, or a channel (a row).
        preset: `fast` or `best` of our encoder, or `astcenc`: Arm's, which knows no importance.
    """

    footprint: Footprint = "6x6"
    channels: Literal[1, 4] = 1
    mode: DecodeMode = "unorm8"
    per: Literal["tensor", "channel"] = "channel"
    preset: Preset = "fast"

    def fit(self, matrix: Array, *, view: View, importance: Importance | None) -> Parts:
        """Return `offset` and `scale`, one a unit: the range, of those tried, with the least error."""
        if not matrix.size:
            return {name: np.zeros(part.shape, part.dtype) for name, part in self.parts(view).items()}
        if importance is not None:
            weigh = importance.diagonal
        else:
            variance = split(matrix, view, self.per).var(axis=1, dtype=np.float64)
            weigh = spread(1 / np.maximum(variance, 1e-90), view, self.per)
        candidates = [self._range(matrix, view, clip) for clip in CLIPS]
        errors = [self._sampled_error(matrix, weigh, parts) for parts in candidates]
        return candidates[int(np.argmin(errors))]

    def assign(
        self, matrix: Array, parts: Parts, *, view: View, importance: Importance | None = None
    ) -> Array:
        """Return the bytes of the blocks."""
        weigh = None if importance is None else importance.diagonal
        texture = self._texture(matrix, *self._columns(parts, view), weigh)
        return self._encoded(*texture, self.preset).reshape(-1)

    def dequantize(self, symbols: Array, parts: Parts, *, view: View) -> Array:
        """Return `offset + scale * texel`."""
        return self._window(symbols, parts, view, slice(0, view.rows), slice(0, view.cols))

    def tile(self, encoded: Encoded, rows: slice, cols: slice) -> Array:
        """Return a window of the tensor's matrix, float32; only the blocks that it touches are read.

        Args:
            encoded: a tensor in this format.
            rows: of the matrix, with start and stop.
            cols: likewise; with four channels `start` is a multiple of 4.

        Raises:
            IntegrityError: one of the blocks is malformed.
        """
        return self._window(encoded.symbols, encoded.parts, encoded.view, rows, cols)

    def parts(self, view: View) -> dict[str, Part]:
        """Return `offset` and `scale`, float32, one a unit."""
        part = Part("<f4", units_shape(view, self.per))
        return {"offset": part, "scale": part}

    def stream(self, view: View, parts: Parts) -> StreamSpec:
        """Return the spec: 16 bytes a block, no zero symbol; a row of blocks is a row."""
        rows, cols = self.blocks(view)
        return StreamSpec(rows * cols * NBYTES, 256, row_length=max(cols, 1) * NBYTES)

    @property
    def width(self) -> int:
        """Columns of a block."""
        return size(self.footprint)[0] * self.channels

    def put(self, symbols: Array, columns: Array, found: Array, *, view: View) -> None:
        """Set the blocks of some columns."""
        rows, cols = self.blocks(view)
        places = columns[:: self.width] // self.width
        symbols.reshape(rows, cols, NBYTES)[:, places] = found.reshape(rows, len(places), NBYTES)

    def blocks(self, view: View) -> Size:
        """Return rows and columns of blocks.

        >>> Astc(footprint="6x5").blocks(View.of((64, 100)))
        (13, 17)
        """
        width, height = size(self.footprint)
        return -(-view.rows // height) if view.cols else 0, -(-view.cols // (width * self.channels))

    def _range(self, matrix: Array, view: View, clip: float) -> Parts:
        """Return offset and scale of the range of each unit, clipped to so many standard deviations."""
        rows = split(matrix, view, self.per).astype(np.float64)
        low, high = rows.min(axis=1), rows.max(axis=1)
        if np.isfinite(clip):
            mean, reach = rows.mean(axis=1), clip * rows.std(axis=1)
            low, high = np.maximum(low, mean - reach), np.minimum(high, mean + reach)
        most = float(np.finfo(np.float32).max)
        low = np.maximum(low, (low + high - most) / 2)  # of a range wider than float32, the middle
        span = np.clip(high - low, 0, most)
        return {"offset": low.astype(np.float32), "scale": span.astype(np.float32)}

    def _sampled_error(self, matrix: Array, weigh: Array, parts: Parts) -> float:
        """Return the error of some blocks, evenly spread, encoded quickly with a range."""
        width, height = size(self.footprint)
        count, width = SAMPLE // (width * height), width * self.channels
        down, right = -(-matrix.shape[0] // height), -(-matrix.shape[1] // width)
        chosen = np.unique(np.linspace(0, down * right - 1, count).astype(int))
        rows = (chosen // right * height)[:, None] + np.arange(height)
        cols = np.repeat((chosen % right * width)[:, None] + np.arange(width), height, axis=0)
        rows = rows.reshape(-1, 1)
        inside = (rows < matrix.shape[0]) & (cols < matrix.shape[1])
        rows, cols = np.minimum(rows, matrix.shape[0] - 1), np.minimum(cols, matrix.shape[1] - 1)
        weigh = np.broadcast_to(weigh, matrix.shape)[rows, cols] * inside
        repeat = matrix.shape[0] // parts["offset"].size
        offset, scale = (parts[name].reshape(-1)[rows // repeat] for name in ("offset", "scale"))
        sample = matrix[rows, cols]
        content = self._encoded(*self._texture(sample, offset, scale, weigh), "fast")
        found = self._values(content, slice(0, len(sample)), slice(0, width)) * scale + offset
        return float((weigh * np.square(found.astype(np.float64) - sample)).sum())

    def _columns(self, parts: Parts, view: View) -> tuple[Array, Array]:
        """Return offset and scale of every row, `[rows, 1]`."""
        return spread(parts["offset"], view, self.per), spread(parts["scale"], view, self.per)

    def _texture(
        self, matrix: Array, offset: Array, scale: Array, weigh: Array | None
    ) -> tuple[Array, Array]:
        """Return texels, `[rows, cols, channels]`, and what a squared error in each counts, `[rows, cols]`.

        `weigh` is what one in a weight counts; None: 1 in a texel.
        """
        texels = matrix - offset
        if not np.isfinite(texels).all():
            texels = np.subtract(matrix, offset, dtype=np.float64)
        texels = texels / np.where(scale > 0, scale, np.float32(1))
        if weigh is None:
            weigh = np.ones(1)
        else:
            weigh = weigh * np.square(scale, dtype=np.float64)
            weigh = weigh / max(float(weigh.max(initial=0)), 1e-300)
        weigh = np.broadcast_to(weigh, matrix.shape)
        if fill := -matrix.shape[1] % self.channels:
            texels, weigh = (np.pad(part, [(0, 0), (0, fill)]) for part in (texels, weigh))
        shape = (len(matrix), texels.shape[1] // self.channels, self.channels)
        return texels.reshape(shape), weigh if self.channels == 1 else weigh.reshape(shape).mean(axis=2)

    def _encoded(self, texels: Array, weigh: Array, preset: Preset) -> Array:
        """Return the bytes of blocks, `[block rows, block columns, 16]`."""
        from featherweight.formats.astc.encode import encode_tile, encode_tile_astcenc

        if preset == "astcenc":
            return encode_tile_astcenc(texels, self.footprint)
        return encode_tile(texels, weigh, self.footprint, self.mode, preset)

    def _values(self, content: Array, rows: slice, cols: slice) -> Array:
        """Return a window of the texture as a matrix, 0 to 1; its columns begin at a texel."""
        across = slice(cols.start // self.channels, -(-cols.stop // self.channels))
        texels = decode_texels(content, self.footprint, rows, across, self.channels)
        flat = texels.reshape(len(texels), texels.shape[1] * self.channels)
        return texel_values(flat[:, : cols.stop - cols.start], self.mode)

    def _window(self, symbols: Array, parts: Parts, view: View, rows: slice, cols: slice) -> Array:
        """Return a window of the matrix; its columns begin at a texel."""
        offset, scale = self._columns(parts, view)
        weights = self._values(symbols.reshape(*self.blocks(view), NBYTES), rows, cols)
        weights *= scale[rows]
        weights += offset[rows]
        return weights
