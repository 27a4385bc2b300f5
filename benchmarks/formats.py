"""Formats: million weights a second and signal to quantisation noise, with rivals in the same run.

    python benchmarks/formats.py [--quick]

One thread; the best of three. Rivals: torch's casts and per-channel fake quantisation, and scipy's k-means (which starts
at random and gets 2 M weights at most).
"""

import argparse
import time
import warnings
from functools import partial

import numpy as np
import torch
from scipy.cluster.vq import kmeans, vq

from featherweight.formats import Clustered, Float, Int, Log2

FORMATS = [
    *[Float(kind=kind) for kind in ("float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")],
    Float(kind="float8_e4m3fn", per="channel"),
    *[Int(bits=bits, scale_by=by) for bits in (8, 4, 2) for by in ("minmax", "mse")],
    Int(bits=4, scheme="affine"),
    *[Int(bits=4, per=32, scale_by=by) for by in ("minmax", "mse")],
    *[Log2(bits=4, per="channel"), Log2(bits=8, fraction=3, per="channel")],
    *[Clustered(bits=bits, init=init) for bits in (2, 4, 8) for init in ("linear", "density")],
]


def best(call, repeat=3):
    """Return the result of `call` and its least seconds."""
    seconds = []
    for _ in range(repeat):
        start = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - start)
    return result, min(seconds)


def sqnr(weight, decoded):
    """Return signal over noise in dB."""
    weight = weight.astype(np.float64)
    return 10 * np.log10(np.square(weight).sum() / max(np.square(weight - decoded).sum(), 1e-300))


def rivals(weight):
    """Yield name, decoded weights and seconds of what others do to the same weights."""
    tensor = torch.from_numpy(weight)
    for kind in ("float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"):
        cast, seconds = best(lambda kind=kind: tensor.to(getattr(torch, kind)))
        yield f"torch {kind}", cast.float().numpy(), seconds
    for bits in (8, 4, 2):
        least, most = -(1 << bits - 1), (1 << bits - 1) - 1

        def fake(least=least, most=most):
            scale = tensor.abs().amax(dim=1) * 2 / (most - least)
            zero = torch.zeros(len(tensor), dtype=torch.int32)
            return torch.fake_quantize_per_channel_affine(tensor, scale, zero, 0, least, most)

        decoded, seconds = best(fake)
        yield f"torch fake int{bits}, channel", decoded.numpy(), seconds
    values = weight.reshape(-1)[: 1 << 21, None]
    for bits in (2, 4):

        def cluster(bits=bits):
            codebook, _ = kmeans(values[::16].astype(np.float64), 1 << bits, iter=1, rng=0)
            return codebook[vq(values, codebook)[0]]

        decoded, seconds = best(cluster, 1)
        full = np.resize(decoded, weight.shape) if decoded.size == weight.size else None
        yield f"scipy kmeans {1 << bits}", full, seconds * weight.size / len(values)


def row(name, weight, bits, encode, decode, noise):
    speed = [f"{weight.size / s / 1e6:9.1f}" if s else f"{'':9}" for s in (encode, decode)]
    print(
        f"| {name:64} | {bits:6.2f} | {' | '.join(speed)} | {noise:7.2f} |"
        if bits
        else f"| {name:64} | {'':6} | {' | '.join(speed)} | {noise:7.2f} |"
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the weights")
    rows = 64 if parser.parse_args().quick else 1024
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rng = np.random.default_rng(0)
    for law in ("normal", "laplace"):
        weight = (getattr(rng, law)(size=(rows, 2048)) * 0.02).astype(np.float32)
        print(f"\n{law}, {rows} x 2048, standard deviation {weight.std():.3f}\n")
        print("| format | bits a weight | encode M/s | decode M/s | SQNR dB |\n|---|---|---|---|---|")
        for format in FORMATS:
            encoded, encode = best(partial(format.encode, weight))
            decoded, decode = best(encoded.decode)
            row(str(format), weight, 8 * encoded.nbytes / weight.size, encode, decode, sqnr(weight, decoded))
        for name, decoded, seconds in rivals(weight):
            row(name, weight, 0, seconds, 0, np.nan if decoded is None else sqnr(weight, decoded))


if __name__ == "__main__":
    main()
