"""A task of the user's own, as small as one can be: three blobs in the plane; `blobs` trains, `given` comes trained."""

import torch
from torch import nn

from featherweight import Classification


def _points(count: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 3, (count,), generator=generator)
    centres = torch.tensor([[2.0, 0.0], [-1.0, 1.7], [-1.0, -1.7]])
    return centres[y] + 0.7 * torch.randn(count, 2, generator=generator), y


def _network() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 3))


def blobs() -> Classification:
    torch.manual_seed(1)
    network = _network()
    x, y = _points(600, 0)
    optimizer = torch.optim.Adam(network.parameters(), 0.05)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x), y).backward()
        optimizer.step()
    return Classification(network, train=_points(600, 0), test=_points(400, 1), name="blobs", batch_size=100)
