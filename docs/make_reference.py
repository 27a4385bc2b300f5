"""Write docs/reference from the code: every step, format, coder and method with its options. `--check` compares."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

import msgspec

from featherweight.activations import Affine, FloatingPoint
from featherweight.files import write_whole
from featherweight.formats import CODERS, FORMATS
from featherweight.formats.coders import tag
from featherweight.rounding import Rounding
from featherweight.task.training import Training
from featherweight.techniques import STEPS
from featherweight.techniques.base import said_needs
from featherweight.techniques.lowrank import RANKS
from featherweight.techniques.saliencies import SALIENCIES, SparseGpt, WoodFisher
from featherweight.training.losses import LOSSES, TEACHERS
from featherweight.training.methods import METHODS
from featherweight.training.methods.oscillations import Oscillations

FOLDER = Path(__file__).parent / "reference"
PAGES = {
    "steps": STEPS,
    "formats": FORMATS,
    "coders": CODERS,
    "methods": (*METHODS, Oscillations),
    "rounding": (Rounding, Affine, FloatingPoint),
    "losses": LOSSES,
    "teachers": TEACHERS,
    "saliencies": (*SALIENCIES, WoodFisher, SparseGpt),
    "ranks": RANKS,
}


def page(title: str, kinds: tuple[type[msgspec.Struct], ...]) -> str:
    """Return the page of a family of structs."""
    return f"# {title.capitalize()}\n\n" + "\n".join(entry(kind) for kind in kinds)


def entry(kind: type[msgspec.Struct]) -> str:
    """Return one struct: its docstring up to the options, and a table of them."""
    about = inspect.getdoc(kind) or ""
    text, _, attributes = about.partition("Attributes:")
    said = meanings(attributes)
    needs = f" Needs of the data: {said_needs(kind)}." if hasattr(kind, "needs") else ""
    lines = [
        f"## `{kind.__struct_config__.tag or kind.__name__}`",
        "",
        doctests_fenced(text.strip()) + needs,
        "",
    ]
    fields = msgspec.structs.fields(kind)
    if fields:
        lines += ["| option | default | meaning |", "|---|---|---|"]
        lines += [
            f"| `{f.name}` | {default(f)} | {said.get(f.name, inherited(kind, f.name))} |" for f in fields
        ]
        lines.append("")
    return "\n".join(lines)


def doctests_fenced(text: str) -> str:
    """Return a docstring with its examples fenced."""
    blocks = [
        f"```\n{block}\n```" if block.lstrip().startswith(">>>") else block for block in text.split("\n\n")
    ]
    return "\n\n".join(blocks)


def meanings(attributes: str) -> dict[str, str]:
    """Return name to sentence of an `Attributes:` section."""
    found: dict[str, str] = {}
    name = ""
    for line in attributes.splitlines():
        if line.strip() and not line.startswith("     ") and ":" in line:
            name, _, line = line.strip().partition(":")
        if name and line.strip():
            found[name] = f"{found.get(name, '')} {line.strip()}".strip()
    return found


def inherited(kind: type[Any], name: str) -> str:
    """Return what a base class says of an option, or `Training`, whose options steps that train have."""
    for base in (*kind.__mro__[1:], Training):
        said = meanings((inspect.getdoc(base) or "").partition("Attributes:")[2])
        if name in said:
            return said[name]
    return ""


def default(field: msgspec.structs.FieldInfo) -> str:
    """Return a default for a table."""
    if field.required:
        return "required"
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    if isinstance(value, msgspec.Struct):
        return f"`{tag(value)}`"
    return "left open" if value in (None, msgspec.UNSET) else f"`{value}`"


def main() -> None:
    """Write every page, or say which differ."""
    pages = {f"{title}.md": page(title, kinds) for title, kinds in PAGES.items()}
    index = "\n".join(f"- [{title}]({title}.md)" for title in PAGES)
    pages["README.md"] = f"# Reference\n\nMade from the code by `python docs/make_reference.py`.\n\n{index}\n"
    written = {path.name: path.read_text() for path in FOLDER.glob("*.md")}
    stale = [name for name, text in pages.items() if written.get(name) != text]
    if "--check" in sys.argv:
        sys.exit(f"stale: {', '.join(stale)}; run python docs/make_reference.py" if stale else 0)
    for name in stale:
        write_whole(FOLDER / name, pages[name])


if __name__ == "__main__":
    main()
