"""The networks trace, are written as ONNX, and run in ONNX Runtime as in torch."""

from functools import cache

import numpy as np
import pytest
import torch
from zoo_table import ZOO, with_numbers

from featherweight.capture import canonical_names
from featherweight.capture.program import capture
from featherweight.export.onnx import stored_graph
from featherweight.runtime import Session


@pytest.fixture(scope="module", autouse=True)
def registry_read_once():
    """torch reads the source of 500 translations at every export: half its time, and always the same."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(cache(ONNXRegistry.from_torchlib)))
        yield


SMALL = [name for name, entry in ZOO.items() if entry.shape[-1] <= 32]
QUICK = {"lenet300", "lenet5", "lenet", "alexnet-32", "squeezenet-32", "resnet18-32"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in SMALL]
)
def test_runtime_equals_torch(name):
    entry, network = ZOO[name], with_numbers(name)
    images = torch.randn(3, *entry.shape, generator=torch.Generator().manual_seed(1))
    program = capture(network, images[:2])
    graph = program.graph
    assert (graph.macs, graph.uncounted) == (entry.macs, ())
    state = network.state_dict()
    arrays = {first: state[first].numpy() for first in set(canonical_names(network).values())}
    with torch.no_grad():
        expected = network(images).numpy()
    got = Session.of(stored_graph(network, program), arrays).run(images)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_residual_blocks_begin_and_end_as_the_paper_says():
    block = with_numbers("resnet18-32").layer2[0]
    x = torch.rand(1, 64, 8, 8)
    with torch.no_grad():
        block.bn2.weight.zero_()
        block.bn2.bias.zero_()
        shortcut = block.downsample[1](
            torch.einsum("nchw,oc->nohw", x[:, :, ::2, ::2], block.downsample[0].weight[:, :, 0, 0])
        )
        torch.testing.assert_close(block(x), shortcut.relu())


def test_dense_layers_keep_what_they_read():
    network = with_numbers("densenet40-32")
    x = torch.rand(1, 16, 4, 4)
    with torch.no_grad():
        for layer in network.features[1:13]:
            before, x = x, layer(x)
            assert torch.equal(x[:, : before.shape[1]], before)
    assert x.shape == (1, 16 + 12 * 12, 4, 4)


@pytest.mark.parametrize(
    ("name", "at", "pixels"),
    [
        ("resnet18-32", "maxpool", 16),
        ("resnet18-32", "layer4", 2),
        ("mobilenetv2-32", "features.3", 16),
        ("mobilenetv2-32", "features.18", 2),
        ("densenet40-32", "features", 8),
        ("alexnet-32", "features", 2),
        ("squeezenet-32", "features", 4),
        ("vgg16-32", "features", 1),
    ],
)
def test_sizes_inside_the_networks_for_32_pixels(name, at, pixels):
    sizes = []
    network = ZOO[name].build().eval()
    network.get_submodule(at).register_forward_hook(lambda *call: sizes.append(call[-1].shape[-2:]))
    with torch.no_grad():
        network(torch.zeros(1, 3, 32, 32))
    assert sizes == [(pixels, pixels)]
