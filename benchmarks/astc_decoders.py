"""ASTC: random legal blocks of every configuration, decoded by our decoder and by Arm's.

python -m benchmarks astc_decoders [--quick]
"""

import sys
from pathlib import Path

import numpy as np

from featherweight.formats.astc.tables import FOOTPRINTS, size


def main(quick):
    """Count random legal blocks that our decoder and Arm's see differently."""
    sys.path.append(str(Path(__file__).parent.parent / "tests" / "formats" / "astc"))
    from astc_oracle import oracle, ours, random_blocks

    total = wrong = 0
    for footprint in FOOTPRINTS:
        for channels in (1, 4):
            for blocks in (
                random_blocks(footprint, channels, n, np.random.default_rng(n))
                for n in (0, 10 if quick else 2000)
            ):
                content = blocks.pack()
                width, height = size(footprint)
                shape = height, len(content) * width
                for mode in ("unorm8", "float16"):
                    same = ours(content[None], footprint, *shape, mode) == oracle(
                        content, footprint, *shape, mode
                    )
                    per_block = same.reshape(height, len(content), -1).all(axis=(0, 2))
                    wrong += int((~per_block).sum())
                total += len(content)
    print(f"{total:,} blocks, both decode modes: {wrong} decode otherwise than by Arm's decoder")
