"""What the results on ASTC share: footprints by allocation, and the signal to noise of single layers' outputs."""

from __future__ import annotations

from collections.abc import Sequence
from math import log10
from typing import Any

import torch
from msgspec.structs import replace
from torch import Tensor, nn

from featherweight.events import Events
from featherweight.formats import AnyFormat, Astc
from featherweight.formats.astc.tables import Footprint
from featherweight.model import Model
from featherweight.search.allocation import allocate, damages
from featherweight.search.sensitivity import Sensitivity
from featherweight.task import Task
from featherweight.techniques import AnyStep, Context, Encode, Gptq, Reorder
from reproduce.results import Cell, Check, Sheet, mean_spread
from reproduce.settings import Outcome

ARM, FED = "Arm's -thorough", "error feedback"
# In dB, by footprint and method.
Alone = dict[Footprint, dict[str, float]]


def blocks(footprint: Footprint) -> Astc:
    """Return blocks with one range a tensor."""
    return Astc(footprint=footprint, per="tensor")


def footprints(formats: dict[str, AnyFormat]) -> str:
    """Return the footprints of the tensors, in words."""
    return ", ".join(
        f"{name.removesuffix('.weight')} {format_.footprint}"
        for name, format_ in formats.items()
        if isinstance(format_, Astc)
    )


def astc(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return those in blocks: checks are of these, whatever scalar formats reach."""
    return [outcome for outcome in outcomes if outcome.setting.method.startswith("ASTC")]


def allocated(table: Sensitivity, ratio: float) -> dict[str, AnyFormat]:
    """Return the format of each tensor of least predicted loss at a ratio of the tensors alone."""
    rows = table.rows
    floats = sum(cell.nbytes for row in rows for cell in row if cell.option.format is None)
    coded = [[cell for cell in row if cell.option.format is not None] for row in rows]
    sizes = [[cell.nbytes for cell in row] for row in coded]
    chosen = allocate([damages(row) for row in coded], sizes, floats / ratio)
    if chosen is None:
        chosen = [row.index(min(row)) for row in sizes]
    picked = [row[i] for row, i in zip(coded, chosen, strict=True)]
    return {cell.tensor: cell.option.format for cell in picked if cell.option.format is not None}


def costs(outcomes: Sequence[Outcome]) -> Sheet:
    """Return what re-trained settings took, beside what validation says of them."""
    lines: list[list[Cell]] = []
    for outcome in outcomes:
        if outcome.setting.retrained:
            last = [[s for s in summary.stages if s.step == "finetune"][-1] for summary in outcome.summaries]
            seconds = mean_spread([stage.seconds for stage in last])[0]
            lines.append(
                [outcome.network, outcome.data, outcome.setting.method, outcome.setting.setting,
                 f"{outcome.change:+.2f}", round(seconds)]
            )  # fmt: skip
    return Sheet(
        "Re-training", ["network", "data", "method", "setting", "validation, change", "seconds"], lines
    )


def ratios(model: Model, task: Task, sweep: Gptq, footprints: Sequence[Footprint], events: Events) -> Alone:
    """Return `sqnr` of one layer by each method, on images of validation; nothing else is encoded.

    Args:
        model: the network.
        task: its calibration split is what feedback sees.
        sweep: feedback in the layer's weight, `layer.weight`.
        footprints: of blocks with one range.
        events: where progress goes.
    """
    context, where = Context(events=events), str(sweep.where)
    images = torch.cat([task.inputs(batch) for batch in task.batches("validation", seed=0, epoch=0)])
    ordered = Reorder().apply(model, task, context)
    found: Alone = {}
    for footprint in footprints:
        format_ = blocks(footprint)
        ways: dict[str, tuple[Model, AnyStep]] = {
            ARM: (model, Encode(where=where, format=replace(format_, preset="astcenc"))),
            "fast": (model, Encode(where=where, format=format_)),
            FED: (model, replace(sweep, format=format_)),
            f"{FED}, similar channels side by side": (ordered, replace(sweep, format=format_)),
        }
        found[footprint] = {
            way: sqnr(base.module, step.apply(base, task, context).module, images)[where.rpartition(".")[0]]
            for way, (base, step) in ways.items()
        }
    return found


def gains(found: Alone) -> list[Check]:
    """Return whether error feedback by itself is 10 dB above Arm's encoder."""
    gained = {footprint: ratios[FED] - ratios[ARM] for footprint, ratios in found.items()}
    name = "output signal to noise of a layer, error feedback over Arm's -thorough"
    return [
        Check(f"{name}, {footprint}", "10 dB", f"{gain:.1f} dB", gain >= 10)
        for footprint, gain in gained.items()
    ]


def lines_of(found: Alone, what: str) -> Sheet:
    """Return the ratios, a footprint a line."""
    lines: list[list[Cell]] = [
        [footprint, *(round(ratio, 1) for ratio in ratios.values())] for footprint, ratios in found.items()
    ]
    ways = next(iter(found.values()))
    return Sheet(f"{what}: signal to noise of its output on validation, dB", ["footprint", *ways], lines)


def sqnr(network: nn.Module, other: nn.Module, inputs: Tensor, batch: int = 25) -> dict[str, float]:
    """Return, in dB, the energy of each layer's outputs over that of the error with the other's weights.

    Every layer has the inputs that it has in `network`.
    """
    energy, error = dict[str, float](), dict[str, float]()
    others = dict(other.named_modules())

    def add(name: str) -> Any:
        def hook(layer: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
            energy[name] = energy.get(name, 0.0) + float(output.square().sum())
            missed = (others[name](*given) - output).square().sum()
            error[name] = error.get(name, 0.0) + float(missed)

        return hook

    hooks = [
        layer.register_forward_hook(add(name))
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    with torch.inference_mode():
        for start in range(0, len(inputs), batch):
            network(inputs[start : start + batch])
    for handle in hooks:
        handle.remove()
    return {name: 10 * log10(value / max(error[name], 1e-30 * value)) for name, value in energy.items()}
