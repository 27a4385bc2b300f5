"""Networks of timm, untrained and small, without a class of ours: captured, in 8 bits, run. timm is not in `dev`.

timm imports torchvision for its data, which does not import beside the pinned torch: an empty one stands for it.
"""

import enum
import importlib.machinery
import importlib.util
import sys
import types

import numpy as np
import pytest
import torch

from featherweight import Agreement, compress
from featherweight.deploy.write import make
from featherweight.errors import UnsupportedError
from featherweight.export import qdq_of

pytestmark = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")

NETWORKS = {
    "vit_tiny_patch16_224": {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4},
    "convnext_atto": {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)},
    "mobilenetv3_small_050": {},
    "swin_tiny_patch4_window7_224": {
        "img_size": 32, "window_size": 4, "embed_dim": 16, "depths": (1, 2), "num_heads": (2, 4),
    },
}  # fmt: skip
PARTS = [
    "", ".transforms", ".transforms.functional", ".datasets", ".datasets.folder", ".ops", ".ops.misc", ".models",
    ".models.feature_extraction", ".io", ".utils",
]  # fmt: skip


class InterpolationMode(enum.Enum):
    NEAREST, BILINEAR, BICUBIC, BOX, HAMMING, LANCZOS = range(6)


class Empty(types.ModuleType):
    """A module of empty classes."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return InterpolationMode if name == "InterpolationMode" else type(name, (), {})


@pytest.fixture
def timm(monkeypatch):
    if importlib.util.find_spec("torchvision") is None:
        for name in (f"torchvision{part}" for part in PARTS):
            module = Empty(name)
            module.__path__, module.__spec__ = [], importlib.machinery.ModuleSpec(name, None, is_package=True)
            monkeypatch.setitem(sys.modules, name, module)
            outer, _, inner = name.rpartition(".")
            if outer:
                setattr(sys.modules[outer], inner, module)
    import timm

    return timm


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_of_timm_in_8_bits(name, timm):
    torch.manual_seed(0)
    network = timm.create_model(name, pretrained=False, num_classes=7, **NETWORKS[name]).eval()
    for parameter in network.parameters():
        if parameter.dim() > 1:
            torch.nn.init.kaiming_normal_(parameter)
    images = torch.randn(48, 3, 32, 32)
    task = Agreement(network, train=images[:32], test=images[32:], outputs="values")
    artifact = compress(task, "w8a8", threads=1).artifact
    with torch.no_grad():
        expected = network(images[:5]).numpy()
    for options, bound in (({"integers": False}, 0.05), ({}, 0.15)):
        found = artifact.session(**options).run(images[:5].numpy())
        assert np.linalg.norm(found - expected) < bound * np.linalg.norm(expected), options
    # OpenVINO 2026.4 computes the patches of the transformers otherwise where the batch is free
    (axis,) = {
        n.dim_param for v in qdq_of(artifact).onnx.graph.input for n in v.type.tensor_type.shape.dim
    } - {""}
    made = make(artifact, "openvino-int8", {axis: 2})
    assert made.files
    if name.startswith(("vit", "swin")):
        with pytest.raises(UnsupportedError, match="where sizes are free"):
            make(artifact, "openvino-int8")
