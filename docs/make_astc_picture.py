"""Draw docs/concepts/astc.svg: one block of 6 x 6 weights, its partitions and levels, and what it decodes to."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from featherweight.files import write_whole
from featherweight.formats import Astc
from featherweight.formats.astc.blocks import Blocks
from featherweight.formats.astc.quantization import ENDPOINTS, WEIGHTS
from featherweight.formats.astc.tables import MODES, configurations, partitions

SIDE, CELL, GAP = 6, 44, 70
COLOURS = ("#c8dcf0", "#f6d9b8", "#d3e8c8", "#e6d0ea")


def cell(x: float, y: float, fill: str, text: str, ink: str = "#222") -> str:
    """Return a square with a text in it."""
    return (
        f'<rect x="{x:.0f}" y="{y:.0f}" width="{CELL}" height="{CELL}" fill="{fill}" stroke="#fff"/>'
        f'<text x="{x + CELL / 2:.0f}" y="{y + CELL / 2 + 4:.0f}" fill="{ink}">{text}</text>'
    )


def grey(value: float) -> tuple[str, str]:
    """Return a grey for a weight between -0.6 and 0.6, and an ink that can be read on it."""
    shade = int(np.clip(255 * (value + 0.6) / 1.2, 0, 255))
    return f"rgb({shade},{shade},{shade})", "#fff" if shade < 128 else "#222"


def draw() -> str:
    """Return the picture."""
    weight = (np.random.default_rng(4).normal(size=(SIDE, SIDE)) * 0.2).astype(np.float32)
    encoded = Astc(footprint="6x6", per="tensor", preset="best").encode(weight)
    block = Blocks.unpack(encoded.symbols.reshape(1, 16), "6x6")
    count, mode = int(block.partitions[0]), int(block.mode[0])
    layout = next(c for c in configurations("6x6", 1) if c.code == mode and c.partitions == count)
    member = partitions("6x6")[count - 1, block.seed[0]]
    alpha = WEIGHTS[MODES[mode, 2], block.weights[0, : SIDE * SIDE]]
    offset, scale = (float(encoded.parts[name][0]) for name in ("offset", "scale"))
    ends = offset + scale * ENDPOINTS[layout.endpoints, block.endpoints[0, : 2 * count]] / 255
    panels = (("weights", []), (f"{count} partitions, weights of 64", []), ("decoded", []))
    decoded = encoded.decode().reshape(-1)
    for t, value in enumerate(weight.reshape(-1)):
        x, y = t % SIDE * CELL, 40 + t // SIDE * CELL
        panels[0][1].append(cell(x, y, grey(value)[0], f"{value:.2f}", grey(value)[1]))
        panels[1][1].append(cell(x, y, COLOURS[member[t]], str(alpha[t])))
        panels[2][1].append(cell(x, y, grey(decoded[t])[0], f"{decoded[t]:.2f}", grey(decoded[t])[1]))
    width, height = 3 * SIDE * CELL + 2 * GAP, 40 + SIDE * CELL + 30 + 22 * count
    style = 'font-family="sans-serif" font-size="13" text-anchor="middle"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" {style}>',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for number, (title, cells) in enumerate(panels):
        x = number * (SIDE * CELL + GAP)
        heading = f'<text x="{SIDE * CELL / 2:.0f}" y="22" font-size="15">{title}</text>'
        parts.append(f'<g transform="translate({x} 0)">{heading}{"".join(cells)}</g>')
    for p in range(count):
        y = 40 + SIDE * CELL + 30 + 22 * p
        text = f"from {ends[2 * p]:.3f} (weight 0) to {ends[2 * p + 1]:.3f} (weight 64)"
        x = SIDE * CELL + GAP
        parts.append(f'<rect x="{x - 20}" y="{y - 12}" width="14" height="14" fill="{COLOURS[p]}"/>')
        parts.append(f'<text x="{x}" y="{y}" text-anchor="start">{text}</text>')
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    write_whole(Path(__file__).parent / "concepts" / "astc.svg", draw())
