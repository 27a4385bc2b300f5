"""Figures are what plotly takes, hold what was measured, and take no name for markup."""

import math

import plotly.graph_objects
import pytest
from summaries import HOSTILE, bare, hostile, whole

from featherweight.delivery.summary import Row, Stage
from featherweight.report.figures import BARS, figures


@pytest.mark.parametrize("summary", [whole(), bare(), hostile()], ids=["whole", "bare", "hostile"])
def test_plotly_takes_them(summary):
    for figure in figures(summary).values():
        plotly.graph_objects.Figure(figure)


def test_only_what_was_measured_has_a_chart():
    assert list(figures(whole())) == ["steps", "tensors", "front", "sensitivity"]
    assert list(figures(bare())) == ["steps", "tensors"]


def test_steps_are_bytes_of_files_and_a_gap_where_nothing_was_finite():
    sizes, metric = figures(whole())["steps"]["data"]
    assert sizes["y"] == [43_000, 43_010, 5_400]
    assert metric["y"] == [98.0, None, pytest.approx(97.7)]


def test_the_front_marks_what_was_chosen_and_tells_what_it_leaves_out():
    front = figures(whole())["front"]
    traces = {trace["name"]: trace for trace in front["data"]}
    assert traces["chosen"]["x"] == [5_300]
    assert traces["beaten"]["customdata"] == [2]
    assert sorted(traces["on the front"]["customdata"]) == [0, 1]
    low, high = front["layout"]["yaxis"]["range"]
    assert low > 11, "a point far down does not flatten all others"
    assert high > 98
    assert any("1 further down" in note["text"] for note in front["layout"]["annotations"])


def test_colours_of_sensitivities_are_logarithms_with_a_floor():
    heat = figures(whole())["sensitivity"]["data"][0]
    assert heat["z"] == [[pytest.approx(math.log10(0.02)), pytest.approx(math.log10(1.7))], [-4.0, None]]


def test_of_many_tensors_the_smallest_are_one_bar():
    rows = [Row(f"layer{i}", [i], "int", "fixed", i, 8.0, 0.0) for i in range(1, BARS + 11)]
    bars = figures(whole(rows=rows))["tensors"]["data"][0]
    assert len(bars["x"]) == BARS + 1
    assert sum(bars["x"]) == sum(row.nbytes for row in rows)
    assert bars["customdata"][0] == len(rows) - 1
    assert bars["customdata"][-1] == -1


def test_no_text_of_a_figure_is_markup():
    texts = []

    def walk(value):
        if isinstance(value, dict | list):
            for entry in value.values() if isinstance(value, dict) else value:
                walk(entry)
        elif isinstance(value, str):
            texts.append(value.replace("<br>", ""))

    walk(figures(hostile()))
    assert any("&lt;/script&gt;" in text for text in texts)
    assert not any("<" in text or HOSTILE in text for text in texts)


def test_many_steps_have_no_more_marks_than_room():
    stages = [
        Stage("encode", {"where": f"layer{i}"}, 0.0, False, 1000 - i, {"accuracy": 0.9}) for i in range(55)
    ]
    layout = figures(whole(stages=stages))["steps"]["layout"]
    assert len(layout["xaxis"]["tickvals"]) <= 12
    assert set(layout["xaxis"]["ticktext"]) == {"encode"}
    assert "<br>" in figures(whole())["steps"]["layout"]["xaxis"]["ticktext"][-1]
