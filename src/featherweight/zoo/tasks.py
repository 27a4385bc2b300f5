"""Tasks by name, and a user's own by `FILE.py:name` or `module:name`."""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from featherweight.errors import TaskError
from featherweight.events import Events, silent
from featherweight.task import Task
from featherweight.task.failures import failures
from featherweight.zoo import builders


@dataclass(frozen=True)
class Named:
    """A task of the zoo.

    Attributes:
        about: one line for a list.
        build: makes the task, with its baseline if that is asked for and there is one; reads or fetches its data.
    """

    about: str
    build: Callable[[Events, bool], Task]


LENETS = {
    "lenet300": "LeNet-300-100, 266,610 parameters",
    "lenet5": "LeNet-5 (Caffe's), 431,080 parameters",
    "lenet": "LeNet (5x5x32, 5x5x64, 3136-512-10), 1,663,370 parameters",
}
ON_CIFAR = {
    "resnet20": "ResNet-20, 269,722 parameters",
    "resnet32": "ResNet-32, 464,154 parameters",
    "resnet44": "ResNet-44, 658,586 parameters",
    "resnet56": "ResNet-56, 853,018 parameters",
    "vgg16": "VGG-16 with batch norm, 14,724,042 parameters",
    "alexnet": "AlexNet, 23,272,266 parameters",
    "squeezenet": "SqueezeNet 1.1 with batch norm, 730,570 parameters",
    "resnet18": "ResNet-18, 11,173,962 parameters",
    "mobilenetv2": "MobileNetV2, 2,236,682 parameters",
    "densenet40": "DenseNet-40 (growth 12), 1,019,722 parameters",
}
GREY = {"mnist": "MNIST", "fashion": "Fashion-MNIST"}

TASKS: dict[str, Named] = {
    f"{network}-{data}": Named(f"{about}, on {images}", partial(builders.mnist, network, data))
    for data, images in GREY.items()
    for network, about in LENETS.items()
}
TASKS |= {
    f"{network}-cifar10": Named(f"{about}, on CIFAR-10", partial(builders.cifar10, network))
    for network, about in ON_CIFAR.items()
}
TASKS["resnet-digits"] = Named(
    "ResNet-18 of width 16, 701,178 parameters, on scikit-learn's digits", builders.digits
)
TASKS["efficientnet-lite0-imagenet"] = Named(
    "EfficientNet-Lite0, pretrained, 4,652,008 parameters, on images of your own", builders.imagenet
)


def resolve(reference: str, events: Events = silent, *, trained: bool = True) -> Task:
    """Return the task that `reference` names.

    Args:
        reference: a name of `TASKS`; or `FILE.py:name` or `module:name`, where `name` is a task or a function
            without arguments that returns one. A file is run afresh at each call, with its folder on the
            import path.
        events: where progress goes, if data have to be fetched.
        trained: whether a task of the zoo comes with its baseline, where there is one, or untrained.

    Raises:
        TaskError: there is no such task, its file fails, or it is not a task; near names are listed.
    """
    place, colon, name = reference.rpartition(":")
    if not colon:
        if reference in TASKS:
            return TASKS[reference].build(events, trained)
        if reference.endswith(".py"):
            names = defined_in(Path(reference))
            raise TaskError(
                "a file without the name of a task in it",
                got=reference,
                expected=f"{reference}:NAME",
                hint=f"it defines {', '.join(names)}" if names else "",
            )
        raise TaskError(
            "no such task",
            got=repr(reference),
            hint=near(reference, list(TASKS), "or FILE.py:name, or module:name"),
        )
    with importing(Path(place).parent if place.endswith(".py") else Path.cwd()):
        module = load_file(Path(place)) if place.endswith(".py") else load_module(place)
        if not hasattr(module, name):
            public = [found for found in vars(module) if not found.startswith("_")]
            raise TaskError("no such name", where=place, got=repr(name), hint=near(name, public))
        return as_task(getattr(module, name), reference)


def defined_in(path: Path) -> list[str]:
    """Return the functions and values that a Python file defines at its top, without running it.

    Raises:
        TaskError: there is no such file, or it is no Python.
    """
    if not path.is_file():
        raise TaskError("no such file", where=str(path))
    with failures(str(path)):
        lines = ast.parse(path.read_text(encoding="utf-8")).body
    names = [line.name for line in lines if isinstance(line, ast.FunctionDef)]
    targets = [target for line in lines if isinstance(line, ast.Assign) for target in line.targets]
    names += [target.id for target in targets if isinstance(target, ast.Name)]
    return [name for name in names if not name.startswith("_")]


def as_task(found: Any, reference: str) -> Task:
    """Return a task, or what a function without arguments returns if that is one.

    Raises:
        TaskError: neither; lists what a task would have and this does not.
    """
    if lacks(found) and callable(found):
        with failures(reference):
            found = found()
    if missing := lacks(found):
        raise TaskError(
            "not a task", where=reference, got=type(found).__name__, hint=f"it lacks {', '.join(missing)}"
        )
    task: Task = found
    return task


def lacks(found: Any) -> list[str]:
    """Return the names of the protocol that an object does not have; a class has none of them yet."""
    names = ["name", "primary", "model", "example", "batches", "inputs", "loss", "metrics", "fingerprint"]
    return [name for name in names if isinstance(found, type) or not hasattr(found, name)]


def load_file(path: Path) -> ModuleType:
    """Run a Python file as a module of its own.

    Raises:
        TaskError: there is no such file, or running it failed.
    """
    if not path.is_file():
        raise TaskError("no such file", where=str(path))
    whole, known = str(path.resolve()), sys.modules.get(path.stem)
    own = known is None or getattr(known, "__file__", None) == whole
    name = path.stem if own else f"{path.stem} (a task)"  # another module has the name
    spec = importlib.util.spec_from_file_location(name, whole)
    if spec is None or spec.loader is None:
        raise TaskError("not a Python file", where=str(path))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look up the module of their class
    with failures(str(path)):
        spec.loader.exec_module(module)
    return module


def load_module(name: str) -> ModuleType:
    """Import a module by name, from the working directory too.

    Raises:
        TaskError: there is no such module, or importing it failed.
    """
    with failures(name):
        return importlib.import_module(name)


@contextmanager
def importing(folder: Path) -> Iterator[None]:
    """Have `folder` first on the import path."""
    sys.path.insert(0, str(folder.resolve()))
    try:
        yield
    finally:
        sys.path.remove(str(folder.resolve()))


def near(name: str, names: list[str], more: str = "") -> str:
    """Return a hint of the names most like `name`, or of all if none is."""
    found = difflib.get_close_matches(name, names, n=3, cutoff=0.5) or names[:20]
    return f"did you mean {', '.join(found)} {more}".rstrip() + "?"
