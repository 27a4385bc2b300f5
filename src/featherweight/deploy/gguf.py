"""Weights as GGUF, the file of llama.cpp and its kin: blocks of 32 integers with scales of float16."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featherweight.artifact import Artifact
from featherweight.deploy.write import Written
from featherweight.errors import IntegrityError, MissingExtraError, UnsupportedError
from featherweight.files import write_whole
from featherweight.formats import Encoded, Float, Int
from featherweight.formats.integer import grid
from featherweight.formats.view import spread

Array = NDArray[Any]

BLOCK = 32  # integers that share a scale
MOST_NAME = 63  # bytes of a tensor's name in ggml
APART = 0.7  # of the size of a tensor: between it and the one it was made from. Others are 1 apart or more
# Tensors that follow from the metadata: they are copied with it.
DERIVED = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
NO_ARCHITECTURE = "none"  # weights alone
_OWN = (
    "GGUF.",
    "general.architecture",
    "general.file_type",
    "general.quantization_version",
    "split.",
    "quantize.",
)
# Block types by bits, without and with a minimum.
TYPES = {(4, False): "Q4_0", (5, False): "Q5_0", (8, False): "Q8_0", (4, True): "Q4_1", (5, True): "Q5_1"}
_WIDER = {"bool": np.int8, "uint8": np.int16}  # types that GGUF has not
_FLOATS = {"float16": "F16", "bfloat16": "BF16"}


@dataclass(frozen=True, eq=False)
class Tensor:
    """One tensor as GGUF has it.

    Attributes:
        name: there.
        kind: `Q4_0`, `F32` and so on.
        stored: what is written: bytes of blocks, or numbers.
        values: what they stand for, float32 unless `kind` is another type of numbers.
        reason: why an encoded tensor is in float32; empty if it is not.
    """

    name: str
    kind: str
    stored: Array
    values: Array
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Layout:
    """How GGUF turns a tensor: its axes, and the rows of the matrix that they make, in another order."""

    axes: tuple[int, ...]
    rows: Array | None = None

    def of(self, array: Array) -> Array:
        """Return a tensor so turned."""
        turned = array.transpose(self.axes)
        return np.ascontiguousarray(turned if self.rows is None else turned[self.rows])


def write_gguf(artifact: Artifact, path: str | Path, metadata: str | Path | None = None) -> Written:
    """Write all weights of a file as GGUF; what the library `gguf` reads back equals them bit for bit, or nothing is.

    `int` in 1 to 4, 5 and 8 bits becomes Q4_0, Q5_0 and Q8_0, with zero points Q4_1 and Q5_1, `float16` F16, `bfloat16`
    BF16. What GGUF cannot say becomes F32 and is named; scales that are no float16 numbers are refused, for
    `scale_type = "float16"` makes others.

    A file of the same network gives llama.cpp what weights do not say: architecture, sizes, vocabulary. Names are then
    those that `gguf` knows for the names of Hugging Face, and each tensor is turned as that file has it (of Llama, the
    rows of queries and keys): the layout under which it is nearest to that file's.

    Args:
        artifact: a loaded file.
        path: of the file.
        metadata: a GGUF file of the same network. Without, names are those of the file: llama.cpp needs one.

    Raises:
        MissingExtraError: the library is not installed.
        IntegrityError: `metadata` is no GGUF file.
        UnsupportedError: a scale is not float16; the two networks are not the same; a tensor is read back otherwise.
        WriteError: the file cannot be written.
    """
    gguf = library()
    source = None if metadata is None else Source(gguf, Path(metadata))
    tensors = list(_tensors(artifact, source))
    with TemporaryDirectory() as folder:
        made = Path(folder) / "made.gguf"
        _write(gguf, made, tensors, source)
        check_read(gguf, made, tensors)
        content = made.read_bytes()
    written = write_whole(path, content)
    said = f"{len(tensors)} tensors read back by gguf, equal to the decoded ones bit for bit"
    floats = {tensor.name: tensor.reason for tensor in tensors if tensor.reason}
    return Written((written,), len(content), floats, said)


def library() -> Any:
    """Return the module `gguf`.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import gguf
    except ModuleNotFoundError as error:
        hint = "pip install 'featherweight[gguf]'"
        raise MissingExtraError(f"not installed: {error.name}", where="gguf", hint=hint) from error
    return gguf


