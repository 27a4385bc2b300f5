"""Log2 against the nearest of all its levels, found by looking at each."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from featherweight.errors import IntegrityError
from featherweight.formats import Encoded, Fixed, Log2, View
from featherweight.formats.floating import exp2, nearest_log2

vectors = hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(-(2.0**120), 2.0**120, width=32))
CONFIGURATIONS = [Log2(bits=b, fraction=f) for b, f in [(2, 0), (3, 0), (4, 0), (5, 2), (8, 3), (8, 7)]]


def levels(format, top):
    """Zero and the levels of either sign, in float64."""
    count = 2 ** (format.bits - 1) - 1
    positive = 2.0 ** ((top - np.arange(count)) / 2**format.fraction)
    return np.concatenate([-positive, [0.0], positive])


@pytest.mark.parametrize("format", CONFIGURATIONS, ids=str)
@given(weight=vectors)
def test_the_nearest_level_is_taken(format, weight):
    encoded = format.encode(weight)
    every = levels(format, float(encoded.parts["top"][0]))
    decoded = encoded.decode().astype(np.float64)
    nearest = np.abs(np.subtract.outer(weight.astype(np.float64), every)).min(axis=1)
    tiny = 2.0**-126  # under it float32 itself rounds
    assert (np.abs(decoded - weight) <= nearest + np.abs(weight) * 2.0**-22 + tiny).all()


@pytest.mark.parametrize("fraction", [0, 1, 3, 7, 12])
def test_relative_error_of_the_grid(fraction):
    """At most (r - 1) / (r + 1): one third for powers of two; less than rounding the logarithm would give."""
    value = np.exp(np.random.default_rng(0).uniform(-30, 30, 100_000)).astype(np.float32)
    error = np.abs(exp2(nearest_log2(value, fraction), fraction) / value.astype(np.float64) - 1)
    ratio = 2.0 ** (2.0**-fraction)
    bound = (ratio - 1) / (ratio + 1)
    assert bound * 0.99 < error.max() <= bound + 2.0**-23
    assert bound < np.sqrt(ratio) - 1


def test_powers_of_two_by_hand():
    weight = np.float32([1.0, -1.49, 1.5, 1.51, 0.26, -0.0, 0.0078125, 0.0079, -0.02, 2.0])
    encoded = Log2(bits=4).encode(weight)
    assert encoded.parts["top"].tolist() == [1]
    assert encoded.decode().tolist() == [1, -1, 1, 2, 0.25, 0, 0, 0, -0.03125, 2]


def test_the_greatest_exponent_is_that_of_incremental_network_quantization():
    """`floor(log2(4 max / 3))` (Zhou et al., 2017), ties aside."""
    for greatest in np.random.default_rng(0).uniform(0.01, 9, 200).astype(np.float32):
        top = Log2(bits=5).encode(np.array([greatest, 0.001], np.float32)).parts["top"]
        assert top.tolist() == [np.floor(np.log2(4 * greatest / 3))]


def test_products_are_sums_of_exponents():
    """On the grid a product of two numbers is exact: the exponents add."""
    a, b = np.arange(-40, 40), np.arange(40, -40, -1)
    product = exp2(a, 3).astype(np.float64) * exp2(b, 3)
    np.testing.assert_allclose(product, exp2(a + b, 3), rtol=2.0**-22)


def test_the_greatest_float32_does_not_overflow():
    most = np.finfo(np.float32).max
    for format in CONFIGURATIONS:
        assert np.isfinite(format.encode(np.array([most, -most])).decode()).all()


@pytest.mark.parametrize("top", [128, 2**31 - 1, -(2**31), -151])
def test_hostile_exponents_are_refused(top):
    parts = {"top": np.array([top], np.int32)}
    encoded = Encoded(Log2(bits=4), Fixed(), View.of((16,)), np.arange(16, dtype=np.uint8), parts)
    with pytest.raises(IntegrityError):
        encoded.decode()
