"""Build the named tasks: network, data, augmentation, training facts. Only building one imports torch."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from msgspec.structs import replace

from featherweight.data.indexed import Indexed, Subset
from featherweight.data.order import held_out, permutation
from featherweight.errors import TaskError
from featherweight.events import Events
from featherweight.files import cache_dir
from featherweight.task.training import Training

if TYPE_CHECKING:
    from featherweight.task.classification import Classification

HELD_OUT = 5000
CLASSES = 1000


def mnist(network: str, dataset: str, events: Events, trained: bool) -> Classification:
    """Return a LeNet (`lenet300`, `lenet5`, `lenet`) on `mnist` or `fashion`: 60,000 and 10,000 images."""
    from featherweight.data.mnist import FASHION_MNIST, MNIST, load
    from featherweight.task.classification import Classification
    from featherweight.zoo.baselines import start
    from featherweight.zoo.lenet import LeNet, LeNet5, LeNet300

    images, test = load({"mnist": MNIST, "fashion": FASHION_MNIST}[dataset], events)
    train, validation = held_out(images, HELD_OUT)
    name, build = f"{network}-{dataset}", {"lenet300": LeNet300, "lenet5": LeNet5, "lenet": LeNet}[network]
    model, training = start(name, build, LENET_TRAINING[network], trained=trained)
    return Classification(
        model,
        train=train,
        validation=validation,
        test=test,
        name=name,
        dataset={"mnist": "MNIST", "fashion": "Fashion-MNIST"}[dataset],
        batch_size=128,
        training=training,
    )


LENET_TRAINING = {
    "lenet300": Training(epochs=8, optimizer="adamw", lr=2e-3, weight_decay=1e-2, warmup=0.1),
    "lenet5": Training(epochs=4, optimizer="adamw", lr=2e-3, weight_decay=1e-2, warmup=0.1),
    "lenet": Training(epochs=3, optimizer="adamw", lr=1e-3, weight_decay=1e-2, warmup=0.1),
}


def digits(events: Events, trained: bool) -> Classification:
    """Return ResNet-18 of width 16 on scikit-learn's digits: 1,000, 297 and 500 images."""
    from featherweight.data.digits import load, split
    from featherweight.task.classification import Classification
    from featherweight.zoo.baselines import start
    from featherweight.zoo.resnet_digits import ResNetDigits

    train, validation, test = split(load(events))
    own = Training(epochs=20, optimizer="adamw", lr=2e-3, weight_decay=1e-2, warmup=0.1)
    model, training = start("resnet-digits", ResNetDigits, own, trained=trained)
    return Classification(
        model,
        train=train,
        validation=validation,
        test=test,
        name="resnet-digits",
        dataset="digits",
        batch_size=64,
        training=training,
    )


def cifar10(network: str, events: Events, trained: bool) -> Classification:
    """Return a network of `CIFAR_NETWORKS` on CIFAR-10: 45,000, 5,000 and 10,000 images."""
    from featherweight.data import cifar
    from featherweight.data.augment import CropFlip
    from featherweight.task.classification import Classification
    from featherweight.zoo.baselines import start

    data = cifar.load(events)
    train, validation = held_out(data.train, min(HELD_OUT, len(data.train) // 10))
    module, build, batch_size, training = CIFAR_NETWORKS[network]
    name = f"{network}-cifar10"
    model, own = start(
        name, getattr(import_module(f"featherweight.zoo.{module}"), build), training, trained=trained
    )
    return Classification(
        model,
        train=train,
        validation=validation,
        test=data.test,
        name=name,
        dataset=data.edition,
        batch_size=batch_size,
        augment=CropFlip(padding=4, channels_last=True),
        training=own,
    )


def _descent(epochs: int, lr: float) -> Training:
    """Return the usual training on CIFAR-10; its products in bfloat16."""
    return Training(
        epochs=epochs, lr=lr, optimizer="nesterov", weight_decay=5e-4, warmup=0.1, precision="bfloat16"
    )


CIFAR_NETWORKS = {  # module, class or function, batch size, training
    "resnet20": ("resnet_cifar", "resnet20", 128, _descent(30, 0.1)),
    "resnet32": ("resnet_cifar", "resnet32", 128, _descent(30, 0.1)),
    "resnet44": ("resnet_cifar", "resnet44", 128, _descent(30, 0.1)),
    "resnet56": ("resnet_cifar", "resnet56", 128, _descent(30, 0.1)),
    "vgg16": ("vgg", "VGG16", 128, _descent(6, 0.05)),
    "alexnet": ("alexnet", "AlexNet32", 256, replace(_descent(7, 0.02), clip=5.0)),
    "squeezenet": ("squeezenet", "SqueezeNet32", 128, _descent(14, 0.1)),
    "resnet18": ("resnet_imagenet", "resnet18_32", 128, _descent(10, 0.1)),
    "mobilenetv2": ("mobilenet_v2", "mobilenet_v2_32", 128, replace(_descent(12, 0.1), precision="float32")),
    "densenet40": ("densenet", "DenseNet40", 128, _descent(14, 0.1)),
}


def imagenet(events: Events, trained: bool) -> Classification:
    """Return EfficientNet-Lite0 on the images in the folder `imagenet` of the cache; it is never trained here."""
    from featherweight.data.folder import ImageFiles, class_folders, classes_in, numbered_files
    from featherweight.task.classification import Classification
    from featherweight.zoo.efficientnet_lite import NORMALISATION, EfficientNetLite0, pretrained

    def files(paths: tuple[Path, ...], labels: tuple[int, ...]) -> ImageFiles:
        return ImageFiles(paths, labels, size=224, normalise=NORMALISATION)

    folder = cache_dir() / "imagenet"
    if not folder.is_dir():
        raise TaskError(
            "no images",
            where=str(folder),
            hint="put train/CLASS/*.jpg and val/CLASS/*.jpg there, or images named by class index (0042.jpg)",
        )
    if classes := classes_in(folder / "train"):
        if len(classes) != CLASSES:
            raise TaskError(
                "not all classes of ImageNet", where=str(folder / "train"), got=len(classes), expected=CLASSES
            )
        train, validation = held_out(files(*class_folders(folder / "train", classes)), HELD_OUT)
        test: Indexed = files(*class_folders(folder / "val", classes))
        dataset = "ImageNet"
    else:
        images = files(*numbered_files(folder))
        train, validation, test = parts(images, (1, 1, 2))
        dataset = f"ImageNet ({len(images)} images of your own)"
    return Classification(
        (lambda: pretrained(events)) if trained else EfficientNetLite0,
        train=train,
        validation=validation,
        test=test,
        name="efficientnet-lite0-imagenet",
        dataset=dataset,
        batch_size=32,
    )


def parts(images: Indexed, shares: tuple[int, ...]) -> list[Subset]:
    """Return a fixed random division of `images` into parts in the proportion of `shares`."""
    ends = np.cumsum(shares) * len(images) // sum(shares)
    return [Subset(images, np.sort(part)) for part in np.split(permutation(len(images), HELD_OUT), ends[:-1])]
