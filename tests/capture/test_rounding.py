"""A network in float64, a parameter at a time, computes what `double` makes of it."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from featherweight.capture.rounding import in_float64


class Tied(nn.Module):
    """Reads a weight of another layer, its type, and that of all parameters, as language models do."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm = nn.Embedding(700, 400), nn.LayerNorm(400)
        self.head = nn.Linear(400, 700, bias=False)
        self.head.weight = self.embed.weight
        self.scale = nn.Parameter(torch.rand(700, 400))

    def forward(self, x):
        y = self.norm(self.embed(x)).to(next(self.parameters()).dtype).to(self.head.weight.dtype)
        return self.head(y) + y @ self.scale.t() + nn.functional.linear(y, self.embed.weight) / 3


class Fixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(600, 600)

    def forward(self, x):
        return self.layer(x.float())


NETWORKS = {
    "tied": (Tied, lambda: torch.arange(6).reshape(2, 3)),
    "lstm": (lambda: nn.LSTM(300, 400), lambda: torch.randn(3, 2, 300).double()),
    "attention": (lambda: nn.TransformerEncoderLayer(640, 4, 700), lambda: torch.randn(3, 2, 640).double()),
    "convolution": (
        lambda: nn.Sequential(nn.Conv2d(260, 260, 3), nn.BatchNorm2d(260)),
        lambda: torch.randn(2, 260, 4, 4).double(),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_float64_piece_by_piece_is_float64(name):
    torch.manual_seed(0)
    module, x = NETWORKS[name][0]().eval(), NETWORKS[name][1]()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    seen = SimpleNamespace(calls=0)

    def compute(network):
        seen.calls += 1
        with torch.no_grad():
            out = network(x)
        return out[0] if isinstance(out, tuple) else out

    got = in_float64(module, compute)
    assert seen.calls == 1
    assert got.dtype == torch.float64
    torch.testing.assert_close(got, compute(copy.deepcopy(module).double()), rtol=1e-12, atol=1e-12)
    assert all(tensor.equal(before[name]) for name, tensor in module.state_dict().items())
    assert {tensor.dtype for tensor in module.parameters()} == {torch.float32}


def test_code_that_fixes_its_types_fails_as_it_does_in_float64():
    with pytest.raises(RuntimeError, match="dtype"):
        in_float64(Fixed(), lambda network: network(torch.randn(2, 600)))
