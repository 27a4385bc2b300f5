"""Baselines: weights of networks that come trained, as files of our own beside this one."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from pathlib import Path

from torch import nn

from featherweight.task.training import Training
from featherweight.techniques.load import fitting, read

FOLDER = Path(str(resources.files("featherweight.zoo") / "baselines"))
Build = Callable[[], nn.Module]


def start(task: str, build: Build, training: Training, *, trained: bool) -> tuple[Build, Training | None]:
    """Return what a task starts from: its baseline and no training, or `build` and `training`.

    Args:
        task: name of the task.
        build: makes the untrained network.
        training: how it is trained.
        trained: whether the baseline is wanted, if there is one.
    """
    file = FOLDER / f"{task}.fw"
    if not (trained and file.is_file()):
        return build, training

    def loaded() -> nn.Module:
        network = build()
        tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
        network.load_state_dict(fitting(read(file), tensors, str(file)), strict=False)
        return network.eval()

    return loaded, None
