"""Bitmask and Gaps against loops; the choice of the smallest; what cannot be written."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featherweight.errors import IntegrityError, UnsupportedError
from featherweight.formats.coders import (
    AnyCoder,
    Bitmask,
    Fixed,
    Gaps,
    Huffman,
    Rans,
    StreamSpec,
    Zstd,
    smallest,
)
from featherweight.formats.coders.sparse import absolute_index, relative_index


def slow_gaps(symbols: list[int], bits: int) -> list[int]:
    most = (1 << bits) - 1
    gaps, zeros = [], 0
    for symbol in symbols:
        if symbol:
            gaps.append(zeros)
            zeros = 0
            continue
        zeros += 1
        if zeros == most:
            gaps.append(most)
            zeros = 0
    return gaps


@given(st.lists(st.sampled_from([0, 0, 0, 0, 1]), max_size=300), st.integers(1, 6))
def test_relative_index_against_a_loop(symbols, bits):
    at = np.flatnonzero(symbols)
    gaps = relative_index(at, len(symbols), bits)
    assert gaps.tolist() == slow_gaps(symbols, bits)
    back, covered = absolute_index(gaps, bits)
    np.testing.assert_array_equal(back, at)
    assert 0 <= len(symbols) - covered < max((1 << bits) - 1, 1)


def test_too_narrow_gaps_explode():
    draw = np.random.default_rng(0)
    symbols = np.zeros(3000, np.int64)
    symbols[draw.choice(3000, 80, replace=False)] = 1
    at = np.flatnonzero(symbols)
    entries = [relative_index(at, 3000, bits).size for bits in (2, 4, 6, 8)]
    assert entries[0] > 800
    assert 200 < entries[1] < 260  # about 150 fillers for 80 values
    assert entries[3] == 80
    spec = StreamSpec(3000, 16, zero=0)
    assert len(Gaps(bits=6).encode(symbols, spec)) < len(Gaps(bits=2).encode(symbols, spec))


def test_one_bit_gaps_are_a_bitmask():
    symbols = np.array([0, 3, 0, 0, 1, 2, 0, 3])
    spec = StreamSpec(symbols.size, 4, zero=0)
    assert relative_index(np.flatnonzero(symbols), 8, 1).tolist() == [1, 0, 1, 1, 0, 0, 1, 0]
    assert len(Gaps(bits=1).encode(symbols, spec)) == len(Bitmask().encode(symbols, spec)) + 1


def test_golden_payloads():
    symbols = np.array([8, 8, 3, 8, 8, 8, 8, 12, 8, 9, 8, 8])
    spec = StreamSpec(12, 16, zero=8)
    payloads = {
        coder: coder.encode(symbols, spec).hex()
        for coder in (
            Fixed(),
            Bitmask(),
            Gaps(bits=2),
            Huffman(),
            Rans(),
            Gaps(values=Huffman(), gaps=Rans()),
        )
    }
    assert payloads == GOLDEN


GOLDEN = {
    Fixed(): "888388c89888",
    Bitmask(values=Fixed(), mask=Fixed()): "028402b308",
    Gaps(bits=2, values=Fixed(), gaps=Fixed()): "04015eb308",
    Huffman(): "170134609df8f197f8",
    Rans(): "170134609d0000608784",
    Gaps(bits=5, values=Huffman(), gaps=Rans()): "0307030fbf5955551b0315e2ffc098",
}


def test_inner_coders_are_leaves():
    nested = b'{"coder": "gaps", "values": {"coder": "bitmask"}}'
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(nested, type=AnyCoder)
    plain = b'{"coder": "gaps", "bits": 4, "values": {"coder": "huffman"}}'
    assert msgspec.json.decode(plain, type=AnyCoder) == Gaps(bits=4, values=Huffman())
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"coder": "gaps", "bits": 17}', type=AnyCoder)


def test_misfits_say_why():
    assert "zero" in Bitmask().misfit(StreamSpec(4, 16))
    assert "zero" in Gaps().misfit(StreamSpec(4, 16))
    assert "65537" in Rans().misfit(StreamSpec(4, 65537))
    assert "65537" in Huffman().misfit(StreamSpec(4, 65537))
    assert (
        Bitmask(values=Rans()).misfit(StreamSpec(4, 65537, zero=0)) == ""
    )  # without its zero, 65536 symbols
    assert "65537" in Bitmask(values=Rans()).misfit(StreamSpec(4, 65538, zero=0))


def test_smallest():
    zeros = np.zeros(4000, np.int64)
    spec = StreamSpec(4000, 16, zero=0)
    assert smallest(zeros, spec, [Fixed(), Rans(), Huffman()]) == Rans()  # of equals the earlier
    uniform = np.random.default_rng(0).integers(0, 16, 64)
    assert smallest(uniform, StreamSpec(64, 16), [Bitmask(), Rans(), Fixed()]) == Fixed()
    with pytest.raises(UnsupportedError, match="zero"):
        smallest(uniform, StreamSpec(64, 16), [Bitmask()])


def test_more_gaps_than_symbols():
    with pytest.raises(IntegrityError):
        Gaps(bits=1).decode(b"\xff\xff\xff\xff\x7f\x00", StreamSpec(8, 4, zero=0))


def test_zstd_takes_the_smaller_layout():
    draw = np.random.default_rng(0)
    bits = (draw.random(10_000) < 0.1).astype(np.int64)
    sparse = np.where(draw.random(10_000) < 0.9, 0, draw.integers(1, 17, 10_000))
    assert Zstd().encode(bits, StreamSpec(10_000, 2))[0] == 0
    assert Zstd().encode(sparse, StreamSpec(10_000, 17))[0] == 1
