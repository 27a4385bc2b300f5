"""Tiny networks and tasks for structured pruning, and their derivatives written out in full."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, hessian, jacrev

from featherweight.capture import trace
from featherweight.graph.channels import couple
from featherweight.model import Model


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.c(torch.tanh(self.b(torch.tanh(self.a(x.flatten(1)[:, :4])))))


class Plain(nn.Module):
    """Convolution, batch norm, convolution, flatten, linear."""

    def __init__(self):
        super().__init__()
        self.one, self.norm = nn.Conv2d(1, 3, 3, bias=False), nn.BatchNorm2d(3)
        self.two, self.fc = nn.Conv2d(3, 2, 2), nn.Linear(2, 3)

    def forward(self, x):
        x = F.softplus(self.norm(self.one(x)))
        return self.fc(F.relu(self.two(x)).flatten(1))


class Residual(nn.Module):
    """A shortcut around a convolution with batch norm: channels that are tied."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3)
        self.mid, self.mid_norm = nn.Conv2d(3, 2, 1, bias=False), nn.BatchNorm2d(2)
        self.back, self.back_norm = nn.Conv2d(2, 3, 1, bias=False), nn.BatchNorm2d(3)
        self.fc = nn.Linear(3, 3)

    def forward(self, x):
        x = F.silu(self.norm(self.stem(x)))
        x = x + self.back_norm(self.back(F.silu(self.mid_norm(self.mid(x)))))
        return self.fc(F.silu(x).mean((2, 3)))


class Joined(nn.Module):
    """Concatenation, depthwise and grouped convolution, flatten."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.depth, self.grouped = nn.Conv2d(8, 16, 3, groups=8), nn.Conv2d(16, 8, 1, groups=4)
        self.norm, self.fc = nn.BatchNorm2d(8), nn.Linear(32, 3)

    def forward(self, x):
        x = F.relu(self.a(x))
        x = torch.cat([x, F.relu(self.b(x))], 1)
        x = self.norm(self.grouped(F.relu(self.depth(x))))
        return self.fc(F.relu(x).flatten(1))


class Sloped(nn.Module):
    """Slopes of channels and one slope of all, around a gate of squeeze and excite."""

    def __init__(self):
        super().__init__()
        self.stem, self.slopes = nn.Conv2d(1, 4, 3, padding=1), nn.PReLU(4)
        self.squeeze, self.excite = nn.Conv2d(4, 3, 1), nn.Conv2d(3, 4, 1)
        self.back, self.one, self.fc = nn.Conv2d(4, 4, 1), nn.PReLU(), nn.Linear(16, 3)
        nn.init.uniform_(self.slopes.weight)

    def forward(self, x):
        x = self.slopes(self.stem(x))
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        return self.fc(F.max_pool2d(self.one(self.back(x * gate) + x), 2).flatten(1))


class SmallViT(nn.Module):
    """Patches, learned places, two blocks of attention and MLP."""

    def __init__(self, width: int = 8):
        super().__init__()
        self.patches = nn.Conv2d(1, width, 2, 2)
        self.places = nn.Parameter(torch.randn(1, 4, width))
        layer = nn.TransformerEncoderLayer(width, 2, 16, 0.0, "gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2) + self.places
        return self.head(self.blocks(x).mean(1))


def random(make: Callable[[], nn.Module], seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Return a network in eval mode whose statistics, scales and shifts are random too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = make()
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                for tensor in (part.weight.data, part.running_var):
                    tensor.uniform_(0.5, 1.5)
                for tensor in (part.bias.data, part.running_mean):
                    tensor.normal_()
    return module.to(dtype).eval()


@dataclass(frozen=True)
class Images:
    """Random 4 x 4 images of three kinds."""

    make: Callable[[], nn.Module] = Plain
    size: int = 24
    batch: int = 8
    dtype: torch.dtype = torch.float64
    name: str = "images"
    primary: str = "accuracy"
    training: dict[str, Any] = field(default_factory=dict)

    def model(self) -> nn.Module:
        return random(self.make, dtype=self.dtype)

    def example(self) -> Tensor:
        return self._data("test")[0][:2]

    def _data(self, split: str) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(len(split))
        images = torch.randn(self.size, 1, 4, 4, generator=generator, dtype=torch.float64)
        return images.to(self.dtype), torch.randint(0, 3, (self.size,), generator=generator)

    def batches(self, split, *, seed, epoch):
        images, labels = self._data(split)
        return list(zip(images.split(self.batch), labels.split(self.batch), strict=True))

    def inputs(self, batch):
        return batch[0]

    def loss(self, output, batch):
        return F.cross_entropy(output, batch[1])

    def metrics(self, predict, split):
        images, labels = self._data(split)
        with torch.no_grad():
            return {"accuracy": float((predict(images).argmax(1) == labels).double().mean())}

    def fingerprint(self) -> str:
        return f"images {self.size} {self.batch}"


@dataclass(frozen=True)
class Explicit:
    """The whole gradient, Hessian and Gauss-Newton matrix of a task's mean loss, in one vector of parameters."""

    theta: Tensor
    gradient: Tensor
    hessian: Tensor
    gauss_newton: Tensor
    per_sample: Tensor  # gradients [n, parameters]
    offsets: dict[str, slice]
    shapes: dict[str, torch.Size]

    def structures(self, channels) -> Tensor:
        """Return theta_s as rows `[channels, parameters]`, index by index."""
        rows = []
        for group in channels.groups:
            for channel in range(group.size):
                row = torch.zeros_like(self.theta)
                for member in group.makers:
                    if member.tensor in self.offsets:
                        mask = torch.zeros(self.shapes[member.tensor], dtype=self.theta.dtype)
                        for place in member.index[channel]:
                            mask.select(member.axis, int(place)).fill_(1)
                        row[self.offsets[member.tensor]] += mask.reshape(-1)
                rows.append(row * self.theta)
        return torch.stack(rows)


def explicit(model: Model, task: Images, split: str = "train") -> Explicit:
    """Return every derivative by torch.func on the flat vector of parameters: slow and obvious."""
    named = {name: p.detach() for name, p in model.module.named_parameters()}
    ends = np.cumsum([p.numel() for p in named.values()]).tolist()
    offsets = {name: slice(end - p.numel(), end) for (name, p), end in zip(named.items(), ends, strict=True)}
    theta = torch.cat([p.reshape(-1) for p in named.values()])
    images, labels = task._data(split)

    def output(flat: Tensor) -> Tensor:
        values = {name: flat[offsets[name]].reshape(p.shape) for name, p in named.items()}
        return functional_call(model.module, values, (images,))

    losses = jacrev(lambda flat: F.cross_entropy(output(flat), labels, reduction="none"))(theta)
    phi, p = jacrev(output)(theta), torch.softmax(output(theta), 1)
    r = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    return Explicit(
        theta,
        losses.mean(0),
        hessian(lambda flat: F.cross_entropy(output(flat), labels))(theta),
        torch.einsum("ndp,nde,neq->pq", phi, r, phi) / len(images),
        losses,
        offsets,
        {name: p.shape for name, p in named.items()},
    )


@cache
def coupled(make: Callable[[], nn.Module]) -> Any:
    """Return the coupled channels of a network of this file; traced once."""
    return couple(trace(random(make), torch.randn(2, 1, 4, 4)))