def _tensors(artifact: Artifact, source: Source | None) -> Iterator[Tensor]:
    """Yield the tensors of a file as GGUF has them; with a source, those and no others that it has."""
    decoded, encoded = artifact.opened()
    names = (
        {_checked(name): name for name in artifact.names}
        if source is None
        else paired(artifact, decoded, source)
    )
    for name, own in names.items():
        values = decoded[own]
        layout = source.layout(name, own, values) if source else Layout(tuple(range(values.ndim)))
        yield tensor_of(name, values, encoded.get(artifact.aliases.get(own, own)), layout, own)


def paired(artifact: Artifact, decoded: Mapping[str, Array], source: Source) -> dict[str, str]:
    """Return the names of a file's tensors by those of a source, in its order.

    Tied tensors have the names that the source has; whole numbers that it does not know, such as the places of
    positions, are left out.

    Raises:
        UnsupportedError: either has a tensor that the other has not.
    """
    found: dict[str, str] = {}
    for own, name in source.names(list(decoded)).items():
        if name in source.tensors:
            found.setdefault(name, own)
        elif own not in artifact.aliases and decoded[own].dtype.kind == "f":
            what = "the metadata's file has no such tensor"
            raise UnsupportedError(
                what, where=own, got=name or "no name that gguf knows", expected=source.architecture
            )
    if missing := [name for name in source.tensors if name not in found and name not in DERIVED]:
        what = "the metadata's network has tensors that the file has not"
        raise UnsupportedError(what, where=str(source.path), got=", ".join(missing[:3]))
    return {name: found[name] for name in source.tensors if name in found}


def _checked(name: str) -> str:
    if len(name.encode()) > MOST_NAME:
        hint, expected = "with metadata, names are those of GGUF", f"up to {MOST_NAME} bytes"
        raise UnsupportedError(
            "a name too long for ggml", where=name, got=len(name), expected=expected, hint=hint
        )
    return name


def tensor_of(name: str, values: Array, encoded: Encoded | None, layout: Layout, own: str) -> Tensor:
    """Return a tensor as GGUF has it.

    Args:
        name: in GGUF.
        values: decoded.
        encoded: the tensor, if it is.
        layout: how GGUF turns it.
        own: its name in the file.

    Raises:
        UnsupportedError: its scales are not float16 numbers, or it has more than four axes.
    """
    if values.ndim > 4:
        raise UnsupportedError("GGUF has four axes at most", where=own, got=list(values.shape))
    turned = layout.of(values) if values.ndim else values.reshape(1)
    turned = turned.astype(_WIDER.get(turned.dtype.name, turned.dtype), copy=False)
    plain = Tensor(name, "", turned, turned)
    if encoded is None:
        return plain
    if isinstance(encoded.format, Float) and encoded.format.per == "none" and encoded.format.kind in _FLOATS:
        if turned.ndim == 1:
            return plain  # ggml adds and multiplies vectors of float32 alone
        kind = _FLOATS[encoded.format.kind]
        halves = (
            turned.astype(np.float16) if kind == "F16" else (turned.view(np.uint32) >> 16).astype(np.uint16)
        )
        return Tensor(name, kind, halves if kind == "F16" else halves.view(np.uint8), turned)
    reason = obstacle(encoded, layout)
    if reason:
        return Tensor(name, "", turned, turned, reason)
    kind, packed = blocks_of(encoded, own)
    stored = packed.reshape(encoded.view.rows, -1)
    return Tensor(name, kind, stored if layout.rows is None else stored[layout.rows], turned)


def obstacle(encoded: Encoded, layout: Layout) -> str:
    """Return why a tensor cannot be blocks of integers, or an empty string."""
    form, view = encoded.format, encoded.view
    if not isinstance(form, Int) or form.bits > 8:
        return "it is not encoded as integers of at most 8 bits"
    if width(encoded) is None:
        return f"GGUF has no blocks of {form.bits} bits with a minimum"
    if len(view.shape) != 2 or view.permutation != layout.axes:
        return "it is no matrix of rows that are outputs"
    if view.cols % BLOCK:
        return f"its rows of {view.cols} are not of whole blocks of {BLOCK}"
    if isinstance(form.per, int) and form.per % BLOCK and form.per < view.cols:
        return f"its groups of {form.per} are not of whole blocks of {BLOCK}"
    return ""


