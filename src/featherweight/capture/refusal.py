"""Torch's long errors as one line: which layer, which line of its code, and why."""

from __future__ import annotations

import linecache
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from traceback import walk_tb

from torch import nn

from featherweight.errors import UnsupportedError

# What torch's messages say in their own words, and what it means.
_MEANINGS = (
    ("data-dependent", "its control flow or a shape depends on the values of tensors"),
    ("data dependent", "its control flow or a shape depends on the values of tensors"),
    ("No ONNX function found", "ONNX has no counterpart of its operator"),
)
# Lines that name torch's own graph, or say how to log more of it.
_NOISE = re.compile(
    r"while executing|original traceback|graphmodule|tlparse|torch_logs|torch_show|for more information"
    r"|caused by: \(|the above exception|## |<class|\(refer to|^file \"|^consider using|^traceback|⬆️|^failed to",
    re.IGNORECASE,
)


def refusal(
    module: nn.Module, error: BaseException, doing: str, paths: Mapping[str, str] | None = None
) -> UnsupportedError:
    """Return one error that names the layer of `module` that torch was at when it raised, and why.

    Args:
        module: the network.
        error: what torch raised.
        doing: what could not be done.
        paths: node of the captured graph to path of its module.
    """
    text = "\n".join(str(link) for link in _chain(error))
    path, place = _layer(module, error)
    node = re.search(r"node %?(\w+)", text)
    if not path and node:
        path = (paths or {}).get(node[1], "")
    meaning = next((meaning for found, meaning in _MEANINGS if found in text), "")
    operator = re.search(r"op(?:erator)?='?(aten[.:]+\w+)", text)
    operator = operator or re.search(r"No ONNX function found for.*?'(\S+?)'", text)
    cause = cause_of(error)
    reason = meaning or _fixed(text) or cause
    if operator and "operator" in meaning:
        reason += f" {operator[1]}"
    elif reason != cause:
        reason += f" ({cause})"
    kind = type(module.get_submodule(path)).__name__
    where = f"{path} ({kind})" if path else kind
    return UnsupportedError(f"{doing}: {reason}" + (f" [{place}]" if place else ""), where=where)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _fixed(text: str) -> str:
    """Return what torch says of an axis that was to be free and is not; LSTM and GRU are traced for one length."""
    pattern = r"\['(\w+)'\]\.size\(\)\[(\d+)\].*?specialized it to be a constant \((\d+)\)"
    found = re.search(pattern, text, re.DOTALL)
    return found.expand(r"axis \2 of \1 is to be free, and the network fixes it at \3") if found else ""


def cause_of(error: BaseException) -> str:
    """Return the line that says why: the first of the innermost error that is about the network, not torch's graph."""
    for link in reversed(list(_chain(error))):
        lines = [line.strip() for line in str(link).splitlines()]
        said = [line for line in lines if re.search(r"\w", line) and not _NOISE.search(line)]
        if said:
            kind = "" if isinstance(link, RuntimeError | ValueError) else f"{type(link).__name__}: "
            return kind + re.sub(r"\s*\((unhinted|Size-like).*", "", said[0])[:240]
    return type(error).__name__


def _layer(module: nn.Module, error: BaseException) -> tuple[str, str]:
    """Return the path of the innermost submodule in the traceback, and the line of code that it was at."""
    paths = {id(part): path for path, part in module.named_modules()}
    found = ("", "")
    for link in _chain(error):
        for frame, number in walk_tb(link.__traceback__):
            file, arguments = frame.f_code.co_filename, frame.f_code.co_varnames[:1]
            owner = frame.f_locals.get(arguments[0]) if arguments else None
            name = frame.f_code.co_name
            if id(owner) in paths and hasattr(type(owner), name) and not name.endswith("_call_impl"):
                code = linecache.getline(file, number).strip()
                found = (paths[id(owner)], f"{Path(file).name}:{number}: {code}" if code else "")
        if found != ("", ""):
            break
    return found
