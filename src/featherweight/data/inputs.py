"""Inputs of a network that comes without code: arrays, files of them, folders of images, checked against what it takes.

A *sample* is one row of every input; a *call* is all that the network is given at once. Where the first axis of every
input is free, samples are put together to batches of any size. Otherwise, and where sizes differ, data are calls, which
are neither cut nor put together.
"""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from featherweight.data.indexed import Indexed, Indices
from featherweight.errors import ConfigError, TaskError

Array = NDArray[Any]
Call = Mapping[str, Array]
PICTURES = {".jpg", ".jpeg", ".png"}
ARRAYS = {".npz", ".npy"}
CROP = 0.875  # share of an image that is left: scaled to 256 and cropped to 224, as is usual


class Entry(Protocol):
    """An input of a network: its name, the name of its type in numpy, its sizes; free ones are names, or None."""

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def dtype(self) -> str: ...  # noqa: D102

    @property
    def shape(self) -> tuple[int | str | None, ...]: ...  # noqa: D102


@dataclass(frozen=True)
class Pixels:
    """How images become inputs.

    Attributes:
        size: height and width; None: what the network takes.
        mean, std: what float inputs are scaled by, `(pixels / 255 - mean) / std`: one number, or one for each channel.
        bgr: whether the channels stand as blue, green, red.
    """

    size: tuple[int, int] | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    bgr: bool = False

    def __post_init__(self) -> None:
        """Refuse what is no scale of three channels."""
        for name, numbers in (("mean", self.mean), ("std", self.std)):
            if len(numbers) not in (1, 3):
                raise ConfigError("not one number, nor three", where=name, got=list(numbers))
        if not all(number > 0 for number in self.std):
            raise ConfigError("not positive", where="std", got=list(self.std))
        if any(number > 2 for number in (*self.mean, *self.std)):
            what, hint = "not in units of 0 to 1", "divide by 255"
            raise ConfigError(what, where="mean, std", got=[*self.mean, *self.std], hint=hint)


@dataclass(frozen=True, eq=False)
class Given:
    """Inputs, read and checked; see `given`.

    Attributes:
        data: by index; of each the tensors in the order of the network's inputs, settings too; a single one alone.
        settings: inputs that are the same for all samples.
        whole: whether each is a call, neither cut nor put together.
        about: what they are and how they were made, in words.
    """

    data: Indexed
    settings: dict[str, Array]
    whole: bool
    about: str


def given(source: Any, entries: Sequence[Entry], pixels: Pixels | None = None) -> Given:
    """Return inputs, checked against what a network takes.

    Args:
        source: an `.npz` file; a folder of `.npz` or `.npy` files (each one call), or of images; or in Python a mapping
            of arrays by input, an array for the only input, a list of mappings (each one call), or any other iterable,
            which is read once.
            An array of the input's rank holds samples along axis 0, of one rank more calls. An input of rank 0, and an
            array of rank 0, is a setting: the same for all samples.
        entries: the inputs of the network.
        pixels: how images become inputs; None: 0 to 1.

    Raises:
        TaskError: names that are missing or unknown, another type, rank or size, NaN, nothing to read; says what was
            given and what is taken.
        ConfigError: `pixels` without images.
    """
    if isinstance(source, str | Path):
        path = Path(source)
        if path.is_dir():
            return _folder(path, entries, pixels)
        if path.suffix != ".npz" or not path.exists():
            got = f"a file {path.suffix}" if path.exists() else "no such file"
            expected = "an .npz file, or a folder of .npz, .npy, .jpg or .png files"
            raise TaskError("not inputs", where=str(path), got=got, expected=expected)
        source, where = _loaded(path, entries), str(path)
    else:
        where = "inputs"
    if pixels is not None and pixels != Pixels():
        raise ConfigError("size, mean, std and bgr are of images", where=where, got="arrays")
    if hasattr(source, "__array__"):
        source = {_only(entries, where).name: source}
    if isinstance(source, Mapping):
        return _arrays({str(name): _array(value) for name, value in source.items()}, entries, where)
    if not isinstance(source, Iterable):
        expected = "a path, a mapping of arrays, an array, or an iterable of them"
        raise TaskError("not inputs", where=where, got=type(source).__name__, expected=expected)
    return _calls([_named(item, entries, f"{where}, {n}") for n, item in enumerate(source)], entries, where)