def width(encoded: Encoded) -> int | None:
    """Return the bits of the block type that holds a tensor of integers, or None."""
    minimum, bits = bool(np.any(encoded.parts.get("zero_point", 0))), encoded.format.bits  # type: ignore[attr-defined]
    return next((wide for wide, has in TYPES if has == minimum and wide >= bits), None)


def blocks_of(encoded: Encoded, where: str) -> tuple[str, Array]:
    """Return the type of a tensor's blocks and their bytes, uint8 `[blocks, bytes]`; `obstacle` of it is empty.

    A block is its scale, its minimum if it has one, the fifth bits of its integers if they have five, and the integers:
    in bytes, or each half in a nibble, the first half in the low ones.

    Args:
        encoded: the tensor.
        where: its name, for errors.

    Raises:
        UnsupportedError: a scale, or a minimum, is no float16 number.
    """
    form, bits = encoded.format, width(encoded)
    assert isinstance(form, Int)
    assert bits is not None
    least, most = grid(form.bits)
    scale = _of_blocks(encoded, encoded.parts["scale"].astype(np.float32))
    zero = _of_blocks(
        encoded, encoded.parts.get("zero_point", np.zeros(encoded.parts["scale"].shape))
    ).astype(int)
    steps = encoded.symbols.astype(np.int64).reshape(-1, BLOCK)  # q - zero point, modulo 2**bits
    steps = np.where(steps > most - zero, steps - (1 << form.bits), steps)
    minimum = bool(zero.any())
    heads = [_half(scale, where)] + ([_half(scale * (least - zero), where)] if minimum else [])
    first = least - zero if minimum else -(1 << bits - 1) if bits < 8 else 0  # what code 0 stands for
    return TYPES[bits, minimum], np.concatenate([*heads, *_packed(steps - first, bits)], axis=1)


def _of_blocks(encoded: Encoded, part: Array) -> Array:
    """Return one number of a part for each block, `[blocks, 1]`."""
    view, wide = encoded.view, spread(part, encoded.view, encoded.format.per)  # type: ignore[attr-defined]
    return np.broadcast_to(wide, (view.rows, view.cols))[:, ::BLOCK].reshape(-1, 1)


