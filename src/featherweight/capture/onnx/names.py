"""Paths of modules, from the names of an ONNX file."""

from __future__ import annotations

import re
from collections.abc import Mapping

import onnx_ir as ir


def paths_of(sources: Mapping[ir.Node, ir.Value | None]) -> dict[ir.Node, str]:
    """Return a path for each layer; none is the start of another, and none is there twice.

    The name of a weight that torch's exporters kept (`encoder.0.conv.weight`) says most; else it is the name of the
    node, without its operator (`/model.0/conv/Conv` is `model.0.conv`), or of what it writes.

    Args:
        sources: the weight of each layer, or None.
    """
    short, long = {}, {}
    for node, source in sources.items():
        long[node] = _parts(node.name or node.outputs[0].name or node.op_type) or [node.op_type]
        weight = str(source.name) if source is not None and source.producer() is None else ""
        named = re.fullmatch(r"([A-Za-z_][\w.]*)\.weight", weight)
        short[node] = _parts(named[1]) if named else _without_operator(long[node], node.op_type)
    above = {tuple(parts[:n]) for parts in short.values() for n in range(1, len(parts))}
    taken: set[tuple[str, ...]] = set()
    inner: set[tuple[str, ...]] = set()  # what lies above those
    found: dict[ir.Node, str] = {}
    for node, parts in short.items():
        path = tuple(parts)
        if path in above or path in taken:
            path = (*path, node.op_type.lower())
        while start := next((n for n in range(1, len(path)) if path[:n] in taken), 0):  # below another layer
            path = (*path[: start - 1], "_".join(path[start - 1 : start + 1]), *path[start + 1 :])
        name, number = path[-1], 1
        while path in taken or path in inner:
            number += 1
            path = (*path[:-1], f"{name}_{number}")
        taken.add(path)
        inner |= {path[:n] for n in range(1, len(path))}
        found[node] = ".".join(path)
    return found


def _parts(name: str) -> list[str]:
    """Return the parts of a name, of letters, digits and `_` alone; `/blocks/blocks.0` says `blocks` twice.

    Torch's older exporter puts the branch of an If before the names in it.
    """
    scopes = re.split(r"/|::", re.sub(r"^.*__Inline_\d+__", "", name))
    said = [a for a, b in zip(scopes, [*scopes[1:], ""], strict=True) if not b.startswith(f"{a}.")]
    parts = [
        re.sub(r"\W+", "_", part, flags=re.ASCII).strip("_") for scope in said for part in scope.split(".")
    ]
    return [part for part in parts if part]


def _without_operator(parts: list[str], op: str) -> list[str]:
    last = re.sub(r"_\d+$", "", parts[-1]).lower()
    return parts[:-1] if len(parts) > 1 and last in (op.lower(), f"{op.lower()}2d") else parts
