"""The reproductions by name, and running one."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import msgspec

from featherweight.errors import ConfigError
from featherweight.events import Events, default_events
from featherweight.processors import usable_processors
from featherweight.workspace import versions
from reproduce import (
    alexnet_astc,
    deep_compression,
    effnet_astc,
    expand_pruning,
    growth,
    lenet_astc,
    lenet_formats,
    low_rank,
    outputs,
    prune_unlabelled,
    ptq_kd,
    ptq_spectrum,
    qat,
    real_networks,
    scaling,
    sosp,
    squeezenet,
    stochastic_rounding,
    training_cost,
    transformers,
    weight_changes,
)
from reproduce.results import Measured, Plot, Results, Row, write

QUICK = "Quick form: its figures are not results."


@dataclass(frozen=True)
class Reproduction:
    """A published result.

    Attributes:
        about: one line.
        remarks: what a reader must know.
        measure: takes `quick`, threads and events, and `price` where it tells of dollars.
        plot: draws the rows, if there are any.
    """

    about: str
    remarks: list[str]
    measure: Callable[..., Measured]
    plot: Callable[[Sequence[Row]], Plot] | None = None


def _of(module: Any) -> Reproduction:
    return Reproduction(module.ABOUT, module.REMARKS, module.measure, getattr(module, "plot", None))


REPRODUCTIONS = {
    "alexnet-astc": _of(alexnet_astc),
    "deep-compression": _of(deep_compression),
    "effnet-astc": _of(effnet_astc),
    "expand-pruning": _of(expand_pruning),
    "growth": _of(growth),
    "lenet-astc": _of(lenet_astc),
    "lenet-formats": _of(lenet_formats),
    "low-rank": _of(low_rank),
    "outputs": _of(outputs),
    "prune-unlabelled": _of(prune_unlabelled),
    "ptq-kd": _of(ptq_kd),
    "ptq-spectrum": _of(ptq_spectrum),
    "qat": _of(qat),
    "real-networks": _of(real_networks),
    "scaling": _of(scaling),
    "sosp": Reproduction(sosp.ABOUT, sosp.REMARKS, partial(sosp.measure, sosp.RESNET20), sosp.plot),
    "sosp-vgg16": Reproduction(sosp.ABOUT_VGG16, sosp.REMARKS, partial(sosp.measure, sosp.VGG16), sosp.plot),
    "squeezenet": _of(squeezenet),
    "stochastic-rounding": _of(stochastic_rounding),
    "training-cost": _of(training_cost),
    "transformers": _of(transformers),
    "weight-changes": _of(weight_changes),
}


def reproduce(
    name: str,
    folder: str | Path,
    *,
    quick: bool = False,
    threads: int | None = None,
    events: Events | None = None,
    price: float | None = None,
) -> Results:
    """Measure a published result again and write it into `folder`.

    Everything slow is kept in the store: an interrupted reproduction resumes where it was.

    Args:
        name: one of `REPRODUCTIONS`.
        folder: gets `results.json`, the plots and `README.md`.
        quick: a small version of the same run, for tests.
        threads: compute threads; by default all processors.
        events: where progress goes.
        price: dollars that an hour of this machine costs, where inferences a dollar are told.

    Raises:
        ConfigError: there is no reproduction of that name; or it tells nothing of dollars.
    """
    chosen = _named(name)
    priced = "price" in signature(chosen.measure).parameters
    if price is not None and not priced:
        raise ConfigError("tells nothing of dollars", where=name, got=f"a price of {price:g}")
    threads = threads or usable_processors()
    given = {"price": price} if priced else {}
    measured = chosen.measure(quick, threads, events or default_events(), **given)
    drawn = [chosen.plot(measured.rows)] if chosen.plot else []
    plots = [*drawn, *measured.plots]
    results = Results(
        name=name,
        about=chosen.about,
        command=f"python -m reproduce {name}"
        + (" --quick" if quick else "")
        + f" --threads {threads}"
        + (f" --price {price:g}" if price is not None else ""),
        environment={**versions(), "python": platform.python_version(), "threads": str(threads)},
        rows=measured.rows,
        checks=measured.checks,
        plots=[plot.name for plot in plots],
        remarks=[*chosen.remarks, *([QUICK] if quick else [])],
        sheets=list(measured.sheets),
    )
    write(results, plots, Path(folder))
    return results


def redraw(name: str, folder: str | Path) -> Results:
    """Write the page and the plot of a result again, from the figures in its `results.json`.

    Raises:
        ConfigError: there is no reproduction of that name.
    """
    draw = _named(name).plot
    results = msgspec.json.decode((Path(folder) / "results.json").read_bytes(), type=Results)
    plots = [draw(results.rows)] if draw else []
    if plots:
        results = msgspec.structs.replace(results, plots=[plot.name for plot in plots])
    write(results, plots, Path(folder))
    return results


def _named(name: str) -> Reproduction:
    if name not in REPRODUCTIONS:
        raise ConfigError("no such reproduction", got=repr(name), expected=", ".join(REPRODUCTIONS))
    return REPRODUCTIONS[name]
