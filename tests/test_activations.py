"""The laws of quantizers, against arithmetic written out."""

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featherweight.activations import KINDS, Affine, AnyQuantizer, FloatingPoint
from featherweight.errors import ConfigError

ends = st.floats(-1e6, 1e6, width=32)
quantizers = st.builds(
    lambda a, b, bits, signed, symmetric: Affine.of(
        min(a, b), max(a, b), bits=bits, signed=signed, symmetric=symmetric
    ),
    ends, ends, st.integers(2, 16), st.booleans(), st.booleans(),
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


@given(ends, ends, st.integers(2, 8), st.booleans(), st.booleans())
@settings(deadline=None)
def test_a_range_is_covered_to_half_a_step(a, b, bits, signed, symmetric):
    low, high = min(a, b, 0.0), max(a, b, 0.0)
    quantizer = Affine.of(low, high, bits=bits, signed=signed, symmetric=symmetric)
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


@pytest.mark.parametrize("fields", [*STEPS, (1.0, 256), (1.0, -1), (1.0, 0, 17), (1.0, 0, 1)])
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
