"""Small networks of every kind that people write, with inputs: what must run, and what must be refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations


@dataclass(frozen=True)
class Network:
    """A network by its maker, inputs of two samples, and why it is refused, if it is."""

    make: Callable[[], nn.Module]
    example: Callable[[], Any]
    refused: str = ""
    dynamic: dict[str, tuple[int, ...]] | None = None

    def build(self) -> tuple[nn.Module, Any]:
        """Return the network, its weights and statistics random, in eval mode, and its example."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            module = self.make()
            for name, buffer in module.named_buffers():
                if name.endswith(("running_mean", "running_var")):
                    buffer.uniform_(0.5, 1.5)
            return module.eval(), self.example()


def images(channels: int = 3, size: int = 8) -> Tensor:
    return torch.randn(2, channels, size, size)


def tokens(length: int = 6) -> Tensor:
    return torch.randint(0, 11, (2, length))


class Functional(nn.Module):
    """Only `torch.nn.functional` around raw parameters."""

    def __init__(self):
        super().__init__()
        self.kernel, self.bias = nn.Parameter(torch.randn(4, 3, 3, 3)), nn.Parameter(torch.randn(4))
        self.matrix = nn.Parameter(torch.randn(4, 5))

    def forward(self, x):
        x = F.relu(F.conv2d(x, self.kernel, self.bias, padding=1))
        x = F.avg_pool2d(x, 2).mean((2, 3))
        return F.log_softmax(F.gelu(x) @ self.matrix + torch.einsum("bi,ij->bj", x, self.matrix), -1)


class SharedTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, x):
        return self.norm(self.conv(F.relu(self.norm(self.conv(x)))))


class TiedWords(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.out = nn.Embedding(11, 6), nn.Linear(6, 11, bias=False)
        self.out.weight = self.words.weight

    def forward(self, ids):
        return self.out(torch.tanh(self.words(ids)))


class Recurrent(nn.Module):
    def __init__(self, kind, **arguments):
        super().__init__()
        self.words, self.cell = nn.Embedding(11, 6), kind(6, 5, batch_first=True, **arguments)
        self.out = nn.Linear(10 if arguments.get("bidirectional") else 5, 3)

    def forward(self, ids):
        states, last = self.cell(self.words(ids))
        return self.out(states), last


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.mix, self.out = (
            nn.Embedding(11, 8),
            nn.MultiheadAttention(8, 2, batch_first=True),
            nn.Linear(8, 3),
        )

    def forward(self, ids):
        x = self.words(ids)
        mixed, weights = self.mix(x, x, x)
        return self.out((x + mixed).mean(1)), weights


class Transformer(nn.Module):
    """Pre-norm encoder, learned positions, a causal mask in a buffer; as long as the input."""

    def __init__(self):
        super().__init__()
        self.words, self.places = nn.Embedding(11, 8), nn.Parameter(torch.randn(16, 8))
        self.blocks = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu"),
            2,
            enable_nested_tensor=False,
        )
        self.register_buffer("mask", torch.triu(torch.full((16, 16), float("-inf")), 1), persistent=False)
        self.out = nn.Linear(8, 11)

    def forward(self, ids):
        length = ids.shape[1]
        return self.out(
            self.blocks(
                self.words(ids) + self.places[:length], mask=self.mask[:length, :length], is_causal=False
            )
        )


class Upsampler(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.grouped = (
            nn.ConvTranspose2d(3, 8, 4, 2, 1),
            nn.ConvTranspose2d(8, 4, 3, 2, 1, 1, groups=2),
        )
        self.norm, self.last = nn.BatchNorm2d(8), nn.ConvTranspose2d(4, 4, 2, 2, groups=4, bias=False)

    def forward(self, x):
        return torch.sigmoid(self.last(F.leaky_relu(self.grouped(F.relu(self.norm(self.up(x)))), 0.1)))


class Separable(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU6(inplace=True),
            nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False),
            nn.BatchNorm2d(8),
            nn.Hardswish(),
            nn.Conv2d(8, 12, 3, 1, 1, groups=4),
            nn.BatchNorm2d(12),
            nn.SiLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(12, 5),
        )

    def forward(self, x):
        return self.body(x)


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(4, 5), nn.Linear(3, 5)

    def forward(self, left, *, right, scale=2.0):
        return F.softplus(self.left(left) * scale + self.right(right))


class DictOutput(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk, self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2), nn.Linear(6, 3)

    def forward(self, x):
        h = F.elu(self.trunk(x))
        return {"logits": self.a(h), "more": [self.b(h), (h, None)], "same": h, "input": x}


@dataclass
class Scores:
    logits: Tensor
    hidden: Tensor | None = None


