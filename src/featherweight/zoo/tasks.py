"""Tasks by name (network, data, training), and a user's own by `FILE.py:name`. Only building one imports torch."""

from __future__ import annotations

import ast
import difflib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec.structs import replace

from featherweight.data.indexed import Indexed, Subset, held_out, permutation
from featherweight.errors import TaskError
from featherweight.events import Events, silent
from featherweight.files import cache_dir
from featherweight.task import Task
from featherweight.task.protocol import failures
from featherweight.task.training import Training

if TYPE_CHECKING:
    from featherweight.task.tasks import Classification

HELD_OUT = 5000
CLASSES = 1000


@dataclass(frozen=True)
class Network:
    """A network on data that it is trained on here.

    Attributes:
        about: name and number of parameters, for a list.
        build: where it is, `MODULE.NAME` in this folder.
        training: how it is trained.
        batch_size: samples in a batch.
    """

    about: str
    build: str
    training: Training
    batch_size: int = 128


def _adam(epochs: int, lr: float) -> Training:
    """Return the usual training on grey images."""
    return Training(epochs=epochs, optimizer="adamw", lr=lr, weight_decay=1e-2, warmup=0.1)


def _sgd(epochs: int, lr: float) -> Training:
    """Return the usual training on CIFAR-10; its products in bfloat16."""
    return Training(
        epochs=epochs, lr=lr, optimizer="nesterov", weight_decay=5e-4, warmup=0.1, precision="bfloat16"
    )


GREY = {"mnist": "MNIST", "fashion": "Fashion-MNIST"}
LENETS = {
    "lenet300": Network("LeNet-300-100, 266,610 parameters", "lenet.LeNet300", _adam(8, 2e-3)),
    "lenet5": Network("LeNet-5 (Caffe's), 431,080 parameters", "lenet.LeNet5", _adam(4, 2e-3)),
    "lenet": Network("LeNet (5x5x32, 5x5x64, 3136-512-10), 1,663,370 parameters", "lenet.LeNet", _adam(3, 1e-3)),
}  # fmt: skip
DIGITS = Network("ResNet-18 of width 16, 701,178 parameters", "resnet.resnet_digits", _adam(20, 2e-3), 64)
MOBILE, CLIPPED = replace(_sgd(12, 0.1), precision="float32"), replace(_sgd(7, 0.02), clip=5.0)
ON_CIFAR = {
    "resnet20": Network("ResNet-20, 269,722 parameters", "resnet.resnet20", _sgd(30, 0.1)),
    "resnet32": Network("ResNet-32, 464,154 parameters", "resnet.resnet32", _sgd(30, 0.1)),
    "resnet44": Network("ResNet-44, 658,586 parameters", "resnet.resnet44", _sgd(30, 0.1)),
    "resnet56": Network("ResNet-56, 853,018 parameters", "resnet.resnet56", _sgd(30, 0.1)),
    "vgg16": Network("VGG-16 with batch norm, 14,724,042 parameters", "vgg.VGG16", _sgd(6, 0.05)),
    "alexnet": Network("AlexNet, 23,272,266 parameters", "alexnet.AlexNet32", CLIPPED, 256),
    "squeezenet": Network(
        "SqueezeNet 1.1 with batch norm, 730,570 parameters", "squeezenet.SqueezeNet32", _sgd(14, 0.1)
    ),
    "resnet18": Network("ResNet-18, 11,173,962 parameters", "resnet.resnet18_32", _sgd(10, 0.1)),
    "mobilenetv2": Network("MobileNetV2, 2,236,682 parameters", "mobilenet_v2.mobilenet_v2_32", MOBILE),
    "densenet40": Network("DenseNet-40 (growth 12), 1,019,722 parameters", "densenet.DenseNet40", _sgd(14, 0.1)),
}  # fmt: skip


@dataclass(frozen=True)
class Named:
    """A task of the zoo.

    Attributes:
        about: one line for a list.
        build: makes the task, with its baseline if that is asked for and there is one; reads or fetches its data.
    """

    about: str
    build: Callable[[Events, bool], Classification]


