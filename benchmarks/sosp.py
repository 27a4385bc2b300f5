"""What SOSP-H costs: processor seconds of its scores over those of the gradients of the same batches.

    python -m benchmarks sosp [--quick]

ResNet-20 and a perceptron of 100, 1,000 and 10,000 structures, random weights and data. Both are measured
in turns; the median of the ratios stands, with the least and the greatest.
"""

from __future__ import annotations

from statistics import median

import torch
from torch import nn

from benchmarks.common import head, row, timed
from featherweight import Classification
from featherweight.curvature.hvp import gradients
from featherweight.graph.channels import couple
from featherweight.model import Model
from featherweight.task.sampling import drawn
from featherweight.techniques.saliencies import SospH
from featherweight.zoo.resnet import resnet20


def perceptron(structures: int) -> nn.Module:
    return nn.Sequential(
        nn.AvgPool2d(4), nn.Flatten(), nn.Linear(192, structures), nn.ReLU(), nn.Linear(structures, 10)
    )


def measure(name: str, network: nn.Module, samples: int, repeats: int) -> None:
    """Print one row of the table."""
    generator = torch.Generator().manual_seed(0)
    data = (
        torch.randn(samples, 3, 32, 32, generator=generator),
        torch.randint(0, 10, (samples,), generator=generator),
    )
    task = Classification(network, train=data, test=data)
    model = Model.of(network)
    channels = couple(model.program(task.example()).graph)
    batches = list(drawn(task, "train", samples=samples))

    def descend() -> None:
        for _ in gradients(model, task, batches):
            pass

    def score() -> None:
        SospH(samples=samples).scores(model, channels, task, 0)

    descend(), score()
    ratios = sorted(timed(score)[1] / timed(descend)[1] for _ in range(repeats))
    row(name, channels.count, f"{median(ratios):.2f}", f"{ratios[0]:.2f} to {ratios[-1]:.2f}")


def main(quick: bool) -> None:
    torch.manual_seed(0)
    head("network", "structures", "SOSP-H over gradients", "range")
    for structures in (100,) if quick else (100, 1000, 10000):
        measure("perceptron", perceptron(structures), 64 if quick else 1024, 1 if quick else 7)
    if not quick:
        measure("ResNet-20", resnet20(), 256, 5)