class DataclassOutput(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(4, 2)

    def forward(self, x):
        return Scores(self.out(x))


class Pair(NamedTuple):
    mean: Tensor
    spread: Tensor


class Residual(nn.Module):
    """Adds, concatenates and pads shortcuts around batch norm."""

    def __init__(self):
        super().__init__()
        self.one, self.norm1 = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.two, self.norm2 = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.three, self.norm3 = nn.Conv2d(12, 12, 3, 2, 1), nn.BatchNorm2d(12, affine=False)
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        x = F.relu(self.norm1(self.one(x)))
        y = F.relu(self.norm2(self.two(x)) + x)
        z = self.norm3(self.three(torch.cat([x, y], 1)))
        z = z + F.pad(y[:, :, ::2, ::2], (0, 0, 0, 0, 3, 3))
        return self.head(F.adaptive_avg_pool2d(z, 1).flatten(1))


class Normalised(nn.Module):
    """Parametrizations: the stored tensors are not the ones that are used."""

    def __init__(self):
        super().__init__()
        self.a = parametrizations.weight_norm(nn.Conv1d(3, 6, 3, padding=1))
        self.b = parametrizations.spectral_norm(nn.Linear(6, 4))

    def forward(self, x):
        return self.b(self.a(x).mean(-1))


class Buffers(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("offset", torch.randn(4))
        self.register_buffer("scale", torch.rand(4), persistent=False)
        self.register_buffer("order", torch.tensor([3, 1, 0, 2]))
        self.register_buffer("keep", torch.tensor([True, False, True, True]))
        self.plain, self.out = torch.randn(4), nn.Linear(4, 4)

    def forward(self, x):
        x = (x - self.offset) * self.scale + self.plain
        return self.out(x[:, self.order]).masked_fill(~self.keep, 0.5)


class Volumes(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv3d(1, 4, 3, padding=1), nn.Conv1d(4, 5, 3, dilation=2, padding="same")
        self.norm = nn.BatchNorm3d(4)

    def forward(self, x):
        return self.b(F.max_pool3d(self.norm(self.a(x)), 2).flatten(2))


class HardReshape(nn.Module):
    """The flattened size is written out."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3, 2, 1), nn.Linear(64, 5)

    def forward(self, x):
        return self.fc(self.conv(x).reshape(-1, 64))


class FixedBatch(nn.Module):
    """The batch itself is written out, so that no other will do."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(12, 5)

    def forward(self, x):
        return self.fc(x.reshape(2, 12)) + torch.arange(2.0).reshape(2, 1)


class Slicing(nn.Module):
    """Windows, strided slices, assignment to a part, flips and gathers."""

    def __init__(self):
        super().__init__()
        self.fc, self.norm = nn.Linear(6, 6), nn.LayerNorm(6)

    def forward(self, x):
        x = self.fc(x)
        first, second = x[:, 1:-1:2], torch.roll(x, 1, dims=-1).flip(1)[:, :3]
        joined = torch.cat([first, second], 1).clone()
        joined[:, 0] = 0
        joined[..., 2:4] += 1
        top, place = self.norm(joined).topk(3, -1)
        return top, joined.gather(-1, place), torch.stack(joined.unbind(1), -1), x.chunk(2, -1)


class Swin(nn.Module):
    """Window partition and relative positions, as in shifted-window attention."""

    def __init__(self):
        super().__init__()
        self.qkv, self.table = nn.Linear(4, 12), nn.Parameter(torch.randn(7, 1))
        self.register_buffer("index", (torch.arange(4)[:, None] - torch.arange(4)[None]) + 3)

    def forward(self, x):
        b, c, h, w = x.shape
        x = x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 3, 5, 1).reshape(-1, 4, c)
        q, k, v = self.qkv(x).chunk(3, -1)
        bias = self.table[self.index.reshape(-1)].reshape(4, 4)
        x = torch.softmax(q @ k.transpose(-2, -1) / 2 + bias, -1) @ v
        return x.reshape(b, h // 2, w // 2, 2, 2, c).permute(0, 5, 1, 3, 2, 4).reshape(b, c, h, w)


class Bags(nn.Module):
    def __init__(self):
        super().__init__()
        self.bag, self.pair = nn.EmbeddingBag(11, 4, mode="mean"), nn.Bilinear(4, 4, 3)

    def forward(self, ids):
        x = self.bag(ids)
        return self.pair(x, x.roll(1, -1))


class Norms(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.group, self.instance = (
            nn.Conv2d(3, 4, 1),
            nn.GroupNorm(2, 4),
            nn.InstanceNorm2d(4, affine=True),
        )
        self.layer, self.slope = nn.LayerNorm([4, 8, 8]), nn.PReLU(4)

    def forward(self, x):
        return self.slope(self.layer(self.instance(self.group(self.conv(x)))))


class Lists(nn.Module):
    def __init__(self):
        super().__init__()
        self.matrices = nn.ParameterList([torch.randn(4, 4) for _ in range(3)])
        self.gains = nn.ParameterDict(
            {"a": nn.Parameter(torch.tensor(1.5)), "b": nn.Parameter(torch.randn(4))}
        )

    def forward(self, x):
        for matrix in self.matrices:
            x = torch.tanh(x @ matrix.t())
        return Pair(x * self.gains["a"], x + self.gains["b"])


class SqueezeExcite(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.down, self.up = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)

    def forward(self, x):
        x = F.silu(self.conv(x))
        return F.interpolate(
            x * torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True))))), scale_factor=2
        )


