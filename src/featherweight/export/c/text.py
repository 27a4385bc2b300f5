"""Tables and structures as text in C, and the bytes that they take."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, Literal

import numpy as np

from featherweight.artifact import Artifact
from featherweight.export.c.streams import Code
from featherweight.formats.view import Array

_TYPES = {"u1": "uint8_t", "i1": "int8_t", "u2": "uint16_t", "i2": "int16_t", "u4": "uint32_t", "i4": "int32_t",
          "u8": "uint64_t", "i8": "int64_t"}  # fmt: skip
_LINE = 110
# Bytes of code of each part, about: Thumb-2, gcc 12 -Os; what is not here is small, or counts with another part.
_CODE = {
    "scores": 300, "stream": 300, "layer": 700, "tensor": 400, "fixed": 100, "rans": 1000, "huffman": 2200,
    "cabac": 1400, "sparse": 900, "max_pool": 200, "average_pool": 230, "add": 150, "move": 200, "clamp": 50,
}  # fmt: skip
_DECODERS = ("fixed", "rans", "huffman", "cabac", "sparse")
_ALWAYS = ("base", "requantize")
# Templates, in the order in which they come; each is there only if it is needed.
_ORDER = (
    "base", "requantize", "bits", "fixed", "rans", "huffman", "cabac", "stream", "tensor", "rows", "layer",
    "layer_int8", "layer_codebook", "pool", "max_pool", "average_pool", "add", "clamp", "move", "lookup", "scores",
)  # fmt: skip


@dataclass(frozen=True)
class CSource:
    """What `c_of` returns.

    Attributes:
        kind: `network`: it computes scores; `weights`: it decodes tensors.
        files: text by name: `model.h`, and of a network `main.c` and `Makefile`.
        flash: bytes of `payload` (coded weights), `tables` (scales, biases, codebooks) and, about, `code` (Thumb-2).
        ram: bytes: of a network the `arena` (activations, and what decoding takes), `input` and `scores`; of weights,
            `work` (what decoding takes).
        notes: what is not as in the simulation.
    """

    kind: Literal["network", "weights"]
    files: Mapping[str, str]
    flash: Mapping[str, int]
    ram: Mapping[str, int]
    notes: tuple[str, ...] = ()


@dataclass(eq=False)
class Text:
    """Definitions, in order; equal tables are written once.

    Attributes:
        lines: the text.
        nbytes: bytes of all tables but payloads.
    """

    lines: list[str] = field(default_factory=list)
    nbytes: int = 0
    _known: dict[bytes, str] = field(default_factory=dict)

    def table(self, name: str, numbers: Array, about: str = "") -> str:
        """Define a table of integers, if no equal one is known; return its name."""
        kind = f"{numbers.dtype.kind}{numbers.dtype.itemsize}"
        key = kind.encode() + numbers.tobytes()
        if key in self._known:
            return self._known[key]
        self._known[key] = name
        if not name.startswith("fw_payload"):
            self.nbytes += numbers.nbytes
        self.lines.append(f"static const {_TYPES[kind]} {name}[{max(numbers.size, 1)}] = {{{comment(about)}")
        self.lines += _wrapped(_number(n, kind) for n in numbers.reshape(-1).tolist() or [0])
        self.lines.append("};")
        return name

    def bits(self, name: str, numbers: Array, about: str = "") -> str:
        """Define a table of float32 numbers as their bits, which every compiler keeps as they are."""
        return self.table(name, np.ascontiguousarray(numbers, np.float32).reshape(-1).view(np.uint32), about)

    def code(self, number: int, name: str, code: Code) -> str:
        """Define a coded stream; return the fields of its `fw_code`."""
        payload = self.table(f"fw_payload_{number}", np.frombuffer(code.payload, np.uint8), name)
        return f"{{{payload}, {', '.join(f'{n}u' for n in code.fields)}}}"

    def __str__(self) -> str:
        return "\n".join(self.lines) + "\n"


def _number(n: int, kind: str) -> str:
    if kind == "i8":  # the least number has no literal
        return f"INT64_C({n})" if n > -(2**63) else "INT64_MIN"
    if kind == "i4" and n == -(2**31):
        return "INT32_MIN"
    return f"{n}u" if kind[0] == "u" and n > 255 else str(n)


def _wrapped(words: Iterable[str]) -> Iterable[str]:
    line = "   "
    for word in words:
        if len(line) + len(word) + 2 > _LINE:
            yield line
            line = "   "
        line += f" {word},"
    yield line


def spent(flash: Mapping[str, int], tables: str) -> str:
    """Return what a header takes of flash, as a sentence; `tables`: what those are of."""
    known = f"{flash['payload']:,} bytes of coded weights, {flash['tables']:,} of {tables}"
    return f"Flash: {known}; about {flash['code']:,} of code (Thumb-2, -Os)."


def flash_of(codes: Iterable[Code], text: Text, parts: set[str]) -> dict[str, int]:
    """Return what a header takes of flash; see `CSource`."""
    code = sum(size for part, size in _CODE.items() if part in parts)
    return {"payload": sum(len(code.payload) for code in codes), "tables": text.nbytes, "code": code}


def parts_of(codes: Iterable[Code]) -> set[str]:
    """Return the parts that decoding takes."""
    decoders = {part for code in codes for part in code.parts}
    return decoders | ({"stream"} if decoders else set()) | ({"bits"} if decoders - {"fixed"} else set())


def comment(text: str) -> str:
    """Return text as a comment behind code; whatever could end it is replaced."""
    plain = re.sub(r"[^ -~]|\*/|/\*|\?\?", "?", text)
    return f" /* {plain} */" if plain else ""


def identifier(name: str, taken: set[str]) -> str:
    """Return a name as an identifier that is not `taken`, and take it."""
    made = base = re.sub(r"\W", "_", name, flags=re.ASCII) or "_"
    number = 1
    while made in taken:
        number += 1
        made = f"{base}_{number}"
    taken.add(made)
    return made


def literal(number: Any) -> str:
    """Return a float32 number as a literal that is exactly it."""
    text = f"{float(np.float32(number)):.9g}"
    return f"{text}f" if "." in text or "e" in text else f"{text}.0f"


def dimensions(shape: Iterable[int]) -> str:
    """Return a shape as text."""
    return " x ".join(map(str, shape)) or "1"


def header(artifact: Artifact, about: Iterable[str], parts: set[str], body: str) -> str:
    """Return the text of `model.h`."""
    said = "\n   ".join([f"Written by featherweight, of the file {artifact.sha256}.", *about])
    switches = [f"#define FW_HAS_{part.upper()}" for part in _DECODERS if part in parts]
    templates = [template(f"{name}.h") for name in _ORDER if name in parts or name in _ALWAYS]
    guard = ["#ifndef FW_MODEL_H", "#define FW_MODEL_H", "", *switches, ""]
    return "\n".join([f"/* {said} */", *guard, *templates, body, "#endif\n"])


def template(name: str) -> str:
    """Return the text of a template, with what it includes of the others in its place."""
    text = resources.files("featherweight.export.c").joinpath("templates", name).read_text("utf-8")
    if name == "main.c":
        return text
    return re.sub(r'#include "(.*)"\n', lambda found: template(found[1]), text)
