"""scikit-learn's digits: 1,797 grey images of 8 x 8 pixels, 0 to 16, in ten classes."""

from __future__ import annotations

import gzip

import numpy as np

from featherweight.data.fetch import Asset, fetch
from featherweight.data.indexed import Images, Indexed, Normalisation, Subset, held_out
from featherweight.data.sources import Wheel
from featherweight.errors import IntegrityError
from featherweight.events import Events, silent

# The test part of Alpaydin, Kaynak, 1998: Optical recognition of handwritten digits (UCI).
TABLE = "digits.csv.gz"
DIGITS = Asset(
    "digits",
    {TABLE: "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22"},
    (Wheel("scikit-learn", "sklearn/datasets/data"),),
)
NORMALISATION = Normalisation(mean=(4.8842,), std=(6.0168,))
PIXELS, CLASSES = 64, 10
TEST, VALIDATION = 500, 297


def load(events: Events = silent) -> Images:
    """Return all images, fetching them if need be; of scikit-learn's wheel only this table is read.

    Raises:
        TaskError: they cannot be fetched.
        IntegrityError: the table is not one.
    """
    return parse(gzip.decompress((fetch(DIGITS, events) / TABLE).read_bytes()))


def parse(content: bytes) -> Images:
    """Return the images of a table: a line an image, its pixels row by row and then its class.

    Raises:
        IntegrityError: a line without 64 pixels from 0 to 16 and a class from 0 to 9.
    """
    try:
        lines = content.decode("ascii").split()
        table = np.array([line.split(",") for line in lines], float).reshape(len(lines), -1)
    except ValueError as error:
        raise IntegrityError(f"not a table of digits: {error}") from None
    pixels, labels = table[:, :-1], table[:, -1]
    if table.shape[1] != PIXELS + 1 or not (
        np.isin(pixels, range(17)).all() and np.isin(labels, range(CLASSES)).all()
    ):
        raise IntegrityError("not a table of digits", got=table.shape, expected=f"[n, {PIXELS + 1}]")
    return Images(pixels.reshape(-1, 1, 8, 8).astype(np.uint8), labels.astype(np.int64), NORMALISATION)


def split(images: Indexed) -> tuple[Subset, Subset, Subset]:
    """Return a part to train on, 297 images for validation, and 500 for the test; always the same ones."""
    rest, test = held_out(images, TEST)
    train, validation = held_out(rest, VALIDATION)
    return train, validation, test
