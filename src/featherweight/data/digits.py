"""scikit-learn's digits: 1,797 grey images of 8 x 8 pixels, 0 to 16, in ten classes."""

from __future__ import annotations

import numpy as np

from featherweight.data.fetch import Asset, Wheel, fetch
from featherweight.data.indexed import Images, Indexed, Normalisation, Subset, held_out
from featherweight.events import Events, silent

# The test part of Alpaydin, Kaynak, 1998: Optical recognition of handwritten digits (UCI).
TABLE = "digits.csv.gz"
DIGITS = Asset(
    "digits",
    {TABLE: "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22"},
    (Wheel("scikit-learn", "sklearn/datasets/data"),),
)
NORMALISATION = Normalisation(mean=(4.8842,), std=(6.0168,))
TEST, VALIDATION = 500, 297


def load(events: Events = silent) -> Images:
    """Return all images, fetching them if need be; of scikit-learn's wheel only this table is read.

    A line of it is an image, its pixels row by row and then its class.
    """
    table = np.loadtxt(fetch(DIGITS, events) / TABLE, delimiter=",", dtype=np.int64)
    return Images(table[:, :-1].reshape(-1, 1, 8, 8).astype(np.uint8), table[:, -1], NORMALISATION)


def split(images: Indexed) -> tuple[Subset, Subset, Subset]:
    """Return a part to train on, 297 images for validation, and 500 for the test; always the same ones."""
    rest, test = held_out(images, TEST)
    train, validation = held_out(rest, VALIDATION)
    return train, validation, test
