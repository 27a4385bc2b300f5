"""Int against ONNX Runtime's operators, a slow rounding, and a dense search."""

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from featherweight.errors import ConfigError, IntegrityError
from featherweight.formats import Encoded, Fixed, Importance, Int, View
from featherweight.formats.floating import beyond
from featherweight.formats.integer import (
    NARROWER,
    entropy_bits,
    grid,
    least_squares,
    min_max,
    squared_error,
    storable,
)

BITS = (1, 2, 3, 4, 8, 12, 16)
SCHEMES = ("symmetric", "affine")
HALF_CASES = [("symmetric", 4), ("symmetric", 8), ("affine", 4), ("affine", 5)]
matrices = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=12),
    elements=st.floats(-(2.0**100), 2.0**100, width=32),
)


def slow(weight, bits, scale, zero_point):
    """One weight after another, in exact arithmetic but for the float32 ratio."""
    least, most = grid(bits)
    integers = []
    for w in weight:
        q = round(float(np.float32(w) / np.float32(scale))) + zero_point
        integers.append(min(max(q, least), most))
    return integers


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_one_row_against_the_slow_way(bits, scheme):
    weight = np.random.default_rng(bits).normal(0.1, 1, 200).astype(np.float32)
    encoded = Int(bits=bits, scheme=scheme).encode(weight)
    scale = encoded.parts["scale"][0]
    zero_point = int(encoded.parts["zero_point"][0]) if scheme == "affine" else 0
    integers = slow(weight, bits, scale, zero_point)
    assert encoded.symbols.tolist() == [(q - zero_point) % 2**bits for q in integers]
    decoded = [np.float32(q - zero_point) * scale for q in integers]
    np.testing.assert_array_equal(encoded.decode(), np.array(decoded, np.float32))


@given(
    matrices, st.sampled_from(BITS), st.sampled_from(SCHEMES), st.sampled_from(["tensor", "channel", 1, 5])
)
def test_error_is_half_a_step(weight, bits, scheme, per):
    format = Int(bits=bits, scheme=scheme, per=per)
    encoded = format.encode(weight)
    error = np.abs(encoded.decode().astype(np.float64) - weight)
    scale = encoded.parts["scale"].astype(np.float64)
    scale = np.repeat(scale, per, axis=1)[:, : weight.shape[1]] if per in (1, 5) else scale[:, None]
    assert (error <= scale / 2 + np.abs(weight) * 2.0**-22).all()
    assert (scale >= np.finfo(np.float32).tiny).all()


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_an_affine_grid_spans_its_range(bits):
    """The scale is rounded up: of a large negative and a tiny positive weight, the latter is not clipped."""
    rng = np.random.default_rng(0)
    low, high = -rng.uniform(0.5, 1, 2000), 10 ** rng.uniform(-9, -1, 2000)
    weight = np.stack([low, high], axis=1).astype(np.float32)
    encoded = Int(bits=bits, scheme="affine").encode(weight)
    error = np.abs(encoded.decode().astype(np.float64) - weight)
    assert (error <= encoded.parts["scale"][:, None] / 2 + 2.0**-22 * np.abs(weight)).all()


def test_min_max_by_hand():
    low, high = np.array([-8.5, -1.0, 0.0, 0.0], np.float32), np.array([0.0, 7.5, 0.0, 15.0], np.float32)
    scale, zero_point = min_max(low, high, 4, "symmetric")
    assert scale.tolist() == [1.0, 1.0, np.finfo(np.float32).tiny, 2.0]
    assert zero_point.tolist() == [0, 0, 0, 0]
    scale, zero_point = min_max(low, high, 4, "affine")
    assert scale.tolist()[3] == 1.0
    assert zero_point.tolist() == [7, -6, -8, -8]


