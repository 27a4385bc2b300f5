"""What SOSP-H costs: processor seconds of its scores over those of the gradients of the same batches.

    python benchmarks/sosp.py [--quick]

ResNet-20 and a perceptron of 100, 1,000 and 10,000 structures, random weights and data. Both are measured
in turns; the median of the ratios stands, with the least and the greatest.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import torch
from torch import nn

from featherweight import Classification
from featherweight.curvature.hvp import gradients
from featherweight.graph.coupling import couple
from featherweight.model import Model
from featherweight.task.sampling import drawn
from featherweight.techniques.saliencies import SospH
from featherweight.zoo.resnet_cifar import resnet20


def perceptron(structures: int) -> nn.Module:
    return nn.Sequential(
        nn.AvgPool2d(4), nn.Flatten(), nn.Linear(192, structures), nn.ReLU(), nn.Linear(structures, 10)
    )


def seconds(work) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def measure(name: str, network: nn.Module, samples: int, repeats: int) -> str:
    """Return one line of the table."""
    generator = torch.Generator().manual_seed(0)
    data = (
        torch.randn(samples, 3, 32, 32, generator=generator),
        torch.randint(0, 10, (samples,), generator=generator),
    )
    task = Classification(network, train=data, test=data)
    model = Model.of(network)
    channels = couple(model.module, task.example())
    batches = drawn(task, "train", samples, 0)

    def descend() -> None:
        for _ in gradients(model, task, batches):
            pass

    def score() -> None:
        SospH(samples=samples).scores(model, channels, task, 0)

    descend(), score()
    ratios = sorted(seconds(score) / seconds(descend) for _ in range(repeats))
    return f"| {name} | {channels.count} | {median(ratios):.2f} | {ratios[0]:.2f} to {ratios[-1]:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("| network | structures | SOSP-H over gradients | range |\n|---|---|---|---|")
    for structures in (100, 1000) if quick else (100, 1000, 10000):
        print(measure("perceptron", perceptron(structures), 1024, 3 if quick else 7))
    print(measure("ResNet-20", resnet20(), 256, 3 if quick else 5))


if __name__ == "__main__":
    main()