def _folder(path: Path, entries: Sequence[Entry], pixels: Pixels | None) -> Given:
    found = sorted(file for file in path.iterdir() if file.suffix.lower() in PICTURES | ARRAYS)
    pictures = [file for file in found if file.suffix.lower() in PICTURES]
    if not found or 0 < len(pictures) < len(found):
        got = (
            "none"
            if not found
            else f"{len(pictures)} images and {len(found) - len(pictures)} files of arrays"
        )
        expected = "files .npz or .npy, or images .jpg or .png"
        raise TaskError("not a folder of inputs", where=str(path), got=got, expected=expected)
    if pictures:
        return _images(pictures, entries, pixels or Pixels(), str(path))
    if pixels is not None and pixels != Pixels():
        raise ConfigError("size, mean, std and bgr are of images", where=str(path), got="arrays")
    return _calls(found, entries, str(path))


def _loaded(path: Path, entries: Sequence[Entry]) -> dict[str, Array]:
    """Return the arrays of a file; nothing in it is unpickled."""
    try:
        with path.open("rb") as stream:
            content = np.load(stream, allow_pickle=False)
            if isinstance(content, np.ndarray):
                return {_only(entries, str(path)).name: content}
            return {name: content[name] for name in content.files}
    except (
        OSError,
        ValueError,
        EOFError,
        KeyError,
        zipfile.BadZipFile,
        zlib.error,
        NotImplementedError,
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        pickled = "Object arrays" in reason
        hint = "one file a call, in a folder, where sizes differ" if pickled else ""
        raise TaskError(f"not arrays that can be read: {reason}", where=str(path), hint=hint) from error


def _only(entries: Sequence[Entry], where: str) -> Entry:
    """Return the one input that an array without a name is for."""
    taken = [entry for entry in entries if entry.shape]
    if len(taken) != 1:
        expected = f"arrays for {', '.join(entry.name for entry in entries)}, by name"
        raise TaskError("an array without a name", where=where, expected=expected)
    return taken[0]


def _array(value: Any) -> Array:
    return np.asarray(value.detach() if hasattr(value, "detach") else value)


def _named(item: Any, entries: Sequence[Entry], where: str) -> dict[str, Array]:
    """Return what an iterable gave as one call: a mapping, an array, or arrays in the order of the inputs."""
    if isinstance(item, Mapping):
        return {str(name): _array(value) for name, value in item.items()}
    if hasattr(item, "__array__"):
        return {_only(entries, where).name: _array(item)}
    if isinstance(item, tuple | list) and len(item) == len(entries):
        return {entry.name: _array(value) for entry, value in zip(entries, item, strict=True)}
    expected = "a mapping of arrays by input, or an array for the only one"
    raise TaskError("not the inputs of a call", where=where, got=type(item).__name__, expected=expected)


# ---------------------------------------------------------------- arrays


def _arrays(arrays: dict[str, Array], entries: Sequence[Entry], where: str) -> Given:
    """Return arrays by input: rows of samples, or calls along a first axis of their own."""
    _check_names(arrays, entries, where)
    settings = {
        entry.name: _setting(arrays[entry.name], entry, where)
        for entry in entries
        if not entry.shape or not arrays[entry.name].ndim
    }
    varied = [entry for entry in entries if entry.name not in settings]
    if not varied:
        raise TaskError("no input that differs from sample to sample", where=where, got=list(settings))
    more = {entry.name: arrays[entry.name].ndim - len(entry.shape) for entry in varied}
    counts = {entry.name: len(arrays[entry.name]) for entry in varied}
    if set(more.values()) - {0, 1} or len(set(more.values())) > 1:
        got = ", ".join(f"{entry.name} {list(arrays[entry.name].shape)}" for entry in varied)
        expected = ", ".join(f"{entry.name} {said(entry)}" for entry in varied)
        hint = "samples along axis 0 of every input, or calls along one axis more in front of every input"
        raise TaskError("arrays of another rank", where=where, got=got, expected=expected, hint=hint)
    if len(set(counts.values())) > 1:
        hint = "where the batch is not axis 0 of every input, give calls along one axis more, in front"
        raise TaskError("not as many samples in every input", where=where, got=counts, hint=hint)
    calls = set(more.values()) == {1}
    checked = {
        entry.name: _checked(arrays[entry.name], entry, where, first=2 if not calls else 1, calls=calls)
        for entry in varied
    }
    rows = Rows(tuple(checked.values()))
    about = f"{len(rows)} {'calls' if calls else 'samples'} of {where}"
    if calls:
        return Given(settled(Grouped(rows, 1, lead=False), entries, settings), settings, True, about)
    return _batched(settled(rows, entries, settings), varied, settings, about, where)


def _batched(
    rows: Indexed, varied: Sequence[Entry], settings: dict[str, Array], about: str, where: str
) -> Given:
    """Return samples as they are where the network takes any number at once, else as calls of as many as it takes."""
    fixed = {entry.shape[0] for entry in varied if isinstance(entry.shape[0], int)}
    if not fixed:
        return Given(rows, settings, False, about)
    count = fixed.pop()
    if fixed or len(rows) < count or not all(isinstance(entry.shape[0], int) for entry in varied):
        got = ", ".join(f"{entry.name} {said(entry)}" for entry in varied)
        hint = "give calls: arrays of one rank more, axis 0 in front"
        raise TaskError("samples do not fill the network's inputs", where=where, expected=got, hint=hint)
    left = len(rows) % count
    about += f", {count} a call" + (f", {left} left over" if left else "")
    return Given(Grouped(rows, count), settings, True, about)


def _check_names(arrays: Mapping[str, Any], entries: Sequence[Entry], where: str) -> None:
    wanted = [entry.name for entry in entries]
    if set(arrays) != set(wanted):
        missing, extra = sorted(set(wanted) - set(arrays)), sorted(set(arrays) - set(wanted))
        got = "; ".join(
            part
            for part in (
                f"without {', '.join(missing)}" * bool(missing),
                f"with {', '.join(extra)}" * bool(extra),
            )
            if part
        )
        raise TaskError("not the inputs of the network", where=where, got=got, expected=", ".join(wanted))


def _setting(array: Array, entry: Entry, where: str) -> Array:
    """Return the one value of an input that is the same for all samples, of the input's shape."""
    one = array.reshape(-1)
    if not one.size or not (one == one[0]).all() or any(n != 1 for n in entry.shape):
        got, expected = f"shape {list(array.shape)}", f"one number, for an input {said(entry)}"
        raise TaskError("not a setting", where=f"{where}, {entry.name}", got=got, expected=expected)
    return _typed(one[:1], entry, where).reshape((1,) * len(entry.shape))


def _checked(array: Array, entry: Entry, where: str, *, first: int, calls: bool) -> Array:
    """Return an array of samples or calls in the type of its input, its sizes and numbers checked."""
    place = f"{where}, {entry.name}"
    shape = array.shape[1:] if calls else array.shape
    fixed = zip(shape, entry.shape, strict=True)
    wrong = [axis for axis, (n, m) in enumerate(fixed) if isinstance(m, int) and n != m and (calls or axis)]
    if wrong or not array.size:
        raise TaskError("an array of another size", where=place, got=list(array.shape), expected=said(entry))
    return _typed(array, entry, where)


def _typed(array: Array, entry: Entry, where: str) -> Array:
    """Return an array in the type of its input: numbers of one kind are taken over where none changes by it."""
    place, wanted = f"{where}, {entry.name}", np.dtype(entry.dtype)
    narrowed = (
        array if array.dtype == wanted else array.astype(wanted) if array.dtype.kind == wanted.kind else None
    )
    if narrowed is None or (wanted.kind in "iu" and not np.array_equal(narrowed, array)):
        hint = ".astype(np.float32) / 255, or as the network was trained" if array.dtype == np.uint8 else ""
        raise TaskError("numbers of another type", where=place, got=array.dtype, expected=wanted, hint=hint)
    if wanted.kind == "f" and np.isnan(narrowed).any():
        number = int(np.argwhere(np.isnan(narrowed))[0][0]) if narrowed.ndim else 0
        raise TaskError("NaN", where=place, got=f"in {number} (from 0)", expected="numbers")
    made: Array = np.ascontiguousarray(narrowed)
    return made.reshape(narrowed.shape)  # which has one axis at least


def said(entry: Entry) -> str:
    """Return the type and the sizes of an input, free ones by name.

    >>> from types import SimpleNamespace
    >>> said(SimpleNamespace(name="x", dtype="float32", shape=("batch", 3, None)))
    'float32 [batch, 3, ?]'
    """
    return f"{entry.dtype} [{', '.join('?' if n is None else str(n) for n in entry.shape)}]"


# ---------------------------------------------------------------- calls


def _calls(items: Sequence[Path | Call], entries: Sequence[Entry], where: str) -> Given:
    """Return calls, each checked; of an input of one rank less, the batch of one is put in front."""
    if not items:
        raise TaskError("no inputs", where=where)
    settings: dict[str, Array] = {}
    digest = hashlib.sha256()
    for number, item in enumerate(items):
        place = str(item) if isinstance(item, Path) else f"{where}, {number}"
        call = _loaded(item, entries) if isinstance(item, Path) else item
        _check_names(call, entries, place)
        for entry in entries:
            if not entry.shape or not call[entry.name].ndim:
                value = _setting(call[entry.name], entry, place)
                if not np.array_equal(settings.setdefault(entry.name, value), value):
                    got, expected = value.reshape(-1)[0], settings[entry.name].reshape(-1)[0]
                    what = "a setting that differs from call to call"
                    raise TaskError(what, where=f"{place}, {entry.name}", got=got, expected=expected)
            else:
                array = _called(call[entry.name], entry, place)
                digest.update(f"{entry.name} {array.dtype} {array.shape}".encode() + array.tobytes())
    varied = tuple(entry for entry in entries if entry.name not in settings)
    about = f"{len(items)} calls of {where}"
    calls = Calls(tuple(items), varied, digest.hexdigest())
    return Given(settled(calls, entries, settings), settings, True, about)


def _called(array: Array, entry: Entry, where: str) -> Array:
    """Return one input of a call, checked."""
    if array.ndim == len(entry.shape) - 1:
        array = array[None]
    if array.ndim != len(entry.shape):
        got = list(array.shape)
        raise TaskError(
            "an array of another rank", where=f"{where}, {entry.name}", got=got, expected=said(entry)
        )
    return _checked(array[None], entry, where, first=1, calls=True)[0]


@dataclass(frozen=True, eq=False)
class Calls(Indexed):
    """Calls of a network, of any sizes, from memory or files.

    Attributes:
        items: arrays by input, or files of them.
        entries: the inputs, in order.
        digest: a hash of all arrays.
    """

    items: tuple[Path | Call, ...]
    entries: tuple[Entry, ...]
    digest: str = ""  # type: ignore[assignment]

    def __len__(self) -> int:
        return len(self.items)

    def take(self, indices: Indices) -> tuple[Any, Any]:
        """Return the first of the calls at `indices`: they are not put together."""
        item = self.items[int(indices[0])]
        call = _loaded(item, self.entries) if isinstance(item, Path) else item
        return _tensors([_called(call[e.name], e, str(indices[0])) for e in self.entries]), None


@dataclass(frozen=True, eq=False)
class Rows(Indexed):
    """Samples that are rows of arrays.

    Attributes:
        arrays: `[n, ...]` each.
    """

    arrays: tuple[Array, ...]

    def __len__(self) -> int:
        return len(self.arrays[0])

    def take(self, indices: Indices) -> tuple[Any, Any]:
        """Return the rows at `indices: [n]`."""
        return _tensors([array[indices] for array in self.arrays]), None

    @cached_property
    def digest(self) -> str:
        """A hash of all numbers."""
        found = hashlib.sha256()
        for array in self.arrays:
            found.update(f"{array.dtype} {array.shape}".encode())
            found.update(array.reshape(-1).view(np.uint8).data)
        return found.hexdigest()


@dataclass(frozen=True, eq=False)
class Grouped(Indexed):
    """Samples as calls of a fixed number of them, what is left over at the end left out.

    Attributes:
        data: the samples.
        count: of a call.
        lead: whether samples stay along a first axis; else that of one sample is taken away.
    """

    data: Indexed
    count: int
    lead: bool = True

    def __len__(self) -> int:
        return len(self.data) // self.count

    def take(self, indices: Indices) -> tuple[Any, Any]:
        """Return the first of the calls at `indices`: they are not put together."""
        start = int(indices[0]) * self.count
        inputs, _ = self.data.take(np.arange(start, start + self.count))
        if self.lead:
            return inputs, None
        return (tuple(part[0] for part in inputs) if isinstance(inputs, tuple) else inputs[0]), None

    @property
    def digest(self) -> str:
        """A hash of the samples and their number in a call."""
        return hashlib.sha256(f"{self.data.digest} {self.count} {self.lead}".encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class Settled(Indexed):
    """Inputs with settings among them.

    Attributes:
        data: the other inputs.
        places: of every input of the network its setting, or None.
    """

    data: Indexed
    places: tuple[Array | None, ...]

    def __len__(self) -> int:
        return len(self.data)

    def take(self, indices: Indices) -> tuple[Any, Any]:
        """Return the inputs at `indices`, settings at their places."""
        inputs, labels = self.data.take(indices)
        others = iter(inputs if isinstance(inputs, tuple) else (inputs,))
        return tuple(next(others) if value is None else _tensors([value]) for value in self.places), labels

    @property
    def digest(self) -> str:
        """A hash of inputs and settings."""
        said = [None if value is None else value.tolist() for value in self.places]
        return hashlib.sha256(f"{self.data.digest} {said}".encode()).hexdigest()


def settled(data: Indexed, entries: Sequence[Entry], settings: Mapping[str, Array]) -> Indexed:
    """Return data with the settings put among the other inputs; as they are without any."""
    return Settled(data, tuple(settings.get(entry.name) for entry in entries)) if settings else data


def _tensors(arrays: Sequence[Array]) -> Any:
    """Return arrays as a network takes them: one tensor, or a tuple in the order of its inputs."""
    import torch

    tensors = tuple(torch.from_numpy(np.ascontiguousarray(array).reshape(array.shape)) for array in arrays)
    return tensors[0] if len(tensors) == 1 else tensors


# ---------------------------------------------------------------- images


@dataclass(frozen=True, eq=False)
class Pictures(Indexed):
    """Image files as inputs, decoded when they are needed.

    Attributes:
        paths: the files.
        pixels: size and scale.
        dtype: of the input; bytes are not scaled.
        last: whether channels stand last.
    """

    paths: tuple[Path, ...]
    pixels: Pixels
    dtype: str
    last: bool

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, indices: Indices) -> tuple[Any, Any]:
        """Return images `[n, 3, h, w]`, or `[n, h, w, 3]`."""
        from featherweight.data.folder import decode

        assert self.pixels.size is not None
        images = np.stack([decode(self.paths[i], self.pixels.size, CROP) for i in indices])
        made: Array = images[:, ::-1] if self.pixels.bgr else images
        if np.dtype(self.dtype).kind == "f":
            mean, std = (
                np.array(n, np.float32).reshape(-1, 1, 1) for n in (self.pixels.mean, self.pixels.std)
            )
            made = ((made.astype(np.float32) / np.float32(255) - mean) / std).astype(self.dtype)
        return _tensors([made.transpose(0, 2, 3, 1) if self.last else made]), None

    @cached_property
    def digest(self) -> str:
        """A hash of names, lengths and preprocessing; the images themselves are not read."""
        facts = [(path.name, path.stat().st_size) for path in self.paths]
        return hashlib.sha256(repr((facts, self.pixels, self.dtype, self.last, CROP)).encode()).hexdigest()


def _images(paths: Sequence[Path], entries: Sequence[Entry], pixels: Pixels, where: str) -> Given:
    entry = entries[0] if len(entries) == 1 else None
    if entry is None or len(entry.shape) != 4:
        expected = "one input of images [n, 3, h, w] or [n, h, w, 3]"
        got = ", ".join(f"{entry.name} {said(entry)}" for entry in entries)
        raise TaskError("the network does not take images alone", where=where, got=got, expected=expected)
    last = entry.shape[3] == 3 and entry.shape[1] != 3
    channels = entry.shape[3 if last else 1]
    if channels != 3 and isinstance(channels, int):
        raise TaskError("no axis of three channels", where=f"{where}, {entry.name}", got=said(entry))
    if entry.dtype != "uint8" and np.dtype(entry.dtype).kind != "f":
        raise TaskError("neither bytes nor floats", where=f"{where}, {entry.name}", got=entry.dtype)
    sides = entry.shape[1:3] if last else entry.shape[2:4]
    size = _size(pixels.size, sides, f"{where}, {entry.name}")
    plain = entry.dtype == "uint8"
    if plain and (pixels.mean, pixels.std) != (Pixels.mean, Pixels.std):
        raise ConfigError("a scale for an input of bytes", where=f"{where}, {entry.name}", got=entry.dtype)
    data = Pictures(tuple(paths), Pixels(size, pixels.mean, pixels.std, pixels.bgr), entry.dtype, last)
    scaled = "bytes as they are" if plain else f"(pixels / 255 - {_list(pixels.mean)}) / {_list(pixels.std)}"
    about = (
        f"{len(paths)} images of {where}: {'BGR' if pixels.bgr else 'RGB'}, {scaled}, the middle {CROP:.1%} of the"
        f" shorter side scaled to {size[0]} x {size[1]}, channels {'last' if last else 'first'}"
    )
    return _batched(data, [entry], {}, about, where)


def _list(numbers: Sequence[float]) -> str:
    return f"{numbers[0]:g}" if len(numbers) == 1 else str([round(n, 6) for n in numbers])


def _size(asked: tuple[int, int] | None, sides: Sequence[int | str | None], where: str) -> tuple[int, int]:
    """Return height and width that images are scaled to: what the network takes, or where it is free what is asked."""
    found = []
    for side, wanted in zip(sides, asked or (None, None), strict=True):
        if isinstance(side, int) and wanted not in (None, side):
            raise ConfigError("not the size that the network takes", where=where, got=wanted, expected=side)
        number = side if isinstance(side, int) else wanted
        if number is None:
            raise ConfigError(
                "the network takes images of any size", where=where, hint="--size 224, or 480x640"
            )
        found.append(number)
    return found[0], found[1]
