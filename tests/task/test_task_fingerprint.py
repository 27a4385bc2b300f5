"""Fingerprints: equal where results must be, in any process; different where anything that counts is."""

import os
import random
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import featherweight
from featherweight.task.identity import identity_of
from featherweight.task.samples import Items, Stream
from featherweight.task.tasks import Classification
from featherweight.task.training import Training

X, Y = torch.randn(60, 6, 8, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3


def task(model=None, kind=Classification, **options):
    return kind(model or nn.Flatten(), **({"train": (X, Y), "test": (X[:9], Y[:9])} | options))


def distinct(*tasks):
    return len({made.fingerprint() for made in tasks}) == len(tasks)


def test_training_counts():
    assert distinct(task(), *(task(training=Training(epochs=n)) for n in (1, 30)))


class Scaled(nn.Module):
    def __init__(self, k=1.0, function=torch.relu):
        super().__init__()
        self.k, self.function = k, function
        self.first = nn.Linear(8, 8)

    def forward(self, x):
        return self.helper(self.first(x)).mean(1)

    def helper(self, x):
        return self.k * self.function(x)


class Negated(Scaled):
    def helper(self, x):
        return -super().helper(x)


class Silent(Scaled):
    """Computes the same in evaluation, not in training."""

    def helper(self, x):
        return super().helper(x) * (2 if self.training else 1)


def weights_of(other, like):
    other.load_state_dict(like.state_dict())
    return other


def test_all_that_a_network_computes_counts():
    plain = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    encoders = [
        weights_of(nn.TransformerEncoderLayer(8, heads, 16, batch_first=True, **options), plain)
        for heads, options in [(4, {}), (2, {"norm_first": True}), (2, {"activation": "gelu"})]
    ]
    assert distinct(*map(task, [plain, *encoders]))
    scaled = Scaled()
    others = [Scaled(-1.0), Scaled(1.0, torch.tanh), Scaled(1.0, lambda x: x), Scaled(1.0, lambda x: -x)]
    others += [Negated(), Silent(), nn.Sequential(Scaled())]
    for other in others[:-1]:
        weights_of(other, scaled)
    assert distinct(*map(task, [scaled, *others]))


def test_outputs_count_where_nothing_else_shows(monkeypatch):
    class Opaque:
        """Neither callable nor a dataclass: its name is all that is taken of it."""

        def __init__(self, k):
            self.k = k

    class Hidden(nn.Module):
        def __init__(self, k):
            super().__init__()
            self.opaque = Opaque(k)

        def forward(self, x):
            return self.opaque.k * x.flatten(1)

    assert identity_of(Hidden(1)) == identity_of(Hidden(2))
    assert distinct(task(Hidden(1)), task(Hidden(2)))


def test_outputs_that_are_never_the_same_do_not_count_and_failing_ones_are_no_error():
    class Chance(nn.Module):
        def forward(self, x):
            return x.flatten(1) * random.random()

    class Fails(nn.Module):
        def forward(self, x):
            raise RuntimeError

    for kind in (Chance, Fails):
        assert task(kind()).fingerprint() == task(kind()).fingerprint()


def test_recurrent_networks_and_cycles_have_an_identity():
    network = nn.LSTM(8, 4)
    network.itself = [network]
    network.method = network.extra_repr
    assert identity_of(network) == identity_of(network) != identity_of(nn.LSTM(8, 4))


def test_what_a_subclass_overrides_and_closes_over_counts():
    def kind(weight):
        class Mine(Classification):
            def loss(self, output, batch):
                return weight * super().loss(output, batch)

        return Mine

    class Mine(Classification):
        def metrics(self, predict, split):
            return super().metrics(predict, "test")

    class Configured(Classification):
        def __init__(self, model, *, beta, **options):
            super().__init__(model, **options)
            self.beta = beta

    configured = [
        lambda model, beta=beta, **options: Configured(model, beta=beta, **options) for beta in (1, 2)
    ]
    kinds = [Classification, kind(1.0), kind(2.0), kind(torch.ones(3)), Mine, *configured]
    assert distinct(*(task(kind=kind) for kind in kinds))
    assert task(kind=kind(1.0)).fingerprint() == task(kind=kind(1.0)).fingerprint()


class Flipped(Dataset):
    def __init__(self, some=(), width=8, noise=None):
        self.some, self.width, self.noise = set(some), width, noise

    def __len__(self):
        return 300

    def __getitem__(self, i):
        x = torch.full((self.width,), float(i))
        return x + (self.noise() if self.noise else 0), int(i in self.some)


def test_every_item_of_a_data_set_counts():
    digest = Items(Flipped(), torch.utils.data.default_collate).digest
    for some in ([17], [298], range(5, 280)):
        assert digest != Items(Flipped(some), torch.utils.data.default_collate).digest


def test_of_large_data_sets_a_part_is_read_and_all_targets_are():
    def large(some=(), targets=None):
        data = Flipped(some, width=1 << 18)  # 1 MiB a sample: 64 of 300 are read
        if targets is not None:
            data.targets = targets
        return Items(data, torch.utils.data.default_collate).digest

    start = time.process_time()
    assert large() == large([1]) != large(range(300))
    assert large(targets=[0] * 300) != large(targets=[0, 1] + [0] * 298)
    assert time.process_time() - start < 10


def test_random_transforms_do_not_make_the_digest_random():
    for noise in (random.random, lambda: torch.rand(8)):
        same, again = (Items(Flipped(noise=noise), torch.utils.data.default_collate).digest for _ in range(2))
        assert same == again != Items(Flipped([7], noise=noise), torch.utils.data.default_collate).digest


def test_every_batch_of_a_loader_counts():
    def batches(changed):
        return [(X[i : i + 10] + (i == changed), Y[i : i + 10]) for i in range(0, 60, 10)]

    assert len({Stream(batches(changed)).digest for changed in (-1, 0, 30, 50)}) == 4
    shuffled = DataLoader(Flipped(), batch_size=7, shuffle=True, drop_last=False, generator=torch.Generator())
    assert Stream(shuffled).digest == Stream(shuffled).digest


@dataclass(frozen=True)
class Add:
    amount: float

    def __call__(self, x, generator):
        return x + self.amount


def test_attributes_of_a_callable_count():
    assert distinct(task(augment=Add(1.0)), task(augment=Add(2.0)))
    a, b = (
        type("F", (), {"__init__": lambda s, k: vars(s).update(k=k), "__call__": Add.__call__})(k)
        for k in (1, 2)
    )
    assert identity_of(a) != identity_of(b)


SOURCE = """
import torch
from torch import nn
from test_task_fingerprint import Scaled, Add, X, Y
from featherweight.task.tasks import Classification
NAMES = {"one", "two", "three", "four"}
class Mine(Classification):
    def loss(self, output, batch):
        return super().loss(output, batch) * (2 if self.name in {"a", "b", "c", "d"} else 1)
def made():
    net = Scaled(1.0, lambda x: x.relu())
    net.unknown, net.names = object(), NAMES
    return net
for data in ((X, Y), [(X, Y)]):
    print(Mine(made, train=data, test=data, validation=data, augment=Add(1.0)).fingerprint())
"""


def test_it_is_the_same_in_every_process():
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(featherweight.__file__).parents[1])])
    found = {
        subprocess.run(
            [sys.executable, "-c", SOURCE],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"PYTHONPATH": path, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": threads},
        ).stdout
        for seed, threads in (("1", "1"), ("2", "2"))
    }
    assert len(found) == 1 and len(found.pop().split()) == 2


def test_it_is_computed_once_and_leaves_global_state_alone():
    made, before, threads = task(nn.Sequential(nn.Flatten())), torch.get_rng_state(), torch.get_num_threads()
    first = made.fingerprint()
    made._network = None
    assert made.fingerprint() == first
    assert torch.equal(torch.get_rng_state(), before) and torch.get_num_threads() == threads


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_data_of_the_size_of_mnist_take_less_than_half_a_second(dtype):
    images = torch.zeros(60000, 1, 28, 28, dtype=dtype)
    made = task(train=(images, torch.zeros(60000, dtype=torch.int64)), test=(images[:10000], np.zeros(10000)))
    start = time.process_time()
    made.fingerprint()
    assert time.process_time() - start < 0.5
