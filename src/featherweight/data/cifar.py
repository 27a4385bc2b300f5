"""CIFAR-10 in its binary layout: 50,000 and 10,000 colour images of 32 x 32 pixels; and how batches are augmented."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor
from torch.nn import functional as F

from featherweight.data.fetch import Asset, Mirror, fetch, tar_member
from featherweight.data.indexed import Images, Normalisation
from featherweight.errors import IntegrityError, TaskError
from featherweight.events import Events, silent
from featherweight.files import cache_dir

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FOLDER = "cifar-10-batches-bin"
TRAIN = tuple(f"data_batch_{k}.bin" for k in range(1, 6))
TEST = "test_batch.bin"
RECORD = 1 + 3 * 32 * 32

# Krizhevsky, 2009: Learning multiple layers of features from tiny images.
ARCHIVE = "cifar-10-binary.tar.gz"
CIFAR10 = Asset(
    "cifar-10",
    {ARCHIVE: "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"},
    (Mirror("https://www.cs.toronto.edu/~kriz/{name}"),),
)

# Unpacked files that are known: SHA-256 over the six files, in order, to what results on them are called. All
# images of the second went through JPEG once, which costs about nine points of accuracy: never to be compared
# with the first.
EDITIONS = {"f9ee3e880e33d456f04c660ed3e5cdfdd073c6314d49ade3e66545693d0e6231": "CIFAR-10 (JPEG)"}

# Mean and deviation of ImageNet: what the published weights for these networks were trained with.
NORMALISATION = Normalisation(
    mean=(0.485 * 255, 0.456 * 255, 0.406 * 255), std=(0.229 * 255, 0.224 * 255, 0.225 * 255)
)


@dataclass(frozen=True, eq=False)
class Cifar10:
    """The images, and what results on them are called.

    Attributes:
        edition: `CIFAR-10` if they came out of the published archive, `CIFAR-10 (JPEG)` for the edition that
            went through JPEG, else `CIFAR-10 (unofficial)`.
    """

    train: Images
    test: Images
    edition: str


def load(events: Events = silent) -> Cifar10:
    """Return CIFAR-10: of `cifar-10-batches-bin` in the cache folder if somebody put it there, else fetched.

    Raises:
        TaskError: it is not there and cannot be fetched, or a file of the folder is missing.
        IntegrityError: a file is not of the binary layout.
    """
    own = cache_dir() / FOLDER
    if own.is_dir():
        return _read(lambda name: _file(own / name), None)
    try:
        path = fetch(CIFAR10, events) / ARCHIVE
    except TaskError as error:
        raise TaskError(error.what, where=error.where, hint=f"{error.hint}; or unpack it to {own}") from None
    with tarfile.open(path) as archive:
        return _read(lambda name: tar_member(archive, f"{FOLDER}/{name}"), "CIFAR-10")


def _file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        hint = f"{path.parent} needs {', '.join((*TRAIN, TEST))}"
        raise TaskError(f"cannot be read: {error}", where=path.name, hint=hint) from None


def _read(read: Callable[[str], bytes], edition: str | None) -> Cifar10:
    digest = hashlib.sha256()
    parts = []
    for name in (*TRAIN, TEST):
        content = read(name)
        digest.update(content)
        parts.append(parse(content, where=name))
    pixels, labels = zip(*parts, strict=True)
    train = Images(np.concatenate(pixels[:-1]), np.concatenate(labels[:-1]), NORMALISATION)
    test = Images(pixels[-1], labels[-1], NORMALISATION)
    return Cifar10(train, test, edition or EDITIONS.get(digest.hexdigest(), "CIFAR-10 (unofficial)"))


def parse(content: bytes, *, where: str = "") -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return pixels `[n, 3, 32, 32]` and labels `[n]` of records of one label byte and 3,072 pixel bytes."""
    if not content or len(content) % RECORD:
        multiple = f"a multiple of {RECORD} bytes"
        raise IntegrityError("not CIFAR-10 records", where=where, got=len(content), expected=multiple)
    records = np.frombuffer(content, np.uint8).reshape(-1, RECORD)
    if (worst := int(records[:, 0].max())) >= len(CLASSES):
        raise IntegrityError("label", where=where, got=worst, expected=f"0 to {len(CLASSES) - 1}")
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].astype(np.int64)


@dataclass(frozen=True)
class CropFlip:
    """Random crops of padded images, every other one mirrored: what CIFAR networks are trained with.

    References: He, Zhang, Ren, Sun, 2016: Deep residual learning for image recognition, section 4.2.

    Attributes:
        padding: pixels added on each side, of the mean colour (0 after normalisation).
        channels_last: leave the channels of a pixel side by side in memory, which convolutions on processors
            are faster with; a network that takes features apart by `view` refuses them.
    """

    padding: int = 4
    channels_last: bool = False

    def __call__(self, inputs: Tensor, generator: Generator) -> Tensor:
        """Return `inputs: [n, c, h, w]`, each image moved by up to `padding` pixels and maybe mirrored."""
        count, _, height, width = inputs.shape
        padded = F.pad(inputs, (self.padding,) * 4)
        top, left = torch.randint(0, 2 * self.padding + 1, (2, count, 1), generator=generator)
        mirrored = torch.randint(0, 2, (count, 1), generator=generator, dtype=torch.bool)
        rows = top + torch.arange(height)
        columns = left + torch.where(mirrored, torch.arange(width - 1, -1, -1), torch.arange(width))
        sample = torch.arange(count)[:, None, None]
        cropped = padded.permute(0, 2, 3, 1)[sample, rows[:, :, None], columns[:, None, :]]
        images = cropped.permute(0, 3, 1, 2)
        return images if self.channels_last else images.contiguous()
