"""Settings of a network side by side: what each came to over its seeds, their rows, and goals checked on test."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from featherweight.delivery.summary import Summary
from featherweight.evaluation.paired_test import Paired, pooled
from featherweight.events import Events
from featherweight.formats import Float
from featherweight.packing import unpack
from featherweight.recipe import Recipe
from featherweight.search import Compressed, compress
from featherweight.task import Needs, Task
from featherweight.techniques import AnyStep, Encode, Finetune, Train
from reproduce.results import Check, Paper, Row, mean_spread

Steps = list[AnyStep]
REST = Encode(where=["*", "!weights"], format=Float("float16"))
ORDER: tuple[Needs, ...] = ("none", "unlabelled", "labelled")


@dataclass(frozen=True)
class Setting:
    """One way to compress.

    Attributes:
        method: what it is called, in the table and in the plot.
        setting: its options, in words.
        steps: what is done; "auto": formats are chosen within `max_drop`.
        max_drop: points that "auto" may lose on validation.
    """

    method: str
    setting: str
    steps: Sequence[AnyStep] | Literal["auto"]
    max_drop: float | None = field(default=None, kw_only=True)

    @property
    def retrained(self) -> bool:
        """Whether the compressed network is trained."""
        return any(isinstance(step, Finetune) for step in self.steps)

    @property
    def needs(self) -> Needs:
        """The most that a step needs of the data, beside the training of the float network."""
        needs = [step.needs for step in self.steps if not isinstance(step, str | Train)]
        return max(needs, key=ORDER.index, default="none")


@dataclass(frozen=True)
class Outcome:
    """What one setting came to on one network, seed by seed."""

    network: str
    data: str
    setting: Setting
    files: Sequence[Compressed]

    @property
    def summaries(self) -> list[Summary]:
        """Report of each file."""
        return [file.summary for file in self.files]

    @property
    def change(self) -> float:
        """Mean change of the primary metric on validation, in points."""
        changes = [s.validation[s.primary] - s.baseline["validation"][s.primary] for s in self.summaries]
        return 100 * mean_spread(changes)[0]

    @property
    def accuracy(self) -> tuple[float, float]:
        """Mean and spread of the primary metric on test, as fractions."""
        return mean_spread([s.test[s.primary] for s in self.summaries])

    @property
    def nbytes(self) -> float:
        """Mean bytes of the whole files."""
        return mean_spread([s.file_bytes for s in self.summaries])[0]

    @property
    def ratio(self) -> float:
        """4 bytes a parameter over the mean bytes of the whole files."""
        return self.summaries[0].float_bytes / self.nbytes

    @property
    def paired(self) -> Paired | None:
        """Files against float networks, sample by sample on test, over all seeds; None if not compared."""
        compared = [s.paired for s in self.summaries if s.paired]
        return pooled(compared) if compared else None


def measured(
    network: str, task: Task, settings: Iterable[Setting], seeds: Sequence[int], threads: int, events: Events
) -> list[Outcome]:
    """Return what each setting came to.

    Args:
        network: its name in the table.
        task: its task.
        settings: one outcome each.
        seeds: one file each.
        threads: compute threads.
        events: where progress goes.
    """

    def file(setting: Setting, seed: int) -> Compressed:
        recipe = "auto" if setting.steps == "auto" else Recipe(cast(Steps, list(setting.steps)))
        return compress(task, recipe, max_drop=setting.max_drop, seed=seed, threads=threads, events=events)

    data = getattr(task, "dataset", task.name)
    return [Outcome(network, data, one, [file(one, seed) for seed in seeds]) for one in settings]


def row(outcome: Outcome, exempt: str, paper: Paper | None = None) -> Row:
    """Return the line of an outcome."""
    accuracy, spread = outcome.accuracy
    return Row(
        network=outcome.network,
        data=outcome.data,
        method=outcome.setting.method,
        setting=outcome.setting.setting,
        seeds=[s.seed for s in outcome.summaries],
        accuracy=accuracy,
        spread=spread,
        baseline=mean_spread([s.baseline["test"][s.primary] for s in outcome.summaries])[0],
        nbytes=outcome.nbytes,
        ratio=outcome.ratio,
        exempt=exempt,
        paired=outcome.paired,
        paper=paper,
    )


def parity(outcomes: Iterable[Outcome]) -> Check:
    """Return whether the runtime computed what the decoded modules do."""
    worst = max(s.difference or 0.0 for outcome in outcomes for s in outcome.summaries)
    return Check("runtime equals decoded module", "1e-5 of the output's scale", f"{worst:.1e}", worst <= 1e-5)


@dataclass(frozen=True)
class Demand:
    """What is asked: the smallest file that loses no more than so many points on validation.

    Attributes:
        about: in words.
        retrained: whether training is allowed.
        most_drop: in points.
        goal: the ratio that is sought.
        paper: the published figure.
    """

    about: str
    retrained: bool
    most_drop: float
    goal: float
    paper: str


def smallest(outcomes: Sequence[Outcome], demand: Demand) -> Outcome | None:
    """Return the outcome of greatest ratio that keeps a demand on validation."""
    kept = [
        outcome
        for outcome in outcomes
        if outcome.change >= -demand.most_drop - 1e-9 and (demand.retrained or not outcome.setting.retrained)
    ]
    return max(kept, key=lambda outcome: outcome.ratio, default=None)


def check(name: str, outcomes: Sequence[Outcome], demand: Demand) -> Check:
    """Return whether the file chosen for a demand reaches its ratio, and keeps the demand on test."""
    best = smallest(outcomes, demand)
    goal = f"{demand.goal:g}x at -{demand.most_drop:g} points ({demand.paper})"
    together = best.paired if best else None
    if best is None or together is None:
        return Check(f"{name}, {demand.about}", goal, "no setting keeps it on validation", False)
    change = 100 * together.difference
    setting = f"{best.setting.method}, {best.setting.setting}"
    found = f"{best.ratio:.1f}x, {change:+.2f} points on test, p = {together.p:.2g}: {setting}"
    holds = best.ratio >= demand.goal and change >= -demand.most_drop - 1e-9
    return Check(f"{name}, {demand.about}", goal, found, holds)


def spent(module: nn.Module, example: Any) -> tuple[int, int]:
    """Return the multiply-accumulates of a network on one sample of `example`, and its parameters."""
    with torch.no_grad(), FlopCounterMode(display=False) as flops:
        module.eval()(example)
    return flops.get_total_flops() // 2 // len(example), sum(
        parameter.numel() for parameter in module.parameters()
    )


def left(file: Compressed, task: Task) -> tuple[int, int]:
    """Return what a file's network has `spent` on a sample of the task."""
    return spent(unpack(file.artifact, task).module, task.example())
