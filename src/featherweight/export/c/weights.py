"""The tensors of a file in C, each with what decodes it: of networks without quantizers of activations."""

from __future__ import annotations

import numpy as np

from featherweight.artifact import Artifact, Raw
from featherweight.errors import UnsupportedError
from featherweight.export.c.streams import Code, codes_of
from featherweight.export.c.text import (
    CSource,
    Text,
    comment,
    dimensions,
    flash_of,
    header,
    identifier,
    parts_of,
    spent,
)
from featherweight.formats import Clustered, Encoded, Float, Int, tag
from featherweight.formats.basis import as_integers
from featherweight.formats.view import Array, group_length

_FLOATS = ("float16", "bfloat16")  # that tensor.h reads from their bits
_MOST_INT = 16


def weights_of(artifact: Artifact) -> CSource:
    """Return the tensors of a file, each with what decodes it."""
    tensors = {name: artifact.tensors[name] for name in artifact.names}
    tensors = {name: as_integers(t) if isinstance(t, Encoded) else t for name, t in tensors.items()}
    coded = {n: t for n, t in tensors.items() if isinstance(t, Encoded) and not _as_numbers(t)}
    if refused := [f"{name} ({reason})" for name, tensor in tensors.items() if (reason := _obstacle(tensor))]:
        what = f"tensors whose format has no decoder in C: {', '.join(refused)}"
        raise UnsupportedError(what, hint="choose int, clustered or float in the recipe")
    codes, text, taken = codes_of(artifact, coded), Text(), set[str]()
    for number, (name, tensor) in enumerate(tensors.items()):
        safe = identifier(name, taken)
        shape = artifact.lazy[name].entry.shape
        if isinstance(tensor, Encoded) and name in codes:
            _define_tensor(text, number, name, safe, tensor, codes[name])
        else:
            values = tensor.decode() if isinstance(tensor, Encoded) else tensor.numpy()
            _define_numbers(text, name, safe, values, shape)
    work = max((code.work for code in codes.values()), default=0)
    parts = {*parts_of(codes.values()), *({"tensor"} if codes else ())}
    flash = flash_of(codes.values(), text, parts)
    about = [
        f"{len(tensors)} tensors as they are stored; activations have no quantizers, so the network does not run.",
        spent(flash, "scales, codebooks and plain numbers"),
        f"RAM: {work:,} bytes of work to decode a tensor, and its numbers.",
    ]
    body = f"\n#define FW_WORK {work}u /* bytes that decoding works in */\n\n{text}"
    return CSource("weights", {"model.h": header(artifact, about, parts, body)}, flash, {"work": work})


def _as_numbers(tensor: Encoded) -> bool:
    """Whether a tensor is written as plain numbers: float32, which no coder makes smaller."""
    return (
        isinstance(tensor.format, Float) and tensor.format.kind == "float32" and tensor.format.per == "none"
    )


def _obstacle(tensor: Encoded | Raw) -> str:
    """Return why a tensor has no numbers in C, or an empty string."""
    if isinstance(tensor, Raw):
        return f"raw {tensor.dtype}" if tensor.dtype in ("f64", "bf16") else ""
    if _as_numbers(tensor):
        return ""
    form = tensor.format
    known = isinstance(form, Clustered) or (isinstance(form, Int) and form.bits <= _MOST_INT)
    known = known or (isinstance(form, Float) and form.kind in _FLOATS and form.per == "none")
    if not known:
        return f"{tag(form)} {getattr(form, 'bits', getattr(form, 'kind', ''))}".strip()
    moved = tensor.view.permutation != tuple(range(len(tensor.view.shape)))
    return "its axes are in another order" if moved else ""


def _define_tensor(text: Text, number: int, name: str, safe: str, tensor: Encoded, code: Code) -> None:
    form, view, parts = tensor.format, tensor.view, tensor.parts
    given, numbers, zeros, bits, groups, run = text.code(number, name, code), "NULL", "NULL", 0, 0, 0
    if isinstance(form, Clustered):
        kind, numbers = 1, text.bits(f"fw_scales_{number}", parts["codebook"], name)
    elif isinstance(form, Float):
        kind = 2 + _FLOATS.index(form.kind)
    else:
        assert isinstance(form, Int)
        kind, bits, numbers = (
            0,
            form.bits,
            text.bits(f"fw_scales_{number}", parts["scale"].astype(np.float32), name),
        )
        if "zero_point" in parts:
            zeros = text.table(f"fw_zeros_{number}", parts["zero_point"].astype(np.int16).reshape(-1), name)
        groups = int(isinstance(form.per, int))
        run = (
            group_length(view, form.per)
            if isinstance(form.per, int)
            else view.size // max(parts["scale"].size, 1)
        )
    fields = f"{given}, {kind}, {bits}, {groups}, {run}u, {numbers}, {zeros}"
    text.lines.append(f"static const fw_tensor fw_tensor_{number} = {{{fields}}};")
    text.lines.append(
        f"\n/* {comment(name)[4:-3]}, {dimensions(view.shape)}: write {view.size} numbers to `out`. 0: damaged. */\n"
        f"static inline int fw_decode_{safe}(float *out, void *work)\n{{\n"
        f"    return fw_decode(&fw_tensor_{number}, out, work, FW_WORK);\n}}\n"
    )


def _define_numbers(text: Text, name: str, safe: str, values: Array, shape: tuple[int, ...]) -> None:
    """Define plain numbers: whole ones as a table, others as what reads one of them."""
    about = f"{name}, {dimensions(shape)}"
    if values.dtype.kind != "f":
        text.table(f"fw_numbers_{safe}", values.astype(np.uint8) if values.dtype == bool else values, about)
        return
    table = text.bits(f"fw_bits_{safe}", values, about)
    text.lines.append(
        f"static inline float fw_number_{safe}(uint32_t place) /* of {values.size} */\n"
        f"{{\n    return fw_float({table}[place]);\n}}\n"
    )
