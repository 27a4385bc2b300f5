"""The pipeline of Deep Compression on a small case: its recipes, its rows and its checks."""

import pytest

from featherweight.formats import Clustered
from featherweight.reproduce import deep_compression, squeezenet
from featherweight.reproduce.pipeline import (
    FEWEST,
    PLAIN,
    SETTINGS,
    SHARED,
    TAUGHT,
    Case,
    checks,
    hurried,
    outcomes,
    parity,
    pruning,
    recipe,
    row,
    sheet,
)
from featherweight.techniques import Encode, Finetune, Sparsify, Train

CASE = Case(
    "ResNet", "resnet-digits", (0,), 1.0, 20, (0.5, 0.8), (1, 1, 1), TAUGHT, TAUGHT, SHARED, (PLAIN, FEWEST)
)


@pytest.fixture(scope="module")
def found():
    return outcomes([hurried(CASE)], quick=True, threads=1, events=lambda event: None)


def test_rounds_prune_and_train():
    steps = pruning(CASE)
    assert [type(step) for step in steps] == [Sparsify, Finetune, Sparsify, Finetune]
    assert [step.sparsity for step in steps[::2]] == [0.5, 0.8]
    assert all(step.keep_zeros for step in steps[1::2])


@pytest.mark.parametrize("case", [*deep_compression.CASES, *squeezenet.CASES], ids=lambda case: case.network)
@pytest.mark.parametrize("setting", [*SETTINGS, PLAIN])
def test_recipes_can_be_written(case, setting):
    steps = recipe(case, setting, train=Train()).steps
    assert isinstance(steps[0], Train)
    assert isinstance(steps[-1], Encode)
    assert any(isinstance(step, Sparsify) for step in steps) == (setting not in (PLAIN, "quantize"))


def test_rows_are_of_the_files(found):
    plain, fewest = (row(outcome) for outcome in found)
    assert plain.nbytes == found[0].summaries[0].file_bytes
    assert fewest.ratio == pytest.approx(found[1].summaries[0].float_bytes / fewest.nbytes)
    assert fewest.ratio > 20 > plain.ratio > 1.9
    assert fewest.setting.startswith("clustered 3") and Clustered(bits=3) == SHARED[0]
    assert parity(found).holds


def test_checks_hold_when_they_do(found):
    ratio, accuracy = checks(found[1])
    assert ratio.holds
    change = 100 * found[1].summaries[0].paired.difference
    assert accuracy.holds == (change >= -1.0)
    assert accuracy.measured.startswith(f"{change:+.2f} points")


def test_the_sheet_counts_what_is_left(found):
    table = sheet(found)
    assert [line[1] for line in table.rows] == [PLAIN, FEWEST]
    left = float(table.rows[1][3].removesuffix(" %"))
    assert 10 < left <= 20.5
