"""Data in every form that users have it: by index where possible, else as a stream of batches."""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
    default_collate,
)

from featherweight.data.indexed import Indexed, Indices, number, permutation
from featherweight.errors import TaskError
from featherweight.task.identity import hashed
from featherweight.task.protocol import Guarded

HASHED_TENSORS = 1 << 28  # bytes that a fingerprint reads at most, of a split in memory
HASHED_ITEMS = 1 << 26  # and of one whose samples have to be made
PROBES = 16
LABELS = "labels"  # among the keyword arguments of a network: what it is to answer


@dataclass(frozen=True, eq=False)
class Tensors(Indexed):
    """Samples that are rows of tensors.

    Attributes:
        inputs: a tensor `[n, ...]`, or a tuple or dict of such.
        labels: `[n, ...]`, or None.
    """

    inputs: Any
    labels: Tensor | None
    _known: dict[str, Any] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(next(leaves(self.inputs)))

    def take(self, indices: Indices) -> tuple[Any, Any]:
        """Return the rows at `indices: [n]`."""
        return rows(self.inputs, indices), rows(self.labels, indices)

    @property
    def digest(self) -> str:
        """A hash of labels and inputs as they are now; of every k-th input where they are more than 256 MiB."""
        tensors = leaves((self.inputs, self.labels))
        version = [0 if tensor.is_inference() else tensor._version for tensor in tensors]
        if self._known.get("version") != version:
            every = nbytes(self.inputs) // HASHED_TENSORS + 1
            found = hashed(len(self), self.labels, mapped(lambda leaf: leaf[::every], self.inputs))
            self._known.update(version=version, digest=found)
        digest: str = self._known["digest"]
        return digest


@dataclass(frozen=True, eq=False)
class Items(Indexed):
    """Samples of a map-style data set, put together by a collate function.

    Random transforms inside the data set draw from the global generators of torch, numpy and Python, which are
    seeded for each batch and put back afterwards. Batches are the same with any number of workers.

    Attributes:
        dataset: of single samples.
        collate: puts a list of samples together to a batch.
        workers: processes that make batches ahead; 0: they are made when they are asked for.
        worker_init: called with its number in each worker.
    """

    dataset: Any
    collate: Callable[[list[Any]], Any]
    workers: int = 0
    worker_init: Callable[[int], None] | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    def take(self, indices: Indices) -> tuple[Any, Any]:
        """Return the samples at `indices: [n]`."""
        return pair(self.collate([self.dataset[int(i)] for i in indices]))

    @cached_property
    def digest(self) -> str:
        """A hash of every sample and of the data set's `targets`, if it has them.

        Of more than 64 MiB, evenly spaced samples of about so many bytes count. Of inputs that differ from one
        reading to the next (see `steady`), labels alone do.
        """
        probes = list(self._each(evenly(len(self), PROBES)))
        most = HASHED_ITEMS * len(probes) // max(1, nbytes(probes))
        found = hashlib.sha256(hashed(len(self), getattr(self.dataset, "targets", None)).encode())
        for inputs, labels in self._each(evenly(len(self), max(most, PROBES))):
            found.update(hashed(inputs if self.steady else None, labels).encode())
        return found.hexdigest()

    @cached_property
    def steady(self) -> bool:  # type: ignore[override]
        """Whether some samples are the same when they are read twice, after seeding the global generators."""
        probes, again = (hashed(list(self._each(evenly(len(self), PROBES)))) for _ in range(2))
        return probes == again

    def _each(self, indices: list[int]) -> Iterator[tuple[Any, Any]]:
        with seeded(0):
            for index in indices:
                yield pair(self.collate([self.dataset[index]]))


@dataclass(frozen=True, eq=False)
class Stream:
    """Batches as a loader gives them; its own order decides whether two runs see the same.

    Attributes:
        loader: can be iterated any number of times.
        most: stop when so many samples have come; 0: at the end.
    """

    loader: Iterable[Any]
    most: int = 0

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        count = 0
        for batch in Guarded(type(self.loader).__name__, self.loader):
            inputs, labels = pair(batch)
            yield inputs, labels
            count += size_of(inputs)
            if self.most and count >= self.most:
                return

    def __len__(self) -> int:
        """Return the number of batches if the loader tells its own; TypeError if it does not."""
        if self.most:
            raise TypeError("a part of a stream has no length that is known before it is read")
        return len(self.loader)  # type: ignore[arg-type]

    @cached_property
    def digest(self) -> str:
        """A hash of the batches up to 64 MiB; of the first batch's shapes if two readings differ.

        The global generators are seeded for each reading, so a loader that shuffles by them gives the same twice.
        """
        if self.steady:
            return self._readings[0]
        shapes = [(tuple(leaf.shape), str(leaf.dtype)) for leaf in leaves(self.first())]
        return hashed(self.most, shapes)

    @property
    def steady(self) -> bool:
        """Whether two readings after seeding the global generators give the same."""
        first, again = self._readings
        return first == again

    def first(self) -> tuple[Any, Any]:
        """Return the first batch that there is after seeding torch's generator."""
        with seeded(0):
            for batch in self:
                return batch
        raise TaskError("no batches", got=type(self.loader).__name__)

    @cached_property
    def _readings(self) -> tuple[str, str]:
        return self._reading(), self._reading()

    def _reading(self) -> str:
        found, size = hashlib.sha256(f"{self.most}".encode()), 0
        with seeded(0):
            for batch in self:
                found.update(hashed(batch).encode())
                size += nbytes(batch)
                if size >= HASHED_ITEMS:
                    break
        return found.hexdigest()


