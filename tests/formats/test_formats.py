"""The laws of formats on every configuration of our own, and what holds for all of ours beyond them."""

import msgspec
import numpy as np
import pytest

from featherweight.errors import ConfigError, UnsupportedError
from featherweight.formats import (
    FORMATS,
    AnyFormat,
    Basis,
    Clustered,
    Float,
    Importance,
    Int,
    Log2,
    View,
)
from featherweight.formats.view import join, split
from featherweight.testing import FormatSuite
from featherweight.testing.formats import tensors

KINDS = ("float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")
CONFIGURATIONS = [
    *[Float(kind=kind) for kind in KINDS],
    *[Float(kind=kind, per=per) for kind in KINDS[-2:] for per in ("tensor", "channel", 16)],
    *[Float(kind=kind, per="channel") for kind in KINDS[:3]],
    *[Int(bits=bits) for bits in (1, 2, 3, 5, 7, 9, 12, 32)],
    *[Int(bits=bits, per=32, scale_type="float16") for bits in (1, 4, 8)],
    *[Int(bits=bits, per=5, scheme="affine", scale_by="mse", scale_type="float16") for bits in (1, 4, 5)],
    *[
        Int(bits=bits, scheme=scheme, per=per)
        for bits in (4, 8, 16)
        for scheme in ("symmetric", "affine")
        for per in ("tensor", "channel", 32)
    ],
    *[Int(bits=bits, scheme="affine", scale_by="mse") for bits in (1, 2, 4, 8, 32)],
    *[Int(bits=bits, per=per, scale_by="mse") for bits in (1, 3, 8) for per in ("tensor", 16)],
    *[Log2(bits=bits) for bits in (2, 4, 8, 16)],
    *[
        Log2(bits=8, fraction=fraction, per=per)
        for fraction in (1, 3, 12)
        for per in ("tensor", "channel", 8)
    ],
    *[Clustered(bits=bits, init=init) for bits in (1, 2, 4, 8, 12) for init in ("linear", "density")],
    *[Basis(bits=bits, per=per) for bits in (1, 2, 3, 8) for per in ("tensor", "channel", 16)],
]


def spread(values, view, per):
    """One value a unit, as a tensor."""
    units = split(np.zeros((view.rows, view.cols)), view, per)
    return view.tensor(join(np.broadcast_to(values.reshape(-1, 1), units.shape).copy(), view, per))


class TestOurs(FormatSuite):
    formats = CONFIGURATIONS

    def error_bound(self, format, weight, encoded):
        return {
            Float: float_bound, Int: int_bound, Log2: log2_bound, Clustered: clustered_bound, Basis: basis_bound
        }[type(format)](format, weight.astype(np.float64), encoded)  # fmt: skip


def float_bound(format, weight, encoded):
    size = np.abs(weight)
    mantissa, least, most = {
        "float32": (23, -149, 3.5e38),
        "float16": (10, -24, 65504),
        "bfloat16": (7, -133, 3.3895e38),
        "float8_e4m3fn": (3, -9, 448),
        "float8_e5m2": (2, -16, 57344),
    }[format.kind]
    scale = 1.0
    if format.per != "none":
        scale = 2.0 ** spread(encoded.parts["exponent"].astype(float), encoded.view, format.per)
        assert (size <= most * scale).all()
    saturated = np.maximum(size - most * scale, 0)
    return np.maximum(size * 2.0 ** -(mantissa + 1), scale * 2.0 ** (least - 1)) + saturated


def int_bound(format, weight, encoded):
    if format.scale_by == "mse":
        return np.array(np.inf)
    scale = spread(encoded.parts["scale"].astype(np.float64), encoded.view, format.per)
    saturated = np.maximum(np.abs(weight) - 2.0**14, 0) if format.half else 0
    return scale / 2 + np.abs(weight) * 2.0**-22 + saturated


def log2_bound(format, weight, encoded):
    size = np.abs(weight)
    ratio = 2.0 ** (2.0**-format.fraction)
    top = spread(encoded.parts["top"].astype(float), encoded.view, format.per)
    least = 2.0 ** ((top - (2 ** (format.bits - 1) - 2)) / 2**format.fraction)
    return np.maximum(
        size * ((ratio - 1) / (ratio + 1) + 2.0**-23), np.minimum(size, least / 2) * (1 + 2.0**-23)
    )


def clustered_bound(format, weight, encoded):
    """The distance to the nearest value, by looking at all of them; zeros have theirs."""
    codebook = encoded.parts["codebook"].astype(np.float64)
    pinned = encoded.spec.zero is not None
    others = codebook[pinned:] if len(codebook) > pinned else codebook
    distance = np.abs(np.subtract.outer(weight, others)).min(axis=-1, initial=np.inf)
    return np.where(weight == 0, 0.0 if pinned else distance, distance)


def basis_bound(format, weight, encoded):
    """The distance to the nearest of all sums with signs, one by one."""
    nearest = np.full(weight.shape, np.inf)
    for code in range(2**format.bits):
        level = np.zeros(weight.shape)
        for j in range(format.bits):
            number = encoded.parts["basis"][..., j].astype(np.float64)
            level += (1 if code >> j & 1 else -1) * spread(number, encoded.view, format.per)
        nearest = np.minimum(nearest, np.abs(weight - level.astype(np.float32)))
    return nearest


