"""The page in a real browser: charts drawn, tables linked, both colour schemes, no room lost on a phone."""

import chromium
import pytest
from summaries import bare, hostile, whole

from featherweight.report import html

pytestmark = pytest.mark.skipif(chromium.PROGRAM is None, reason="there is no Chromium on this machine")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    opened = chromium.Page(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports")
    for name, summary in {"whole": whole(), "bare": bare(), "hostile": hostile()}.items():
        (folder / f"{name}.html").write_text(html(summary), encoding="utf-8")
    return folder


def state(page, name):
    return page.run(f"document.documentElement.dataset.{name}")


def texts(page, selector):
    return page.run(f"[...document.querySelectorAll({selector!r})].map(e => e.textContent)")


@pytest.mark.parametrize(("name", "width"), [("whole", 1280), ("bare", 1280), ("hostile", 360)])
def test_charts_are_drawn_without_errors_and_without_a_network(page, files, name, width):
    page.requests.clear()
    page.show(files / f"{name}.html", width, 800)
    assert state(page, "error") is None
    charts = state(page, "charts").split()
    assert charts == (
        ["steps", "tensors"] if name == "bare" else ["steps", "tensors", "front", "sensitivity"]
    )
    assert page.run("document.querySelectorAll('.chart .main-svg').length") >= len(charts)
    assert page.run("document.documentElement.scrollWidth") <= width, "tables scroll, the page does not"
    assert {request.partition(":")[0] for request in page.requests} <= {"file", "blob", "data"}


def test_what_is_clicked_is_shown(page, files):
    page.show(files / "whole.html", 1280, 800)
    opened = "[...document.querySelectorAll('.allocations details[open]')].map(d => d.id)"
    assert page.run(opened) == ["point-1"], "what was chosen"
    page.run("document.getElementById('chart-front').emit('plotly_click', {points: [{customdata: 2}]})")
    assert page.run(opened) == ["point-2"]
    page.run("document.getElementById('chart-tensors').emit('plotly_click', {points: [{customdata: 2}]})")
    assert texts(page, "tr.marked td:first-child") == ["fc2.weight"]


def test_the_table_is_sorted_and_filtered(page, files):
    page.show(files / "whole.html", 1280, 800)
    names = "#table-tensors tbody tr:not([hidden]) td:first-child"
    press = "document.querySelectorAll('#table-tensors th button')[4].click()"
    page.run(press)
    assert texts(page, names) == ["fc1.weight", "fc2.weight", "fc1.bias"], "numbers, the largest first"
    page.run(press)
    assert texts(page, names) == ["fc1.bias", "fc2.weight", "fc1.weight"]
    page.run("{const i = document.querySelector('.filter input'); i.value = 'WEIGHT rans';"
             " i.dispatchEvent(new Event('input'))}")  # fmt: skip
    assert texts(page, names) == ["fc1.weight"]
    assert texts(page, ".filter output") == ["1 of 3"]


def test_charts_take_the_colours_of_the_scheme_and_change_with_it(page, files):
    accent = "document.getElementById('chart-tensors').data[0].marker.color[0]"
    page.show(files / "whole.html", 1280, 800, "dark")
    dark = page.run(accent)
    page.prefer("light")
    page.run("new Promise(done => setTimeout(done, 1000))")
    assert page.run(accent) != dark
    assert page.run(accent) == page.run(
        "getComputedStyle(document.documentElement).getPropertyValue('--accent')"
    )


def test_without_a_script_the_tables_are_there(page, files):
    page.show(files / "whole.html", 1280, 800, script=False)
    page.call("Emulation.setScriptExecutionDisabled", value=False)
    assert "fc2.weight" in page.run("document.body.innerText")
