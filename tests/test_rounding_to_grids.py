"""Rounding to a grid: against exact fractions, without bias, and the same bytes whatever ran before."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featherweight.activations import KINDS, Affine, FloatingPoint
from featherweight.errors import ConfigError, UnsupportedError
from featherweight.formats.floating import BITS, from_bits
from featherweight.formats.kernels import round_to_grid
from featherweight.rounding import CHUNK, LANES, REUSE, Rounding

TENTH = float(np.float32(0.1))
EXACT = [
    Affine(1.0, 0, 16, True), Affine(2.0**-7, 0, 8, True), Affine(0.25, 3, 4),
    *[FloatingPoint(1.0, kind) for kind in KINDS], FloatingPoint(2.0**-5, "float8_e4m3fn"),
]  # fmt: skip
GRIDS = [
    *EXACT,
    Affine(TENTH, 0, 8, True),
    FloatingPoint(TENTH, "float8_e5m2"),
    FloatingPoint(TENTH, "float16"),
]
MODES = ["nearest", "stochastic", "shared"]
SHARED = LANES * REUSE  # after so many numbers every generator has moved on


def points(grid):
    """All numbers of a grid, ascending."""
    if isinstance(grid, Affine):
        return grid.dequantize(np.arange(grid.grid[0], grid.grid[1] + 1))
    numbers = from_bits(np.arange(1 << BITS[grid.kind]), grid.kind)
    return np.unique(numbers[np.isfinite(numbers)] * np.float32(grid.scale))


def rounded(grid, mode, x, seed=0):
    found = np.array(x, np.float32)
    Rounding(grid, mode).round(found, seed=seed)
    return found


def around(grid, x):
    """The points below and above numbers, the same if they are one or beyond the ends."""
    known = points(grid)
    low = known[np.maximum(np.searchsorted(known, x, "right") - 1, 0)]
    return low, known[np.minimum(np.searchsorted(known, x, "left"), len(known) - 1)]


def numbers(grid, count=20_000):
    """Numbers of all magnitudes, some beyond the grid."""
    rng = np.random.default_rng(0)
    most = float(np.abs(points(grid)).max())
    span = rng.uniform(-22, 0.5, count) if most < 1e30 else rng.uniform(-80, -0.01, count)
    return (most * np.exp2(span) * rng.choice([-1, 1], count)).astype(np.float32)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_points_stay_and_others_become_a_neighbour(grid, mode):
    known = points(grid)
    assert rounded(grid, mode, known, 3).tobytes() == (known + np.float32(0)).tobytes()
    x = np.concatenate([numbers(grid), np.nextafter(known, np.float32(np.inf)), np.nextafter(known, -known)])
    low, high = around(grid, x)
    found = rounded(grid, mode, x)
    assert ((found == low) | (found == high)).all()
    if mode != "nearest":
        inside = low < high
        assert (found == low)[inside].any() and (found == high)[inside].any()


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_nearest_is_what_the_grid_itself_computes(grid):
    x = numbers(grid, 200_000)
    np.testing.assert_array_equal(rounded(grid, "nearest", x), grid.dequantize(grid.quantize(x)))


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("random", [0, 0xFFFFFFFF])
def test_a_quotient_on_the_wrong_side_of_a_point_makes_no_other_point(grid, random):
    x = np.concatenate([np.nextafter(points(grid), np.float32(end)) for end in (-np.inf, np.inf)])
    found, bits = x.copy(), np.full(x.size, random, np.uint32)
    round_to_grid(found, bits, 0, True, *Rounding(grid)._numbers())
    low, high = around(grid, x)
    assert ((found == low) | (found == high)).all()


def exact(grid, x, low, high, random):
    """What one random number of 32 bits does to a number between two points, in fractions."""
    if low == high:
        return x
    fraction = (Fraction(abs(x)) - Fraction(low)) / (Fraction(high) - Fraction(low))
    if isinstance(grid, FloatingPoint) and grid.kind == "bfloat16":
        up = int(fraction * 2**16) + (random & 0xFFFF) >= 2**16
    else:
        up = int(fraction * 2**31) > random >> 1
    return np.copysign(high if up else low, x)


def xorshift(state):
    """One step of xorshift32."""
    state ^= state << 13 & 0xFFFFFFFF
    state ^= state >> 17
    return state ^ state << 5 & 0xFFFFFFFF


@pytest.mark.parametrize("grid", [g for g in EXACT if not isinstance(g, Affine) or g.signed], ids=str)
def test_equals_exact_fractions_under_the_same_random_numbers(grid):
    x = numbers(grid, 2 * SHARED + 100)
    x = x[np.abs(x) <= min(abs(end) for end in grid.range)]
    fresh = np.random.PCG64(7).random_raw((x.size + 1) // 2).view(np.uint32).tolist()
    states = np.random.PCG64(7).random_raw(LANES // 2).view(np.uint32).tolist()
    shared = []
    while len(shared) < x.size:
        states = [xorshift(state) for state in states]
        shared += states * REUSE
    for mode, random in (("stochastic", fresh), ("shared", shared)):
        ends = (end.tolist() for end in around(grid, np.abs(x)))
        expected = [exact(grid, *one) for one in zip(x.tolist(), *ends, random, strict=False)]
        np.testing.assert_array_equal(rounded(grid, mode, x, 7), np.float32(expected))


@settings(deadline=None, max_examples=50)
@given(
    st.sampled_from(GRIDS), st.sampled_from(MODES), st.floats(-1e6, 1e6, width=32), st.integers(0, 1 << 40)
)
def test_minus_a_number_becomes_minus_what_it_does(grid, mode, x, seed):
    if abs(x) <= min(abs(end) for end in grid.range):
        assert rounded(grid, mode, [-x], seed) == -rounded(grid, mode, [x], seed)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("mode", ["stochastic", "shared"])
def test_no_bias(grid, mode):
    """Five values a grid, more than 1e5 independent samples each, and z under 5."""
    known = points(grid)
    least = int(np.searchsorted(known, 0))
    places = [least, least + 1, least + 5, (least + len(known)) // 2, len(known) - 2]
    for seed, (place, fraction) in enumerate(zip(places, (0.3, 1 / 512, 0.5, 0.77, 0.999), strict=True)):
        low, high = float(known[place]), float(known[place + 1])
        x = np.float32(low + fraction * (high - low))
        found = rounded(grid, mode, np.full(100 * SHARED if mode == "shared" else 100_000, x), seed)
        if mode == "shared":  # the others of a period are the same again
            period = found.reshape(-1, REUSE, LANES)
            assert (period == period[:, :1]).all()
            found = period[:, 0].reshape(-1)
        f = (float(x) - low) / (high - low)
        assert low < x < high and found.size >= 1e5
        ups = np.count_nonzero(found == np.float32(high))
        z = (ups - found.size * f) / np.sqrt(found.size * f * (1 - f))
        assert abs(z) < 5


def test_bfloat16_just_above_one():
    """x = 1 + 2**-9: 1 or 1.0078125, and 1.001953125 in the mean."""
    found = rounded(FloatingPoint(1.0, "bfloat16"), "stochastic", np.full(200_000, 1 + 2.0**-9))
    assert set(found.tolist()) == {1.0, 1.0078125}
    assert abs(found.astype(np.float64).mean() - 1 - 2.0**-9) < 5 * 2**-7 * np.sqrt(3 / 16 / 200_000)


@pytest.mark.parametrize("mode", ["stochastic", "shared"])
def test_a_hundred_times_three_tenths(mode):
    """The mean of the sums is 30, their variance 100 * 0.3 * 0.7 = 21; rounded to nearest each is 0."""
    whole, runs = Affine(1.0, 0, 16, True), 20 * SHARED if mode == "shared" else 20_480
    sums, nearest = np.zeros(runs, np.float32), np.zeros(4, np.float32)
    for step in range(100):
        sums = rounded(whole, mode, sums + np.float32(0.3), step)
        nearest = rounded(whole, "nearest", nearest + np.float32(0.3), step)
    if mode == "shared":
        sums = sums.reshape(-1, REUSE, LANES)[:, 0].reshape(-1)
    assert abs(sums.mean() - 30) < 5 * np.sqrt(21 / sums.size)
    assert abs(sums.var(ddof=1) - 21) < 5 * 21 * np.sqrt(2 / sums.size)
    assert not nearest.any()


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_not_numbers_stay_and_numbers_beyond_become_the_ends_and_are_counted(grid, mode):
    low, high = (np.float32(end) for end in grid.range)
    x = np.array([np.nan, np.inf, -np.inf, high, low, 0, -0.0], np.float32)
    assert Rounding(grid, mode).round(x, seed=1) == 0
    np.testing.assert_array_equal(x, np.array([np.nan, np.inf, -np.inf, high, low, 0, 0], np.float32))
    assert not np.signbit(x[5:]).any()
    beyond = np.nextafter(np.array([high, low], np.float32), np.array([np.inf, -np.inf], np.float32))
    x = np.concatenate([np.repeat(beyond, 40), np.array([3.4e38, -3.4e38, 0.1], np.float32)])
    if np.isfinite(x).all():
        assert Rounding(grid, mode).round(x, seed=1) == 82
        assert x[:82].tolist() == [high] * 40 + [low] * 40 + [high, low]


@pytest.mark.parametrize("mode", ["stochastic", "shared"])
@pytest.mark.parametrize("grid", GRIDS[:5], ids=str)
def test_the_same_seed_gives_the_same_bytes_whatever_ran_before(grid, mode):
    x = numbers(grid, 2 * CHUNK + 77)
    first = rounded(grid, mode, x, 5)
    np.random.seed(3)  # noqa: NPY002, it must not matter
    other = rounded(grid, mode, x, 6)
    assert rounded(grid, mode, x, 5).tobytes() == first.tobytes() != other.tobytes()
    assert rounded(grid, mode, x[: CHUNK + 5], 5).tobytes() == first[: CHUNK + 5].tobytes()
    assert rounded(grid, mode, x.reshape(-1, 3, 1) if x.size % 3 == 0 else x, 5).tobytes() == first.tobytes()


def test_refuses_what_it_cannot_round():
    rounding = Rounding(Affine(1.0, 0, signed=True))
    for wrong in (np.zeros(4), np.zeros((4, 4), np.float32).T[:, ::2]):
        with pytest.raises(UnsupportedError, match="float32, contiguous"):
            rounding.round(wrong, seed=0)
    with pytest.raises(ConfigError, match="takes no scale"):
        Rounding(FloatingPoint(0.5, "bfloat16"))
    with pytest.raises(ConfigError, match=r"rounding\.rounding.*'shared'"):
        Rounding(Affine(1.0, 0), "up")
