"""Folders of image files: decoded when they are needed, scaled and cropped to one size."""

from __future__ import annotations

import hashlib
import re
import struct
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from featherweight.data.indexed import Indexed, Indices, Normalisation
from featherweight.errors import TaskError

SUFFIXES = {".jpg", ".jpeg", ".png"}
MOST_PIXELS = 1 << 26
UPRIGHT = "upright"  # a word of the digest: how files are decoded


@dataclass(frozen=True, eq=False)
class ImageFiles(Indexed):
    """Image files as square inputs.

    Attributes:
        paths: the files.
        labels: class index of each; empty if they have none.
        size: height and width of an input, in pixels.
        normalise: pixel values to network inputs.
        crop: share of the shorter side that the crop keeps (0.875: scaled to 256 pixels, cropped to 224). An
            image that is of the right size already is taken as it is.
    """

    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    size: int
    normalise: Normalisation
    crop: float = 0.875

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, indices: Indices) -> tuple[Any, Any]:
        """Return inputs `[n, 3, size, size]`, float32, and labels `[n]`, int64, or None without labels."""
        import torch

        pixels = np.stack([decode(self.paths[i], self.size, self.crop) for i in indices])
        labels = torch.tensor([self.labels[i] for i in indices]) if self.labels else None
        return self.normalise(pixels), labels

    @cached_property
    def digest(self) -> str:
        """A hash of names, lengths, labels and preprocessing; the images themselves are not read."""
        facts = [(path.parent.name, path.name, path.stat().st_size) for path in self.paths]
        settings = (facts, self.labels, self.size, self.normalise, self.crop, UPRIGHT)
        return hashlib.sha256(repr(settings).encode()).hexdigest()


def decode(path: Path, size: int | tuple[int, int], crop: float) -> NDArray[np.uint8]:
    """Return the middle of an image, upright as its EXIF orientation says, as `[3, height, width]`.

    Args:
        path: the file.
        size: height and width; one number for both.
        crop: share that the crop keeps of the largest rectangle of that form, unless the image has the size already.

    Raises:
        TaskError: it cannot be read, or has too many pixels.
    """
    height, width = (size, size) if isinstance(size, int) else size
    try:
        with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
            opened = Image.open(path)
        with opened:
            if opened.width * opened.height > MOST_PIXELS:
                got, most = f"{opened.width} x {opened.height}", f"up to {MOST_PIXELS:,}"
                raise TaskError("too many pixels", where=str(path), got=got, expected=most)
            image = ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, ValueError, SyntaxError, KeyError, struct.error, Image.DecompressionBombError) as error:
        raise TaskError(f"not an image that can be read: {error}", where=str(path)) from error
    if image.size != (width, height):
        scale = min(image.width / width, image.height / height) * crop
        left, top = (image.width - scale * width) / 2, (image.height - scale * height) / 2
        box = (left, top, left + scale * width, top + scale * height)
        image = image.resize((width, height), Image.Resampling.BICUBIC, box=box)
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def classes_in(folder: Path) -> tuple[str, ...]:
    """Return the classes of `folder/CLASS/*`, by name: a class is numbered by its place here."""
    return tuple(sorted(path.name for path in folder.iterdir() if path.is_dir())) if folder.is_dir() else ()


def class_folders(folder: Path, classes: Sequence[str]) -> tuple[tuple[Path, ...], tuple[int, ...]]:
    """Return files and labels of `folder/CLASS/*.jpg|png`, numbered in order of `classes`."""
    if unknown := sorted(set(classes_in(folder)) - set(classes)):
        raise TaskError("not one of the classes", where=str(folder), got=", ".join(unknown[:5]))
    pairs = [(path, label) for label, name in enumerate(classes) for path in images_in(folder / name)]
    if not pairs:
        raise TaskError("no images", where=str(folder), expected="FOLDER/CLASS/*.jpg or *.png")
    paths, labels = zip(*pairs, strict=True)
    return paths, labels


def numbered_files(folder: Path) -> tuple[tuple[Path, ...], tuple[int, ...]]:
    """Return files and labels of a flat folder of files named by class index (`0042.jpg`, `42_a.png`)."""
    paths = images_in(folder)
    found = [re.match(r"\d+", path.stem) for path in paths]
    if not paths or None in found:
        what = "not images named by their class index"
        raise TaskError(what, where=str(folder), expected="0042.jpg, 42_a.png")
    return paths, tuple(int(match.group()) for match in found if match)


def images_in(folder: Path) -> tuple[Path, ...]:
    """Return the image files of a flat folder, in order of their names; none if there is no folder."""
    found = folder.iterdir() if folder.is_dir() else ()
    return tuple(sorted(path for path in found if path.suffix.lower() in SUFFIXES))
