"""Growth of published networks: parameters and multiply-accumulates over the years, counted from the zoo."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from featherweight.events import Events
from featherweight.zoo.alexnet import AlexNet, AlexNet32
from featherweight.zoo.densenet import DenseNet40
from featherweight.zoo.efficientnet_lite import EfficientNetLite0
from featherweight.zoo.lenet import LeNet5, LeNet300
from featherweight.zoo.mobilenet_v2 import mobilenet_v2, mobilenet_v2_32
from featherweight.zoo.resnet import (
    resnet18,
    resnet18_32,
    resnet20,
    resnet32,
    resnet44,
    resnet50,
    resnet56,
    resnet152,
)
from featherweight.zoo.squeezenet import SqueezeNet32, squeezenet1_0, squeezenet1_1
from featherweight.zoo.vgg import VGG16
from reproduce.figure import new_figure, svg
from reproduce.results import Cell, Check, Measured, Plot, Sheet
from reproduce.settings import spent

ABOUT = "Parameters and multiply-accumulates of published networks over the years, counted from the zoo."


@dataclass(frozen=True)
class Published:
    """Accuracy on ImageNet, one crop of 224 x 224, in percent, and where it stands."""

    top1: float
    top5: float | None
    source: str


@dataclass(frozen=True)
class Network:
    """A network of the zoo.

    Attributes:
        name: as papers call it.
        year: of its first publication.
        build: makes it.
        pixels: height and width of its images.
        channels: of its images.
    """

    name: str
    year: int
    build: Callable[[], nn.Module]
    pixels: int = 32
    channels: int = 3


@dataclass(frozen=True)
class Counted:
    """A network, its parameters, and its multiply-accumulates for one image."""

    network: Network
    parameters: int
    macs: int


def torchvision(top1: float, top5: float, weights: str) -> Published:
    """Return the accuracy that torchvision's documentation gives for its first weights of a network."""
    return Published(top1, top5, f"torchvision, {weights}_Weights.IMAGENET1K_V1")


IMAGENET = (
    Network("AlexNet", 2012, AlexNet, 224),
    Network("ResNet-18", 2015, resnet18, 224),
    Network("ResNet-50", 2015, resnet50, 224),
    Network("ResNet-152", 2015, resnet152, 224),
    Network("SqueezeNet 1.0", 2016, squeezenet1_0, 224),
    Network("SqueezeNet 1.1", 2016, squeezenet1_1, 224),
    Network("MobileNetV2", 2018, mobilenet_v2, 224),
    Network("EfficientNet-Lite0", 2020, EfficientNetLite0, 224),
)
PUBLISHED = {  # of the very forms of `IMAGENET`
    "AlexNet": torchvision(56.522, 79.066, "AlexNet"),
    "ResNet-18": torchvision(69.758, 89.078, "ResNet18"),
    "ResNet-50": torchvision(76.130, 92.862, "ResNet50"),
    "ResNet-152": torchvision(78.312, 94.046, "ResNet152"),
    "SqueezeNet 1.0": torchvision(58.092, 80.420, "SqueezeNet1_0"),
    "SqueezeNet 1.1": torchvision(58.178, 80.624, "SqueezeNet1_1"),
    "MobileNetV2": torchvision(71.878, 90.286, "MobileNet_V2"),
    "EfficientNet-Lite0": Published(75.1, None, "tensorflow/tpu, models/official/efficientnet/lite, README"),
}
SMALL = (
    Network("LeNet-300-100", 1998, LeNet300, 28, 1),
    Network("LeNet-5", 1998, LeNet5, 28, 1),
    Network("AlexNet", 2012, AlexNet32),
    Network("VGG-16", 2014, VGG16),
    Network("ResNet-20", 2015, resnet20),
    Network("ResNet-32", 2015, resnet32),
    Network("ResNet-44", 2015, resnet44),
    Network("ResNet-56", 2015, resnet56),
    Network("ResNet-18", 2015, resnet18_32),
    Network("SqueezeNet 1.1", 2016, SqueezeNet32),
    Network("DenseNet-40", 2016, DenseNet40),
    Network("MobileNetV2", 2018, mobilenet_v2_32),
)


