"""Tasks of the user's own, as small as they can be: blobs in the plane; `blobs` comes trained, `given` does not."""

import torch
from torch import nn

from featherweight import Classification
from featherweight.task.training import Training


def points(count: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 3, (count,), generator=generator)
    centres = torch.tensor([[2.0, 0.0], [-1.0, 1.7], [-1.0, -1.7]])
    return centres[y] + 0.7 * torch.randn(count, 2, generator=generator), y


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 3))


def given() -> Classification:
    torch.manual_seed(1)
    return Classification(
        network(),
        train=points(3000, 0),
        test=points(400, 1),
        name="given",
        batch_size=50,
        training=Training(epochs=3, optimizer="adam", lr=0.01),
    )


def blobs() -> Classification:
    torch.manual_seed(1)
    trained = network()
    x, y = points(600, 0)
    optimizer = torch.optim.Adam(trained.parameters(), 0.05)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(trained(x), y).backward()
        optimizer.step()
    return Classification(trained, train=points(600, 0), test=points(400, 1), name="blobs", batch_size=100)
