"""Averages of integers, often exactly half way between two: the simulation's are those of both runtimes."""

import numpy as np
import pytest
import torch
from torch import nn

from featherweight.activations import Affine
from featherweight.doctor import kernels
from featherweight.evaluation.parity import layer_parity
from featherweight.export import build_qdq
from featherweight.export.check import arrays
from featherweight.export.onnx import export
from featherweight.model import Model
from featherweight.simulation import simulate


class Mean(nn.Module):
    """A mean over some axes, then what has a weight."""

    def __init__(self, axes, keepdim):
        super().__init__()
        self.axes, self.keepdim = axes, keepdim
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return x.mean(self.axes, keepdim=self.keepdim) * self.scale


def quantized(axes=(2, 3), keepdim=False, share=0.25):
    """A mean of 16 integers whose step is such that one in many falls half way."""
    source = Affine.of(0.0, 6.0)
    target = Affine.of(0.0, int(255 * 16 * share) * source.scale / 16)
    module = Mean(axes, keepdim).eval()
    return Model.of(module).with_activations({"x": source, "mean": target})


def inputs():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 128, (64, 16, 4, 4), generator=generator) * torch.tensor(6 / 255)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("keepdim", [False, True])
def test_means_are_the_runtimes(runtime, keepdim):
    if runtime == "openvino":
        pytest.importorskip("openvino")
    for share in (0.5, 0.25):
        model = quantized(keepdim=keepdim, share=share)
        graph = export(model.module, inputs()[:2])
        found = next(p for p in layer_parity(model, graph, inputs(), runtime) if p.edge == "mean")
        assert found.equal >= 0.999, found


def test_the_simulated_mean_is_of_exact_sums():
    model, x = quantized(), inputs()
    source, target = model.activations["x"], model.activations["mean"]
    sums = source.quantize(x.numpy()).astype(np.int64).sum((2, 3))
    expected = target.dequantize(
        np.clip(np.rint(sums * source.scale / 16 / target.scale), 0, 255).astype(np.uint8)
    )
    np.testing.assert_array_equal(simulate(model, x)(x).detach().numpy(), expected)
    halves = 2 * sums * source.scale / 16 / target.scale
    assert (np.abs(halves - np.rint(halves)) < 1e-6).mean() > 0.05, "the test needs ties"


def test_means_over_all_places_are_pooled():
    def operators(**options):
        model = quantized(**options)
        graph = export(model.module, inputs()[:2])
        qdq = build_qdq(graph, arrays(model.module), model.weights, model.activations)
        return {kernel.op for kernel in kernels(qdq.onnx, "onnxruntime")}

    assert "QLinearGlobalAveragePool" in operators()
    assert "QLinearGlobalAveragePool" in operators(keepdim=True, axes=(-1, -2))
    assert "ReduceMean" in operators(axes=(3,)) and "ReduceMean" in operators(axes=(1, 2))
