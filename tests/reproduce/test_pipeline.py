"""The pipeline of Deep Compression on a small case: its recipes, its rows and its checks."""

import pytest
from msgspec.structs import replace

from featherweight.formats.coders import Cabac
from featherweight.recipe import Recipe
from featherweight.techniques import Finetune, Sparsify
from reproduce import deep_compression, squeezenet
from reproduce.deep_compression import (
    FLOAT,
    TAUGHT,
    Case,
    checks,
    line,
    outcomes,
    pruned,
    quickened,
    shared,
    sheet,
)
from reproduce.settings import REST, parity

PRUNING = pruned((0.8,), TAUGHT, last=3)
SETTINGS = {"float16": [FLOAT], "fewer bits": [*PRUNING, *shared(TAUGHT, 3, Cabac())]}
CASE = Case("ResNet", "resnet-digits", (0, 1), 1.0, 20, SETTINGS)


@pytest.fixture(scope="module")
def found():
    return outcomes(quickened(CASE), quick=True, threads=1, events=lambda event: None)


def test_rounds_prune_and_train():
    steps = pruned((0.5, 0.8), replace(TAUGHT, epochs=2), last=7)
    assert [type(step) for step in steps] == [Sparsify, Finetune, Sparsify, Finetune]
    assert [step.sparsity for step in steps[::2]] == [0.5, 0.8]
    assert [step.epochs for step in steps[1::2]] == [2, 7]
    assert all(step.keep_zeros for step in steps[1::2])


@pytest.mark.parametrize("case", [*deep_compression.CASES, *squeezenet.CASES], ids=lambda case: case.network)
def test_recipes_can_be_written(case):
    for name, steps in case.settings.items():
        Recipe(list(steps))
        assert FLOAT in steps or REST in steps, f"{name} leaves something in float32"


def test_the_quick_form_trains_an_epoch_at_a_time():
    quick = quickened(CASE)
    assert quick.seeds == (0,)
    trained = [step for steps in quick.settings.values() for step in steps if isinstance(step, Finetune)]
    assert {step.epochs for step in trained} == {1}


def test_rows_are_of_the_files(found):
    plain, fewest = (line(CASE, outcome) for outcome in found)
    assert plain.nbytes == found[0].summaries[0].file_bytes
    assert fewest.ratio == pytest.approx(found[1].summaries[0].float_bytes / fewest.nbytes)
    assert fewest.ratio > 20 > plain.ratio > 1.9
    assert fewest.setting.startswith("clustered 3")
    assert parity(found).holds


def test_checks_hold_when_they_do(found):
    ratio, accuracy = checks(CASE, found[1])
    assert ratio.holds
    change = 100 * found[1].summaries[0].paired.difference
    assert accuracy.holds == (change >= -1.0)
    assert accuracy.measured.startswith(f"{change:+.2f} points")


def test_the_sheet_counts_what_is_left(found):
    table = sheet(found)
    assert [line[1] for line in table.rows] == list(SETTINGS)
    left = float(table.rows[1][3].removesuffix(" %"))
    assert 10 < left <= 20.5
