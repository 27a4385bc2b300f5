"""What every coder must hold to; needs pytest and hypothesis."""

from __future__ import annotations

from functools import cache
from typing import ClassVar

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featherweight.errors import IntegrityError, UnsupportedError
from featherweight.formats.coders import Coder, StreamSpec
from featherweight.formats.coders.base import Array

Stream = tuple[Array, StreamSpec]

_health = [HealthCheck.differing_executors, HealthCheck.too_slow]
_inherited = settings(deadline=None, max_examples=40, suppress_health_check=_health)


@cache
def named_streams() -> dict[str, Stream]:
    """Return the streams that break coders: empty, one symbol, all equal, alphabets of 1 and 2**32, more."""
    draw = np.random.default_rng(0)

    def stream(symbols: object, alphabet: int, zero: int | None = 0, row_length: int = 1) -> Stream:
        array = np.asarray(symbols, dtype=np.int64).reshape(-1)
        spec = StreamSpec(array.size, alphabet, zero=zero, row_length=row_length)
        return array.astype(spec.dtype), spec

    sparse = np.where(draw.random(600) < 0.9, 3, draw.integers(0, 16, 600))
    long_run = np.zeros(70_000, int)
    long_run[[0, 69_000]] = 1, 2
    return {
        "empty": stream([], 16), "empty, alphabet 1": stream([], 1), "one symbol": stream([5], 16),
        "one zero": stream([0], 16), "all equal": stream([7] * 1000, 16), "all zero": stream([0] * 1000, 16),
        "alphabet 1": stream([0] * 100, 1), "no zero symbol": stream(draw.integers(0, 4, 200), 4, zero=None),
        "binary": stream(draw.random(500) < 0.1, 2), "alternating": stream(np.arange(600) % 2, 2),
        "gaussian": stream(np.clip(np.rint(draw.normal(8, 2, 900)), 0, 15), 16, zero=8, row_length=30),
        "sparse, zero inside": stream(sparse, 16, zero=3, row_length=20),
        "zero last": stream(draw.integers(0, 7, 100), 7, zero=6), "long runs of zero": stream(long_run, 3),
        "peaked": stream(np.minimum(draw.geometric(0.5, 3000) - 1, 200), 256),
        "alphabet 257": stream(draw.integers(0, 257, 300), 257, zero=256),
        "alphabet 2**16": stream(draw.integers(0, 1 << 16, 300), 1 << 16, zero=12345),
        "two of 2**16": stream(draw.integers(0, 2, 100) * 65535, 1 << 16),
        "alphabet 2**16 + 1": stream(draw.integers(0, (1 << 16) + 1, 50), (1 << 16) + 1),
        "alphabet 2**32": stream([0, 1, 2**32 - 1, 2**31, 5], 1 << 32, zero=5),
    }  # fmt: skip


@st.composite
def streams(draw: st.DrawFn) -> Stream:
    """Draw a short stream, its alphabet and its zero symbol."""
    alphabet = draw(st.sampled_from([1, 2, 3, 16, 17, 256, 300, 1 << 16]))
    used = draw(st.lists(st.integers(0, alphabet - 1), min_size=1, max_size=6))
    symbols = draw(st.lists(st.sampled_from(used) | st.integers(0, alphabet - 1), max_size=80))
    zero = draw(st.none() | st.sampled_from(used))
    spec = StreamSpec(len(symbols), alphabet, zero=zero, row_length=draw(st.integers(1, 90)))
    return np.array(symbols, spec.dtype), spec


def mutated(payload: bytes, draw: np.random.Generator) -> bytes:
    """Return `payload` with bits flipped, bytes overwritten, cut, inserted, repeated or cut short."""
    raw = bytearray(payload)
    for _ in range(int(draw.integers(1, 4))):
        at = int(draw.integers(0, len(raw) + 1))
        match int(draw.integers(0, 6)) if raw else 3:
            case 0:
                raw[at % len(raw)] ^= 1 << int(draw.integers(0, 8))
            case 1:
                raw[at % len(raw)] = int(draw.choice([0, 1, 127, 128, 255]))
            case 2:
                del raw[at : at + int(draw.integers(1, 4))]
            case 3:
                raw[at:at] = draw.bytes(int(draw.integers(1, 4)))
            case 4:
                raw[at:at] = raw[: int(draw.integers(0, len(raw)))]
            case _:
                del raw[at:]
    return bytes(raw)