def _packed(codes: Array, bits: int) -> Iterator[Array]:
    """Yield the bytes of integers `[blocks, BLOCK]`: signed ones of 8 bits, or unsigned ones of 4 or 5."""
    if bits == 8:
        yield codes.astype(np.int8).view(np.uint8)
        return
    if bits == 5:
        yield np.packbits((codes >> 4).astype(np.uint8), axis=1, bitorder="little")
    low = (codes & 15).astype(np.uint8)
    yield low[:, : BLOCK // 2] | low[:, BLOCK // 2 :] << 4


def _half(numbers: Array, where: str) -> Array:
    """Return float16 numbers as bytes, `[blocks, 2]`; refuse others."""
    with np.errstate(over="ignore"):
        halves = numbers.astype("<f2")
    if not np.array_equal(halves.astype(np.float32), numbers.astype(np.float32)):
        raise UnsupportedError(
            "the scales or minima of its blocks are no float16 numbers, which GGUF has alone", where=where,
            hint='give its format scale_type = "float16": Int(bits=4, per=32, scale_type="float16")',
        )  # fmt: skip
    return halves.view(np.uint8)


class Source:
    """A GGUF file of the same network: its metadata, the names of its tensors, and how it turns them.

    Args:
        gguf: the library.
        path: of the file.

    Raises:
        IntegrityError: it is no GGUF file, or one of a network that the library does not know.
    """

    def __init__(self, gguf: Any, path: Path) -> None:
        self.path, self.gguf = path, gguf
        try:
            self.reader = gguf.GGUFReader(path)
            self.architecture = self.field("general.architecture")
            kind = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}[self.architecture]
            self.known = gguf.get_tensor_name_map(kind, self.field(f"{self.architecture}.block_count"))
        except (OSError, ValueError, KeyError, IndexError) as error:
            raise IntegrityError(
                "no GGUF file of a network that gguf knows", where=str(path), got=error
            ) from error
        self.tensors = {tensor.name: tensor for tensor in self.reader.tensors}
        counts = (self.of_network(f"attention.head_count{end}") for end in ("", "_kv"))
        self.heads = {n for n in counts if isinstance(n, int) and n > 0}

    def field(self, key: str) -> Any:
        """Return an entry of the metadata."""
        return self.reader.fields[key].contents()

    def of_network(self, key: str) -> Any:
        """Return an entry of the metadata of its architecture, or None."""
        key = f"{self.architecture}.{key}"
        return self.field(key) if key in self.reader.fields else None

    def name(self, own: str, skipped: int) -> str:
        """Return the name there of a tensor of ours, without so many of its leading parts; empty: it has none."""
        bare = ".".join(own.split(".")[skipped:])
        return self.known.get_name(bare, (".weight", ".bias")) or ""

    def names(self, own: Sequence[str]) -> dict[str, str]:
        """Return the names there of tensors of ours: as they are, or all without a wrapper's prefix."""
        found = [{one: self.name(one, skipped) for one in own} for skipped in range(4)]
        return max(found, key=lambda names: sum(name in self.tensors for name in names.values()))

    def layout(self, name: str, own: str, values: Array) -> Layout:
        """Return how this file turns a tensor: so that it is nearest to its own.

        Raises:
            UnsupportedError: no turn makes it one of the same shape, or one that is near.
        """
        theirs = self.tensors[name]
        shape = tuple(int(n) for n in reversed(theirs.shape))
        there = self.gguf.dequantize(theirs.data, theirs.tensor_type).astype(np.float32).reshape(shape)
        axes = [tuple(range(values.ndim)), tuple(reversed(range(values.ndim)))][
            : 2 if values.ndim == 2 else 1
        ]
        fitting = [one for one in axes if tuple(values.shape[axis] for axis in one) == shape]
        found = [Layout(one, rows) for one in fitting for rows in (None, *self.turns(shape[0]))]
        if not found:
            hint = "metadata are of the network as it is: not of one before its channels were pruned"
            raise UnsupportedError(
                "another shape than in the metadata", where=own, got=values.shape, expected=shape, hint=hint
            )
        size = float(np.linalg.norm(there)) or 1.0
        distances = [float(np.linalg.norm(layout.of(values) - there)) / size for layout in found]
        if not min(distances) <= APART:
            what = f"its numbers are not near those of {name} in the metadata's file, under any known order of rows"
            raise UnsupportedError(
                what, where=own, got=f"{min(distances):.2g} of its size apart", expected=f"up to {APART}"
            )
        return found[int(np.argmin(distances))]

    def turns(self, rows: int) -> Iterator[Array]:
        """Yield orders of rows: of each head, its halves in turns (rotary embeddings of neighbours, not of halves)."""
        for heads in self.heads:
            if rows % (2 * heads) == 0:
                yield np.arange(rows).reshape(heads, 2, -1).swapaxes(1, 2).reshape(-1)


def _write(gguf: Any, path: Path, tensors: Sequence[Tensor], source: Source | None) -> None:
    writer = gguf.GGUFWriter(path, source.architecture if source else NO_ARCHITECTURE)
    derived = []
    if source:
        for key, field in source.reader.fields.items():
            if key == "general.alignment":
                writer.add_custom_alignment(field.contents())
            elif not key.startswith(_OWN):
                inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
                writer.add_key_value(key, field.contents(), field.types[0], sub_type=inner)
        derived = [source.tensors[name] for name in DERIVED if name in source.tensors]
    sizes: dict[str, int] = {}
    for tensor in tensors:
        sizes[tensor.kind] = sizes.get(tensor.kind, 0) + tensor.values.size
    most = max(sizes, key=sizes.__getitem__, default="")
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{most}" if most else "ALL_F32"])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for tensor in tensors:
        kind = gguf.GGMLQuantizationType[tensor.kind] if tensor.stored.dtype == np.uint8 else None
        writer.add_tensor(tensor.name, tensor.stored, raw_dtype=kind)
    for tensor in derived:
        writer.add_tensor(tensor.name, np.array(tensor.data), raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def check_read(gguf: Any, path: Path, tensors: Sequence[Tensor]) -> None:
    """Refuse a file that the library `gguf` reads back as other numbers.

    Raises:
        UnsupportedError: names the tensor.
    """
    read = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    for tensor in tensors:
        found, values = read[tensor.name], tensor.values
        same = tuple(reversed([int(n) for n in found.shape])) == values.shape
        numbers = gguf.dequantize(found.data, found.tensor_type) if values.dtype == np.float32 else found.data
        if not same or np.asarray(numbers, values.dtype).tobytes() != values.tobytes():
            raise UnsupportedError("is read back as other numbers, so nothing was written", where=tensor.name)
