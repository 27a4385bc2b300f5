"""Orders, splits and augmentation: the same for ever, and a permutation of what went in."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from featherweight.data.cifar import CropFlip
from featherweight.data.indexed import Images, Normalisation, held_out, permutation


def images(count):
    pixels = np.arange(count * 4, dtype=np.uint8).reshape(count, 1, 2, 2)
    return Images(pixels, np.arange(count), Normalisation((0.0,), (1.0,)))


@given(count=st.integers(0, 200), key=st.lists(st.integers(-5, 2**40), min_size=1, max_size=3))
def test_permutation_is_one_and_depends_on_the_key_alone(count, key):
    order = permutation(count, *key)
    assert sorted(order.tolist()) == list(range(count))
    assert np.array_equal(order, permutation(count, *key))


def test_permutation_golden():
    assert permutation(8, 0x5EED).tolist() == [7, 5, 0, 2, 4, 3, 6, 1]
    assert permutation(8, 1, 0).tolist() != permutation(8, 0, 1).tolist()


@given(count=st.integers(1, 60), data=st.data())
def test_held_out_is_a_partition(count, data):
    held = data.draw(st.integers(0, count))
    rest, kept = held_out(images(count), held)
    assert len(kept) == held
    labels = [part.take(np.arange(len(part)))[1].tolist() for part in (rest, kept)]
    assert sorted(labels[0] + labels[1]) == list(range(count))


def test_digest_tells_pixels_labels_and_normalisation_apart():
    one = images(5)
    others = [
        images(6),
        Images(one.pixels + 1, one.labels, one.normalise),
        Images(one.pixels, one.labels[::-1].copy(), one.normalise),
        Images(one.pixels, one.labels, Normalisation((1.0,), (1.0,))),
        held_out(one, 2)[0],
        held_out(one, 2)[1],
    ]
    assert one.digest == images(5).digest
    assert len({one.digest, *(other.digest for other in others)}) == 1 + len(others)


def slowly(inputs, padding, top, left, mirrored):
    """The oracle: one image after another."""
    out = []
    for image, t, x, flip in zip(inputs, top, left, mirrored, strict=True):
        padded = torch.nn.functional.pad(image, (padding,) * 4)
        crop = padded[:, t : t + image.shape[1], x : x + image.shape[2]]
        out.append(crop.flip(2) if flip else crop)
    return torch.stack(out)


def test_crop_flip_against_the_oracle():
    inputs = torch.randn(20, 3, 6, 5)
    got = CropFlip(2)(inputs, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    top, left = torch.randint(0, 5, (2, 20, 1), generator=generator).squeeze(2).tolist()
    mirrored = torch.randint(0, 2, (20,), generator=generator, dtype=torch.bool).tolist()
    assert 0 < sum(mirrored) < 20
    assert torch.equal(got, slowly(inputs, 2, top, left, mirrored))