class CoderSuite:
    """The laws of a coder. Subclass it, set `coder`, and let pytest collect the subclass.

    >>> from featherweight.formats.coders import Fixed
    >>> class TestMine(CoderSuite):
    ...     coder = Fixed()

    Attributes:
        coder: the coder under test.
        mutations: how many damaged payloads `test_damaged_payloads` tries on each stream.
    """

    coder: ClassVar[Coder]
    mutations: ClassVar[int] = 50

    def payloads(self) -> list[tuple[bytes, Array, StreamSpec]]:
        """Return the named streams that the coder can take, and their payloads."""
        fitting = [(s, spec) for s, spec in named_streams().values() if not self.coder.misfit(spec)]
        return [(self.coder.encode(symbols, spec), symbols, spec) for symbols, spec in fitting]

    def check_lossless(self, payload: bytes, symbols: Array, spec: StreamSpec) -> None:
        """Fail unless decoding gives back the symbols and their type."""
        decoded = self.coder.decode(payload, spec)
        assert decoded.dtype == spec.dtype
        np.testing.assert_array_equal(decoded, symbols)

    def check_refused_or_valid(self, payload: bytes, spec: StreamSpec) -> None:
        """Fail unless the payload raises `IntegrityError` or decodes to symbols of the alphabet."""
        try:
            symbols = self.coder.decode(payload, spec)
        except IntegrityError:
            return
        assert symbols.shape == (spec.count,)
        assert symbols.dtype == spec.dtype
        assert spec.count == 0 or int(symbols.max()) < spec.alphabet

    def test_lossless_on_named_streams(self) -> None:
        """Every symbol comes back, on the streams that break coders; a coder that takes none is not tested at all."""
        payloads = self.payloads()
        assert payloads
        for payload, symbols, spec in payloads:
            self.check_lossless(payload, symbols, spec)

    @_inherited
    @given(stream=streams())
    def test_lossless_on_drawn_streams(self, stream: Stream) -> None:
        """Every symbol comes back, on streams nobody thought of."""
        if not self.coder.misfit(stream[1]):
            self.check_lossless(self.coder.encode(*stream), *stream)

    def test_same_symbols_same_bytes(self) -> None:
        """Bytes depend on the symbols alone, not on how an array holds them."""
        for payload, symbols, spec in self.payloads():
            spread = np.repeat(symbols.astype(np.int64), 2)[::2]
            assert self.coder.encode(spread, spec) == payload

    def test_misfits_are_refused(self) -> None:
        """Where `misfit` gives a reason, encoding and decoding give it too."""
        for symbols, spec in named_streams().values():
            if reason := self.coder.misfit(spec):
                with pytest.raises(UnsupportedError) as unsupported:
                    self.coder.encode(symbols, spec)
                assert reason in str(unsupported.value)
                with pytest.raises(IntegrityError):
                    self.coder.decode(b"", spec)

    def test_trailing_and_missing_bytes(self) -> None:
        """Bytes behind the end are refused; a payload cut short is refused, or that of another stream."""
        for payload, symbols, spec in self.payloads():
            if len(payload) < 40:
                continue
            for longer in (payload + b"\0", payload + b"\1", payload + payload):
                with pytest.raises(IntegrityError):
                    self.coder.decode(longer, spec)
            for size in (len(payload) - 1, len(payload) // 2, 0):
                try:
                    assert not np.array_equal(self.coder.decode(payload[:size], spec), symbols)
                except IntegrityError:
                    continue

    def test_damaged_payloads(self) -> None:
        """A damaged payload is refused, or is that of another stream."""
        draw = np.random.default_rng(1)
        for payload, _, spec in self.payloads():
            for _ in range(self.mutations if spec.count < 1000 else self.mutations // 10):
                self.check_refused_or_valid(mutated(payload, draw), spec)

    @_inherited
    @given(st.binary(max_size=60), st.integers(0, 200), st.sampled_from([1, 2, 16, 300, 1 << 16]))
    def test_any_bytes(self, payload: bytes, count: int, alphabet: int) -> None:
        """Any bytes whatever are refused or decode."""
        if not self.coder.misfit(spec := StreamSpec(count, alphabet, zero=0)):
            self.check_refused_or_valid(payload, spec)

    def test_is_a_value(self) -> None:
        """A coder is equal to, and hashes like, what its JSON reads back as."""
        again = msgspec.json.decode(msgspec.json.encode(self.coder), type=type(self.coder))
        assert again == self.coder
        assert hash(again) == hash(self.coder)