Samples = Indexed | Stream
Augment = Callable[[Any, torch.Generator], Any]


@dataclass(frozen=True, eq=False)
class Batches(Dataset[Any]):
    """The batches of `data`, each sample once, in equal parts; each seeded by its number: in any process the same.

    Attributes:
        data: the samples.
        batch_size: most samples of a batch; that of a stream is its own.
        shuffled: the seeds of the order (and of what a data set draws from torch); None: the order of the data.
        augment: changes the inputs of a batch.
    """

    data: Samples
    batch_size: int
    shuffled: tuple[int, int] | None = None
    augment: Augment | None = None

    def __len__(self) -> int:
        """Return the number of batches; TypeError of a stream that does not tell."""
        return len(self.data) if isinstance(self.data, Stream) else -(-len(self.data) // self.batch_size)

    @cached_property
    def _parts(self) -> list[Indices]:
        order = permutation(len(self.data), *self.shuffled) if self.shuffled else np.arange(len(self.data))
        return np.array_split(order, len(self))

    def __getitem__(self, position: int) -> tuple[Any, Any]:
        assert isinstance(self.data, Indexed)
        with seeded(*(self.shuffled or (0, 0)), position):
            return self.data.take(self._parts[position])

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for position, (inputs, labels) in enumerate(self._plain()):
            if self.augment:
                generator = torch.Generator().manual_seed(number(*(self.shuffled or (0, 0)), position))
                yield self.augment(inputs, generator), labels
            else:
                yield inputs, labels

    def _plain(self) -> Iterable[tuple[Any, Any]]:
        if isinstance(self.data, Stream):
            return self.data
        if not self.data.workers:
            return (self[position] for position in range(len(self)))
        return DataLoader(
            replace(self, augment=None), batch_size=None, num_workers=self.data.workers, collate_fn=tuple,
            worker_init_fn=self.data.worker_init, generator=torch.Generator(),
        )  # fmt: skip


def samples(data: Any, where: str) -> Samples:
    """Return `data`, in a form that `Supervised` takes, by index if it can be, else as a stream.

    `where` is the argument that it came as, for messages.
    """
    found = _samples(data, where)
    if isinstance(found, Indexed) and len(found) == 0:
        raise TaskError("no samples", where=where)
    return found


def _samples(data: Any, where: str) -> Samples:
    if isinstance(data, Indexed | Stream):
        return data
    if isinstance(data, Tensor | np.ndarray):
        return Tensors(tensor(data), None)
    if isinstance(data, Mapping):
        return tensors(*pair(data), where=where)
    if isinstance(data, tuple) and len(data) == 2:
        labels = data[1]
        listed = isinstance(labels, list) and labels and all(isinstance(one, int | float) for one in labels)
        if listed or labels is None or isinstance(labels, Tensor | np.ndarray):
            return tensors(*data, where=where)
        if isinstance(data[0], Tensor | np.ndarray):
            got, expected = type(labels).__name__, "a tensor, an array, a list of numbers, or None"
            raise TaskError("not labels of many samples", where=where, got=got, expected=expected)
    if isinstance(data, DataLoader):
        if not in_plain_order(data):
            return Stream(data)
        if data.collate_fn is default_collate and isinstance(data.dataset, TensorDataset | Indexed):
            return _samples(data.dataset, where)
        return Items(data.dataset, data.collate_fn, data.num_workers, data.worker_init_fn)
    if isinstance(data, TensorDataset) and len(data.tensors) == 2:
        return tensors(*data.tensors, where=where)
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset) and hasattr(data, "__len__"):
        return Items(data, default_collate)
    kind, hint = type(data).__name__, "pass a list or a DataLoader"
    if isinstance(data, Iterator):
        raise TaskError("can be read only once", where=where, got=kind, hint=hint)
    if isinstance(data, Iterable) and not isinstance(data, IterableDataset | Mapping | str):
        return Stream(data)
    expected = (
        "(inputs, labels), a dict, a Dataset, a DataLoader, or a re-iterable of (inputs, labels) batches"
    )
    raise TaskError("not data", where=where, got=kind, expected=expected)


