"""Cabac: a slow decoder written from the specification, sizes on pruned layers, hostile bytes."""

import numpy as np
import pytest
from coder_streams import distributions, entropy_bytes
from hypothesis import given, settings
from hypothesis import strategies as st

from featherweight.errors import IntegrityError
from featherweight.formats.coders import Bitmask, Cabac, Huffman, Rans, StreamSpec
from featherweight.formats.coders.kernels import MARGIN, RATES, to_symbol, to_value, walk
from featherweight.testing.coders import mutated, named_streams


class SlowDecoder:
    """Decodes by the letter of docs/spec/coders.md, in Python's own integers."""

    def __init__(self, payload: bytes, spec: StreamSpec) -> None:
        self.spec, self.models, self.at = spec, {}, 5
        first, rest = payload[0], payload[1:]
        self.limits = ((16, 256), (128, 4096))[first >> 1]
        self.centre = spec.zero
        if self.centre is None:
            self.centre, rest = self.length(rest)
        self.split, rest = self.length(rest) if first & 1 else (None, rest)
        self.bytes, self.low, self.range = rest, int.from_bytes((rest + bytes(5))[:5], "big"), 1 << 40

    def length(self, rest: bytes) -> tuple[int, bytes]:
        size = next(i for i, byte in enumerate(rest) if byte < 128) + 1
        return sum((byte & 127) << 7 * i for i, byte in enumerate(rest[:size])), rest[size:]

    def decision(self, *context: object) -> bool:
        fast, slow, seen = self.models.get(context, (1 << 31, 1 << 31, 0))
        bound = (self.range >> 16) * max(1, (fast + slow) >> 17)
        yes = self.low < bound
        self.low, self.range = (self.low, bound) if yes else (self.low - bound, self.range - bound)
        rates = [2**17 // (2 * min(seen, limit) + 3) for limit in self.limits]
        target = 2**32 if yes else 0
        fast, slow = (p + (target - p) * rate // 2**16 for p, rate in zip((fast, slow), rates, strict=True))
        self.models[context] = fast, slow, seen + 1
        while self.range < 1 << 32:
            byte = self.bytes[self.at] if self.at < len(self.bytes) else 0
            self.low, self.range, self.at = self.low << 8 | byte, self.range << 8, self.at + 1
        return yes

    def value(self, before: int, level: int) -> int:
        if not self.decision("sig", before, level):
            return 0
        negative = self.decision("sign", before)
        size = 1
        while size <= 10 and self.decision("greater", size, negative):
            size += 1
        if size > 10:
            e = 0
            while self.decision("prefix", e):
                e += 1
            r = 1
            for place in reversed(range(e)):
                r = 2 * r + self.decision("suffix", e, place)
            size = 10 + r
        return -size if negative else size

    def symbol(self, value: int) -> int:
        if value == 0:
            return self.centre
        if self.split is None:
            return (self.centre + value) % self.spec.alphabet
        rank = value + self.split - (value > 0)
        return rank + (rank >= self.centre)

    def decode(self) -> list[int]:
        density, out, value = [1 << 13] * self.spec.row_length, [], 0
        for i in range(self.spec.count):
            column = i % self.spec.row_length
            before = 0 if column == 0 else value
            level = sum(density[column] < 1 << power for power in (15, 14, 13, 12, 11))
            value = self.value((before > 0) - (before < 0), level)
            density[column] += ((1 << 16 if value else 0) - density[column]) // 32
            out.append(self.symbol(value))
        return out


def slowly(payload: bytes, spec: StreamSpec) -> list[int]:
    """The symbols of a payload that ends where it should."""
    decoder = SlowDecoder(payload, spec)
    symbols = decoder.decode()
    assert decoder.low < 1 << 32 and len(decoder.bytes) == decoder.at - 4
    return symbols


def layer(rows: int = 200, cols: int = 300, seed: int = 0) -> tuple[np.ndarray, StreamSpec]:
    """A pruned layer: rows and columns differ in density, and a border of columns is empty."""
    draw = np.random.default_rng(seed)
    kept = draw.gamma(1.0, 1.0, (rows, 1)) * draw.gamma(0.5, 1.0, (1, cols)) * 0.2
    kept[:, :30] = 0
    values = np.rint(draw.laplace(0, 2.5, (rows, cols))).astype(int).clip(-8, 7) % 16
    symbols = np.where(draw.random((rows, cols)) < kept, values, 0).reshape(-1)
    return symbols.astype(np.uint8), StreamSpec(symbols.size, 16, zero=0, row_length=cols)


@pytest.mark.parametrize("name", [n for n, (s, _) in named_streams().items() if 0 < s.size < 5000])
def test_against_a_slow_decoder_on_named_streams(name):
    symbols, spec = named_streams()[name]
    if spec.alphabet > 1:
        assert slowly(Cabac().encode(symbols, spec), spec) == symbols.tolist()


@pytest.mark.parametrize("name", distributions(10))
def test_against_a_slow_decoder_on_distributions(name):
    symbols, alphabet = distributions(6000)[name]
    for zero in (0, None):
        spec = StreamSpec(symbols.size, alphabet, zero=zero, row_length=70)
        assert slowly(Cabac().encode(symbols, spec), spec) == symbols.tolist()


def test_against_a_slow_decoder_on_a_layer():
    symbols, spec = layer(40, 100)
    assert slowly(Cabac().encode(symbols, spec), spec) == symbols.tolist()


@pytest.mark.parametrize("name", distributions(10))
def test_within_two_percent_of_the_entropy_where_nothing_depends(name):
    symbols, alphabet = distributions(100_000)[name]
    spec = StreamSpec(symbols.size, alphabet, row_length=500)
    assert len(Cabac().encode(symbols, spec)) <= 1.02 * entropy_bytes(symbols) + 20


def test_below_the_entropy_on_a_pruned_layer():
    symbols, spec = layer()
    payload = Cabac().encode(symbols, spec)
    np.testing.assert_array_equal(Cabac().decode(payload, spec), symbols)
    assert len(payload) < 0.9 * entropy_bytes(symbols)
    for rival in (Rans(), Huffman(), Bitmask(values=Rans(), mask=Rans())):
        assert len(payload) < 0.9 * len(rival.encode(symbols, spec))


def test_rows_matter():
    symbols, spec = layer()
    flat = StreamSpec(spec.count, spec.alphabet, zero=0, row_length=spec.count)
    assert len(Cabac().encode(symbols, spec)) < 0.97 * len(Cabac().encode(symbols, flat))


def test_golden_payloads():
    symbols = np.array([8, 8, 3, 8, 8, 8, 8, 12, 8, 9, 8, 8])
    found = [Cabac().encode(symbols, StreamSpec(12, 16, zero=z, row_length=4)).hex() for z in (8, None)]
    assert found == ["0095a5987f", "000895a5987f"]


@given(st.data(), st.sampled_from([2, 3, 16, 17, 1 << 16, 1 << 32]))
def test_values_are_symbols(data, alphabet):
    symbol, centre = (data.draw(st.integers(0, alphabet - 1)) for _ in range(2))
    split = data.draw(st.integers(-1, alphabet - 1))
    value = to_value(symbol, alphabet, centre, split)
    assert (value == 0) == (symbol == centre)
    assert to_symbol(value, alphabet, centre, split) == symbol


def test_values_of_integers_and_of_codebooks():
    assert [to_value(s, 8, 0, -1) for s in range(8)] == [0, 1, 2, 3, -4, -3, -2, -1]
    assert [to_value(s, 8, 0, 3) for s in range(8)] == [0, -3, -2, -1, 1, 2, 3, 4]
    assert [to_value(s, 5, 2, 2) for s in range(5)] == [-2, -1, 0, 1, 2]
    assert to_symbol(4, 8, 0, -1) == to_symbol(5, 8, 0, 3) == to_symbol(-3, 5, 2, 2) == -1


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=40))
def test_what_is_decoded_was_encoded(payload):
    """Of all bytes with one order and rate, only what an encoder would write is taken."""
    spec = StreamSpec(30, 6, zero=2, row_length=7)
    try:
        symbols = Cabac().decode(payload, spec)
    except IntegrityError:
        return
    again = Cabac().encode(symbols, spec)
    assert payload[0] != again[0] or payload[0] & 1 or again == payload


