"""An ONNX file and inputs as a task: agreement with the network as it is, on inputs that it was not calibrated on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError
from torch import Tensor

from featherweight.capture.onnx import OnnxNetwork, Value, check_against_runtime, read_network
from featherweight.capture.onnx.values import DTYPES
from featherweight.data.indexed import HELD_OUT_SEED, Indexed, Indices, Subset, permutation
from featherweight.data.inputs import Given, given, said
from featherweight.data.rows import Entry, Pixels
from featherweight.errors import ConfigError, IntegrityError, TaskError, UnsupportedError
from featherweight.events import Note
from featherweight.task import Inputs
from featherweight.task.outputs import Outputs, all_tensors, are_probabilities, outputs_of
from featherweight.task.supervised import first
from featherweight.task.tasks import Agreement

LEAST = 16  # inputs; fewer make no calibration, choice and test that say anything
BATCH_SIZE = 16
ENOUGH = 512  # samples to calibrate with


class OnnxTask(Agreement):
    """The network of an ONNX file, with inputs without labels: see `from_onnx`."""

    def __init__(
        self, network: OnnxNetwork, *, whole: bool, sha256: str, notes: Sequence[Note], **options: Any
    ) -> None:
        super().__init__(network, batch_size=1 if whole else BATCH_SIZE, **options)
        self.whole, self.sha256 = whole, sha256
        self._entries = tuple(network.inputs)
        self._notes = tuple(notes)

    @property
    def notes(self) -> tuple[Note, ...]:
        """What reports say of the file, its inputs and the measure."""
        return self._notes

    def example(self) -> Inputs:
        """Return the inputs of two samples; of calls the first, its free axes of size 1 doubled."""
        if not self.whole:
            return super().example()
        inputs = first(self._splits["calibration"], 1)[0]
        found = zip(inputs.items(), self._entries, strict=True)
        return {name: _doubled(tensor, entry) for (name, tensor), entry in found}


@dataclass(frozen=True, eq=False)
class Keyed(Indexed):
    """Inputs by the keywords that a network takes them by.

    Attributes:
        data: inputs in order.
        keywords: of each.
    """

    data: Indexed
    keywords: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.data)

    def take(self, indices: Indices) -> tuple[Any, Any]:
        """Return the inputs at `indices: [n]`."""
        inputs, labels = self.data.take(indices)
        parts = inputs if isinstance(inputs, tuple) else (inputs,)
        return dict(zip(self.keywords, parts, strict=True)), labels

    @property
    def digest(self) -> str:
        """That of the inputs."""
        return self.data.digest


def _free(entry: Entry) -> tuple[int, ...]:
    return tuple(axis for axis, n in enumerate(entry.shape) if not isinstance(n, int))


def _doubled(tensor: Tensor, entry: Entry) -> Tensor:
    """Return a tensor with its free axes of size 1 twice as long: an axis of one is taken for a fixed one."""
    return tensor.repeat([2 if axis in _free(entry) and n == 1 else 1 for axis, n in enumerate(tensor.shape)])


def from_onnx(
    path: str | Path,
    inputs: Any,
    *,
    validation: Any = None,
    test: Any = None,
    outputs: Outputs | None = None,
    axis: int | None = None,
    size: int | tuple[int, int] | None = None,
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] = 1.0,
    bgr: bool = False,
    name: str = "",
) -> Agreement:
    """Return the task of an ONNX file: its network, inputs without labels, and agreement with the network as it is.

    Inputs are split in an order of their own: half to calibrate (and to train on), a quarter to choose by, a quarter
    for the report, read once. Where the first axis of every input is free they are put together to batches.

    The measure is the share of samples with the same largest score, where the only output is a softmax along its last
    axis or the one behind the batch, or has two axes; else the explained variance of every output.

    Args:
        path: the file.
        inputs: an `.npz` file, or a folder of `.npz` or `.npy` files or of images; or a mapping of arrays by input, an
            array for the only input, a list of mappings (each one call), or another iterable of calls. An array of the
            input's rank holds samples along axis 0, of one rank more calls: for a network whose batch is fixed or not
            axis 0. An input of rank 0, or an array of rank 0, is a setting that holds for all samples.
        validation: inputs to choose by, as `inputs`, which then are not split for them.
        test: inputs for the report, likewise.
        outputs: `classes` or `values`; by default what the outputs look like.
        axis: along which the classes stand; by default what the outputs look like.
        size: height and width of images, where the network leaves them free.
        mean: float inputs are `(pixels / 255 - mean) / std`; one number, or one for each channel.
        std: see `mean`.
        bgr: whether the network takes images as blue, green, red.
        name: of the task; by default the name of the file.

    Raises:
        TaskError: inputs that the network does not take, or too few; says what was given and what is taken.
        UnsupportedError: the file cannot be read as a network, and names node and operator; or what was read does not
            compute what ONNX Runtime does of the file.
    """
    path = Path(path)
    entries = _inputs_of(path)
    pixels = _pixels(size, mean, std, bgr)
    read = {
        split: given(source, entries, pixels)
        for split, source in (("train", inputs), ("validation", validation), ("test", test))
        if source is not None
    }
    main = read["train"]
    for split, part in read.items():
        if part.whole != main.whole or not _equal(part.settings, main.settings):
            what, hint = "not inputs of one kind", "the same form and the same settings as inputs"
            raise TaskError(what, where=split, got=part.about, expected=main.about, hint=hint)
    parts = split_up({split: part.data for split, part in read.items()}, str(path))
    network = read_network(path, settings=main.settings)
    keywords = tuple(network.identifiers[entry.name] for entry in network.inputs)
    parts = {split: Keyed(data, keywords) for split, data in parts.items()}
    sample = first(parts["train"], 1)[0]
    arrays = {entry.name: sample[network.identifiers[entry.name]].numpy() for entry in network.inputs}
    apart = check_against_runtime(network, path, arrays)
    found, along = _measure(network, sample, outputs, axis)
    return OnnxTask(
        network, train=parts["train"], validation=parts["validation"], test=parts["test"], outputs=found, axis=along,
        whole=main.whole, sha256=_digest(path), name=name or path.stem, dataset=main.about,
        notes=[*_notes(path, network, read, parts, found, along), Note("chose", path.name, _alike(apart))],
    )  # fmt: skip


def _inputs_of(path: Path) -> list[Value]:
    """Return the inputs that a file says it has, before anything else of it is looked at."""
    try:
        graph = onnx.load(path, load_external_data=False).graph
    except DecodeError:
        raise IntegrityError("not an ONNX file", where=str(path)) from None
    stored = {tensor.name for tensor in graph.initializer}
    found = []
    for value in graph.input:
        kind = value.type.tensor_type
        if value.name in stored:
            continue
        if kind.elem_type not in DTYPES:
            raise UnsupportedError("not a tensor of numbers", where=f"input {value.name}")
        shape = tuple(
            n.dim_value if n.dim_value > 0 else n.dim_param if n.dim_param not in ("", "?") else None
            for n in kind.shape.dim
        )
        found.append(Value(value.name, str(DTYPES[kind.elem_type]).removeprefix("torch."), shape))
    return found


def _pixels(
    size: int | tuple[int, int] | None, mean: float | Sequence[float], std: float | Sequence[float], bgr: bool
) -> Pixels:
    sides = (size, size) if isinstance(size, int) else size
    numbers = [(float(n),) if isinstance(n, int | float) else tuple(map(float, n)) for n in (mean, std)]
    return Pixels(sides, numbers[0], numbers[1], bgr)


def _equal(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    return ours.keys() == theirs.keys() and all(np.array_equal(ours[key], theirs[key]) for key in ours)


def split_up(given: dict[str, Indexed], where: str) -> dict[str, Indexed]:
    """Return the data of every split, none in two of them: a quarter each for validation and test, if not given.

    Raises:
        TaskError: too few; says how many are needed.
    """
    data, least = given["train"], LEAST - 4 * sum(split in given for split in ("validation", "test"))
    if len(data) < least:
        what = "too few inputs for a calibration, a choice and a test that share none"
        raise TaskError(what, where=where, got=len(data), expected=f"{least} or more")
    order, parts = permutation(len(data), HELD_OUT_SEED), dict(given)
    quarter = len(data) // 4
    for split in ("test", "validation"):
        if split not in given:
            parts[split], order = Subset(data, np.sort(order[:quarter])), order[quarter:]
    parts["train"] = Subset(data, np.sort(order))
    return parts


def _measure(
    network: OnnxNetwork, sample: Inputs, outputs: Outputs | None, axis: int | None
) -> tuple[Outputs, int]:
    """Return whether outputs, those of `sample` here, are scores of classes, and along which axis."""
    if axis is not None and outputs == "values":
        raise ConfigError("an axis of classes for values", where="axis", got=axis)
    with torch.no_grad():
        answer = network(**sample)
    tensors = all_tensors(answer)
    single = tensors[0] if len(tensors) == 1 else None
    found = axis if axis is not None else 1
    if axis is None and single is not None and outputs != "values":
        likely = [place for place in (-1, 1) if single.ndim > 2 and are_probabilities(single, place)]
        if likely:
            return "classes", likely[0]
    if outputs is None:
        outputs = "classes" if axis is not None else outputs_of(None, answer)
    return outputs, found


def _alike(apart: float) -> str:
    return f"what was read computes what ONNX Runtime does, {apart:.1e} of the largest output apart"


def _notes(
    path: Path,
    network: OnnxNetwork,
    read: dict[str, Given],
    parts: dict[str, Indexed],
    outputs: Outputs,
    axis: int,
) -> list[Note]:
    counts = f"{len(parts['train'])} calibrate, {len(parts['validation'])} choose, {len(parts['test'])} are the test"
    taken = ", ".join(f"{entry.name} {said(entry)}" for entry in network.inputs)
    measure = "explained variance of each output (of integers: share of equal ones)"
    if outputs == "classes":
        measure = f"share of the same largest score along axis {axis}"
    found = [
        Note("chose", path.name, f"an ONNX file, SHA-256 {_digest(path)[:16]}..., takes {taken}"),
        *(Note("chose", split if split != "train" else "inputs", part.about) for split, part in read.items()),
        Note("chose", "splits", f"of the inputs {counts}; none is in two of them"),
        Note("chose", "agreement", measure),
    ]
    for name, value in read["train"].settings.items():
        found.append(Note("chose", name, f"{value.reshape(-1)[0]} in every call, as a setting"))
    return [*found, *(Note("chose", path.name, str(note)) for note in network.notes)]


def _digest(path: Path) -> str:
    """Return the SHA-256 of a file; weights outside it are in the network's own hash."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