def test_eight_bits_symmetric_is_the_usual_rule():
    """With equal ends, the scale of torch's and ONNX Runtime's symmetric observers: max / 127.5."""
    scale = Int(per="tensor").encode(np.array([-1.0, 0.3, 1.0], np.float32)).parts["scale"]
    assert scale.tolist() == [np.float32(1 / 127.5)]


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_onnxruntime_computes_the_same(bits, scheme):
    """QuantizeLinear and DequantizeLinear with our scale and zero point give our integers and our weights."""
    ort = pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper

    weight = np.random.default_rng(0).normal(0.2, 1, (6, 40)).astype(np.float32)
    encoded = Int(bits=bits, scheme=scheme).encode(weight)
    kind = TensorProto.INT8 if bits == 8 else TensorProto.INT16
    zero_point = encoded.parts.get("zero_point", np.zeros(6, f"i{bits // 8}"))
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["w", "s", "z"], ["q"], axis=0),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], axis=0),
        ],
        "g",
        [helper.make_tensor_value_info("w", TensorProto.FLOAT, [6, 40])],
        [helper.make_tensor_value_info("q", kind, [6, 40]), helper.make_tensor_value_info("d", 1, [6, 40])],
        [
            helper.make_tensor("s", TensorProto.FLOAT, [6], encoded.parts["scale"]),
            helper.make_tensor("z", kind, [6], zero_point),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    integers, decoded = ort.InferenceSession(model.SerializeToString()).run(None, {"w": weight})
    ours = integers.astype(int) - zero_point[:, None].astype(int)
    np.testing.assert_array_equal(encoded.symbols.reshape(6, 40), ours % 2**bits)
    np.testing.assert_array_equal(encoded.decode(), decoded)


def test_groups_of_rows_and_short_last_groups():
    weight = np.float32([[1, 1, 1, 1, 8], [2, 2, 2, 2, 16], [4, 4, 4, 4, 32], [0, 0, 0, 0, 0]])
    of = {per: Int(per=per).encode(weight).parts["scale"] * 127.5 for per in ("tensor", "channel", 2)}
    assert of["tensor"].tolist() == [pytest.approx(32)]
    assert of["channel"][:3] == pytest.approx([8, 16, 32])
    assert of[2].shape == (4, 3)
    assert of[2][1] == pytest.approx([2, 2, 16])
    halves = Int(per="tensor").encode(weight, view=View((4, 5), groups=2)).parts["scale"] * 127.5
    assert halves == pytest.approx([16, 32])


def dense(weight, importance, bits, scheme):
    """The least error over 2,000 ranges, then over 400 around the best: slow and obvious."""
    low, high = weight.min(axis=1, initial=0), weight.max(axis=1, initial=0)

    def error(factor):
        return squared_error(weight, importance, *min_max(low * factor, high * factor, bits, scheme), bits)

    factors = np.geomspace(1, 2**-8, 2000)
    errors = np.array([error(factor) for factor in factors])
    best, around = errors.min(axis=0), factors[errors.argmin(axis=0)]
    for nudge in np.geomspace(0.99, 1.01, 400):
        best = np.minimum(best, error(around * nudge))
    return best


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("weighed", [False, True])
def test_mse_is_near_a_dense_search(bits, scheme, weighed):
    rng = np.random.default_rng(bits)
    weight = np.stack([rng.normal(size=500), rng.laplace(size=500), rng.standard_t(3, 500), rng.random(500)])
    weight = weight.astype(np.float32)
    importance = rng.exponential(size=weight.shape) if weighed else None
    found = squared_error(weight, importance, *least_squares(weight, importance, bits, scheme), bits)
    assert (found <= dense(weight, importance, bits, scheme) * (1.06 if bits < 8 else 1.15)).all()


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("weighed", [False, True])
@pytest.mark.parametrize("outliers", [0, 5])
def test_no_narrower_range_than_those_that_were_tried_is_better(bits, weighed, outliers):
    rng = np.random.default_rng(bits)
    weight = (
        rng.standard_t(3, (64, 200)).astype(np.float32)
        * np.geomspace(1e-3, 1e3, 64, dtype=np.float32)[:, None]
    )
    weight[:, :outliers] *= 50
    importance = rng.gamma(0.3, size=weight.shape) if weighed else None
    found = squared_error(weight, importance, *least_squares(weight, importance, bits, "symmetric"), bits)
    low, high = weight.min(axis=1), weight.max(axis=1)
    for factor in (1.0, *NARROWER):
        grids = min_max(low * factor, high * factor, bits, "symmetric")
        assert (found <= squared_error(weight, importance, *grids, bits)).all()


@settings(max_examples=50)
@given(
    matrices,
    st.sampled_from((1, 2, 4, 8)),
    st.sampled_from(SCHEMES),
    st.sampled_from(["tensor", "channel", 3]),
)
def test_mse_is_never_worse_than_min_max(weight, bits, scheme, per):
    errors = []
    for scale_by in ("minmax", "mse"):
        decoded = Int(bits=bits, scheme=scheme, per=per, scale_by=scale_by).encode(weight).decode()
        errors.append(float(np.square(decoded.astype(np.float64) - weight).sum()))
    noise = np.square(weight.astype(np.float64) * 2.0**-22).sum()  # of decoding in float32
    assert errors[1] <= errors[0] * (1 + 1e-5) + noise


def test_mse_does_not_depend_on_the_magnitude():
    weight = np.random.default_rng(0).normal(size=(3, 300)).astype(np.float32)
    format = Int(bits=3, scale_by="mse")
    expected = format.encode(weight).symbols
    for power in (-100, -20, 20, 90):
        np.testing.assert_array_equal(format.encode(np.ldexp(weight, power)).symbols, expected)


def test_importance_decides_what_is_clipped():
    """An outlier that matters stretches the range; one that does not is clipped."""
    weight = np.append(np.random.default_rng(0).normal(size=255), 30).astype(np.float32)
    importance = np.ones((1, 256))
    importance[0, -1] = 1e4
    keeps = Int(bits=4, scale_by="mse").encode(weight, importance=Importance(importance)).decode()
    importance[0, -1] = 0
    clips = Int(bits=4, scale_by="mse").encode(weight, importance=Importance(importance)).decode()
    assert abs(keeps[-1] - 30) < 0.5
    assert clips[-1] < 6
    assert np.square(clips - weight)[:-1].sum() < np.square(keeps - weight)[:-1].sum() / 5


@given(matrices, st.sampled_from((1, 3, 8)), st.sampled_from(SCHEMES))
def test_entropy_is_that_of_each_row(weight, bits, scheme):
    low, high = weight.min(axis=1, initial=0), weight.max(axis=1, initial=0)
    scale, zero_point = min_max(low, high, bits, scheme)
    found = entropy_bits(weight, scale, zero_point, bits)
    for row, bits_of_row, s, z in zip(weight, found, scale, zero_point, strict=True):
        counts = np.unique(slow(row, bits, s, int(z)), return_counts=True)[1]
        assert bits_of_row == pytest.approx(-sum(n * np.log2(n / len(row)) for n in counts), abs=1e-9)


@settings(max_examples=50)
@given(matrices, st.sampled_from((2, 5, 8)), st.sampled_from(SCHEMES), st.floats(1e-4, 2))
def test_what_a_bit_is_worth_is_never_lost(weight, bits, scheme, rate):
    """Error and bits together are no more than with the grids of min-max and of least error."""
    total = np.square(weight, dtype=np.float64).sum()

    def cost(scale, zero_point):
        error = squared_error(weight, None, scale, zero_point, bits)
        return error + rate * total / weight.size * entropy_bits(weight, scale, zero_point, bits)

    low, high = weight.min(axis=1, initial=0), weight.max(axis=1, initial=0)
    found = cost(*least_squares(weight, None, bits, scheme, rate=rate))
    assert (found <= cost(*min_max(low, high, bits, scheme)) * (1 + 1e-9)).all()


def test_a_grid_for_a_coder_is_a_quarter_of_a_bit_from_the_best_there_is():
    """A Gaussian: 6.02 dB a bit less 1.53 dB at high rates (Gish and Pierce)."""
    weight = np.random.default_rng(0).normal(size=(1, 100_000)).astype(np.float32)
    for rate, bits in ((0.001, 8), (0.01, 8), (0.03, 6), (0.1, 5)):
        scale, zero_point = least_squares(weight, None, bits, "symmetric", rate=rate)
        error = squared_error(weight, None, scale, zero_point, bits)[0] / weight.size
        entropy = entropy_bits(weight, scale, zero_point, bits)[0] / weight.size
        assert 6.02 * entropy - 1.9 < -10 * np.log10(error) < 6.02 * entropy - 0.2
    with pytest.raises(ConfigError, match="too many integers"):
        Int(bits=12, scale_by=0.1)


def test_32_bits_is_float32_within_two_units_in_the_last_place():
    weight = np.random.default_rng(0).normal(size=(20, 500)).astype(np.float32)
    for scheme in SCHEMES:
        encoded = Int(bits=32, scheme=scheme).encode(weight)
        step = encoded.parts["scale"].astype(np.float64)[:, None]
        error = np.abs(encoded.decode().astype(np.float64) - weight)
        assert (error <= step / 2 + np.abs(weight) * 2.0**-22).all()


@pytest.mark.parametrize("weighed", [False, True])
def test_squared_error_is_that_of_the_rounded_weights(weighed):
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(4, 37)).astype(np.float32)
    importance = rng.random((4, 37)) if weighed else None
    encoded = Int(bits=3, scheme="affine").encode(weight / 2)  # clips
    scale, zero_point = encoded.parts["scale"], encoded.parts["zero_point"].astype(np.int64)
    least, most = grid(3)
    steps = np.clip(
        np.rint(weight / scale[:, None]), (least - zero_point)[:, None], (most - zero_point)[:, None]
    )
    expected = ((weight - scale[:, None] * steps) ** 2 * (1 if importance is None else importance)).sum(
        axis=1
    )
    np.testing.assert_allclose(squared_error(weight, importance, scale, zero_point, 3), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("scale", "zero_point"), [(0.0, 0), (-1.0, 0), (1.0, 8), (1.0, -9), (3e38, 0)], ids=str
)
def test_hostile_parts_are_refused(scale, zero_point):
    parts = {"scale": np.array([scale], np.float32), "zero_point": np.array([zero_point], np.int8)}
    symbols = np.arange(16, dtype=np.uint8)
    encoded = Encoded(Int(bits=4, scheme="affine"), Fixed(), View.of((16,)), symbols, parts)
    with pytest.raises(IntegrityError):
        encoded.decode()


