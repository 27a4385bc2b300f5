"""Frequency tables are small and exact; how small is part of what a 10 kB network costs."""

import numpy as np
import pytest
from coder_streams import distributions

from featherweight.errors import IntegrityError
from featherweight.formats.coders import StreamSpec
from featherweight.formats.coders.bits import Bits, pack
from featherweight.formats.coders.static import Frequencies, read_frequencies


def table_bytes(symbols, alphabet: int) -> int:
    spec = StreamSpec(symbols.size, alphabet)
    table = Frequencies.of(symbols.astype(spec.dtype), spec)
    payload = pack(*table.fields())
    read, end = read_frequencies(Bits(payload), spec)
    np.testing.assert_array_equal(read.symbols, table.symbols)
    if table.symbols.size > 1:
        np.testing.assert_array_equal(read.counts, table.counts)
    assert (end + 7) // 8 == len(payload)
    return len(payload)


@pytest.mark.parametrize("count", [100, 10_000, 1_000_000])
def test_sixteen_symbols_take_few_bytes(count):
    symbols, alphabet = distributions(count)["gaussian, 4 bits"]
    assert table_bytes(symbols, alphabet) <= 24


def test_single_symbol_takes_next_to_nothing():
    assert table_bytes(np.zeros(1000, int), 16) == 2
    assert table_bytes(np.full(1000, 65535), 1 << 16) <= 6


def test_sparse_use_of_a_large_alphabet():
    draw = np.random.default_rng(0)
    used = draw.choice(1 << 16, 100, replace=False)
    assert table_bytes(draw.choice(used, 10_000), 1 << 16) <= 300


def test_table_never_costs_more_than_exact_counts():
    for symbols, alphabet in distributions(1000).values():
        spec = StreamSpec(symbols.size, alphabet)
        exact = np.bincount(symbols, minlength=alphabet)
        exact = exact[exact > 0]
        table = Frequencies.of(symbols.astype(spec.dtype), spec)
        coded = float(exact @ -np.log2(table.counts / table.counts.sum()))
        ideal = float(exact @ -np.log2(exact / exact.sum()))
        full = sum(w.sum() for _, w in Frequencies(table.symbols, exact).fields())
        assert coded + sum(w.sum() for _, w in table.fields()) <= ideal + full + 1e-6


def test_forged_tables():
    spec = StreamSpec(10, 16)
    one = np.array([1])
    for forged in (
        Frequencies(np.arange(11), np.ones(11, int)),  # more symbols than the stream has
        Frequencies(np.array([3, 16]), np.ones(2, int)),  # a symbol outside the alphabet
        Frequencies(np.array([3, 4]), np.array([1 << 24, 1])),  # a total above 2**24
    ):
        with pytest.raises(IntegrityError):
            read_frequencies(Bits(pack(*forged.fields())), spec)
    with pytest.raises(IntegrityError):
        read_frequencies(Bits(pack((one, one))), spec)
