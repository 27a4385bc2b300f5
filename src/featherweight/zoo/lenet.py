"""LeNets, which compression papers are compared on: grey images of 28 x 28 pixels in ten classes."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class LeNet300(nn.Module):
    """LeNet-300-100: three dense layers, 266,610 parameters.

    References:
        LeCun, Bottou, Bengio, Haffner, 1998: Gradient-based learning applied to document recognition, section
        III.C.4. Han, Mao, Dally, 2016: Deep Compression, table 2.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(28 * 28, 300)
        self.fc2 = nn.Linear(300, 100)
        self.fc3 = nn.Linear(100, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `[n, 10]` of images `x: [n, 1, 28, 28]`."""
        x = F.relu(self.fc1(x.flatten(1)))
        x = F.relu(self.fc2(x))
        logits: Tensor = self.fc3(x)
        return logits


class LeNet5(nn.Module):
    """LeNet-5 as Caffe and most papers have it: 431,080 parameters, convolutions followed by pooling alone.

    References:
        Jia et al., 2014: Caffe, examples/mnist/lenet.prototxt.
        Han, Mao, Dally, 2016: Deep Compression, table 3.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(50 * 4 * 4, 500)
        self.fc2 = nn.Linear(500, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `[n, 10]` of images `x: [n, 1, 28, 28]`."""
        x = F.max_pool2d(self.conv1(x), 2)
        x = F.max_pool2d(self.conv2(x), 2)
        x = F.relu(self.fc1(x.flatten(1)))
        logits: Tensor = self.fc2(x)
        return logits


class LeNet(nn.Module):
    """The wide LeNet of TensorFlow's tutorial: 1,663,370 parameters, 6.7 MB (6.3 MiB) of floats."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 5, padding=2)
        self.conv2 = nn.Conv2d(32, 64, 5, padding=2)
        self.fc1 = nn.Linear(64 * 7 * 7, 512)
        self.fc2 = nn.Linear(512, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `[n, 10]` of images `x: [n, 1, 28, 28]`."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc1(x.flatten(1)))
        logits: Tensor = self.fc2(x)
        return logits
