"""Coders by distribution: bits a symbol against the entropy, and symbols a second of one core's time.

    python -m benchmarks coders [--quick]

Rivals of the same run: `zstd -19` is the zstandard library at level 19 on the symbols packed at fixed rate;
`range` is constriction's range coder, the exact frequencies handed over for free: no table is written.
"""

from __future__ import annotations

from collections.abc import Callable

import constriction
import numpy as np
import zstandard

from benchmarks.common import timed
from featherweight.formats.coders import Bitmask, Cabac, Coder, Fixed, Gaps, Huffman, Rans, StreamSpec, Zstd
from featherweight.formats.coders.bits import pack_bits

Array = np.ndarray
ROW = 500


def distributions(count: int) -> dict[str, tuple[Array, int, int]]:
    """Name to symbols, alphabet and zero symbol."""
    draw = np.random.default_rng(0)
    levels = draw.integers(1, 17, count)
    return {
        "uniform, 4 bits": (draw.integers(0, 16, count), 16, 0),
        "gaussian, 4 bits": (np.clip(np.rint(draw.normal(8, 2.2, count)), 0, 15), 16, 8),
        "laplacian, 8 bits": (np.clip(np.rint(draw.laplace(128, 12, count)), 0, 255), 256, 128),
        **{f"gaussian, {bits} bits": (gaussian(draw, count, bits), 1 << bits, 0) for bits in (8, 12, 16)},
        "geometric": (np.minimum(draw.geometric(0.3, count) - 1, 31), 32, 0),
        "90 % zeros, 16 levels": (np.where(draw.random(count) < 0.9, 0, levels), 17, 0),
        "99 % zeros, 16 levels": (np.where(draw.random(count) < 0.99, 0, levels), 17, 0),
        "binary, p = 0.1": (draw.random(count) < 0.1, 2, 0),
        "pruned layer": (pruned(draw, count), 17, 0),
    }


def gaussian(draw: np.random.Generator, count: int, bits: int) -> Array:
    """Integers of `bits` bits, an eighth of their range the standard deviation, as symbols of `Int`."""
    most = 1 << bits - 1
    return np.rint(draw.normal(0, most / 4, count)).astype(int).clip(-most, most - 1) % (2 * most)


def pruned(draw: np.random.Generator, count: int) -> Array:
    """92 % zeros; rows and columns (inputs) differ in density, as layers pruned by magnitude do."""
    rows = -(-count // ROW)
    kept = draw.gamma(1.0, 1.0, (rows, 1)) * draw.gamma(0.5, 1.0, (1, ROW)) * 0.2
    values = np.rint(draw.laplace(0, 2.5, (rows, ROW))).astype(int).clip(-8, 7) % 17
    return np.where(draw.random((rows, ROW)) < kept, values, 0).reshape(-1)[:count]


def zstd_19(symbols: Array, spec: StreamSpec) -> tuple[int, float, float]:
    """Return bytes, and seconds to encode and decode."""
    raw = pack_bits(symbols, spec.bits)
    frame, encode = timed(lambda: zstandard.ZstdCompressor(level=19).compress(raw))
    _, decode = timed(lambda: zstandard.ZstdDecompressor().decompress(frame))
    return len(frame), encode, decode


def range_coder(symbols: Array, spec: StreamSpec) -> tuple[int, float, float]:
    """Return bytes, and seconds to encode and decode."""
    share = np.bincount(symbols, minlength=spec.alphabet) / spec.count
    model = constriction.stream.model.Categorical(share, perfect=False)
    encoder = constriction.stream.queue.RangeEncoder()
    _, encode = timed(lambda: encoder.encode(symbols.astype(np.int32), model))
    words = encoder.get_compressed()
    decoder = constriction.stream.queue.RangeDecoder(words)
    _, decode = timed(lambda: decoder.decode(model, spec.count))
    return words.nbytes, encode, decode


def ours(coder: Coder) -> Callable[[Array, StreamSpec], tuple[int, float, float]]:
    def run(symbols: Array, spec: StreamSpec) -> tuple[int, float, float]:
        payload, encode = timed(lambda: coder.encode(symbols, spec))
        decoded, decode = timed(lambda: coder.decode(payload, spec))
        assert np.array_equal(decoded, symbols), "not lossless"
        return len(payload), encode, decode

    return run


SLOW = {"Zstd", "zstd -19"}
ROWS = {
    "Fixed": ours(Fixed()),
    "Huffman": ours(Huffman()),
    "Rans": ours(Rans()),
    "Zstd": ours(Zstd()),
    "Bitmask": ours(Bitmask()),
    "Bitmask of Rans": ours(Bitmask(values=Rans(), mask=Rans())),
    "Gaps": ours(Gaps()),
    "Gaps of Huffman": ours(Gaps(values=Huffman(), gaps=Huffman())),
    "Cabac": ours(Cabac()),
    "zstd -19": zstd_19,
    "range": range_coder,
}


def print_table(count: int, most_slow: int) -> None:
    print(f"{count:,} symbols; Zstandard at level 19 on at most {most_slow:,} of them")
    print(
        f"{'distribution':22} {'coder':16} {'bits/symbol':>11} {'over H':>8} {'enc M/s':>8} {'dec M/s':>8} "
        f"{'/ zstd -19':>10}"
    )
    for name, (drawn, alphabet, zero) in distributions(count).items():
        rates: dict[str, tuple[float, float, float, float]] = {}
        for row, run in ROWS.items():
            used = drawn[: most_slow if row in SLOW else count]
            spec = StreamSpec(used.size, alphabet, zero=zero, row_length=ROW)
            symbols = used.astype(spec.dtype)
            share = np.bincount(symbols) / used.size
            entropy = -float(share[share > 0] @ np.log2(share[share > 0]))
            nbytes, encode, decode = run(symbols, spec)
            rates[row] = 8 * nbytes / used.size, entropy, used.size / encode / 1e6, used.size / decode / 1e6
        rival = rates["zstd -19"][0]
        for row, (bits, entropy, encode, decode) in rates.items():
            figures = (
                f"{bits:11.4f} {bits / entropy - 1:8.2%} {encode:8.1f} {decode:8.1f} {bits / rival:10.3f}"
            )
            print(f"{name:22} {row:16} {figures}")
        print(f"{name:22} {'entropy H':16} {rates['Rans'][1]:11.4f}\n")


def main(quick: bool) -> None:
    Cabac().encode(np.arange(2), StreamSpec(2, 2))  # numba compiles
    print_table(20_000 if quick else 100_000, 100_000)
    if not quick:
        print_table(10_000_000, 1_000_000)
