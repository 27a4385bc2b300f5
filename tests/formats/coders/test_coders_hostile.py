"""Hostile payloads: many small damaged ones quickly, and memory in proportion to count and payload."""

import tracemalloc

import numpy as np
import pytest
import zstandard

from featherweight.errors import IntegrityError
from featherweight.formats.coders import Bitmask, Cabac, Fixed, Gaps, Huffman, Rans, StreamSpec, Zstd
from featherweight.testing.coders import mutated

CODERS = [
    Fixed(),
    Zstd(level=1),
    Rans(),
    Huffman(),
    Cabac(),
    Bitmask(),
    Bitmask(values=Rans(), mask=Zstd(level=1)),
    Gaps(bits=3),
    Gaps(values=Huffman(), gaps=Huffman()),
]


@pytest.mark.parametrize("coder", CODERS, ids=repr)
def test_thousands_of_damaged_payloads(coder):
    draw = np.random.default_rng(0)
    symbols = np.where(draw.random(40) < 0.6, 2, draw.integers(0, 9, 40))
    spec = StreamSpec(40, 9, zero=2)
    payload = coder.encode(symbols, spec)
    refused = 0
    for _ in range(2000):
        try:
            decoded = coder.decode(mutated(payload, draw), spec)
            assert decoded.shape == (40,)
            assert decoded.max() < 9
        except IntegrityError:
            refused += 1
    assert refused > 500


@pytest.mark.parametrize("coder", CODERS, ids=repr)
def test_memory_of_damaged_payloads(coder):
    draw = np.random.default_rng(0)
    symbols = np.where(draw.random(20_000) < 0.6, 2, draw.integers(0, 9, 20_000))
    spec = StreamSpec(20_000, 9, zero=2)
    payload = coder.encode(symbols, spec)
    damaged = [mutated(payload[:60], draw) + payload[60:] for _ in range(5)]
    tracemalloc.start()
    for forged in damaged:
        try:
            coder.decode(forged, spec)
        except IntegrityError:
            continue
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 * spec.count + 100 * len(payload) + (1 << 22)


@pytest.mark.parametrize("coder", [*CODERS, Gaps(bits=8, values=Rans(), gaps=Rans())], ids=repr)
@pytest.mark.parametrize("count", [1, 19_000, 20_300, 25_000, 100_000_000])
def test_a_payload_is_of_one_count(coder, count):
    """One of another count is refused, and a much greater one before there is memory for it."""
    draw = np.random.default_rng(0)
    symbols = np.where(draw.random(20_000) < 0.6, 2, draw.integers(0, 9, 20_000))
    symbols[-30:] = draw.permutation(30) % 9
    payload = coder.encode(symbols, StreamSpec(20_000, 9, zero=2))
    tracemalloc.start()
    with pytest.raises(IntegrityError):
        coder.decode(payload, StreamSpec(count, 9, zero=2))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 22


def test_zstd_bombs():
    spec = StreamSpec(1000, 256)
    options = {"format": zstandard.FORMAT_ZSTD1_MAGICLESS, "write_content_size": False}
    large = zstandard.ZstdCompressionParameters.from_level(19, source_size=1 << 26, **options)
    bomb = zstandard.ZstdCompressor(compression_params=large).compress(bytes(1 << 26))
    tracemalloc.start()
    with pytest.raises(IntegrityError):
        Zstd().decode(b"\0" + bomb[2:], spec)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_zstd_header_is_the_one_left_out():
    for size in (1, 1000, 1024, 1025, 100_000):
        symbols = np.random.default_rng(0).integers(0, 3, size)
        for level in (1, 9, 19, 22):
            coder, spec = Zstd(level=level), StreamSpec(size, 256)
            np.testing.assert_array_equal(coder.decode(coder.encode(symbols, spec), spec), symbols)
