"""AlexNet: the single-tower form for 224 x 224 pixels, and one for 32 x 32."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

# Convolutions: channels read and made, kernel, stride, padding; 0: a pooling.
LAYERS = (
    (3, 64, 11, 4, 2), 0, (64, 192, 5, 1, 2), 0, (192, 384, 3, 1, 1), (384, 256, 3, 1, 1), (256, 256, 3, 1, 1), 0,
)  # fmt: skip
LAYERS_32 = ((3, 64, 3, 1, 1), 0, (64, 192, 3, 1, 1), 0, (192, 384, 3, 1, 1), 0, *LAYERS[5:])


class AlexNet(nn.Module):
    """AlexNet, by default for ImageNet, 61,100,840 parameters; names are torchvision's.

    Args:
        layers: see `LAYERS`.
        pool: size and stride of a pooling.
        width: numbers of an image that the linear layers read.
        classes: number of logits.

    References: Krizhevsky, 2014: One weird trick for parallelizing convolutional neural networks, section 5.
    """

    def __init__(
        self,
        layers: Sequence[tuple[int, int, int, int, int] | int] = LAYERS,
        pool: tuple[int, int] = (3, 2),
        width: int = 256 * 6 * 6,
        classes: int = 1000,
    ) -> None:
        super().__init__()
        made: list[nn.Module] = []
        for layer in layers:
            made += [nn.Conv2d(*layer), nn.ReLU()] if isinstance(layer, tuple) else [nn.MaxPool2d(*pool)]
        self.features = nn.Sequential(*made)
        self.classifier = nn.Sequential(
            nn.Dropout(), nn.Linear(width, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(),
            nn.Linear(4096, classes),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `[n, classes]` of images `x: [n, 3, h, w]`."""
        logits: Tensor = self.classifier(self.features(x).flatten(1))
        return logits


class AlexNet32(AlexNet):
    """AlexNet for images of 32 x 32 pixels, 23,272,266 parameters.

    Five 3x3 convolutions and four poolings end in 256 x 2 x 2; the linear layers are 1024-4096-4096-10.
    """

    def __init__(self) -> None:
        super().__init__(LAYERS_32, (2, 2), 256 * 2 * 2, 10)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        # without norms, large first logits end the training
        nn.init.normal_(self.classifier[-1].weight, std=0.01)  # type: ignore[arg-type]