def _classification(
    name: str, network: Network, parts: tuple[Indexed, Indexed, Indexed], trained: bool, **options: Any
) -> Classification:
    """Return a task that starts from its baseline or untrained; `parts` to train on, for validation, for the test."""
    from featherweight.task.tasks import Classification
    from featherweight.zoo.baselines import start

    module, _, attribute = network.build.partition(".")
    build = getattr(import_module(f"featherweight.zoo.{module}"), attribute)
    model, training = start(name, build, network.training, trained=trained)
    train, validation, test = parts
    return Classification(
        model, train=train, validation=validation, test=test, name=name, batch_size=network.batch_size,
        training=training, **options,
    )  # fmt: skip


def _grey(network: str, dataset: str, events: Events, trained: bool) -> Classification:
    """Return one of `LENETS` on `mnist` or `fashion`: 55,000, 5,000 and 10,000 images."""
    from featherweight.data.mnist import FASHION_MNIST, MNIST, load

    images, test = load({"mnist": MNIST, "fashion": FASHION_MNIST}[dataset], events)
    parts = *held_out(images, HELD_OUT), test
    return _classification(f"{network}-{dataset}", LENETS[network], parts, trained, dataset=GREY[dataset])


def _digits(events: Events, trained: bool) -> Classification:
    """Return ResNet-18 of width 16 on scikit-learn's digits: 1,000, 297 and 500 images."""
    from featherweight.data.digits import load, split

    return _classification("resnet-digits", DIGITS, split(load(events)), trained, dataset="digits")