class ClassToken(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches, self.token = nn.Conv2d(3, 6, 4, 4), nn.Parameter(torch.randn(1, 1, 6))

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        return torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)


class State(nn.Module):
    """An argument that is itself a tuple, one that is None, and one that is a number."""

    def __init__(self):
        super().__init__()
        self.cell = nn.LSTMCell(4, 5)

    def forward(self, x, state, mask=None, times=1):
        for _ in range(times):
            state = self.cell(x, state)
        return state


class WritesToInput(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(F.relu_(x))


class Constants(nn.Module):
    """Returns a weight and a constant beside its result."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3))

    def forward(self, x):
        return x @ self.weight, self.weight, torch.arange(3)


class Inner(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x
        return -x


class DataDependent(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.choose = nn.Linear(4, 3), Inner()

    def forward(self, x):
        return self.choose(self.fc(x))


class Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.fc(x)


class Random(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        return F.dropout(self.fc(x), 0.5, training=True)


class Untranslatable(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return torch.linalg.eigvalsh(self.fc(x)[:, :, None] * self.fc(x)[:, None])


class Broken(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(x.flatten())


class Numbers(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(x), float(x.shape[1])


def rows() -> Tensor:
    return torch.randn(2, 4)


NETWORKS: dict[str, Network] = {
    "functional": Network(Functional, images),
    "shared": Network(SharedTwice, images),
    "tied": Network(TiedWords, tokens),
    "lstm": Network(lambda: Recurrent(nn.LSTM, bidirectional=True), tokens),
    "gru": Network(lambda: Recurrent(nn.GRU), tokens),
    "attention": Network(Attention, tokens),
    "transformer": Network(Transformer, tokens, dynamic={"ids": (0, 1)}),
    "transposed": Network(Upsampler, images),
    "separable": Network(Separable, images),
    "two inputs": Network(
        TwoInputs, lambda: {"left": torch.randn(2, 4), "right": torch.randn(2, 3), "scale": 0.5}
    ),
    "dict": Network(DictOutput, rows),
    "dataclass": Network(DataclassOutput, rows),
    "residual": Network(Residual, images),
    "parametrized": Network(Normalised, lambda: torch.randn(2, 3, 7)),
    "buffers": Network(Buffers, rows),
    "volumes": Network(Volumes, lambda: torch.randn(2, 1, 4, 6, 4)),
    "reshape": Network(HardReshape, images),
    "fixed batch": Network(FixedBatch, lambda: torch.randn(2, 3, 4)),
    "slicing": Network(Slicing, lambda: torch.randn(2, 7, 6)),
    "windows": Network(Swin, lambda: images(4)),
    "bags": Network(Bags, tokens),
    "norms": Network(Norms, images),
    "lists": Network(Lists, rows),
    "excite": Network(SqueezeExcite, images),
    "class token": Network(ClassToken, images),
    "state": Network(State, lambda: (rows(), (torch.randn(2, 5), torch.randn(2, 5)), None, 2)),
    "writes": Network(WritesToInput, rows),
    "constants": Network(Constants, rows),
    "double": Network(lambda: nn.Linear(4, 3).double(), lambda: rows().double()),
    "data-dependent": Network(DataDependent, rows, "choose (Inner).*control flow.*if x.sum() > 0"),
    "counter": Network(Counter, rows, "calls: the network writes to its buffer"),
    "random": Network(Random, rows, "differs"),
    "no operator": Network(Untranslatable, rows, "cannot be written as ONNX"),
    "broken": Network(Broken, rows, "fails on its own example"),
    "numbers": Network(Numbers, rows, "something else than tensors: got float"),
}


@cache
def captured(name: str) -> Any:
    """Return the network, its example and its program; made once, not to be changed."""
    from featherweight.capture.program import capture

    module, example = NETWORKS[name].build()
    return module, example, capture(module, example, dynamic=NETWORKS[name].dynamic)


@cache
def traced(name: str) -> Any:
    """Return the network, its example and its graph; made once, not to be changed."""
    module, example, program = captured(name)
    return module, example, program.graph


@cache
def exported(name: str) -> Any:
    """Return the network, its example and its stored graph; made once, not to be changed."""
    from featherweight.export.onnx import stored_graph

    module, example, program = captured(name)
    return module, example, stored_graph(module, program)
