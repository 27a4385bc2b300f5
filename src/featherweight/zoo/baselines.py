"""Baselines: weights of networks that come trained, as `.fw` files in the folder `baselines` of the repository.

They are not in the wheel. A checkout reads them where they are; an installed package looks for them in the cache
folder, and says what to copy there. Either way the SHA-256 decides whether it is the right file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import nn

from featherweight.data.fetch import sha256
from featherweight.errors import TaskError
from featherweight.files import cache_dir
from featherweight.model import Model
from featherweight.task.training import Training
from featherweight.weights import fitting, read

CHECKOUT = Path(__file__).parents[3] / "baselines"
Build = Callable[[], nn.Module]

# Task to the SHA-256 of its baseline, `TASK.fw`.
BASELINES = {
    "alexnet-cifar10": "e7a2804cc9787c3faa2c02f6f75013021cf07f7ccb19d4050008d534c8137bcd",
    "lenet5-mnist": "a8ca79de07246e18ae7ec9317a3037d439db4b34e38182506d0a601d43841dd8",
    "mobilenetv2-cifar10": "7dfe3eb33944b9d71c85ec82ad26e3204aff6365551ba20a24af48e836d26b8b",
    "resnet20-cifar10": "14b1b895598ea44ddd7ec5da09546d1dcee0c87b5ea89f059607852e5a40d7aa",
    "squeezenet-cifar10": "4bbddb688e959eccfa8ed91d48de820bb07ecca15f26044c16318995f98620fd",
    "vgg16-cifar10": "444b19a82d057893b993fb94c5f41e9253e998c8d397b9ac30fa707e378662d0",
}


def start(task: str, build: Build, training: Training, *, trained: bool) -> tuple[Build, Training | None]:
    """Return what a task starts from: its baseline, without training, where that is known and wanted; else as given."""
    if not trained or task not in BASELINES:
        return build, training
    file, known = located(task), BASELINES[task]

    def loaded() -> nn.Module:
        network = build()
        network.load_state_dict(fitting(read(file, known), Model.of(network), str(file)), strict=False)
        return network.eval()

    return loaded, None


def located(task: str) -> Path:
    """Return the file of a task's baseline; without it an error says what to copy where."""
    name, cached = f"{task}.fw", cache_dir() / "baselines"
    places = [CHECKOUT / name, cached / name]
    for place in places:
        if sha256(place) == BASELINES[task]:
            return place
    got = ", ".join(f"{place} ({'another file' if place.is_file() else 'absent'})" for place in places)
    hint = f"copy baselines/{name} of featherweight's repository into {cached}; or start untrained"
    what, expected = "its trained weights are not here", f"SHA-256 {BASELINES[task]}"
    raise TaskError(what, where=task, got=got, expected=expected, hint=f"{hint} (--untrained)")
