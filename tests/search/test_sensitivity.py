"""Foretold sensitivities against measured ones and closed forms; budgets in bit operations against brute force."""

import itertools

import pytest
import torch
from tiny import Tiny

from featherweight import Classification, Int, Option, Store, compress
from featherweight.capture import trace
from featherweight.errors import ConfigError, TaskError
from featherweight.model import Model
from featherweight.search.allocation import allocate, damages
from featherweight.search.sensitivity import bit_operations, measure, predict_damage
from featherweight.techniques import Context, Fold, Train
from featherweight.workspace import Workspace

TASK = Tiny(size=256)
OPTIONS = [Option(Int(bits=bits, scale_by="mse")) for bits in (2, 4, 6)]


@pytest.fixture(scope="module")
def trained():
    model = Train(epochs=6).apply(Model.of(TASK.model()), TASK, Context())
    return Fold().apply(model, TASK, Context())


def table(model, by, tmp_path):
    return measure(model, Workspace(TASK, threads=1, store=Store(tmp_path)), OPTIONS, by=by)


def divergence(model, name, error):
    """KL from the network's outputs to those with an error added to one tensor."""
    x = torch.cat([images for images, _ in TASK.batches("validation", seed=0, epoch=0)])
    moved = model.with_tensors({name: model.tensors[name].detach() + error})
    with torch.no_grad():
        p, q = (m.module(x).log_softmax(1) for m in (model, moved))
    return float((p.exp() * (p - q)).sum(1).mean())


def test_fisher_predicts_the_divergence_of_small_errors(trained):
    damage = predict_damage("fisher", trained, TASK, ["4.weight", "8.weight"], batches=8)
    for name in ("4.weight", "8.weight"):
        shape = trained.tensors[name].shape
        drawn = [0.01 * torch.randn(shape, generator=torch.Generator().manual_seed(i)) for i in range(20)]
        predicted = sum(damage(name, error) for error in drawn)
        assert 0.4 < predicted / sum(divergence(trained, name, error) for error in drawn) < 2.5


@pytest.mark.parametrize("by", ["fisher", "empirical", "hawq"])
def test_tables_of_one_kind(trained, tmp_path, by):
    found, measured = table(trained, by, tmp_path), table(trained, "measured", tmp_path)
    pairs = list(zip(found.cells, measured.cells, strict=True))
    assert all(
        (a.tensor, a.option, a.nbytes, a.error) == (b.tensor, b.option, b.nbytes, b.error) for a, b in pairs
    )
    assert table(trained, by, tmp_path) == found
    for row in found.rows:
        losses = [cell.loss for cell in row]
        assert losses == sorted(losses, reverse=True), "more bits are predicted to do less"


def test_a_budget_in_bit_operations_is_met_and_best(trained, tmp_path):
    rows = table(trained, "fisher", tmp_path).rows
    limited = bit_operations(trace(trained.module, TASK.example()), rows, activations=4)
    macs = {"0.weight": 8 * 9 * 36, "4.weight": 8 * 8 * 9, "8.weight": 8 * 4}
    for row, costs in zip(rows, limited, strict=True):
        assert costs == [macs[cell.tensor] * cell.option.format.bits * 4 for cell in row]
    damage = [damages(row) for row in rows]
    for limit in (2.5 * sum(macs.values()) * 4, 4 * sum(macs.values()) * 4):
        chosen = allocate(damage, limited, limit)
        every = itertools.product(range(3), repeat=3)
        within = [c for c in every if sum(row[i] for row, i in zip(limited, c, strict=True)) <= limit]
        best = min(sum(row[i] for row, i in zip(damage, c, strict=True)) for c in within)
        assert sum(row[i] for row, i in zip(damage, chosen, strict=True)) == pytest.approx(best, rel=1e-9)


def test_refuses_what_it_does_not_know(trained, tmp_path):
    with pytest.raises(ConfigError, match="not a method"):
        table(trained, "guessed", tmp_path)

    class NoScores(Tiny):
        def model(self):
            return torch.nn.Sequential(torch.nn.Flatten(0), torch.nn.ReLU())

    with pytest.raises(TaskError, match="not scores"):
        predict_damage("fisher", Model.of(NoScores().model()), NoScores(), [])


def test_compress_takes_it(tmp_path):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 6, generator=generator)
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    task = Classification(
        network, train=(x[:200], (x[:200, 0] > 0).long()), test=(x[200:], (x[200:, 0] > 0).long())
    )
    options = {"max_bytes": 100_000, "options": OPTIONS, "store": Store(tmp_path), "threads": 1}
    found = [compress(task, sensitivity=by, **options) for by in ("fisher", None)]
    predicted, measured = ({(s.tensor, s.option): s.loss for s in f.summary.sensitivity} for f in found)
    assert predicted.keys() == measured.keys() and predicted != measured
    with pytest.raises(ConfigError, match="belongs to auto"):
        compress(task, "int8", sensitivity="fisher")