def _cifar10(network: str, events: Events, trained: bool) -> Classification:
    """Return a network of `ON_CIFAR` on CIFAR-10: 45,000, 5,000 and 10,000 images."""
    from featherweight.data import cifar
    from featherweight.data.cifar import CropFlip

    data = cifar.load(events)
    parts = *held_out(data.train, min(HELD_OUT, len(data.train) // 10)), data.test
    augment = CropFlip(padding=4, channels_last=True)
    name = f"{network}-cifar10"
    return _classification(name, ON_CIFAR[network], parts, trained, dataset=data.edition, augment=augment)


def _imagenet(events: Events, trained: bool) -> Classification:
    """Return EfficientNet-Lite0 on the images in the folder `imagenet` of the cache; it is never trained here."""
    from featherweight.data.folder import ImageFiles, class_folders, classes_in, numbered_files
    from featherweight.task.tasks import Classification
    from featherweight.zoo.efficientnet_lite import NORMALISATION, EfficientNetLite0, pretrained

    def files(paths: tuple[Path, ...], labels: tuple[int, ...]) -> ImageFiles:
        return ImageFiles(paths, labels, size=224, normalise=NORMALISATION)

    folder = cache_dir() / "imagenet"
    if not folder.is_dir():
        hint = "put train/CLASS/*.jpg and val/CLASS/*.jpg there, or images named by class index (0042.jpg)"
        raise TaskError("no images", where=str(folder), hint=hint)
    if classes := classes_in(folder / "train"):
        if len(classes) != CLASSES:
            where, got = str(folder / "train"), len(classes)
            raise TaskError("not all classes of ImageNet", where=where, got=got, expected=CLASSES)
        train, validation = held_out(files(*class_folders(folder / "train", classes)), HELD_OUT)
        test: Indexed = files(*class_folders(folder / "val", classes))
        dataset = "ImageNet"
    else:
        images = files(*numbered_files(folder))
        ends = np.cumsum((1, 1, 2)) * len(images) // 4
        order = np.split(permutation(len(images), HELD_OUT), ends[:-1])
        train, validation, test = (Subset(images, np.sort(part)) for part in order)
        dataset = f"ImageNet ({len(images)} images of your own)"
    return Classification(
        (lambda: pretrained(events)) if trained else EfficientNetLite0, train=train, validation=validation,
        test=test, name="efficientnet-lite0-imagenet", dataset=dataset, batch_size=32,
    )  # fmt: skip


TASKS: dict[str, Named] = {
    f"{name}-{data}": Named(f"{network.about}, on {images}", partial(_grey, name, data))
    for data, images in GREY.items()
    for name, network in LENETS.items()
}
TASKS |= {
    f"{name}-cifar10": Named(f"{network.about}, on CIFAR-10", partial(_cifar10, name))
    for name, network in ON_CIFAR.items()
}
TASKS["resnet-digits"] = Named(f"{DIGITS.about}, on scikit-learn's digits", _digits)
TASKS["efficientnet-lite0-imagenet"] = Named(
    "EfficientNet-Lite0, pretrained, 4,652,008 parameters, on images of your own", _imagenet
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
            return _again(TASKS[reference].build(events, trained), reference, trained)
        if reference.endswith(".py"):
            names = ", ".join(defined_in(Path(reference)))
            what, hint = "a file without the name of a task in it", f"it defines {names}" if names else ""
            raise TaskError(what, got=reference, expected=f"{reference}:NAME", hint=hint)
        hint = near(reference, list(TASKS), "or FILE.py:name, or module:name")
        raise TaskError("no such task", got=repr(reference), hint=hint)
    path = Path(place)
    is_file = path.suffix == ".py"
    with importing(path.parent if is_file else Path.cwd()):
        with failures(place):
            module = load_file(path) if is_file else import_module(place)
        if not hasattr(module, name):
            public = defined_in(path) if is_file else [n for n in vars(module) if n[0] != "_"]
            raise TaskError("no such name", where=place, got=repr(name), hint=near(name, public))
        whole = f"{path.resolve()}:{name}" if is_file else reference
        return _again(as_task(getattr(module, name), reference), whole, trained)


def _again(task: Task, reference: str, trained: bool) -> Task:
    """Let a task say what makes it again, in a worker's process."""
    with suppress(AttributeError):  # it may be frozen
        task.again = partial(resolve, reference, trained=trained)  # type: ignore[attr-defined]
    return task


def defined_in(path: Path) -> list[str]:
    """Return the functions and values that a Python file defines at its top, without running it."""
    if not path.is_file():
        raise TaskError("no such file", where=str(path))
    with failures(str(path)):
        lines = ast.parse(path.read_text(encoding="utf-8")).body
    names = [line.name for line in lines if isinstance(line, ast.FunctionDef)]
    targets = [target for line in lines if isinstance(line, ast.Assign) for target in line.targets]
    names += [target.id for target in targets if isinstance(target, ast.Name)]
    return [name for name in names if not name.startswith("_")]


def as_task(found: Any, reference: str) -> Task:
    """Return a task, or what a function without arguments returns if that is one."""
    if lacks(found) and callable(found):
        with failures(reference):
            found = found()
    if missing := lacks(found):
        kind, hint = type(found).__name__, f"it lacks {', '.join(missing)}"
        raise TaskError("not a task", where=reference, got=kind, hint=hint)
    task: Task = found
    return task


def lacks(found: Any) -> list[str]:
    """Return the names of the protocol that an object does not have; a class has none of them yet."""
    names = ["name", "primary", "model", "example", "batches", "inputs", "loss", "metrics", "fingerprint"]
    return [name for name in names if isinstance(found, type) or not hasattr(found, name)]


def load_file(path: Path) -> ModuleType:
    """Run a Python file as a module of its own."""
    if not path.is_file():
        raise TaskError("no such file", where=str(path))
    whole, known = str(path.resolve()), sys.modules.get(path.stem)
    own = known is None or getattr(known, "__file__", None) == whole
    name = path.stem if own else f"{path.stem} (a task)"  # another module has the name
    spec = importlib.util.spec_from_file_location(name, whole)
    assert spec is not None and spec.loader is not None  # there is a loader for every name that ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look up the module of their class
    with failures(str(path)):
        spec.loader.exec_module(module)
    return module


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
