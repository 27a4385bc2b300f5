"""ASTC: SQNR, encoding and decoding speed by footprint, ours beside Arm's encoder in the same run.

    python -m benchmarks astc [--quick]

One thread. Weights: Gaussian, and a pointwise convolution of EfficientNet-Lite0 if its ImageNet weights are at
hand; one range a tensor, the same for all encoders, clipped to four standard deviations.
"""

from functools import partial

import numpy as np

from benchmarks.common import head, row, timed
from featherweight.errors import FeatherweightError
from featherweight.formats.astc import encode
from featherweight.formats.astc.blocks import decode_texels, texel_values
from featherweight.formats.astc.tables import FOOTPRINTS, size

ARM = {"arm medium": 60.0, "arm thorough": 98.0, "arm exhaustive": 100.0}


def weights(quick):
    """Yield name and matrix, as texels of which 0 to 1 is the range."""
    rng = np.random.default_rng(0)
    found = {"Gaussian": rng.normal(size=(480, 480))}
    if quick:
        yield "Gaussian", (found["Gaussian"] / 8 + 0.5).astype(np.float32)
        return
    try:
        from featherweight.zoo.efficientnet_lite import pretrained

        layers = [p.detach().numpy() for p in pretrained().parameters() if p.dim() == 4 and p.shape[1] > 500]
        found["EfficientNet-Lite0, a pointwise convolution"] = layers[-1].reshape(len(layers[-1]), -1)[
            :480, :480
        ]
    except FeatherweightError as error:
        print(f"no EfficientNet-Lite0: {error}")
    for name, matrix in found.items():
        yield name, (matrix / (8 * matrix.std()) + 0.5).astype(np.float32)


def sqnr(texels, decoded):
    return 10 * np.log10((texels - 0.5).astype(np.float64).var() / np.square(decoded - texels).mean())


def decoded(content, footprint, shape, mode):
    texels = decode_texels(content, footprint, slice(0, shape[0]), slice(0, shape[1]), 1)
    return texel_values(texels[:, :, 0], mode)


def encoders(texels, footprint, mode):
    """Yield name, bytes and seconds of every encoder, one thread each."""
    heavy = np.ones(texels.shape)
    for name, quality in ARM.items():
        yield (
            name,
            *timed(partial(encode.encode_tile_astcenc, texels[:, :, None], footprint, quality=quality)),
        )
    for preset in ("fast", "best"):
        encode.encode_tile(texels[:12, :12, None], heavy[:12, :12], footprint, mode, preset)  # compile, plan
        call = partial(encode.encode_tile, texels[:, :, None], heavy, footprint, mode, preset)
        yield preset, *timed(call)


def table(footprints, limit, quick):
    for name, matrix in weights(quick):
        print(f"\n{name}: SQNR dB in unorm8, and thousand weights a second\n")
        head("footprint", "bits", *ARM, "fast", "best", "decode M/s")
        for footprint in footprints:
            width, height = size(footprint)
            texels = matrix[: limit // width * width, : limit // height * height]
            cells, content = [], None
            for _, content, seconds in encoders(texels, footprint, "unorm8"):
                noise = sqnr(texels, decoded(content, footprint, texels.shape, "unorm8"))
                cells.append(f"{noise:5.2f}, {texels.size / seconds / 1e3:4.0f}")
            _, seconds = timed(lambda c=content, f=footprint, s=texels.shape: decoded(c, f, s, "unorm8"), 5)
            speed = texels.size / seconds / 1e6
            bits = 128 / (width * height)
            row(footprint, f"{bits:.2f}", *cells, f"{speed:.0f}")


def main(quick):
    table(("4x4", "6x6") if quick else FOOTPRINTS, 36 if quick else 480, quick)
