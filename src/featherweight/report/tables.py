"""The report as titled tables of text: what Markdown and HTML both draw."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from featherweight.delivery.summary import GIVEN, Row, Stage, Summary
from featherweight.evaluation.paired_test import Paired
from featherweight.units import nbytes, percent, points


@dataclass(frozen=True)
class Table:
    """Rows of text under a title.

    Attributes:
        title: heading.
        head: column names.
        rows: cells.
        about: a sentence or two before the table.
        key: what the page calls it.
    """

    title: str
    head: list[str]
    rows: list[list[str]]
    about: str = ""
    key: str = ""

    def markdown(self) -> list[str]:
        """Return head and rows as lines of Markdown."""
        rows = [[cell.replace("|", "\\|") for cell in row] for row in self.rows]
        head, *body = (f"| {' | '.join(cells)} |" for cells in (self.head, *rows))
        return [head, "|---" * len(self.head) + "|", *body]


def answer(s: Summary) -> str:
    """Return the sentences that say whether it is smaller, by what, and at what price."""
    before, after = s.baseline["test"][s.primary], s.test[s.primary]
    graphless = next((note.reason for note in s.notes if note.name == "graph"), "the file holds weights only")
    warned = f"No runtime can run this file. {graphless[:1].upper()}{graphless[1:]}. "
    warning = warned if s.difference is None else ""
    smaller = f"{s.ratio:.1f}x smaller" if s.ratio >= 1.05 else "Not smaller"
    return (
        f"{warning}{smaller}: the whole file has {nbytes(s.file_bytes)}, the float network"
        f" {nbytes(s.float_bytes)} at 4 bytes a parameter."
        f" On test its {s.primary} is {percent(after)}, that of the float network {percent(before)}"
        f" ({points(after - before)} points)."
    )


def headline(s: Summary) -> list[tuple[str, str]]:
    """Return the figures that a reader came for: name and value."""
    before, after = s.baseline["test"][s.primary], s.test[s.primary]
    coded = sum(4 * math.prod(row.shape) for row in s.rows if row.coder)
    alone = f"{nbytes(s.weight_bytes)}, {coded / s.weight_bytes:.1f}x" if coded else ""
    return [
        ("file", nbytes(s.file_bytes)), ("smaller", f"{s.ratio:.1f}x"), *[("coded weights alone", alone)] * bool(coded),
        (f"{s.primary} on test", f"{percent(after)}"), ("float network", f"{percent(before)}"),
        ("change", f"{points(after - before)} points"),
    ]  # fmt: skip


def tables(summary: Summary) -> list[Table]:
    """Return every table of the report that has something to say."""
    makers = (_steps, _front, _sensitivity, _tensors, _left, _notes, _sizes)
    return [table for table in (make(summary) for make in makers) if table.rows]


def _steps(s: Summary) -> Table:
    base = s.baseline["validation"][s.primary]
    rows = []
    for stage in s.stages:
        value = stage.metrics.get(s.primary)
        measured = ["not finite", "-"] if value is None else [percent(value), points(value - base)]
        size = [nbytes(stage.nbytes), f"{s.float_bytes / stage.nbytes:.1f}x"]
        took = f"{stage.seconds:.1f}"
        rows.append([step_name(stage), *size, *measured, took, options_text(stage.options)])
    about = f"Bytes of the file, had the recipe ended at each step, and {s.primary} on validation."
    head = ["step", "file", "ratio", s.primary, "points", "seconds", "options"]
    return Table("Step by step", head, rows, about, "steps")


def step_name(stage: Stage) -> str:
    """Return what a stage is called."""
    return "float network" if stage.step == GIVEN else stage.step


def options_text(options: Mapping[str, Any]) -> str:
    """Return a step's options on one line; a format, coder or method is its name and options."""
    return ", ".join(f"{name} = {_option(value)}" for name, value in options.items())


def _option(value: object) -> str:
    if isinstance(value, dict):  # a float format is its kind
        words = [str(part) for part in value.values() if part != "none"]
        return " ".join(words[words[0] == "float" and len(words) > 1 :])
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _front(s: Summary) -> Table:
    rows = []
    for p in s.points:
        measured = [nbytes(p.nbytes), f"{s.float_bytes / p.nbytes:.1f}x", percent(p.value), points(-p.drop)]
        rows.append([*measured, "yes" if p.on_front else "", "chosen" if p.chosen else ""])
    about = (
        f"Allocations that were encoded and measured: bytes of the whole file, and {s.primary} on validation, where"
        " choices are made."
    )
    return Table("Front", ["file", "ratio", s.primary, "points", "on the front", ""], rows, about, "front")


