"""ASTC: the lists of `featherweight.formats.astc.encode`, made again.

python -m benchmarks astc_layouts [--quick]
"""

import numpy as np

from featherweight.formats.astc import encode
from featherweight.formats.astc.blocks import decode_texels, texel_values
from featherweight.formats.astc.encode import build
from featherweight.formats.astc.tables import FOOTPRINTS, WEIGHT_RANGES, configurations, size


def main(quick):
    """Print the layouts of each footprint, chosen greedily on Gaussian and Laplacian blocks."""
    count = 4 if quick else 40
    rng = np.random.default_rng(1)
    for channels in (1, 4):
        for footprint in FOOTPRINTS:
            width, height = size(footprint)
            values = rng.normal(size=(count, width * height, channels))
            values[count // 2 :] = rng.laplace(size=values[count // 2 :].shape) / np.sqrt(2)
            values = 127.5 + 255 / 7 * values.clip(-3.5, 3.5)
            tried = [
                c for c in configurations(footprint, channels)
                if c.width * c.height >= 0.35 * min(width * height, 64)
            ]  # fmt: skip
            errors = np.stack([error_of(values, footprint, channels, c) for c in tried], axis=1)
            best, names, last = np.full(count, np.inf), [], np.inf
            while len(names) < 12:
                means = np.minimum(best[:, None], errors).mean(axis=0)
                if means.min() > 0.999 * last:
                    break
                chosen = tried[int(means.argmin())]
                last, best = means.min(), np.minimum(best, errors[:, means.argmin()])
                levels = WEIGHT_RANGES[chosen.weights].levels
                names.append(f"{chosen.partitions}:{chosen.width}x{chosen.height}:{levels}")
            print(f'    "{footprint}": "{" ".join(names)}",  # {channels}', flush=True)


def error_of(values, footprint, channels, configuration):
    """Return the squared error of each block in one configuration."""
    plan = build(footprint, channels, "unorm8", [(configuration, 4)], (2, 1, False), 1e9)
    blocks = encode.encode_blocks(values, np.ones(values.shape[:2]), footprint, plan)
    width, height = size(footprint)
    content = blocks.pack()[None]
    texels = decode_texels(content, footprint, slice(0, height), slice(0, len(values) * width), channels)
    found = 255 * texel_values(texels, "unorm8").reshape(height, len(values), width, channels)
    return np.square(found.swapaxes(0, 1).reshape(values.shape) - values).mean(axis=(1, 2))
