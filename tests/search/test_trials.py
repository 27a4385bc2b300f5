"""Trials are units of work: data in, data out, the same on any executor."""

from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import pytest
import torch
from torch import nn

from featherweight import Classification, Int, Option, Store, compress
from featherweight.model import Model
from featherweight.search import Constraint, measure, search
from featherweight.workspace import Workspace

OPTIONS = [Option(Int(bits=bits)) for bits in (2, 4, 8)]


def task():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))
    x = torch.randn(700, 6, generator=torch.Generator().manual_seed(0))
    y = network.eval()(x).argmax(1)
    return Classification(network, train=(x[:50], y[:50]), validation=(x[:650], y[:650]), test=(x, y))


def found(folder, **options):
    return search(task(), OPTIONS, threads=1, store=Store(folder), **options)


@pytest.fixture(scope="module")
def processes():
    with ProcessPoolExecutor(1, get_context("spawn")) as executor:
        yield executor


def test_every_executor_gives_the_trials_of_none(tmp_path, processes):
    alone = found(tmp_path / "alone")
    with ThreadPoolExecutor(2) as threads:
        for name, executor in (("threads", threads), ("processes", processes)):
            other = found(tmp_path / name, executor=executor)
            assert other.trials == alone.trials
            assert other.recipe == alone.recipe


def test_a_trial_has_measures_and_a_search_any_constraints(tmp_path):
    first = found(tmp_path)
    assert set(first.chosen.measures) == {"bytes", "accuracy", "loss", "drop", "error", "likely", "bound"}
    assert first.chosen is first.trials[0], "without constraints the smallest file"
    least = min(trial.measures["loss"] for trial in first.trials)
    constraints = [Constraint("loss", least), Constraint("bytes", first.trials[-1].nbytes)]
    assert found(tmp_path, constraints=constraints).chosen.measures["loss"] == least
    best = found(tmp_path, objectives=("loss", "bytes")).chosen
    assert best.measures["loss"] == least


def test_batch_norm_is_folded_and_the_rest_is_half_as_long(tmp_path):
    steps = found(tmp_path).recipe.steps
    assert [step.__struct_config__.tag for step in steps] == ["fold", "encode", "encode", "encode"]
    assert steps[1].format.kind == "float16" and steps[1].where == ["0.bias", "3.bias"]


def test_sensitivities_are_the_same_on_every_executor(tmp_path, processes):
    model = Model.of(task().model())
    for by in ("measured", "fisher"):
        alone, other = (
            measure(
                model,
                Workspace(task(), threads=1, store=Store(tmp_path / name), executor=where),
                OPTIONS,
                by=by,
            )
            for name, where in ((f"{by} alone", None), (f"{by} apart", processes))
        )
        assert alone == other and len(alone.cells) == 6


def test_the_file_has_the_bytes_of_its_trial_and_keeps_a_limit_to_the_byte(tmp_path):
    free = compress(task(), options=OPTIONS, threads=1, store=Store(tmp_path)).summary
    assert [point.nbytes for point in free.points if point.chosen] == [free.file_bytes]
    limit = free.points[-1].nbytes - 1
    bound = compress(task(), options=OPTIONS, max_bytes=limit, threads=1, store=Store(tmp_path)).summary
    assert bound.file_bytes <= limit
