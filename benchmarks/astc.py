"""ASTC: SQNR, encoding and decoding speed by footprint, ours beside Arm's encoder in the same run.

    python benchmarks/astc.py [--quick] [--proof] [--layouts]

One thread. Weights: Gaussian, and a pointwise convolution of EfficientNet-Lite0 if its ImageNet weights are at
hand; one range a tensor, the same for all encoders, clipped to four standard deviations. `--proof` decodes
random legal blocks of every configuration by both decoders; `--layouts` makes the lists of
`featherweight.formats.astc.candidate_modes` again.
"""

import argparse
import time
from functools import partial

import numpy as np

from featherweight.errors import FeatherweightError
from featherweight.formats.astc import astcenc, encode
from featherweight.formats.astc.blocks import decode_texels, texel_values
from featherweight.formats.astc.modes import FOOTPRINTS, WEIGHT_RANGES, configurations, size
from featherweight.formats.astc.presets import build
from featherweight.processors import thread_limit

ARM = {"arm medium": 60.0, "arm thorough": 98.0, "arm exhaustive": 100.0}


def timed(call, repeat=1):
    """Return the result of `call` and its least seconds of processor time."""
    seconds = []
    for _ in range(repeat):
        start = time.process_time()
        result = call()
        seconds.append(time.process_time() - start)
    return result, min(seconds)


def weights():
    """Yield name and matrix, as texels of which 0 to 1 is the range."""
    rng = np.random.default_rng(0)
    found = {"Gaussian": rng.normal(size=(480, 480))}
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
        yield name, *timed(partial(astcenc.encode_tile, texels[:, :, None], footprint, quality=quality))
    for preset in ("fast", "best"):
        encode.encode_tile(texels[:12, :12, None], heavy[:12, :12], footprint, mode, preset)  # compile, plan
        call = partial(encode.encode_tile, texels[:, :, None], heavy, footprint, mode, preset)
        yield preset, *timed(call)


def table(footprints, limit):
    for name, matrix in weights():
        print(f"\n{name}: SQNR dB in unorm8, and thousand weights a second\n")
        print("| footprint | bits | arm medium | thorough | exhaustive | fast | best | decode M/s |")
        print("|---|---|---|---|---|---|---|---|")
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
            print(f"| {footprint} | {bits:.2f} | {' | '.join(cells)} | {speed:.0f} |", flush=True)


def proof(count):
    """Count random legal blocks that our decoder and Arm's see differently."""
    import sys
    from pathlib import Path

    sys.path.append(str(Path(__file__).parent.parent / "tests" / "formats" / "astc"))
    from astc_oracle import oracle, ours, random_blocks

    total = wrong = 0
    for footprint in FOOTPRINTS:
        for channels in (1, 4):
            for blocks in (
                random_blocks(footprint, channels, n, np.random.default_rng(n)) for n in (0, count)
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


def rank_layouts(count):
    """Print the layouts of each footprint, chosen greedily on Gaussian and Laplacian blocks."""
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


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a few footprints, fewer weights")
    parser.add_argument("--proof", action="store_true", help="both decoders on random blocks, nothing else")
    parser.add_argument("--layouts", action="store_true", help="rank layouts, nothing else")
    chosen = parser.parse_args()
    with thread_limit(1):
        run(chosen)


def run(chosen):
    if chosen.proof:
        proof(100 if chosen.quick else 2000)
    elif chosen.layouts:
        rank_layouts(4 if chosen.quick else 40)
    else:
        table(("4x4", "6x6", "8x8", "12x12") if chosen.quick else FOOTPRINTS, 96 if chosen.quick else 480)


if __name__ == "__main__":
    main()
