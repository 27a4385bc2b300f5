"""The reproductions by name, and running one."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from featherweight.errors import ConfigError
from featherweight.events import Events
from featherweight.processors import usable_processors
from featherweight.progress import default_events
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
    prune_unlabelled,
    ptq_spectrum,
    sosp,
    squeezenet,
    weight_changes,
)
from reproduce.results import Measured, Results, write


@dataclass(frozen=True)
class Reproduction:
    """A published result: one line about it, and what measures it (`quick`, threads, events)."""

    about: str
    measure: Callable[[bool, int, Events], Measured]


REPRODUCTIONS = {
    "alexnet-astc": Reproduction(alexnet_astc.ABOUT, alexnet_astc.measure),
    "deep-compression": Reproduction(deep_compression.ABOUT, deep_compression.measure),
    "effnet-astc": Reproduction(effnet_astc.ABOUT, effnet_astc.measure),
    "expand-pruning": Reproduction(expand_pruning.ABOUT, expand_pruning.measure),
    "growth": Reproduction(growth.ABOUT, growth.measure),
    "lenet-astc": Reproduction(lenet_astc.ABOUT, lenet_astc.measure),
    "lenet-formats": Reproduction(lenet_formats.ABOUT, lenet_formats.measure),
    "low-rank": Reproduction(low_rank.ABOUT, low_rank.measure),
    "prune-unlabelled": Reproduction(prune_unlabelled.ABOUT, prune_unlabelled.measure),
    "ptq-spectrum": Reproduction(ptq_spectrum.ABOUT, ptq_spectrum.measure),
    "sosp": Reproduction(sosp.ABOUT, partial(sosp.measure, sosp.RESNET20)),
    "sosp-vgg16": Reproduction(sosp.ABOUT_VGG16, partial(sosp.measure, sosp.VGG16)),
    "squeezenet": Reproduction(squeezenet.ABOUT, squeezenet.measure),
    "weight-changes": Reproduction(weight_changes.ABOUT, weight_changes.measure),
}


def reproduce(
    name: str,
    folder: str | Path,
    *,
    quick: bool = False,
    threads: int | None = None,
    events: Events | None = None,
) -> Results:
    """Measure a published result again and write it into `folder`.

    Everything slow stands in the store, so that a killed reproduction goes on where it was.

    Raises:
        ConfigError: there is no reproduction of that name.
    """
    if name not in REPRODUCTIONS:
        raise ConfigError("no such reproduction", got=repr(name), expected=", ".join(REPRODUCTIONS))
    threads = threads or usable_processors()
    measured = REPRODUCTIONS[name].measure(quick, threads, events or default_events())
    results = Results(
        name=name,
        about=REPRODUCTIONS[name].about,
        command=f"python -m reproduce {name}" + (" --quick" if quick else "") + f" --threads {threads}",
        environment={**versions(), "python": platform.python_version(), "threads": str(threads)},
        rows=measured.rows,
        checks=measured.checks,
        plots=[plot.name for plot in measured.plots],
        remarks=measured.remarks,
        sheets=list(measured.sheets),
    )
    write(results, measured.plots, Path(folder))
    return results
