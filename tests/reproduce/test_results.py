"""Committed results: every page is that of its figures, every plot is there; a plot can be drawn again from rows."""

from pathlib import Path

import msgspec
import pytest

from featherweight.errors import ConfigError
from reproduce import REPRODUCTIONS, Results, redraw
from reproduce.__main__ import main
from reproduce.results import page

COMMITTED = Path(__file__).parents[2] / "docs" / "results"


def read(folder):
    return msgspec.json.decode((folder / "results.json").read_bytes(), type=Results)


@pytest.mark.parametrize("name", REPRODUCTIONS)
def test_committed_pages_are_of_their_figures(name):
    results = read(COMMITTED / name)
    assert results.command.startswith(f"python -m reproduce {name}")
    assert (COMMITTED / name / "README.md").read_text() == page(results)
    assert results.plots and all(
        (COMMITTED / name / plot).read_text().startswith("<svg") for plot in results.plots
    )


@pytest.mark.parametrize(("name", "plot"), [("squeezenet", "front.svg"), ("ptq-spectrum", "methods.svg")])
def test_a_plot_is_drawn_again_from_its_rows(name, plot, tmp_path):
    (tmp_path / "results.json").write_bytes((COMMITTED / name / "results.json").read_bytes())
    assert redraw(name, tmp_path).plots == [plot]
    text = (tmp_path / plot).read_text()
    assert text.startswith("<svg") and "accuracy on test" in text
    assert (tmp_path / "README.md").read_text() == (COMMITTED / name / "README.md").read_text()


def test_an_unknown_name_is_one_error(tmp_path, capsys):
    with pytest.raises(ConfigError, match="lenet-formats"):
        redraw("nothing", tmp_path)
    assert main(["nothing", "-o", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("error: no such reproduction")
