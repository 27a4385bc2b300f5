"""The page of stages on a small network: what is staged has a curve, and its largest drop."""

from test_qat import small

from reproduce import ptq_kd, reproduce


def test_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr(ptq_kd, "resolve", small)
    monkeypatch.setenv("FEATHERWEIGHT_DATA", str(tmp_path / "store"))
    results = reproduce("ptq-kd", tmp_path, quick=True, threads=1)
    near, staged = results.sheets[0].rows
    assert near[2] == "nearest" and near[-2] is None
    assert staged[2] == "steps learned, blocks" and float(staged[-2]) >= 0


def test_the_largest_drop_is_the_steepest_part_of_the_curve():
    notes = [
        {"reason": f"the network so far is 1 from its teacher, {share}% of answers agree"}
        for share in (98.0, 90.0, 95.0)
    ]
    assert abs(ptq_kd.largest_drop(notes) - 0.08) < 1e-9
    assert ptq_kd.largest_drop([{"reason": "rounded"}]) is None