def _sensitivity(s: Summary) -> Table:
    options = list(dict.fromkeys(cell.option for cell in s.sensitivity))
    cells = {(c.tensor, c.option): c for c in s.sensitivity}
    names = list(dict.fromkeys(cell.tensor for cell in s.sensitivity))
    rows = [[t, *(f"{cells[t, o].loss:+z.4f}" if (t, o) in cells else "-" for o in options)] for t in names]
    about = "Loss that one tensor under one option, alone, adds on validation."
    return Table("Sensitivity", ["tensor", *options], rows, about, "sensitivity")


def _tensors(s: Summary) -> Table:
    rows = []
    for r in s.rows:
        sizes = [f"{r.nbytes:,}", f"{r.bits:.2f}", percent(r.sparsity)]
        rows.append([r.name, "x".join(map(str, r.shape)) or "scalar", r.format, r.coder or "-", *sizes])
    head = ["tensor", "shape", "format", "coder", "bytes", "bits a weight", "zeros"]
    return Table("Tensors", head, rows, "What the file holds, in the network's order.", "tensors")


def _left(s: Summary) -> Table:
    reasons: dict[str, list[Row]] = {}
    for row in s.rows:
        if row.left:
            reasons.setdefault(row.left, []).append(row)
    rows = []
    for reason, group in reasons.items():
        size, names = sum(row.nbytes for row in group), ", ".join(row.name for row in group)
        rows.append([reason, str(len(group)), f"{size:,}", percent(size / s.file_bytes), names])
    head = ["why", "tensors", "bytes", "of the file", "which"]
    about = "Tensors that are in the file as they were."
    return Table("What was not compressed, and why", head, rows, about, "left")


def _notes(s: Summary) -> Table:
    about = "What a step or the search left alone, dropped or decided."
    rows = [[note.kind, note.name, note.reason] for note in s.notes]
    return Table("Skipped, thawed, chosen", ["what", "name", "why"], rows, about, "notes")


def _sizes(s: Summary) -> Table:
    names = {"header": "index and facts", "raw": "tensors left as they were"}
    rows = [["coded tensors", f"{s.weight_bytes:,}", percent(s.weight_bytes / s.file_bytes)]]
    rows += [[names.get(k, k), f"{n:,}", percent(n / s.file_bytes)] for k, n in s.overhead.items()]
    rows.append(["whole file", f"{s.file_bytes:,}", percent(1.0)])
    about = f"Ratios are against 4 bytes for each of {s.parameters:,} parameters: {s.float_bytes:,} bytes."
    return Table("Where the bytes are", ["what", "bytes", "share"], rows, about, "bytes")


def _paired(found: Paired) -> str:
    return (
        f"Of {found.samples:,} test samples {found.lost} became worse and {found.gained} better: "
        f"{points(found.difference)} points, standard error {100 * found.error:.2f}, p = {found.p:.2g} (sign test)."
    )


def facts(s: Summary) -> list[str]:
    """Return the sentences that say how the figures came about."""
    parity = (
        f"{s.runtime} on the reloaded file and the decoded network differ by {s.difference:.1e} of the output's scale."
        if s.difference is not None
        else "The file holds no graph (see above): the reloaded weights were measured in torch."
    )
    return [
        f"Task {s.task}, seed {s.seed}, {s.threads} thread{'s' * (s.threads > 1)}, {s.seconds:.0f} s.",
        f"Hash of data and network: {s.fingerprint}.",
        f"Test figures are of the reloaded file, computed once by {s.runtime}; settings were chosen on validation.",
        *([_paired(s.paired)] if s.paired else []), parity, f"SHA-256 of model.fw: {s.sha256}.",
        "Environment: " + ", ".join(f"{k} {v}" for k, v in s.environment.items()) + ".",
    ]  # fmt: skip


def commands(s: Summary) -> str:
    """Return the commands that make the file again, measure it and look into it, one a line."""
    from featherweight.zoo.tasks import TASKS

    known = s.task in TASKS
    task = s.task if known else "TASK.py:NAME"
    lines = [
        f"featherweight compress recipe.toml --task {task} --seed {s.seed} --threads {s.threads} -o again",
        f"featherweight eval again/model.fw --task {task} --threads {s.threads}",
        "featherweight inspect again/model.fw",
    ]
    said = "# TASK.py:NAME is the file and name of your task; of an ONNX file say --onnx FILE --inputs INPUTS instead"
    return "\n".join(lines if known else [said, *lines])
