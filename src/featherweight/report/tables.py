"""The report as titled tables of text: what Markdown and HTML both draw."""

from __future__ import annotations

from dataclasses import dataclass

from featherweight.search.paired import Paired
from featherweight.search.summary import Summary
from featherweight.units import nbytes, percent, points


@dataclass(frozen=True)
class Table:
    """Rows of text under a title.

    Attributes:
        title: heading.
        head: column names.
        rows: cells.
        about: one sentence before the table.
    """

    title: str
    head: list[str]
    rows: list[list[str]]
    about: str = ""


def headline(summary: Summary) -> list[tuple[str, str]]:
    """Return the figures that a reader came for: name and value."""
    before, after = summary.baseline["test"][summary.primary], summary.test[summary.primary]
    return [
        ("file", nbytes(summary.file_bytes)),
        ("smaller", f"{summary.ratio:.1f}x"),
        (f"{summary.primary} on test", f"{percent(after)}"),
        ("float network", f"{percent(before)}"),
        ("change", f"{points(after - before)} points"),
    ]


def tables(summary: Summary) -> list[Table]:
    """Return every table of the report that has something to say."""
    made = [
        _sizes(summary),
        _tensors(summary),
        _points(summary),
        _sensitivity(summary),
        _stages(summary),
        _notes(summary),
    ]
    return [table for table in made if table.rows]


def _sizes(s: Summary) -> Table:
    names = {"header": "index and facts", "raw": "tensors left as they were"}
    rows = [["coded tensors", nbytes(s.weight_bytes), percent(s.weight_bytes / s.file_bytes)]]
    rows += [[names.get(k, k), nbytes(n), percent(n / s.file_bytes)] for k, n in s.overhead.items()]
    rows.append(["whole file", nbytes(s.file_bytes), percent(1.0)])
    about = f"Against 4 bytes for each of {s.parameters:,} parameters: {nbytes(s.float_bytes)}."
    return Table("Where the bytes are", ["what", "bytes", "share"], rows, about)


def _tensors(s: Summary) -> Table:
    rows = [
        [
            r.name,
            str(r.shape),
            r.format,
            r.coder or "-",
            f"{r.nbytes:,}",
            f"{r.bits:.2f}",
            percent(r.sparsity),
            r.left,
        ]
        for r in s.rows
    ]
    return Table(
        "Tensors",
        ["tensor", "shape", "format", "coder", "bytes", "bits a weight", "zeros", "left as it was, because"],
        rows,
    )


def _points(s: Summary) -> Table:
    rows = [
        [
            nbytes(p.nbytes),
            f"{s.float_bytes / p.nbytes:.1f}x",
            percent(p.value),
            points(-p.drop),
            "yes" if p.on_front else "",
            "chosen" if p.chosen else "",
        ]
        for p in s.points
    ]
    about = f"Allocations that were encoded, weighed and measured; {s.primary} on validation, where choices are made."
    return Table("Front", ["file", "ratio", s.primary, "points", "on the front", ""], rows, about)


def _sensitivity(s: Summary) -> Table:
    options = list(dict.fromkeys(cell.option for cell in s.sensitivity))
    cells = {(c.tensor, c.option): c for c in s.sensitivity}
    tensors = list(dict.fromkeys(cell.tensor for cell in s.sensitivity))
    rows = [[t, *(f"{cells[t, o].loss:+.4f}" if (t, o) in cells else "-" for o in options)] for t in tensors]
    return Table(
        "Sensitivity",
        ["tensor", *options],
        rows,
        "Loss added on validation by one tensor under one option, alone.",
    )


def _stages(s: Summary) -> Table:
    rows = [
        [x.step, ", ".join(f"{k} = {_option(v)}" for k, v in x.options.items()), f"{x.seconds:.1f}"]
        for x in s.stages
    ]
    return Table("Steps", ["step", "options", "seconds"], rows)


def _option(value: object) -> str:
    """Return an option's value; a format, coder or method as its name and options."""
    return " ".join(map(str, value.values())) if isinstance(value, dict) else str(value)


def _notes(s: Summary) -> Table:
    return Table(
        "Skipped, thawed, chosen", ["what", "name", "why"], [[n.kind, n.name, n.reason] for n in s.notes]
    )


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
        else "The file holds no graph (see below): the reloaded weights were measured in torch."
    )
    return [
        f"Task {s.task}, seed {s.seed}, {s.threads} thread(s); data and network {s.fingerprint[:16]}.",
        f"Test figures are of the reloaded file, computed once by {s.runtime}; settings were chosen on validation.",
        *([_paired(s.paired)] if s.paired else []),
        parity,
        f"SHA-256 of the file: {s.sha256}.",
        "Environment: " + ", ".join(f"{k} {v}" for k, v in s.environment.items()) + ".",
        f"Again: featherweight compress recipe.toml --task {s.task} --seed {s.seed} --threads {s.threads} -o DIR",
    ]
