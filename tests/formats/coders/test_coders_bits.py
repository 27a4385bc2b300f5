"""Bit strings and lists of integers against strings of '0' and '1'."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featherweight.errors import IntegrityError
from featherweight.formats.coders.bits import Bits, integers, integers_size, pack, read_integers

fields = st.integers(0, 32).flatmap(
    lambda width: st.tuples(st.integers(0, max((1 << width) - 1, 0)), st.just(width))
)


def as_bytes(text: str) -> bytes:
    return bytes(int(text[i : i + 8].ljust(8, "0"), 2) for i in range(0, len(text), 8))


@given(st.lists(fields, max_size=40))
def test_pack_and_peek(drawn):
    values = np.array([value for value, _ in drawn], np.int64)
    widths = np.array([width for _, width in drawn], np.int64)
    payload = pack((values, widths))
    assert payload == as_bytes("".join(f"{value:0{width}b}" if width else "" for value, width in drawn))
    if drawn:
        np.testing.assert_array_equal(Bits(payload).peek(np.cumsum(widths) - widths, widths), values)


def exp_golomb(values: list[int], order: int) -> str:
    """The list as the specification words it."""
    if not any(values):
        return "11111"
    us = [value + (1 << order) for value in values]
    unary = "".join("0" * (u.bit_length() - order - 1) + "1" for u in us)
    return f"{order:05b}" + unary + "".join(f"{u:b}"[1:] for u in us)


@given(st.lists(st.integers(0, 40) | st.integers(0, (1 << 31) - 1), max_size=30))
def test_integers(values):
    payload = pack(integers(np.array(values, np.int64)))
    candidates = [exp_golomb(values, order) for order in range(31)]
    shortest = min(candidates, key=len)
    assert payload == as_bytes(shortest)
    assert integers_size(np.array(values, np.int64)) == len(shortest)
    read, end = read_integers(Bits(payload + b"\xff"), 0, len(values))
    assert (read.tolist(), end) == (values, len(shortest))


@given(st.binary(max_size=12), st.integers(0, 7), st.integers(0, 300))
def test_any_bits_are_integers_or_refused(payload, start, count):
    try:
        values, end = read_integers(Bits(payload), start, count)
    except IntegrityError:
        return
    assert values.size == count
    assert end <= 8 * len(payload)
    assert not count or 0 <= values.min() <= values.max() < 1 << 32


def test_cut_short():
    payload = pack(integers(np.arange(50)))
    for size in range(len(payload)):
        with pytest.raises(IntegrityError):
            read_integers(Bits(payload[:size]), 0, 50)
