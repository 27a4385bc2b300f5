"""Linear layers in float, in 8 bits with ranges found at run time, and with 4-bit weights: bytes and time in one run.

Shapes are those of MiniLM's feed-forward layers, for one token and 128, and of AlexNet's fc6 and fc7, for one image and
16. Run it as `python -m benchmarks linear`.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from benchmarks.common import head, row
from featherweight.artifact import dumps, loads
from featherweight.export import linear_of, onnx_of
from featherweight.export.onnx import export
from featherweight.formats import Int
from featherweight.model import Model
from featherweight.packing import pack
from featherweight.runtime import Session
from featherweight.runtime.timing import interleaved

NETWORKS = {"MiniLM, 6 of 384-1536-384": (384, 1536, 6), "AlexNet, 9216-4096-4096": (9216, 4096, 1)}
ROWS = {"MiniLM, 6 of 384-1536-384": (1, 128), "AlexNet, 9216-4096-4096": (1, 16)}
FORMATS = {"dynamic": Int(bits=8), "nbits": Int(bits=4, per=32)}


def network(narrow: int, wide: int, count: int) -> nn.Module:
    ends = [(narrow, wide), (wide, narrow)] if count > 1 else [(narrow, wide), (wide, wide)]
    layers = [layer for pair in [ends] * count for i, o in pair for layer in (nn.Linear(i, o), nn.ReLU())]
    return nn.Sequential(*layers).eval()


def main(quick: bool) -> None:
    head("network", "rows", "weights, runtime", "ms", "MB")
    networks = {"tiny": (24, 48, 1)} if quick else NETWORKS
    for name, sizes in networks.items():
        torch.manual_seed(0)
        start = Model.of(network(*sizes))
        weights = {k: t.detach().numpy() for k, t in start.tensors.items() if t.dim() == 2}
        example = torch.randn(2, next(iter(weights.values())).shape[1])
        graph, models = export(start.module, example), {}
        for linear, format in FORMATS.items():
            encoded = start.with_encoded({k: format.encode(weight) for k, weight in weights.items()})
            artifact = loads(dumps(pack(encoded, graph)))
            models.setdefault("float32", onnx_of(artifact))
            models[linear] = linear_of(artifact, linear).onnx
        for count in ROWS.get(name, (1,)):
            x = torch.randn(count, example.shape[1]).numpy()
            calls = {
                f"{kind} {runtime}": partial(Session.of_onnx(model, runtime=runtime).run, x)
                for kind, model in models.items()
                for runtime in ("onnxruntime", "openvino")
            }
            for timing in interleaved(calls, seconds=0.02 if quick else 0.5):
                size = len(models[timing.name.split()[0]].SerializeToString()) / 1e6
                row(name, count, timing.name, f"{timing.milliseconds:.3f}", f"{size:.2f}")