def test_thousands_of_damaged_payloads():
    draw = np.random.default_rng(0)
    symbols, spec = layer(6, 20)
    payload, refused = Cabac().encode(symbols, spec), 0
    for _ in range(3000):
        try:
            assert Cabac().decode(mutated(payload, draw), spec).max() < 16
        except IntegrityError:
            refused += 1
    assert refused > 1000


def test_forged_heads():
    for forged in (b"", b"\x04", b"\x01\x10", b"\x01\x80", b"\x00" * 9):
        with pytest.raises(IntegrityError):
            Cabac().decode(forged, StreamSpec(10, 16, zero=0))
    with pytest.raises(IntegrityError, match="order"):
        Cabac().decode(b"\x00\x10", StreamSpec(10, 16))


@pytest.mark.parametrize("zero", [0, 1])
def test_symbols_that_cost_least_are_within_the_bound(zero):
    count = 3_000_000
    symbols, spec = np.zeros(count, np.uint8), StreamSpec(count, 2, zero=zero)
    payload = Cabac().encode(symbols, spec)
    assert len(payload) < 40
    np.testing.assert_array_equal(Cabac().decode(payload, spec), symbols)


def test_a_count_is_refused_before_there_is_memory_for_it():
    symbols, spec = layer(40, 100)
    payload = Cabac().encode(symbols, spec)
    digits = np.frombuffer(payload[1:] + bytes(MARGIN), np.uint8).astype(np.uint16)
    for count in (symbols.size + 1000, 1 << 40):
        read, _, (_, length, _) = walk(
            np.zeros(1, np.uint32), digits, count, 100, (16, 0, -1), RATES[payload[0] >> 1], True
        )
        assert length == 0 and read.size < 4 * symbols.size
        np.testing.assert_array_equal(read[: symbols.size], symbols)
    with pytest.raises(IntegrityError, match="too few bytes"):
        Cabac().decode(b"\0abc", StreamSpec(1 << 21, 16, zero=0))


def test_zeros_at_the_end_are_neither_dropped_nor_added():
    draw, ended = np.random.default_rng(0), 0
    for _ in range(1500):
        symbols = draw.integers(0, 5, 12).astype(np.uint8)
        spec = StreamSpec(12, 5, zero=0, row_length=4)
        payload = Cabac().encode(symbols, spec)
        for forged in (payload + b"\0", payload.rstrip(b"\0")):
            if forged != payload:
                with pytest.raises(IntegrityError):
                    Cabac().decode(forged, spec)
        ended += payload[-1] == 0
    assert ended
