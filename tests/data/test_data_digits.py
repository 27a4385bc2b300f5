"""The digits: what a table may be, and a split that is disjoint and never another one."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featherweight.data.digits import parse, split
from featherweight.data.indexed import Indexed
from featherweight.errors import IntegrityError


def table(pixels: np.ndarray, labels: np.ndarray) -> bytes:
    """As scikit-learn has it: whole numbers between commas, a line an image."""
    rows = np.column_stack([pixels.reshape(len(pixels), -1), labels])
    return "".join(",".join(map(str, row)) + "\n" for row in rows).encode()


@given(count=st.integers(1, 5), seed=st.integers(0, 1000))
def test_a_table_is_read_as_written(count, seed):
    draw = np.random.default_rng(seed)
    pixels, labels = draw.integers(0, 17, (count, 1, 8, 8)), draw.integers(0, 10, count)
    images = parse(table(pixels, labels))
    assert np.array_equal(images.pixels, pixels) and np.array_equal(images.labels, labels)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\n",
        b"one,two\n",
        b"1,2,3\n",
        table(np.full((1, 8, 8), 17), np.zeros(1, int)),
        table(np.full((1, 8, 8), -1), np.zeros(1, int)),
        table(np.zeros((1, 8, 8)) + 0.5, np.zeros(1, int)),
        table(np.zeros((1, 8, 8), int), np.array([10])),
        table(np.zeros((2, 8, 8), int), np.zeros(2, int)) + b"1,2\n",
    ],
)
def test_anything_else_is_refused(content):
    with pytest.raises(IntegrityError, match="not a table"):
        parse(content)


class Numbers(Indexed):
    """As many samples as there are digits, each its own number."""

    digest = ""

    def __len__(self):
        return 1797

    def take(self, indices):
        return indices, None


def test_the_split_is_disjoint_and_never_another_one():
    parts = [part.take(np.arange(len(part)))[0] for part in split(Numbers())]
    assert [len(part) for part in parts] == [1000, 297, 500]
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(1797))
    found = [hashlib.sha256(part.astype("<i8").tobytes()).hexdigest()[:12] for part in parts]
    assert found == ["440b0eb5c033", "5dc63fed5ad7", "c82cf536b789"]
