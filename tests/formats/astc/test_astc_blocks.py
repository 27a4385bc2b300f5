"""Blocks to bytes and back, and to texels as Arm's own codec decodes them; damage is refused."""

import numpy as np
import pytest
from astc_encoder import ASTCConfig, ASTCContext, ASTCImage, ASTCProfile, ASTCSwizzle, ASTCType
from astc_oracle import oracle, ours, random_blocks

from featherweight.errors import IntegrityError, UnsupportedError
from featherweight.formats.astc.blocks import Blocks, decode_texels
from featherweight.formats.astc.tables import FOOTPRINTS, size


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("footprint", FOOTPRINTS)
def test_every_configuration_decodes_as_arm_decodes_it(footprint, channels):
    blocks = random_blocks(footprint, channels, 0, np.random.default_rng(channels))
    content = blocks.pack()
    again = Blocks.unpack(content, footprint)
    for name in ("mode", "partitions", "seed", "kind", "endpoints", "weights"):
        np.testing.assert_array_equal(getattr(again, name), getattr(blocks, name), err_msg=name)
    width, height = size(footprint)
    for kind in ("unorm8", "float16"):
        found = ours(content[None], footprint, height, len(content) * width, kind)
        np.testing.assert_array_equal(found, oracle(content, footprint, height, len(content) * width, kind))


@pytest.mark.parametrize("footprint", ["4x4", "6x5", "10x10"])
def test_blocks_of_arms_encoder(footprint):
    """Two planes, one colour, offsets, alpha: pictures of all kinds in one texture."""
    rng, (width, height) = np.random.default_rng(0), size(footprint)
    shape = (16 * height, 16 * width, 4)
    smooth = np.cumsum(np.cumsum(rng.normal(size=shape), axis=0), axis=1)
    picture = (smooth - smooth.min()) / np.ptp(smooth) * 255
    picture += rng.normal(size=shape) * rng.choice([0, 5, 60], (16, 16, 1)).repeat(height, 0).repeat(width, 1)
    picture[: 2 * height] = 77
    picture[4 * height : 8 * height, :, 3] = 255
    picture[8 * height : 12 * height] = picture[8 * height : 12 * height, :, :1]
    image = ASTCImage(ASTCType.U8, shape[1], shape[0], 1, np.clip(picture, 0, 255).astype(np.uint8).tobytes())
    context = ASTCContext(ASTCConfig(ASTCProfile.LDR, width, height, 1, 60))
    content = np.frombuffer(context.compress(image, ASTCSwizzle.from_str("RGBA")), np.uint8).reshape(
        16, 16, 16
    )
    for kind in ("unorm8", "float16"):
        found = ours(content, footprint, *shape[:2], kind)
        np.testing.assert_array_equal(found, oracle(content, footprint, *shape[:2], kind))
    with pytest.raises(UnsupportedError, match="no such meaning"):
        Blocks.unpack(content.reshape(-1, 16), footprint)


@pytest.mark.parametrize("footprint", ["4x4", "8x8", "12x12"])
def test_random_bytes_decode_as_arm_decodes_them_or_are_refused(footprint):
    rng, (width, height) = np.random.default_rng(1), size(footprint)
    content = rng.integers(0, 256, (3000, 16)).astype(np.uint8)
    taken = []
    for number, block in enumerate(content):
        try:
            ours(block[None, None], footprint, height, width, "unorm8")
            taken.append(number)
        except IntegrityError as error:
            assert "malformed ASTC block 0" in str(error)
    assert 20 < len(taken) < 1000
    content = content[taken]
    found = ours(content[None], footprint, height, len(content) * width, "unorm8")
    np.testing.assert_array_equal(found, oracle(content, footprint, height, len(content) * width, "unorm8"))


def test_a_window_is_cut_out_of_the_whole():
    content = random_blocks("6x5", 1, 12, np.random.default_rng(2)).pack().reshape(3, 4, 16)
    whole = decode_texels(content, "6x5", slice(0, 15), slice(0, 24), 1)
    for top, bottom, left, right in (
        (0, 1, 0, 1),
        (4, 11, 5, 7),
        (5, 10, 6, 12),
        (14, 15, 0, 24),
        (3, 3, 2, 2),
    ):
        window = decode_texels(content, "6x5", slice(top, bottom), slice(left, right), 1)
        np.testing.assert_array_equal(window, whole[top:bottom, left:right])


def test_which_block_is_malformed():
    content = random_blocks("4x4", 1, 9, np.random.default_rng(3)).pack()
    content[5] = 0
    with pytest.raises(IntegrityError, match="malformed ASTC block 5: a reserved block mode"):
        Blocks.unpack(content, "4x4")
    with pytest.raises(IntegrityError, match="malformed ASTC block 5"):
        decode_texels(content.reshape(3, 3, 16), "4x4", slice(0, 12), slice(0, 12), 1)
