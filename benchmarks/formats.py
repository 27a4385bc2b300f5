"""Formats: million weights a second and signal to quantisation noise, with rivals in the same run.

    python -m benchmarks formats [--quick]

One thread; the best of three. Rivals: torch's casts and per-channel fake quantisation, and scipy's k-means
(which starts at random and gets 2 M weights at most).
"""

import time
import warnings
from functools import partial

import numpy as np
import torch
from scipy.cluster.vq import kmeans, vq

from benchmarks.common import decibels, head, row, timed
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


best = partial(timed, repeat=3, clock=time.perf_counter)


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

        decoded, seconds = timed(cluster, clock=time.perf_counter)
        full = np.resize(decoded, weight.shape) if decoded.size == weight.size else None
        yield f"scipy kmeans {1 << bits}", full, seconds * weight.size / len(values)


def line(name, weight, bits, encode, decode, noise):
    speed = [f"{weight.size / s / 1e6:.1f}" if s else "" for s in (encode, decode)]
    row(name, f"{bits:.2f}" if bits else "", *speed, f"{noise:.2f}")


def main(quick):
    warnings.simplefilter("ignore")
    rng, rows = np.random.default_rng(0), 4 if quick else 1024
    for law in ("normal", "laplace"):
        weight = (getattr(rng, law)(size=(rows, 2048)) * 0.02).astype(np.float32)
        print(f"\n{law}, {rows} x 2048, standard deviation {weight.std():.3f}\n")
        head("format", "bits a weight", "encode M/s", "decode M/s", "SQNR dB")
        for format in FORMATS:
            encoded, encode = best(partial(format.encode, weight))
            decoded, decode = best(encoded.decode)
            bits = 8 * encoded.nbytes / weight.size
            line(str(format), weight, bits, encode, decode, decibels(weight, decoded))
        for name, decoded, seconds in rivals(weight):
            line(name, weight, 0, seconds, 0, np.nan if decoded is None else decibels(weight, decoded))
