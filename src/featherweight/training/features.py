"""What networks compute at a place, for every sample of a set: kept, read in batches, and compared."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from featherweight.capture.execution import Values
from featherweight.capture.trace import is_free

IN_MEMORY = 1 << 28  # bytes of the activations at one place, beyond which they lie in files


@dataclass(frozen=True, eq=False)
class Features:
    """The values that are alive at one position of a network, of all samples.

    Attributes:
        values: by node; of tensors with samples along axis 0 all of them, `[samples * rows, ...]`.
        rows: how many rows of these a sample has; other values are alike for all batches.
        size: samples of a batch; their number is a multiple of it.
        samples: how many there are.
        whole: whether the network takes batches of one size alone: then a batch keeps its samples.
    """

    values: Mapping[fx.Node, Any]
    rows: Mapping[fx.Node, int]
    size: int
    samples: int
    whole: bool = False

    def part(self, numbers: Tensor) -> Values:
        """Return the values of these samples, `[size]`."""
        found = dict(self.values)
        for node, rows in self.rows.items():
            places = numbers if rows == 1 else (numbers[:, None] * rows + torch.arange(rows)).flatten()
            found[node] = like_before(self.values[node][places], self.values[node])
        return found

    def batches(self) -> Iterator[tuple[Tensor, Values]]:
        """Yield the numbers of the samples of each batch, in order, and their values."""
        for numbers in torch.split(torch.arange(self.samples), self.size):
            yield numbers, self.part(numbers)

    def only(self, values: Values) -> Features:
        """Return what of the features is among `values`."""
        return replace(self, values=values, rows={node: n for node, n in self.rows.items() if node in values})

    def first(self, count: int) -> Features:
        """Return the first so many samples."""
        cut = {node: self.values[node][: count * rows] for node, rows in self.rows.items()}
        return replace(self, values={**self.values, **cut}, samples=count)

    def last(self, count: int) -> Features:
        """Return the last so many samples."""
        start = self.samples - count
        cut = {node: self.values[node][start * rows :] for node, rows in self.rows.items()}
        return replace(self, values={**self.values, **cut}, samples=count)

    def after(self, change: Callable[[Values], Values], folder: Path | None = None) -> Features:
        """Return what a function makes of each batch; large activations lie in nameless files in `folder`."""
        parts = (change(values) for _, values in self.batches())
        return collected(parts, self.size, self.samples, self.whole, folder)

    def order(self, seed: int) -> list[Tensor]:
        """Return the numbers of the samples of each batch of an epoch, shuffled."""
        generator = torch.Generator().manual_seed(seed)
        if self.whole:
            batches = torch.split(torch.arange(self.samples), self.size)
            return [batches[place] for place in torch.randperm(len(batches), generator=generator).tolist()]
        return list(torch.split(torch.randperm(self.samples, generator=generator), self.size))


def collected(
    parts: Iterable[Values], size: int, samples: int, whole: bool = False, folder: Path | None = None
) -> Features:
    """Return the values of batches of `size` samples, one after the other, of so many `samples` in all.

    Arguments as of `Features`; large activations lie in nameless files in `folder`.
    """
    values: dict[fx.Node, Any] = {}
    rows: dict[fx.Node, int] = {}
    for number, part in enumerate(parts):
        if not number:
            rows = {
                node: len(value) // size
                for node, value in part.items()
                if _of_samples(node, value, size, whole)
            }
            nbytes = sum(part[node].nbytes for node in rows) * (samples // size)
            values = {
                node: room(value, samples // size, folder if nbytes > IN_MEMORY else None) if node in rows else value
                for node, value in part.items()
            }  # fmt: skip
        for node, count in rows.items():
            values[node][number * size * count : (number + 1) * size * count] = part[node]
    return Features(values, rows, size, samples, whole)


def room(like: Tensor, times: int, folder: Path | None) -> Tensor:
    """Return an empty tensor for so many of `like` along axis 0, laid out alike; in memory, or a map of a file."""
    last = _channels_last(like)
    moved = like.permute(0, 2, 3, 1) if last else like
    shape = (len(like) * times, *moved.shape[1:])
    if folder is None or not like.numel():
        made = torch.empty(shape, dtype=like.dtype)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            size = like.numel() * times
            made = torch.from_file(file.name, shared=True, size=size, dtype=like.dtype).reshape(shape)
    return made.permute(0, 3, 1, 2) if last else made


def like_before(part: Tensor, source: Tensor) -> Tensor:
    """Return some rows of a tensor, laid out as it is."""
    return part.contiguous(memory_format=torch.channels_last) if _channels_last(source) else part


def _channels_last(tensor: Tensor) -> bool:
    last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return last and not tensor.is_contiguous()


def _of_samples(node: fx.Node, value: Any, size: int, whole: bool) -> bool:
    """Return whether axis 0 of a value goes with the samples of a batch."""
    if not isinstance(value, Tensor) or not value.dim():
        return False
    return len(value) == size if whole else is_free(node.meta["val"].shape[0])
