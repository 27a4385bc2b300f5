"""The growth chart: its counts are the networks', its page is the committed one."""

import json
from pathlib import Path

import pytest

from reproduce import Results, Sheet, growth
from reproduce.results import page, write

COMMITTED = Path(__file__).parents[2] / "docs" / "results" / "growth"


@pytest.fixture(scope="module")
def measured():
    return growth.measure(quick=True, threads=1, events=lambda event: None)


def results(measured):
    return Results("growth", growth.ABOUT, "command", {}, [], measured.checks, ["growth.svg"],
                   growth.REMARKS, list(measured.sheets))  # fmt: skip


def test_what_is_committed_is_what_is_counted(measured, tmp_path):
    write(results(measured), measured.plots, tmp_path)
    new, old = (json.loads((folder / "results.json").read_text()) for folder in (tmp_path, COMMITTED))
    assert {key: new[key] for key in ("sheets", "checks", "remarks")} == {
        key: old[key] for key in ("sheets", "checks", "remarks")
    }
    assert all(check["holds"] for check in old["checks"])


def test_the_ratio_of_alexnet_and_resnet_152(measured):
    sheet = measured.sheets[0]
    rows = {row[1]: dict(zip(sheet.head, row, strict=True)) for row in sheet.rows}
    assert rows["AlexNet"]["MACs"] == 714_188_480
    assert rows["ResNet-152"]["MACs"] == 11_513_626_624
    assert measured.checks[0].measured.endswith("= 16.1x")
    assert all(row["bytes, float32"] == 4 * row["parameters"] for row in rows.values())


def test_a_page_without_rows_has_no_empty_table(measured):
    text = page(results(measured))
    assert "## Measured" not in text
    assert "| 2012 | AlexNet | 61,100,840 | 714,188,480 | 244,403,360 | 56.522 |" in text
    assert "| 75.1 |  | tensorflow/tpu" in text, "what is not known is left out"


def test_cells_of_a_sheet_are_text_on_the_page_and_numbers_in_the_file(tmp_path):
    sheet = Sheet("Own", ["a", "b", "c", "d"], [[12_345, 0.5, "2012", None]])
    write(Results("x", "", "", {}, [], [], [], [], [sheet]), [], tmp_path)
    assert "| 12,345 | 0.5 | 2012 |  |" in (tmp_path / "README.md").read_text()
    assert json.loads((tmp_path / "results.json").read_text())["sheets"][0]["rows"] == [
        [12345, 0.5, "2012", None]
    ]
