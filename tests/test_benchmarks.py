"""Every benchmark runs on tiny data; the benchmark on digits: what its choice may look at, and what its table says."""

from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks import digits, memory
from benchmarks.__main__ import ALL, TOOLS, main
from featherweight.errors import IntegrityError

NEEDS = {
    "astc": "astc_encoder",
    "astc_decoders": "astc_encoder",
    "linear": "openvino",
    "integers": "openvino",
}
SLOW = {"digits", "memory", "astc_decoders", "astc_layouts"}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in (*ALL, *TOOLS)]
)
@pytest.mark.filterwarnings("default")
def test_a_quick_run(name, tmp_path, monkeypatch, capsys):
    pytest.importorskip(NEEDS.get(name, "numpy"))
    monkeypatch.setenv("FEATHERWEIGHT_DATA", str(tmp_path))
    assert main([name, "--quick"]) == 0
    assert capsys.readouterr().out.count("\n") > 5


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read on Linux alone")
def test_gptq_holds_one_layer_at_a_time():
    found = memory.apart("gptq, 4 bits", "small")
    weights = 4 * sum(p.numel() for p in memory.task_of("small").model().parameters())
    assert found["weights"] == weights
    # 5.4 times; 8.7 where the matrices of a layer were copied, and every layer kept until the end
    assert 2 < found["peak"] / weights < 7


def test_one_that_cannot_run_does_not_stop_the_others(monkeypatch, capsys):
    def fails(quick):
        raise IntegrityError("no images")

    monkeypatch.setattr("benchmarks.rate.main", fails)
    monkeypatch.setattr("benchmarks.coders.main", lambda quick: print("ran"))
    assert main(["rate", "coders"]) == 1
    assert "ran" in (said := capsys.readouterr()).out and "no images" in said.err


def test_an_unknown_name_is_refused():
    with pytest.raises(SystemExit):
        main(["nothing"])


def line(tool, nbytes, validation, correct):
    return digits.Line(tool, ".fw", [nbytes], [correct], [1.0], "none", [validation])


def test_the_choice_is_by_validation_then_bytes_and_only_of_small_files():
    lines = [
        line("best, but large", 30_000, 297, 500),
        line("good on test", 20_000, 290, 500),
        line("good", 20_000, 295, 480),
        line("as good, smaller", 15_000, 295, 480),
    ]
    assert digits.choose(lines, 1_000_000) == 3
    with pytest.raises(SystemExit):
        digits.choose(lines[:1], 1_000_000)


def test_the_table_counts_whole_files_and_images():
    ours, rival = line("ours", 10_000, 297, 494), line("theirs", 100_000, 0, 492)
    results = digits.Digits(
        "command", {}, 100_000, {"train": 1000, "validation": 297, "test": 500}, [0], [493], [296],
        0, [ours], [rival],
    )  # fmt: skip
    rows = digits.table(results)[2:]
    assert "10,000 | 40.0x | 494 | +1.0 (+1)" in rows[0] and rows[0].startswith("| **ours**")
    assert "100,000 | 4.0x | 492 | -1.0 (-1)" in rows[1]
    assert "40x and more" in digits.page(results)


def test_settings_share_their_beginning():
    recipes = [recipe.steps for _, recipe in digits.recipes(quick=False)]
    assert len(recipes) == 3
    for shorter, longer in pairwise(recipes):
        assert longer[: len(shorter) - 3] == shorter[:-3]
