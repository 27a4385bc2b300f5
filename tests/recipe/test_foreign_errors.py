"""What a network, its data or a step raises comes out of a run as one error that names the step, with its cause."""

import collections

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from featherweight import Classification
from featherweight.errors import FeatherweightError
from featherweight.recipe import Recipe, Store, run
from featherweight.techniques import Finetune, Prune, ReestimateBatchnorm, Sparsify
from featherweight.techniques.saliencies import Obd, SospH, Taylor, WoodFisher

X, Y = torch.randn(60, 6, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3
Pair = collections.namedtuple("Pair", "a b")


class Named(Dataset):
    def __len__(self) -> int:
        return 60

    def __getitem__(self, i):
        return Pair(X[i], X[i]), Y[i]


class Network(nn.Module):
    def __init__(self, sizes=()) -> None:
        super().__init__()
        self.one, self.two, self.sizes = nn.Linear(6, 16), nn.Linear(16, 3), sizes

    def forward(self, a, b=None):
        if self.sizes and len(a) not in self.sizes:
            raise KeyError("only 18 samples")
        return self.two(torch.relu(self.one(a if b is None else a + b)))


def normalised():
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))


def task(network, x=X, **options):
    return Classification(network, train=(x, Y), test=(X, Y), validation=(X, Y), **options)


BROKEN = {
    "fixed batch": lambda: task(Network((2, 18)), batch_size=18),
    "batch norm, batches of one": lambda: task(normalised(), batch_size=1),
    "NaN": lambda: task(normalised(), torch.where(torch.arange(60)[:, None] % 7 == 0, torch.nan, X)),
}
STEPS = [
    Prune(keep=0.7, saliency=Taylor(samples=20)),
    Prune(keep=0.7, saliency=Obd(samples=20)),
    Prune(keep=0.7, saliency=SospH(samples=20)),
    Sparsify(sparsity=0.5, saliency=WoodFisher(samples=20)),
    ReestimateBatchnorm(),
    Finetune(epochs=1),
]


def name(step):
    return f"{type(step).__name__} {type(getattr(step, 'saliency', None)).__name__}"


@pytest.mark.parametrize("step", STEPS, ids=name)
@pytest.mark.parametrize("broken", BROKEN)
def test_no_foreign_error_leaves_a_run(broken, step, tmp_path):
    try:
        run(Recipe([step]), BROKEN[broken](), threads=1, store=Store(tmp_path))
    except FeatherweightError as error:
        assert str(error).startswith("steps[0]")


@pytest.mark.parametrize("step", STEPS, ids=name)
def test_named_tuples_are_inputs(step, tmp_path):
    named = Classification(Network(), train=Named(), test=Named())
    assert len(run(Recipe([step]), named, threads=1, store=Store(tmp_path))) == 2


def test_the_cause_stays(tmp_path):
    with pytest.raises(
        FeatherweightError, match=r"steps\[0\] \(prune\): failed: KeyError: 'only 18"
    ) as caught:
        run(Recipe([STEPS[1]]), BROKEN["fixed batch"](), threads=1, store=Store(tmp_path))
    assert isinstance(caught.value.__cause__, KeyError)
