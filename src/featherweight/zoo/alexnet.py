"""AlexNet: the single-tower form for 224 x 224 pixels, and one for 32 x 32."""

from __future__ import annotations

from torch import Tensor, nn


class AlexNet(nn.Module):
    """AlexNet for ImageNet, 61,100,840 parameters; names are torchvision's.

    References:
        Krizhevsky, 2014: One weird trick for parallelizing convolutional neural networks, section 5.
    """

    def __init__(self) -> None:
        super().__init__()
        pool = nn.MaxPool2d(3, 2)
        self.features = convolutions(
            (3, 64, 11, 4, 2), pool, (64, 192, 5, 1, 2), pool, (192, 384, 3, 1, 1), (384, 256, 3, 1, 1),
            (256, 256, 3, 1, 1), pool,
        )  # fmt: skip
        self.classifier = classifier(256 * 6 * 6, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `[n, 1000]` of images `x: [n, 3, 224, 224]`."""
        logits: Tensor = self.classifier(self.features(x).flatten(1))
        return logits


class AlexNet32(nn.Module):
    """AlexNet for images of 32 x 32 pixels, 23,272,266 parameters.

    Five 3x3 convolutions and four poolings end in 256 x 2 x 2; the linear layers are 1024-4096-4096-10.
    """

    def __init__(self) -> None:
        super().__init__()
        pool = nn.MaxPool2d(2)
        self.features = convolutions(
            (3, 64, 3, 1, 1), pool, (64, 192, 3, 1, 1), pool, (192, 384, 3, 1, 1), pool, (384, 256, 3, 1, 1),
            (256, 256, 3, 1, 1), pool,
        )  # fmt: skip
        self.classifier = classifier(256 * 2 * 2, 10)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        # without norms, large first logits end the training
        nn.init.normal_(self.classifier[-1].weight, std=0.01)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `[n, 10]` of images `x: [n, 3, 32, 32]`."""
        logits: Tensor = self.classifier(self.features(x).flatten(1))
        return logits


def convolutions(*layers: tuple[int, int, int, int, int] | nn.MaxPool2d) -> nn.Sequential:
    """Return poolings and convolutions (channels read and made, kernel, stride, padding), each of these with a ReLU."""
    found: list[nn.Module] = []
    for layer in layers:
        if isinstance(layer, nn.MaxPool2d):
            found.append(nn.MaxPool2d(layer.kernel_size, layer.stride))
        else:
            width_in, width, kernel, stride, padding = layer
            found += [nn.Conv2d(width_in, width, kernel, stride, padding), nn.ReLU()]
    return nn.Sequential(*found)


def classifier(width: int, classes: int) -> nn.Sequential:
    """Return the three linear layers, fc6 to fc8, with dropout before the first two."""
    return nn.Sequential(
        nn.Dropout(), nn.Linear(width, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(),
        nn.Linear(4096, classes),
    )  # fmt: skip