REMARKS = [
    "One multiply-accumulate is a product and its sum, in convolutions and linear layers, for one image.",
    "Years are of the first publication; AlexNet is counted in its single-tower form of 2014.",
    "ResNet-50 and ResNet-152 have the stride in the 3x3 convolution, as torchvision has, not in the 1x1 before it.",
    "Forms for 32 x 32 pixels have ten classes, and are not in the papers of networks that are for ImageNet alone.",
    "EfficientNet-Lite's README says 407 M multiply-adds where this counts 385 M.",
]


def measure(quick: bool, threads: int, events: Events) -> Measured:
    """Count every network; the quick form is the same, as it takes seconds."""
    large, small = [count(network) for network in IMAGENET], [count(network) for network in SMALL]
    return Measured(
        rows=[],
        checks=[_growth(large)],
        sheets=[_large(large), _small(small)],
        plots=[_plot([*small[:2], *large])],
    )


def count(network: Network) -> Counted:
    """Return the counts of a network, made and run without memory for its numbers.

    >>> counted = count(SMALL[1])
    >>> counted.parameters, counted.macs
    (431080, 2293000)
    """
    with torch.device("meta"):
        image = torch.empty(1, network.channels, network.pixels, network.pixels)
        macs, parameters = spent(network.build(), image)
    return Counted(network, parameters, macs)


def _growth(counted: Sequence[Counted]) -> Check:
    macs = {c.network.name: c.macs for c in counted}
    small, large = macs["AlexNet"], macs["ResNet-152"]
    return Check(
        "AlexNet to ResNet-152, multiply-accumulates",
        "16x, to the nearest whole number",
        f"{large / 1e9:.2f} G / {small / 1e9:.3f} G = {large / small:.1f}x",
        round(large / small) == 16,
    )


def _large(counted: Sequence[Counted]) -> Sheet:
    head = ["year", "network", "parameters", "MACs", "bytes, float32", "top-1, %", "top-5, %", "source"]
    published = [PUBLISHED[c.network.name] for c in counted]
    rows = [[*_facts(c), p.top1, p.top5, p.source] for c, p in zip(counted, published, strict=True)]
    return Sheet("ImageNet, 224 x 224 pixels", head, rows)


def _small(counted: Sequence[Counted]) -> Sheet:
    head = ["year", "network", "parameters", "MACs", "bytes, float32", "pixels"]
    rows = [[*_facts(c), f"{c.network.pixels} x {c.network.pixels}"] for c in counted]
    return Sheet("MNIST and CIFAR-10, ten classes", head, rows)


def _facts(c: Counted) -> list[Cell]:
    return [str(c.network.year), c.network.name, c.parameters, c.macs, 4 * c.parameters]


LABELS = {
    "AlexNet": ((-6, -3), "right"),
    "SqueezeNet 1.1": ((-6, -3), "right"),
    "MobileNetV2": ((0, -12), "center"),
}


def _plot(counted: Sequence[Counted]) -> Plot:
    figure = new_figure(10.0, 4.6)
    years = [c.network.year for c in counted]
    names = [c.network.name for c in counted]
    kinds = {28: ("MNIST, 28 x 28", "none"), 224: ("ImageNet, 224 x 224", "full")}
    macs, parameters = [c.macs for c in counted], [c.parameters for c in counted]
    titles = ("multiply-accumulates of one image", "parameters")
    for axes, title, values in zip(figure.subplots(1, 2), titles, (macs, parameters), strict=True):
        for pixels, (label, fill) in kinds.items():
            here = [i for i, c in enumerate(counted) if c.network.pixels == pixels]
            x, y = [years[i] for i in here], [values[i] for i in here]
            axes.plot(x, y, "o", color="#2166ac", fillstyle=fill, label=label)
        for name, year, value in zip(names, years, values, strict=True):
            offset, side = LABELS.get(name, ((6, -3), "left"))
            axes.annotate(name, (year, value), offset, textcoords="offset points", ha=side, fontsize=8)
        ends = [names.index("AlexNet"), names.index("ResNet-152")]
        x, y = [years[i] for i in ends], [values[i] for i in ends]
        axes.plot(x, y, ":", color="#b2182b", label=f"AlexNet to ResNet-152: {y[1] / y[0]:.1f}x")
        axes.set_yscale("log")
        axes.set_xlim(1996, 2028)
        axes.set_title(title)
        axes.set_xlabel("year of publication")
        axes.grid(alpha=0.3, which="both")
        axes.legend(frameon=False, fontsize=8, loc="lower right")
    return Plot("growth.svg", svg(figure))
