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
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featherweight.data.indexed import Indexed, Indices
from featherweight.data.rows import CROP, Entry, Grouped, Pictures, Pixels, Rows, settled, tensors
from featherweight.errors import ConfigError, TaskError

Array = NDArray[Any]
Call = Mapping[str, Array]
PICTURES = {".jpg", ".jpeg", ".png"}
ARRAYS = {".npz", ".npy"}


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
    checked = {entry.name: _checked(arrays[entry.name], entry, where, calls=calls) for entry in varied}
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


def _checked(array: Array, entry: Entry, where: str, *, calls: bool) -> Array:
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
    made: Array = np.ascontiguousarray(narrowed).reshape(narrowed.shape)  # the first makes one axis at least
    return made


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
    found: Array = _checked(array[None], entry, where, calls=True)[0]
    return found


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
    digest: str = ""

    def __len__(self) -> int:
        return len(self.items)

    def take(self, indices: Indices) -> tuple[Any, Any]:
        """Return the first of the calls at `indices`: they are not put together."""
        item = self.items[int(indices[0])]
        call = _loaded(item, self.entries) if isinstance(item, Path) else item
        return tensors([_called(call[e.name], e, str(indices[0])) for e in self.entries]), None


# ---------------------------------------------------------------- images


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
                "the network takes images of any size",
                where=where,
                hint="--image-size 224 or 480x640; in Python, size=224",
            )
        found.append(number)
    return found[0], found[1]
