"""The format: laws, layout, windows, importance, presets, whatever the number of threads."""

import numpy as np
import pytest
from astc_oracle import oracle

from featherweight.errors import ConfigError, IntegrityError
from featherweight.formats import Astc, Encoded, Fixed, Importance, View
from featherweight.formats.astc import encode
from featherweight.processors import thread_limit
from featherweight.testing import FormatSuite


class TestAstc(FormatSuite):
    formats = (
        Astc(),
        Astc(footprint="4x4", per="tensor", mode="float16"),
        Astc(footprint="12x12", per="tensor"),
        Astc(footprint="5x4", channels=4, mode="float16"),
        Astc(footprint="8x8", channels=4, per="tensor", preset="astcenc"),
    )


def gaussian(rows, cols, seed=0):
    return (np.random.default_rng(seed).normal(size=(rows, cols)) * 0.02).astype(np.float32)


def sqnr(weight, decoded):
    return 10 * np.log10(np.square(weight).sum() / np.square(weight - decoded).sum())


@pytest.mark.parametrize(("footprint", "channels"), [("4x4", 1), ("10x6", 1), ("6x5", 4)])
def test_bytes_are_those_of_the_blocks(footprint, channels):
    """A tensor's payload is its blocks, nothing else, and no more of them than cover it."""
    format = Astc(footprint=footprint, channels=channels)
    width, height = (int(n) for n in footprint.split("x"))
    for shape in ((33, 41), (1, 5), (7, 3, 3, 3)):
        encoded = format.encode(gaussian(shape[0], int(np.prod(shape[1:]))).reshape(shape))
        rows, cols = encoded.view.rows, encoded.view.cols
        blocks = -(-rows // height) * -(-cols // (width * channels))
        assert len(encoded.payload) == 16 * blocks
        assert 8 * encoded.nbytes == format.nbits(shape) == 128 * blocks + 64 * rows


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("mode", ["unorm8", "float16"])
def test_arms_decoder_gives_the_same_weights(channels, mode):
    weight = gaussian(20, 52)
    encoded = Astc(footprint="5x4", channels=channels, mode=mode).encode(weight)
    width = 55 if channels == 1 else 15
    texels = oracle(encoded.symbols, "5x4", 20, width, mode)[:, :, :channels].reshape(20, -1)[:, :52]
    values = texels.astype(np.float32) / np.float32(255) if mode == "unorm8" else texels.view(np.float16)
    offset, scale = (encoded.parts[name][:, None] for name in ("offset", "scale"))
    np.testing.assert_array_equal(encoded.decode(), values.astype(np.float32) * scale + offset)


@pytest.mark.parametrize("channels", [1, 4])
def test_any_window_is_read_alone(channels):
    """A window needs no block but those it touches: the others may be damaged."""
    format = Astc(footprint="4x4", channels=channels, per="tensor")
    encoded = format.encode(gaussian(21, 48))
    whole = encoded.decode()
    for rows, cols in (
        (slice(0, 1), slice(0, 4)),
        (slice(5, 13), slice(16, 39)),
        (slice(20, 21), slice(44, 48)),
    ):
        np.testing.assert_array_equal(format.tile(encoded, rows, cols), whole[rows, cols])
    damaged = encoded.symbols.copy()
    damaged[-16:] = 0
    broken = Encoded(format, Fixed(), encoded.view, damaged, encoded.parts)
    np.testing.assert_array_equal(format.tile(broken, slice(0, 20), slice(0, 32)), whole[:20, :32])
    with pytest.raises(IntegrityError, match="malformed ASTC block"):
        broken.decode()


def test_the_number_of_threads_changes_nothing(monkeypatch):
    monkeypatch.setattr(encode, "STRIP", 7)
    found = []
    for threads in (1, 3):
        with thread_limit(threads):
            found.append(Astc(footprint="5x5").encode(gaussian(37, 60)).payload)
    assert found[0] == found[1]


def test_a_strip_of_columns_has_the_blocks_it_has_in_the_whole():
    texels = np.random.default_rng(0).random((13, 24, 1))
    heavy = np.ones((13, 24))
    whole = encode.encode_tile(texels, heavy, "6x5", "unorm8", "fast")
    for first in (0, 6, 18):
        strip = encode.encode_tile(
            texels[:, first : first + 6], heavy[:, first : first + 6], "6x5", "unorm8", "fast"
        )
        np.testing.assert_array_equal(strip, whole[:, first // 6 : first // 6 + 1])


def test_what_fills_up_the_last_blocks_counts_nothing():
    """A matrix that ends within a block is as near as the same numbers in the middle of one."""
    weight = gaussian(4, 4)
    alone = Astc(footprint="12x12", per="tensor").encode(weight)
    assert sqnr(weight, alone.decode()) > 6  # a whole block of them: 2


def test_presets_are_in_order():
    weight = gaussian(60, 60)
    found = {
        preset: sqnr(weight, Astc(footprint="5x5", per="tensor", preset=preset).encode(weight).decode())
        for preset in ("astcenc", "fast", "best")
    }
    assert found["astcenc"] < found["fast"] < found["best"]


def test_important_weights_are_nearer():
    weight = gaussian(48, 48)
    diagonal = np.where(np.random.default_rng(1).random(weight.shape) < 0.1, 100.0, 1.0)
    for channels in (1, 4):
        format = Astc(footprint="8x6", channels=channels, per="tensor")
        plain = format.encode(weight).decode()
        weighed = format.encode(weight, importance=Importance(diagonal)).decode()
        assert (diagonal * (weighed - weight) ** 2).sum() < 0.8 * (diagonal * (plain - weight) ** 2).sum()


@pytest.mark.parametrize("per", ["tensor", "channel"])
def test_ranges_wider_than_float32_are_clipped_at_both_ends(per):
    weight = np.float32([[-3e38, 3e38] * 4, [3e38, -3e38] * 4] * 4)
    decoded = Astc(footprint="4x4", per=per).encode(weight).decode()
    np.testing.assert_allclose(decoded, np.sign(weight) * np.finfo(np.float32).max / 2, rtol=1e-6)


def test_constant_tensors_are_exact():
    for value in (0.0, -0.3, 1e30):
        weight = np.full((9, 5), value, np.float32)
        np.testing.assert_array_equal(Astc().encode(weight).decode(), weight)


def test_ranges_are_clipped_where_that_is_better():
    weight = gaussian(128, 128)
    format = Astc(footprint="6x6", per="tensor")
    clipped = format.encode(weight)
    whole = {"offset": np.array([weight.min()]), "scale": np.array([np.ptp(weight)])}
    assert clipped.parts["scale"] < whole["scale"]
    assert sqnr(weight, clipped.decode()) > sqnr(weight, format.encode(weight, parts=whole).decode())
    weight[0, 0] = 1000  # here it is not
    assert format.encode(weight).parts["scale"] > 1000


def test_groups_have_ranges_of_their_own():
    weight = np.concatenate([gaussian(6, 30), 100 * gaussian(6, 30)])
    view = View(weight.shape, groups=2)
    encoded = Astc(footprint="5x5", per="tensor").encode(weight, view=view)
    assert encoded.parts["scale"].shape == (2,)
    assert sqnr(weight[:5], encoded.decode()[:5]) > 15


def test_states_that_cannot_be_meant():
    for wrong in ({"footprint": "7x7"}, {"channels": 2}, {"mode": "srgb"}, {"per": 3}, {"preset": "slow"}):
        with pytest.raises(ConfigError, match=f"astc.{next(iter(wrong))}"):
            Astc(**wrong)
