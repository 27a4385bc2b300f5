"""The benchmark on digits: what its choice may look at, and what its table says."""

from itertools import pairwise

import pytest


@pytest.fixture
def digits(monkeypatch, request):
    monkeypatch.syspath_prepend(request.config.rootpath / "benchmarks")
    return pytest.importorskip("digits")


def line(digits, tool, nbytes, validation, correct):
    return digits.Line(tool, ".fw", [nbytes], [correct], [1.0], "none", [validation])


def test_the_choice_is_by_validation_then_bytes_and_only_of_small_files(digits):
    lines = [
        line(digits, "best, but large", 30_000, 297, 500),
        line(digits, "good on test", 20_000, 290, 500),
        line(digits, "good", 20_000, 295, 480),
        line(digits, "as good, smaller", 15_000, 295, 480),
    ]
    assert digits.choose(lines, 1_000_000) == 3
    with pytest.raises(SystemExit):
        digits.choose(lines[:1], 1_000_000)


def test_the_table_counts_whole_files_and_images(digits):
    ours, rival = line(digits, "ours", 10_000, 297, 494), line(digits, "theirs", 100_000, 0, 492)
    results = digits.Digits(
        "command", {}, 100_000, {"train": 1000, "validation": 297, "test": 500}, [0], [493], [296],
        0, [ours], [rival],
    )  # fmt: skip
    rows = digits.table(results)[2:]
    assert "10,000 | 40.0x | 494 | +1.0 (+1)" in rows[0] and rows[0].startswith("| **ours**")
    assert "100,000 | 4.0x | 492 | -1.0 (-1)" in rows[1]
    assert "40x and more" in digits.page(results)


def test_settings_share_their_beginning(digits):
    recipes = [recipe.steps for _, recipe in digits.recipes(quick=False)]
    assert len(recipes) == 3
    for shorter, longer in pairwise(recipes):
        assert longer[: len(shorter) - 3] == shorter[:-3]