def test_they_are_registered():
    assert FORMATS[:5] == (Float, Int, Log2, Clustered, Basis)


@pytest.mark.parametrize("format", CONFIGURATIONS, ids=str)
def test_json_and_back(format):
    assert msgspec.json.decode(msgspec.json.encode(format), type=AnyFormat) == format


@pytest.mark.parametrize("format", [f for f in CONFIGURATIONS if not isinstance(f, Clustered)], ids=str)
def test_nbits_is_exact_at_fixed_rate(format):
    for name, weight, view in tensors():
        if view == View.of(weight.shape):
            encoded = format.encode(weight)
            parts = 8 * sum(part.nbytes for part in encoded.parts.values())
            assert format.nbits(weight.shape) == weight.size * encoded.spec.bits + parts, name


@pytest.mark.parametrize("format", [f for f in CONFIGURATIONS if getattr(f, "bits", 0) != 32], ids=str)
def test_levels_are_kept_under_given_parts(format):
    """Rounding again under the same parts changes nothing: what AdaRound, GPTQ and training build on."""
    for name, weight, view in tensors():
        encoded = format.encode(weight, view=view)
        again = format.encode(encoded.decode(), view=view, parts=encoded.parts)
        np.testing.assert_array_equal(again.decode(), encoded.decode(), err_msg=name)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Int(bits=0), "int.bits"),
        (lambda: Int(bits=17), "int.bits"),
        (lambda: Int(bits=33), "int.bits"),
        (lambda: Int(bits=True), "int.bits"),
        (lambda: Int(bits=8.0), "int.bits"),
        (lambda: Int(per=0), "int.per"),
        (lambda: Int(per="row"), "int.per"),
        (lambda: Int(scheme="signed"), "int.scheme"),
        (lambda: Int(scale_by="kl"), "int.scale_by"),
        (lambda: Float(kind="fp8"), "float.kind"),
        (lambda: Log2(bits=1), "log2.bits"),
        (lambda: Log2(fraction=-1), "log2.fraction"),
        (lambda: Clustered(bits=13), "clustered.bits"),
        (lambda: Clustered(init="forgy"), "clustered.init"),
        (lambda: Basis(bits=0), "basis.bits"),
        (lambda: Basis(bits=9), "basis.bits"),
        (lambda: Basis(per="group"), "basis.per"),
    ],
)
def test_states_that_cannot_be_meant_cannot_be_made(make, field):
    with pytest.raises(ConfigError, match=field):
        make()


def test_a_recipe_names_the_mistake():
    with pytest.raises(msgspec.ValidationError, match=r"not a bit width.*\$\[\.\.\.\]"):
        msgspec.json.decode(b'{"x": {"format": "int", "bits": 20}}', type=dict[str, AnyFormat])


def test_importance_is_checked():
    with pytest.raises(ConfigError):
        Importance(np.array([[1.0, -1.0]]))
    with pytest.raises(UnsupportedError, match="importance"):
        Int(bits=4, scale_by="mse").encode(np.zeros((2, 3)), importance=Importance(np.ones((3, 2))))


GOLDEN = [
    (Float(), "00bc00b400000038662e6632cd343337", {}),
    (Float(kind="bfloat16"), "80bf80be0000003fcd3d4d3e9a3ee63e", {}),
    (Float(kind="float8_e4m3fn", per="channel"), "f8e80070656d7276", {"exponent": "f8f7"}),
    (Int(bits=4, scheme="affine"), "e65073fa", {"scale": "cdcccc3d8fc2f53c", "zero_point": "02f8"}),
    (Int(bits=3, per=2, scale_by="mse"), "3ca669", {"scale": "0000803eaaaa2a3ec10f7c3d9999193e"}),
    (Log2(bits=5, fraction=1), "7f8386d46a", {"top": "00000000"}),
    (Clustered(bits=2), "c9fe", {"codebook": "00000000000080bf9a9999bd9a99b93e"}),
    (Basis(bits=2), "94fa", {"basis": "0000c03e0000203f6666e63d6666863e"}),
]


@pytest.mark.parametrize(("format", "payload", "parts"), GOLDEN, ids=lambda value: str(value)[:40])
def test_bytes_stay_what_they_are(format, payload, parts):
    """What the first version writes: a change here breaks files."""
    encoded = format.encode(np.float32([[-1.0, -0.25, 0.0, 0.5], [0.1, 0.2, 0.3, 0.45]]))
    assert encoded.payload.hex() == payload
    assert {name: part.tobytes().hex() for name, part in encoded.parts.items()} == parts


def test_overflow_of_float32_is_not_called_divergence():
    with pytest.raises(UnsupportedError, match=r"beyond the range of float32: got 1 of 2 values"):
        Int().encode(np.array([1e300, 1.0]))
    with pytest.raises(UnsupportedError, match=r"NaN or infinity: got 1 of 2 values"):
        Int().encode(np.array([np.inf, 1e300]))
