"""The digits: a table is read as it was written, and a split that is disjoint and never another one."""

import gzip
import hashlib

import numpy as np

from featherweight.data.digits import DIGITS, TABLE, load, split
from featherweight.data.indexed import Indexed
from featherweight.files import write_whole


def test_a_table_is_read_as_written(tmp_path, monkeypatch):
    """As scikit-learn has it: whole numbers between commas, a line an image."""
    draw = np.random.default_rng(0)
    pixels, labels = draw.integers(0, 17, (5, 1, 8, 8)), draw.integers(0, 10, 5)
    rows = np.column_stack([pixels.reshape(5, -1), labels])
    content = gzip.compress("".join(",".join(map(str, row)) + "\n" for row in rows).encode())
    monkeypatch.setenv("FEATHERWEIGHT_DATA", str(tmp_path))
    monkeypatch.setitem(DIGITS.files, TABLE, hashlib.sha256(content).hexdigest())
    write_whole(DIGITS.folder / TABLE, content)
    images = load()
    assert np.array_equal(images.pixels, pixels) and np.array_equal(images.labels, labels)


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
