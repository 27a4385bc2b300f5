"""What makes a file larger than it need be: each planted fault is found, and nothing in a tight file."""

import pytest

from featherweight.artifact import load, write
from featherweight.doctor import diagnose, size_findings
from featherweight.formats import Float, Int
from featherweight.formats.coders import Rans
from featherweight.model import Model
from featherweight.packing import pack
from featherweight.techniques import Context, Encode, Sparsify
from featherweight.zoo.lenet import LeNet300


def file(tmp_path, *steps):
    model = Model.of(LeNet300())
    for step in steps:
        model = step.apply(model, None, Context())
    write(tmp_path / "model.fw", pack(model))
    return tmp_path / "model.fw"


def kinds(path):
    return {finding.kind for finding in size_findings(load(path))}


REST = Encode(where=["*", "!weights"], format=Float("float16"))


@pytest.mark.parametrize(
    ("steps", "found"),
    [
        ([], {"raw"}),
        ([Encode(format=Int(bits=8), coder=Rans()), REST], set()),
        ([Sparsify(sparsity=0.9), Encode(format=Int(bits=4))], {"fixed rate"}),
        ([Encode(format=Int(bits=2, per=8), coder=Rans())], {"overhead: parts"}),
    ],
    ids=["raw", "tight", "fixed rate", "parts"],
)
def test_planted_faults(tmp_path, steps, found):
    assert kinds(file(tmp_path, *steps)) == found


def test_what_is_said_of_the_saving_is_true(tmp_path):
    sparse = Sparsify(sparsity=0.9)
    fixed = file(tmp_path, sparse, Encode(format=Int(bits=4)))
    (finding,) = size_findings(load(fixed))
    before = fixed.stat().st_size
    after = file(tmp_path, sparse, Encode(format=Int(bits=4), coder=Rans())).stat().st_size
    share = float(finding.what.split(" %")[0].split()[-1]) / 100
    assert share == pytest.approx(1 - after / before, abs=0.01)


def test_a_file_without_a_graph_cannot_run(tmp_path):
    assert "no graph" in {finding.kind for finding in diagnose(file(tmp_path), ["onnxruntime"])}
