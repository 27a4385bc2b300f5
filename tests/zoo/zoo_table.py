"""Every network of the zoo: input, logits, parameters and multiply-accumulates of one image."""

from typing import NamedTuple

import torch
from torch import nn

from featherweight.zoo.alexnet import AlexNet, AlexNet32
from featherweight.zoo.densenet import DenseNet40
from featherweight.zoo.efficientnet_lite import EfficientNetLite0
from featherweight.zoo.lenet import LeNet, LeNet5, LeNet300
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


class Entry(NamedTuple):
    build: object
    shape: tuple[int, int, int]
    classes: int
    parameters: int
    macs: int


GREY, SMALL, LARGE = (1, 28, 28), (3, 32, 32), (3, 224, 224)
ZOO = {
    "lenet300": Entry(LeNet300, GREY, 10, 266_610, 784 * 300 + 300 * 100 + 100 * 10),
    "lenet5": Entry(LeNet5, GREY, 10, 431_080, 576 * 500 + 64 * 25_000 + 400_000 + 5_000),
    "lenet": Entry(LeNet, GREY, 10, 1_663_370, 784 * 800 + 196 * 51_200 + 3136 * 512 + 5_120),
    "resnet20": Entry(resnet20, SMALL, 10, 269_722, 40_551_040),
    "resnet32": Entry(resnet32, SMALL, 10, 464_154, 68_862_592),
    "resnet44": Entry(resnet44, SMALL, 10, 658_586, 97_174_144),
    "resnet56": Entry(resnet56, SMALL, 10, 853_018, 125_485_696),
    "vgg16-32": Entry(VGG16, SMALL, 10, 14_724_042, 313_201_664),
    "alexnet-32": Entry(AlexNet32, SMALL, 10, 23_272_266, 117_153_792),
    "squeezenet-32": Entry(SqueezeNet32, SMALL, 10, 730_570, 23_511_040),
    "resnet18-32": Entry(resnet18_32, SMALL, 10, 11_173_962, 138_859_520),
    "mobilenetv2-32": Entry(mobilenet_v2_32, SMALL, 10, 2_236_682, 22_003_712),
    "densenet40-32": Entry(DenseNet40, SMALL, 10, 1_019_722, 264_812_928),
    "alexnet": Entry(AlexNet, LARGE, 1000, 61_100_840, 714_188_480),
    "squeezenet1.0": Entry(squeezenet1_0, LARGE, 1000, 1_248_424, 818_924_576),
    "squeezenet1.1": Entry(squeezenet1_1, LARGE, 1000, 1_235_496, 349_151_936),
    "resnet18": Entry(resnet18, LARGE, 1000, 11_689_512, 1_814_073_344),
    "resnet50": Entry(resnet50, LARGE, 1000, 25_557_032, 4_089_184_256),
    "resnet152": Entry(resnet152, LARGE, 1000, 60_192_808, 11_513_626_624),
    "mobilenetv2": Entry(mobilenet_v2, LARGE, 1000, 3_504_872, 300_774_272),
    "efficientnet-lite0": Entry(EfficientNetLite0, LARGE, 1000, 4_652_008, 385_187_552),
}


def on_meta(name: str) -> nn.Module:
    """The network in eval mode, with shapes and no numbers."""
    with torch.device("meta"):
        return ZOO[name].build().eval()


def with_numbers(name: str) -> nn.Module:
    """The network in eval mode, seeded, its statistics not the ones that batch norm begins with."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = ZOO[name].build().eval()
        for buffer_name, buffer in network.named_buffers():
            if buffer_name.endswith("running_mean"):
                buffer.normal_(std=0.1)
            elif buffer_name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
        return network
