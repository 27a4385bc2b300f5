"""The laws of quantizers, against arithmetic written out."""

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featherweight.activations import KINDS, Affine, AnyQuantizer, BinaryCoded, FloatingPoint
from featherweight.errors import ConfigError

ends = st.floats(-1e6, 1e6, width=32)
quantizers = st.builds(
    lambda a, b, bits, signed, symmetric: Affine.of(
        min(a, b), max(a, b), bits=bits, signed=signed and bits > 1, symmetric=symmetric
    ),
    ends, ends, st.integers(1, 16), st.booleans(), st.booleans(),
)  # fmt: skip


def slow(quantizer, x):
    """One number, step by step."""
    least, most = quantizer.grid
    return min(
        max(round(float(np.float32(x) / np.float32(quantizer.scale))) + quantizer.zero_point, least), most
    )


@given(quantizers, st.lists(ends, min_size=1, max_size=20))
@settings(max_examples=200, deadline=None)
def test_quantizes_as_written_out(quantizer, numbers):
    x = np.array(numbers, np.float32)
    q = quantizer.quantize(x)
    assert q.dtype.kind == ("i" if quantizer.signed else "u") and q.dtype.itemsize == 1 + (quantizer.bits > 8)
    assert q.tolist() == [slow(quantizer, number) for number in x]
    again = quantizer.quantize(quantizer.dequantize(q))
    assert again.tolist() == q.tolist(), "integers stand for themselves"
    inside = (x >= quantizer.range[0]) & (x <= quantizer.range[1])
    error = np.abs(quantizer.dequantize(q).astype(np.float64) - x)[inside]
    assert (error <= quantizer.scale * (0.5 + 1e-5)).all()


@given(ends, ends, st.integers(1, 8), st.booleans(), st.booleans())
@settings(deadline=None)
def test_a_range_is_covered_to_half_a_step(a, b, bits, signed, symmetric):
    low, high = min(a, b, 0.0), max(a, b, 0.0)
    quantizer = Affine.of(low, high, bits=bits, signed=signed and bits > 1, symmetric=symmetric)
    slack = quantizer.scale * (0.5 + 1e-4)
    assert quantizer.range[0] <= low + slack and quantizer.range[1] >= high - slack
    assert quantizer.dequantize(quantizer.quantize(np.zeros(1, np.float32)))[0] == 0
    if low == 0:
        assert quantizer.zero_point == quantizer.grid[0], "all integers are for numbers that occur"


@given(quantizers, ends, ends)
@settings(deadline=None)
def test_a_clamp_is_absorbed_only_where_it_changes_nothing(quantizer, a, b):
    low, high = min(a, b), max(a, b)
    x = np.linspace(low - 1, high + 1, 101, dtype=np.float32)
    if quantizer.absorbs(low, high):
        np.testing.assert_array_equal(quantizer.quantize(np.clip(x, low, high)), quantizer.quantize(x))


@given(quantizers, ends)
@settings(deadline=None)
def test_the_same_quantizer_before_a_clamp_changes_nothing(quantizer, high):
    """What lets a layer stay an integer one though its clamp is not absorbed."""
    x, high = np.linspace(-1e6, 1e6, 101, dtype=np.float32), np.float32(abs(high))
    behind = quantizer.quantize(np.clip(x, 0, high))
    both = quantizer.quantize(np.clip(quantizer.dequantize(quantizer.quantize(x)), 0, high))
    np.testing.assert_array_equal(behind, both)


def test_golden_values():
    signed = Affine.of(-1.0, 3.0)
    assert (signed.scale, signed.zero_point) == (float(np.float32(4 / 255)), 64)
    assert signed.quantize(np.float32([-9, -1, 0, 1, 3, 9, np.nan, np.inf])).tolist() == [
        0,
        0,
        64,
        128,
        255,
        255,
        64,
        255,
    ]
    halves = Affine(1.0, 0)
    assert halves.quantize(np.float32([0.5, 1.5, 2.5])).tolist() == [0, 2, 2], "half to even"


INF, NAN = float("inf"), float("nan")
STEPS = [(step, 0) for step in (0.0, -1.0, NAN, INF, 0.1, 1e-45)]


@pytest.mark.parametrize("fields", [*STEPS, (1.0, 256), (1.0, -1), (1.0, 0, 17), (1.0, 0, 0)])
def test_what_is_no_quantizer_is_refused(fields):
    with pytest.raises(ConfigError, match="quantizer"):
        Affine(*fields)
    with pytest.raises(msgspec.ValidationError):
        names = dict(zip(("scale", "zero_point", "bits"), fields, strict=False))
        msgspec.convert({"format": "affine", **names}, type=AnyQuantizer)


