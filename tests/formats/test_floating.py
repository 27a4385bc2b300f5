"""Float against torch's own types, and against the slow nearest of all patterns."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from featherweight.formats import Float
from featherweight.formats.floating import BITS, MOST, float8_values, from_bits, to_bits

KINDS = tuple(BITS)
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


def all_patterns(kind):
    """Every bit pattern up to 16 bits; a sample of those of 32."""
    if BITS[kind] == 32:
        return np.random.default_rng(0).integers(0, 1 << 32, 100_000, dtype=np.uint32)
    return np.arange(1 << BITS[kind]).astype(f"u{BITS[kind] // 8}")


def torch_values(bits, kind):
    return torch.from_numpy(bits.copy()).view(getattr(torch, kind)).float().numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_every_pattern_is_torchs_number(kind):
    bits = all_patterns(kind)
    np.testing.assert_array_equal(from_bits(bits, kind), torch_values(bits, kind))


@pytest.mark.parametrize("kind", KINDS)
def test_every_finite_pattern_survives(kind):
    bits = all_patterns(kind)
    values = from_bits(bits, kind)
    kept = np.isfinite(values) & ((values != 0) | (bits == 0))
    np.testing.assert_array_equal(to_bits(values[kept], kind), bits[kept])
    assert np.abs(values[kept]).max() <= MOST[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_rounding_is_torchs_within_range(kind):
    rng = np.random.default_rng(1)
    values = (rng.normal(size=200_000) * np.exp2(rng.integers(-30, 18, 200_000))).astype(np.float32)
    values = values[np.abs(values) < MOST[kind]]
    expected = torch.from_numpy(values).to(getattr(torch, kind)).float().numpy()
    np.testing.assert_array_equal(from_bits(to_bits(values, kind), kind), expected)


@pytest.mark.parametrize("kind", ("float8_e4m3fn", "float8_e5m2"))
def test_ties_go_to_the_even_pattern_and_neighbours_to_the_nearest(kind):
    values = float8_values(kind)[: int(np.isfinite(float8_values(kind)[:128]).sum())]
    middle = ((values[1:].astype(np.float64) + values[:-1]) / 2).astype(np.float32)
    codes = np.arange(len(middle))
    np.testing.assert_array_equal(to_bits(middle, kind), codes + codes % 2)
    np.testing.assert_array_equal(to_bits(np.nextafter(middle, np.float32(0)), kind), codes)
    np.testing.assert_array_equal(to_bits(np.nextafter(middle, np.float32(np.inf)), kind), codes + 1)
    np.testing.assert_array_equal(to_bits(-middle[1:], kind), (codes + codes % 2)[1:] + 128)


@pytest.mark.parametrize("kind", KINDS)
@given(st.lists(finite, min_size=1, max_size=20))
def test_the_nearest_number_is_taken(kind, values):
    values = np.array(values, np.float32)
    decoded = Float(kind=kind).encode(values).decode()
    levels = torch_values(all_patterns(kind), kind) if BITS[kind] < 32 else values
    levels = levels[np.isfinite(levels)].astype(np.float64)
    for value, got in zip(values.astype(np.float64), decoded.astype(np.float64), strict=True):
        assert abs(value - got) == np.abs(levels - value).min()


@pytest.mark.parametrize("kind", KINDS)
def test_it_saturates_and_never_makes_infinity(kind):
    most = np.finfo(np.float32).max
    assert Float(kind=kind).encode(np.array([most, -most])).decode().tolist() == [MOST[kind], -MOST[kind]]


@pytest.mark.parametrize("kind", KINDS)
def test_with_an_exponent_nothing_saturates_and_rounding_is_relative(kind):
    """Rows of 2**-60 to 2**100 keep the ratio of signal to noise of the one at 1."""
    rng = np.random.default_rng(2)
    row = rng.normal(size=2000)
    weight = (row * np.exp2([[-60.0], [0], [3], [100]])).astype(np.float32)
    encoded = Float(kind=kind, per="channel").encode(weight)
    decoded = encoded.decode() / np.exp2([[-60.0], [0], [3], [100]])
    np.testing.assert_allclose(decoded, np.broadcast_to(decoded[1], decoded.shape), rtol=1e-7)
    assert encoded.parts["exponent"].dtype == np.int8
    greatest = np.abs(weight).max(axis=1) / np.exp2(encoded.parts["exponent"].astype(float))
    assert (greatest <= MOST[kind]).all()
    if kind.startswith("float8"):
        assert (greatest > MOST[kind] / 2).all()


def test_the_exponent_is_the_least_that_fits():
    for greatest, exponent in [
        (448, 0),
        (449, 1),
        (224, -1),
        (np.nextafter(np.float32(448), np.float32(1e9)), 1),
    ]:
        encoded = Float(kind="float8_e4m3fn", per="tensor").encode(np.array([greatest], np.float32))
        assert encoded.parts["exponent"].tolist() == [exponent], greatest
