"""Progress: one bar for each piece of work, lines where there is no terminal."""

import io
import sys

from rich.console import Console

from featherweight.events import (
    Bars,
    Finished,
    Lines,
    Message,
    Progress,
    Started,
    default_events,
    shown_events,
    silent,
)


def test_work_whose_total_becomes_known_has_one_bar():
    bars = Bars(Console(file=io.StringIO(), force_terminal=True))
    bars(Started("train", 0))
    bars(Started("train", 1290))
    bars(Progress("train", 3, {}))
    assert [(task.completed, task.total) for task in bars.bars.tasks] == [(3, 1290)]
    bars(Finished("train", 1.0))
    assert not bars.bars.tasks


def test_lines(capsys):
    lines = Lines(every=0.0)
    for event in (Started("train", 4), Progress("train", 2, {"loss": 0.5}), Message("hello"),
                  Finished("train", 1.25), Finished("graph", 0.0, cached=True)):  # fmt: skip
        lines(event)
    printed = capsys.readouterr()
    assert printed.err.splitlines() == [
        "  train 2/4  loss 0.5",
        "hello",
        "train: 1.2 s",
        "graph: out of the store",
    ]
    assert printed.out == ""
    Lines()(Progress("train", 3, {}))
    assert capsys.readouterr().err == ""


def test_a_log_gets_lines_and_a_script_nothing(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert isinstance(shown_events(), Lines)
    assert default_events() is silent
    monkeypatch.setitem(sys.modules, "ipykernel", None)
    assert isinstance(default_events(), Lines)
