"""The result of a compression as plain data: `report.json` is this, the other reports are drawn from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from featherweight.artifact import Row as Line
from featherweight.evaluation.paired_test import Paired
from featherweight.model import Note

GIVEN = "given"


class Row(msgspec.Struct, frozen=True):
    """One tensor of the file.

    Attributes:
        name: canonical name.
        shape: of the tensor.
        format: format and options, or the type of a tensor left as it was.
        coder: how its symbols became bytes; empty for a tensor left as it was.
        nbytes: bytes in the file, its line in the index aside.
        bits: bits an element.
        sparsity: fraction of elements that are exactly 0.
        left: why it was left as it was; empty if it was encoded.
    """

    name: str
    shape: list[int]
    format: str
    coder: str
    nbytes: int
    bits: float
    sparsity: float
    left: str = ""


class Stage(msgspec.Struct, frozen=True):
    """One step of the recipe, as it ran.

    Attributes:
        step: its name, or `given`: the network before all steps.
        options: of the step.
        seconds: how long it took, now or when it was first made.
        cached: whether it came out of the store.
        nbytes: bytes of the whole file, had the recipe ended here.
        metrics: on validation after it; empty where they are no finite numbers.
    """

    step: str
    options: dict[str, Any]
    seconds: float
    cached: bool
    nbytes: int
    metrics: dict[str, float]


class Point(msgspec.Struct, frozen=True):
    """One verified allocation: whole-file bytes, and the primary metric on validation.

    Attributes:
        nbytes: of the whole file.
        value: the metric.
        drop: what it lost against the float network (fraction).
        error: standard error of the drop; 0 where the task cannot tell.
        on_front: whether no other beats it in bytes and metric.
        chosen: whether it is the one in the file.
        formats: option of each tensor.
    """

    nbytes: int
    value: float
    drop: float
    error: float
    on_front: bool
    chosen: bool
    formats: dict[str, str]


class Sensed(msgspec.Struct, frozen=True):
    """One tensor under one option, alone."""

    tensor: str
    option: str
    nbytes: int
    loss: float


class Searched(msgspec.Struct, frozen=True):
    """What a search saw on its way to a recipe; empty for a recipe that was given.

    Attributes:
        points: verified allocations, smallest file first.
        sensitivity: the table behind them.
        notes: tensors and options that could not be tried.
        floats: tensors for which float was chosen.
    """

    points: list[Point] = []
    sensitivity: list[Sensed] = []
    notes: list[Note] = []
    floats: list[str] = []


class Summary(msgspec.Struct, frozen=True):
    """The report as data.

    Attributes:
        task: its name.
        fingerprint: hash of network, data and loss.
        primary: the metric that counts.
        parameters: elements of the float network, tied ones once.
        float_bytes: 4 bytes a parameter: what ratios are counted against.
        file_bytes: bytes of the written file, whole.
        weight_bytes: of these, the coded tensors.
        overhead: header, graph and what else the file holds, by kind.
        ratio: float_bytes / file_bytes.
        sha256: hash of the file.
        baseline: metrics of the float network by split, `test` and `validation`.
        test: metrics of the reloaded file on test, computed by `runtime`.
        paired: these against the float network, sample by sample; None if the task does not know the metric of each.
        validation: metrics of the decoded network on validation.
        runtime: what ran the file.
        difference: largest difference between runtime and decoded module on the example, relative; None without graph.
        rows: the tensors.
        stages: the float network, and then each step.
        notes: what was skipped, thawed or chosen.
        points: verified allocations (search only).
        sensitivity: the table behind them (search only).
        recipe: TOML of the steps that made the file.
        seed: of everything random.
        threads: compute threads.
        environment: what decides the bytes, and the machine.
        seconds: wall time of the whole.
    """

    task: str
    fingerprint: str
    primary: str
    parameters: int
    float_bytes: int
    file_bytes: int
    weight_bytes: int
    overhead: dict[str, int]
    ratio: float
    sha256: str
    baseline: dict[str, dict[str, float]]
    test: dict[str, float]
    paired: Paired | None
    validation: dict[str, float]
    runtime: str
    difference: float | None
    rows: list[Row]
    stages: list[Stage]
    notes: list[Note]
    points: list[Point]
    sensitivity: list[Sensed]
    recipe: str
    seed: int
    threads: int
    environment: dict[str, str]
    seconds: float

    def __str__(self) -> str:
        """Return the file's bytes, ratio and primary metric."""
        return (
            f"{self.task}: {self.file_bytes:,} bytes, {self.ratio:.1f}x smaller; "
            f"{self.primary} on test {self.test[self.primary]:.4f}, float {self.baseline['test'][self.primary]:.4f}"
        )

    def __repr__(self) -> str:
        return f"Summary({self})"


def rows_of(lines: Sequence[Line], notes: Sequence[Note], floats: Sequence[str]) -> list[Row]:
    """Return a row for each line of a file's index, with the reason why its tensor was left as it was.

    A note of the model tells it; of `floats`, a search chose float for them.
    """
    said = {note.name: f"{note.kind}: {note.reason}" for note in notes if note.kind != "chose"}
    said.update(dict.fromkeys(floats, "the search chose float for it"))
    return [
        Row(
            name=line.name, shape=list(line.shape), format=line.label, coder=line.coder, nbytes=line.nbytes,
            bits=line.bits_per_weight, sparsity=line.sparsity,
            left="" if line.coder else said.get(line.name) or _reason(line.shape, line.options["dtype"]),
        )
        for line in lines
    ]  # fmt: skip


def _reason(shape: Sequence[int], dtype: str) -> str:
    if not dtype.startswith(("f", "bf")):
        return "not of floating point"
    return "no step selected it" + " (a vector: bias, scale or statistic)" * (len(shape) < 2)
