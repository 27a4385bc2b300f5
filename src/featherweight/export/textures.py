"""The ASTC tensors of a file as textures that any tool or GPU opens, and a JSON sidecar that says what they mean."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec

from featherweight.artifact import Artifact
from featherweight.errors import UnsupportedError
from featherweight.files import write_whole
from featherweight.formats import Astc, Encoded
from featherweight.formats.astc.blocks import write_astc

SIDECAR = "textures.json"


def write_textures(artifact: Artifact, folder: Path) -> dict[str, Any]:
    """Write an `.astc` file for each ASTC tensor, then `textures.json`; return what it says.

    Row r and column c of a tensor's matrix are channel `c % channels` of the texel at `x = c // channels`,
    `y = r`; the weight is `offset[r // n] + scale[r // n] * texel`, float32, where n rows share a range. The
    matrix is the tensor with its axes in the order of `permutation`, all but the first one flattened.

    Raises:
        UnsupportedError: the file has no such tensor.
    """
    textures, elsewhere = [], []
    for number, name in enumerate(artifact.names):
        tensor = artifact.tensors[name]
        if isinstance(tensor, Encoded) and isinstance(tensor.format, Astc):
            safe = re.sub(r"[^A-Za-z0-9_.-]", "_", name)
            file = f"{number:03d}.{safe}.astc"
            textures.append({"tensor": name, "file": file, **_write(folder / file, tensor, tensor.format)})
        else:
            elsewhere.append(name)
    if not textures:
        hint = 'encode some with format = { format = "astc" }, see list formats'
        raise UnsupportedError("no tensor is in ASTC blocks", hint=hint)
    said = {"sha256": artifact.sha256, "textures": textures, "elsewhere": elsewhere}
    write_whole(folder / SIDECAR, msgspec.json.format(msgspec.json.encode(said)))
    return said


def _write(path: Path, tensor: Encoded, format: Astc) -> dict[str, Any]:
    """Write one texture; return what it means."""
    view, width = tensor.view, -(-tensor.view.cols // format.channels)
    content = tensor.symbols.reshape(*format.blocks(view), 16)
    write_whole(path, write_astc(content, format.footprint, width, view.rows))
    return {
        "shape": view.shape, "permutation": view.permutation, "rows": view.rows, "columns": view.cols,
        "footprint": format.footprint, "channels": format.channels, "mode": format.mode,
        "offset": tensor.parts["offset"].tolist(), "scale": tensor.parts["scale"].tolist(),
    }  # fmt: skip