@given(st.floats(2.0**-30, 2.0**10), st.sampled_from(HALF_CASES), st.integers(0, 31))
def test_a_scale_of_float16_and_its_least_number_are_float16_numbers(scale, case, steps):
    """The least such scale there is, by trying every float16 number above."""
    scheme, bits = case
    steps = steps % 2**bits if scheme == "affine" else 2 ** (bits - 1)
    zero_point = np.array([steps + grid(bits)[0]])
    found = storable(np.array([scale]), zero_point, bits, half=True)
    every = np.arange(1, 0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
    products = every * (steps if scheme == "affine" else 1)
    with np.errstate(over="ignore"):
        fits = every[(products.astype(np.float16) == products) & (every >= scale)]
    assert found.tolist() == [min(fits)]


@pytest.mark.parametrize(("scheme", "bits"), HALF_CASES)
@pytest.mark.parametrize("scale_by", ["minmax", "mse"])
def test_scales_of_float16_lose_little_and_take_two_bytes(scheme, bits, scale_by):
    weight = np.random.default_rng(bits).normal(0.3, 1, (40, 96)).astype(np.float32)
    options = {"bits": bits, "scheme": scheme, "per": 32, "scale_by": scale_by}
    full, half = Int(**options), Int(**options, scale_type="float16")
    errors = [np.square(one.encode(weight).decode() - weight).sum() for one in (full, half)]
    assert errors[1] < 1.06 * errors[0]
    assert full.nbits(weight.shape) - half.nbits(weight.shape) == 16 * 40 * 3
    encoded = half.encode(weight)
    assert encoded.parts["scale"].dtype == np.float16
    least = encoded.parts["scale"].astype(float) * (encoded.parts.get("zero_point", 0) - float(grid(bits)[0]))
    np.testing.assert_array_equal(least.astype(np.float16), least)


def test_float16_scales_have_their_limits():
    with pytest.raises(ConfigError, match="too many bits for affine integers with scales of float16"):
        Int(bits=8, scheme="affine", scale_type="float16")
    with pytest.raises(ConfigError, match="1 to 8"):
        Int(bits=9, scale_type="float16")
    half = Int(bits=4, per="tensor", scale_type="float16")
    assert beyond(np.float32([20000.0]), half) == "20000 is beyond the 16384 of scales of float16"
    assert not beyond(np.float32([16000.0]), half)
    assert not beyond(np.float32([20000.0]), Int(bits=4))


def test_an_unset_type_of_scales_is_not_written():
    """Files of before know no such field, and the checks of their tensors hold over what is written of a format."""
    assert "scale_type" not in msgspec.to_builtins(Int())
    assert msgspec.convert(msgspec.to_builtins(Int(scale_type="float16")), Int).half
    with pytest.raises(ConfigError, match=r"int\.scale_type"):
        Int(scale_type="float64")
