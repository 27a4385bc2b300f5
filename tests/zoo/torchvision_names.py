"""Names and shapes of torchvision's parameters and buffers, written out from its published definitions."""

from collections.abc import Iterator
from itertools import pairwise

Named = Iterator[tuple[str, tuple[int, ...]]]


def layer(name: str, *shape: int, bias: bool = False) -> Named:
    yield f"{name}.weight", shape
    if bias:
        yield f"{name}.bias", shape[:1]


def norm(name: str, width: int) -> Named:
    for part in ("weight", "bias", "running_mean", "running_var"):
        yield f"{name}.{part}", (width,)
    yield f"{name}.num_batches_tracked", ()


def alexnet() -> Named:
    for number, shape in {0: (64, 3, 11, 11), 3: (192, 64, 5, 5), 6: (384, 192, 3, 3), 8: (256, 384, 3, 3),
                          10: (256, 256, 3, 3)}.items():  # fmt: skip
        yield from layer(f"features.{number}", *shape, bias=True)
    for number, shape in {1: (4096, 9216), 4: (4096, 4096), 6: (1000, 4096)}.items():
        yield from layer(f"classifier.{number}", *shape, bias=True)


def fire(name: str, width_in: int, squeeze: int, expand: int) -> Named:
    yield from layer(f"{name}.squeeze", squeeze, width_in, 1, 1, bias=True)
    yield from layer(f"{name}.expand1x1", expand, squeeze, 1, 1, bias=True)
    yield from layer(f"{name}.expand3x3", expand, squeeze, 3, 3, bias=True)


def squeezenet1_0() -> Named:
    yield from layer("features.0", 96, 3, 7, 7, bias=True)
    for number, widths in {3: (96, 16, 64), 4: (128, 16, 64), 5: (128, 32, 128), 7: (256, 32, 128),
                           8: (256, 48, 192), 9: (384, 48, 192), 10: (384, 64, 256),
                           12: (512, 64, 256)}.items():  # fmt: skip
        yield from fire(f"features.{number}", *widths)
    yield from layer("classifier.1", 1000, 512, 1, 1, bias=True)


def squeezenet1_1() -> Named:
    yield from layer("features.0", 64, 3, 3, 3, bias=True)
    for number, widths in {3: (64, 16, 64), 4: (128, 16, 64), 6: (128, 32, 128), 7: (256, 32, 128),
                           9: (256, 48, 192), 10: (384, 48, 192), 11: (384, 64, 256),
                           12: (512, 64, 256)}.items():  # fmt: skip
        yield from fire(f"features.{number}", *widths)
    yield from layer("classifier.1", 1000, 512, 1, 1, bias=True)


def resnet(blocks: tuple[int, ...], *, bottleneck: bool) -> Named:
    yield from layer("conv1", 64, 3, 7, 7)
    yield from norm("bn1", 64)
    width_in = 64
    for number, (width, count) in enumerate(zip((64, 128, 256, 512), blocks, strict=True), 1):
        wide = 4 * width if bottleneck else width
        for block in range(count):
            name = f"layer{number}.{block}"
            convolutions = (
                [(width, width_in, 1, 1), (width, width, 3, 3), (wide, width, 1, 1)]
                if bottleneck
                else [(width, width_in, 3, 3), (width, width, 3, 3)]
            )
            for index, shape in enumerate(convolutions, 1):
                yield from layer(f"{name}.conv{index}", *shape)
                yield from norm(f"{name}.bn{index}", shape[0])
            if block == 0 and (number > 1 or bottleneck):
                yield from layer(f"{name}.downsample.0", wide, width_in, 1, 1)
                yield from norm(f"{name}.downsample.1", wide)
            width_in = wide
    yield from layer("fc", 1000, width_in, bias=True)


def mobilenet_v2() -> Named:
    yield from layer("features.0.0", 32, 3, 3, 3)
    yield from norm("features.0.1", 32)
    yield from layer("features.1.conv.0.0", 32, 1, 3, 3)  # the first block does not expand
    yield from norm("features.1.conv.0.1", 32)
    yield from layer("features.1.conv.1", 16, 32, 1, 1)
    yield from norm("features.1.conv.2", 16)
    widths = [16, 24, 24, 32, 32, 32, 64, 64, 64, 64, 96, 96, 96, 160, 160, 160, 320]
    for number, (width_in, width) in enumerate(pairwise(widths), 2):
        name, wide = f"features.{number}.conv", 6 * width_in
        yield from layer(f"{name}.0.0", wide, width_in, 1, 1)
        yield from norm(f"{name}.0.1", wide)
        yield from layer(f"{name}.1.0", wide, 1, 3, 3)
        yield from norm(f"{name}.1.1", wide)
        yield from layer(f"{name}.2", width, wide, 1, 1)
        yield from norm(f"{name}.3", width)
    yield from layer("features.18.0", 1280, 320, 1, 1)
    yield from norm("features.18.1", 1280)
    yield from layer("classifier.1", 1000, 1280, bias=True)


TORCHVISION = {  # network, and how many entries its published weights have
    "alexnet": (alexnet, 16),
    "squeezenet1.0": (squeezenet1_0, 52),
    "squeezenet1.1": (squeezenet1_1, 52),
    "resnet18": (lambda: resnet((2, 2, 2, 2), bottleneck=False), 122),
    "resnet50": (lambda: resnet((3, 4, 6, 3), bottleneck=True), 320),
    "resnet152": (lambda: resnet((3, 8, 36, 3), bottleneck=True), 932),
    "mobilenetv2": (mobilenet_v2, 314),
}
