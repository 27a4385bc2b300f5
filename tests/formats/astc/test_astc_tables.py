"""The tables of ASTC against numbers of its specification."""

from itertools import product

import numpy as np
import pytest

from featherweight.formats.astc.physical import QUINT_CODES, QUINTS, TRIT_CODES, TRITS
from featherweight.formats.astc.quantization import (
    ENDPOINTS,
    RISING_ENDPOINTS,
    RISING_WEIGHTS,
    WEIGHTS,
    endpoints,
    weights,
)
from featherweight.formats.astc.tables import (
    ENDPOINT_RANGES,
    FOOTPRINTS,
    MODES,
    WEIGHT_RANGES,
    Range,
    configurations,
    hash52,
    partitions,
    size,
)


def test_weights_and_endpoints_of_the_specification():
    assert weights(Range(8)) == [0, 9, 18, 27, 37, 46, 55, 64]
    assert weights(Range(10)) == [0, 64, 7, 57, 14, 50, 21, 43, 28, 36]
    assert weights(Range(12)) == [0, 64, 17, 47, 5, 59, 23, 41, 11, 53, 28, 36]
    assert (weights(Range(4)), weights(Range(5))) == ([0, 21, 43, 64], [0, 16, 32, 48, 64])
    assert endpoints(Range(10)) == [0, 255, 28, 227, 56, 199, 84, 171, 113, 142]
    assert endpoints(Range(12)) == [0, 255, 69, 186, 23, 232, 92, 163, 46, 209, 116, 139]


@pytest.mark.parametrize(
    ("ranges", "table", "rising", "top"),
    [(WEIGHT_RANGES, WEIGHTS, RISING_WEIGHTS, 64), (ENDPOINT_RANGES, ENDPOINTS, RISING_ENDPOINTS, 255)],
)
def test_levels_are_distinct_and_symmetric(ranges, table, rising, top):
    for kind, row, order in zip(ranges, table, rising, strict=True):
        levels = row[: kind.levels][order[: kind.levels]].astype(int)
        assert levels[0] == 0
        assert levels[-1] == top
        assert (np.diff(levels) > 0).all()
        np.testing.assert_array_equal(levels, top - levels[::-1])


def test_packed_digits_are_all_there():
    """Every group of digits has a code, and the inverse finds one that decodes to it, the smallest."""
    for table, codes, base in ((TRITS, TRIT_CODES, 3), (QUINTS, QUINT_CODES, 5)):
        groups = [tuple(row) for row in table.tolist()]
        for number, digits in enumerate(product(range(base), repeat=table.shape[1])):
            assert groups.index(digits[::-1]) == codes[number]


def test_sizes_of_sequences():
    assert [Range(12).size(16), Range(10).size(25), Range(192).size(2)] == [58, 84, 16]
    for kind in (*WEIGHT_RANGES, *ENDPOINT_RANGES):
        assert kind.levels == 2**kind.bits * (3 if kind.trits else 5 if kind.quints else 1)


def test_modes():
    assert not MODES[0x1FC].any()  # a block of one colour
    assert {tuple(row[:2]) for row in MODES[MODES[:, 0] > 0].tolist()} == {
        (w, h) for w in range(2, 13) for h in range(2, 13) if w * h <= 64 and min(w, h) <= 8
    }


def test_capacity_of_full_grids():
    """Levels of weights and of endpoints, luminance."""
    known = {
        "4x4": {(1, 32, 256), (2, 16, 256), (2, 24, 64), (3, 10, 160), (4, 6, 128)},
        "5x5": {(1, 12, 256), (2, 8, 64)},
        "6x6": {(1, 6, 256), (2, 4, 96), (3, 3, 96), (4, 3, 32), (4, 2, 192)},
        "8x8": {(1, 2, 256)},
    }
    for footprint, expected in known.items():
        found = {
            (c.partitions, WEIGHT_RANGES[c.weights].levels, ENDPOINT_RANGES[c.endpoints].levels)
            for c in configurations(footprint, 1)
            if (c.width, c.height) == size(footprint)
        }
        assert expected <= found


def test_hash():
    found = hash52(np.array([0, 1, 2, 1024, 1025, 2048, 3072]))
    expected = [0, 0x0C46F563, 0xE6A38A50, 0xBD3D4343, 0xA49F9DEA, 0xC83A5FE6, 0x102CCE30]
    np.testing.assert_array_equal(found, expected)


def test_partitions():
    """An FNV-1a hash over five footprints, computed once with the specification's own C text."""
    assert partitions("6x6")[1, 5].reshape(6, 6).tolist()[0] == [1, 1, 1, 1, 1, 0]
    total = 1469598103934665603
    for count in (2, 3, 4):
        rows = [partitions(name)[count - 1].tolist() for name in ("4x4", "5x5", "6x6", "8x8", "12x12")]
        for seed in range(1024):
            for row in rows:
                for partition in row[seed]:
                    total = (total ^ partition) * 1099511628211 & (1 << 64) - 1
    assert total == 11652277358872305725


@pytest.mark.parametrize("footprint", FOOTPRINTS)
def test_partitions_of_every_footprint(footprint):
    table = partitions(footprint)
    assert table.shape == (4, 1024, np.prod(size(footprint)))
    assert (table <= np.arange(4)[:, None, None]).all()