@pytest.mark.parametrize("kind", KINDS)
def test_floating_point_rounds_as_torch_does(kind):
    x = (
        np.random.default_rng(0).standard_normal((7, 300)).astype(np.float32)
        * 10.0 ** np.arange(-4, 3)[:, None]
    )
    x = np.append(x, np.float32([0, NAN, 3.4e38, -3.4e38]))
    quantizer = FloatingPoint.of(-100, 90, kind)
    most = torch.finfo(getattr(torch, kind)).max
    scaled = torch.from_numpy(x.astype(np.float32)).div(quantizer.scale).nan_to_num(0.0)
    expected = scaled.clamp(-most, most).to(getattr(torch, kind)).float().mul(quantizer.scale).numpy()
    codes = quantizer.quantize(x)
    np.testing.assert_array_equal(quantizer.dequantize(codes), expected)
    np.testing.assert_array_equal(quantizer.quantize(expected), codes)
    distinct = np.unique(expected)
    apart = np.diff(quantizer.steps(quantizer.quantize(distinct)))
    assert (apart >= 1).all() and quantizer.steps(quantizer.quantize(np.float32([0]))) == 0
    assert not quantizer.absorbs(0, 6) and quantizer.absorbs(-INF, INF)
    assert msgspec.convert(msgspec.to_builtins(quantizer), type=AnyQuantizer) == quantizer


bases = st.lists(
    st.one_of(st.floats(2.0**-20, 100, width=32), st.sampled_from([0.0, -0.5, 1.0])), min_size=1, max_size=5
).map(tuple)


def slow_level(number, basis):
    """Every sum, one by one; the nearest, of two the smaller."""
    sums = [
        np.float32(sum(v for j, v in enumerate(basis) if code >> j & 1)) for code in range(2 ** len(basis))
    ]
    return min(sorted(map(float, sums)), key=lambda level: abs(level - float(np.float32(number))))


@given(bases, st.lists(st.floats(-300, 300, width=32), min_size=1, max_size=20))
@settings(max_examples=200, deadline=None)
def test_binary_codes_as_written_out(basis, numbers):
    quantizer, x = BinaryCoded(basis), np.array(numbers, np.float32)
    q = quantizer.quantize(x)
    rounded = quantizer.dequantize(q)
    assert (q.dtype, rounded.dtype, q.shape) == (np.uint8, np.float32, x.shape)
    assert rounded.tolist() == [slow_level(number, basis) for number in numbers]
    for code, level in zip(q.tolist(), rounded.tolist(), strict=True):
        exact = sum(np.float64(v) for j, v in enumerate(basis) if code >> j & 1)
        assert np.float32(exact) == level, "bit j says whether number j is added"
    assert quantizer.dequantize(quantizer.quantize(rounded)).tobytes() == rounded.tobytes()
    order = np.argsort(x, kind="stable")
    assert (np.diff(rounded[order]) >= 0).all() and len(np.unique(rounded)) <= 2 ** len(basis)
    steps = quantizer.steps(q)
    assert (np.sign(np.subtract.outer(steps, steps)) == np.sign(np.subtract.outer(rounded, rounded))).all()
    assert quantizer.range == (float(quantizer.levels[0]), float(quantizer.levels[-1]))
    assert quantizer.quantize(np.float32([np.nan])).tolist() == quantizer.quantize(np.zeros(1)).tolist()
    assert quantizer.dequantize(quantizer.quantize(np.float32([np.inf, -np.inf]))).tolist() == [
        quantizer.range[1],
        quantizer.range[0],
    ]
    again = msgspec.convert(msgspec.to_builtins(quantizer), type=AnyQuantizer)
    assert again == quantizer and hash(again) == hash(quantizer)


def test_powers_of_two_are_the_grid_of_integers():
    grid, x = Affine(0.25, 0, 3), np.linspace(-1, 3, 1001, dtype=np.float32)
    codes = BinaryCoded((0.25, 0.5, 1.0))
    away = np.abs(x / 0.25 % 1 - 0.5) > 1e-3  # ties go to even there, and down here
    np.testing.assert_array_equal(codes.quantize(x)[away], grid.quantize(x)[away])
    assert (
        codes.absorbs(0, np.inf)
        and codes.absorbs(0, 9)
        and not codes.absorbs(0, 1.5)
        and codes.absorbs(-1, 9)
    )


@pytest.mark.parametrize(
    "basis", [(), (1.0,) * 9, (0.1,), (np.inf,), (float("nan"),), (2.0**101,), ("a",), 1.0]
)
def test_a_basis_is_checked(basis):
    with pytest.raises(ConfigError, match=r"quantizer\.basis"):
        BinaryCoded(basis)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"format": "binary_coded", "basis": basis}, type=AnyQuantizer)


def test_one_bit_is_zero_or_one_step():
    binary = Affine.of(0, 3, bits=1)
    assert binary.dequantize(binary.quantize(np.float32([-1, 1.4, 1.6, 9]))).tolist() == [0, 0, 3, 3]
    with pytest.raises(ConfigError, match="a sign alone"):
        Affine(1.0, 0, 1, signed=True)