def in_plain_order(loader: DataLoader[Any]) -> bool:
    """Return whether a loader visits each item of a map-style data set once: its order may then be ours."""
    sampler, dataset = loader.sampler, loader.dataset
    if type(loader.batch_sampler) is not BatchSampler or not isinstance(dataset, Sized):
        return False
    whole = type(sampler) is RandomSampler and not sampler.replacement and sampler.num_samples == len(dataset)
    return whole or type(sampler) is SequentialSampler


def tensors(inputs: Any, labels: Any, *, where: str) -> Tensors:
    """Return rows of tensors or arrays as data."""
    inputs, labels = mapped(tensor, inputs), None if labels is None else tensor(labels)
    lengths = [leaf.shape[0] if leaf.ndim else None for leaf in leaves((inputs, labels))]
    if None in lengths or len(set(lengths)) != 1:
        raise TaskError("not as many labels as inputs", where=where, got=lengths, expected="one length")
    return Tensors(inputs, labels)


def tensor(values: Any) -> Tensor:
    """Return a tensor, a copy of an array, or a list of numbers as a tensor; float64 not of torch becomes float32."""
    if isinstance(values, Tensor):
        if values.layout != torch.strided:
            raise TaskError("a sparse tensor", got=values.layout, hint="tensor.to_dense()")
        return values.detach()
    if isinstance(values, list):
        values = np.array(values)
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "biuf":
        raise TaskError("not numbers", got=type(values).__name__, expected="a tensor or an array")
    plain = np.ascontiguousarray(values).reshape(values.shape)  # torch takes no negative strides
    return torch.tensor(plain, dtype=torch.float32 if values.dtype == np.float64 else None)


def pair(batch: Any) -> tuple[Any, Any]:
    """Return a batch as `(inputs, labels)`; a tensor alone has no labels.

    Of keyword arguments, as tokenizers give them, the entry `labels` has the labels.

    >>> pair({"input_ids": torch.zeros(1), "labels": torch.ones(1)})
    ({'input_ids': tensor([0.])}, tensor([1.]))
    """
    if isinstance(batch, Tensor):
        return batch, None
    if isinstance(batch, Mapping):
        return {name: part for name, part in batch.items() if name != LABELS}, batch.get(LABELS)
    if isinstance(batch, tuple | list) and len(batch) == 2:
        inputs, labels = batch
        if isinstance(labels, int | float | str):
            hint = "DataLoader(samples, batch_size=32)"
            raise TaskError("a single sample, not a batch", got=f"label {labels!r}", hint=hint)
        return tuple(inputs) if isinstance(inputs, list) else inputs, labels
    hint = "(inputs, None) without labels; write a task of your own for others"
    raise TaskError("not a batch", got=type(batch).__name__, expected="(inputs, labels)", hint=hint)


def mapped(function: Callable[[Any], Any], tree: Any) -> Any:
    """Return a tensor, tuple or dict with `function` applied to its tensors; None stays None."""
    if isinstance(tree, Mapping):
        return {name: mapped(function, part) for name, part in tree.items()}
    if isinstance(tree, tuple | list):
        return tuple(mapped(function, part) for part in tree)
    return None if tree is None else function(tree)


def rows(tree: Any, indices: Indices) -> Any:
    """Return the samples at `indices: [n]` of a tensor, tuple or dict of tensors."""
    return mapped(lambda leaf: leaf[torch.from_numpy(indices)], tree)


def leaves(tree: Any) -> Iterator[Any]:
    """Yield the tensors (and other values) of any nesting, in order; None is nothing."""
    if isinstance(tree, Mapping):
        for name in tree:
            yield from leaves(tree[name])
    elif isinstance(tree, tuple | list):
        for part in tree:
            yield from leaves(part)
    elif tree is not None:
        yield tree


def nbytes(tree: Any) -> int:
    """Return how many bytes the tensors of any nesting have."""
    return sum(getattr(leaf, "nbytes", 0) for leaf in leaves(tree))


def size_of(inputs: Any) -> int:
    """Return the number of samples in a batch: the length of the first axis of its first tensor."""
    first = next(leaves(inputs))
    return len(first) if first.ndim else 1


def evenly(count: int, most: int) -> list[int]:
    """Return `most` numbers below `count`, evenly spaced; all of them if they are not more."""
    return [int(i) for i in np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))]


@contextlib.contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Seed the global generators of torch, numpy and Python within, and put them back."""
    with kept_generators():
        seed_generators(number(*key))
        yield


def seed_generators(seed: int) -> None:
    """Seed the global generators of torch (on the processor), numpy and Python.

    `torch.manual_seed` notes for each kind of accelerator what called it: a thousand times the work.
    """
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % (1 << 32))  # noqa: NPY002, it is the one that others draw from
    random.seed(seed)


@contextlib.contextmanager
def kept_generators() -> Iterator[None]:
    """Put the global generators of torch, numpy and Python back to where they were."""
    of_numpy, of_python = np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        np.random.set_state(of_numpy)  # noqa: NPY002
        random.setstate(of_python)
