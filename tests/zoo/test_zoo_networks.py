"""ResNet-20's shortcuts; EfficientNet-Lite0's names and padding."""

import numpy as np
import torch

from featherweight.zoo import efficientnet_lite
from featherweight.zoo.efficientnet_lite import EfficientNetLite0, renamed
from featherweight.zoo.resnet import resnet20, resnet_digits


def test_resnet_names_and_shortcut():
    network = resnet20().eval()
    assert set(dict(network.named_children())) == {"conv1", "bn1", "layer1", "layer2", "layer3", "linear"}
    assert not [name for name in network.state_dict() if "shortcut" in name]
    block = network.layer2[0]
    with torch.no_grad():
        block.bn2.weight.zero_()
        inputs = torch.rand(1, 16, 8, 8)
        out = block(inputs)
    assert torch.equal(out[:, 8:24], inputs[:, :, ::2, ::2])
    assert not out[:, :8].any() and not out[:, 24:].any()


def test_every_weight_of_the_resnet_for_digits_meets_pixels():
    """None is beside padding alone: every one has a gradient."""
    torch.manual_seed(0)
    network = resnet_digits()
    network(torch.randn(64, 1, 8, 8)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and (parameter.grad != 0).float().mean() > 0.99, name


def test_efficientnet_count_shapes_and_names():
    network = EfficientNetLite0().eval()
    assert sum(parameter.numel() for parameter in network.parameters()) == 4_652_008
    with torch.no_grad():
        assert network.stem(torch.randn(1, 3, 224, 224)).shape == (1, 32, 112, 112)
        assert network.blocks(torch.randn(1, 32, 112, 112)).shape == (1, 320, 7, 7)
    names = set(network.state_dict())
    for theirs in (
        "_conv_stem.weight",
        "_bn0.bias",
        "_blocks.1._bn0.bias",
        "_blocks.0._bn1.weight",
        "_bn1.weight",
        "_fc.bias",
        "_blocks.15._project_conv.weight",
        "_conv_head.weight",
        "_blocks.4._bn2.num_batches_tracked",
    ):
        assert renamed(theirs) in names


def test_strided_convolution_pads_like_tensorflow():
    layer = efficientnet_lite.Convolution(1, 1, kernel=5, stride=2, activate=False).eval()
    image = torch.randn(1, 1, 8, 8)
    weight = layer.conv.weight.detach()[0, 0].numpy()
    padded = np.pad(image[0, 0].numpy(), ((1, 2), (1, 2)))
    expected = [
        [(padded[i : i + 5, j : j + 5] * weight).sum() for j in range(0, 8, 2)] for i in range(0, 8, 2)
    ]
    with torch.no_grad():
        got = layer(image)[0, 0].numpy() * np.sqrt(1 + 1e-3)
    np.testing.assert_allclose(got, np.array(expected), atol=1e-5)
