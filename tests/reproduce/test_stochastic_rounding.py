"""What the reproduction `stochastic-rounding` measures: the sum, the choice, the table of formats, the page."""

import json

from tiny import Tiny

from featherweight.rounding import Rounding
from reproduce import reproduce, stochastic_rounding


def test_the_sums():
    _, checks = stochastic_rounding._lecture()
    assert len(checks) == 3 and all(check.holds for check in checks)
    wrong = stochastic_rounding._sums(Rounding(stochastic_rounding.WHOLE, "nearest"))
    assert not wrong.any()


def test_the_table_of_formats_by_hand():
    rows = {row[0]: row[1:] for row in stochastic_rounding._formats().rows}
    assert rows["float16"][:4] == [16, "6.55e+04", "5.96e-08", "2**-10"]
    assert rows["bfloat16"][:4] == [16, "3.39e+38", "9.18e-41", "2**-7"]
    assert rows["float8_e4m3fn"][:4] == [8, "448", "0.00195", "2**-3"]
    assert rows["float8_e5m2"][:4] == [8, "5.734e+04", "1.53e-05", "2**-2"]
    assert rows["int8"][:4] == [8, "127", "1", "1"]
    assert rows["float32"][4:] == [0.9, 3.7] and rows["int8"][4:] == [None, None]


def test_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr(stochastic_rounding, "resolve", lambda name, trained=True: Tiny(size=64))
    monkeypatch.setenv("FEATHERWEIGHT_DATA", str(tmp_path / "store"))
    results = reproduce("stochastic-rounding", tmp_path, quick=True, threads=1)
    tables = json.loads((tmp_path / "results.json").read_text())["sheets"]
    assert [len(table["rows"]) for table in tables] == [2, 1, 6, 1, 8, 9]
    assert len(results.checks) == 10
    assert "Number formats" in (tmp_path / "README.md").read_text()
