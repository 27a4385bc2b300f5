"""Bench: files and the float network in one run; sizes of free axes; what is refused."""

import json

import numpy as np
import onnx
import pytest

from featherweight.artifact import write
from featherweight.cli.app import run
from featherweight.errors import ConfigError, IntegrityError
from featherweight.export import onnx_of
from featherweight.export.onnx import export
from featherweight.formats import Int
from featherweight.model import Model
from featherweight.packing import pack
from featherweight.runtime.bench import bench
from featherweight.techniques import Context, Encode
from featherweight.zoo.lenet import LeNet300


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    import torch

    torch.manual_seed(0)
    model = Encode(format=Int(bits=8)).apply(Model.of(LeNet300()), None, Context())
    path = tmp_path_factory.mktemp("bench") / "model.fw"
    write(path, pack(model, export(model.module, torch.randn(2, 1, 28, 28), dynamic={"x": [0]})))
    return path


def test_a_file_against_its_float_network(file):
    found = bench([file], runtimes=["onnxruntime", "openvino"], seconds=0.05)
    assert [(s.runtime, s.name) for s in found] == [
        ("onnxruntime", "float32"), ("onnxruntime", "model.fw"), ("openvino", "float32"), ("openvino", "model.fw"),
    ]  # fmt: skip
    assert found[0].gain == found[2].gain == 1
    for speed in found:
        assert speed.frames == pytest.approx(1000 / speed.timing.milliseconds)


def test_an_onnx_file_beside_it(file, tmp_path):
    from featherweight.artifact import load

    onnx.save(onnx_of(load(file)), tmp_path / "theirs.onnx")
    found = bench([file, tmp_path / "theirs.onnx"], runtimes=["onnxruntime"], batch=8, seconds=0.02)
    assert [s.name for s in found] == ["float32", "model.fw", "theirs.onnx"]
    assert all(s.batch == 8 for s in found)
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    with pytest.raises(IntegrityError):
        bench([file, tmp_path / "broken.onnx"], runtimes=["onnxruntime"], seconds=0.02)


def test_the_float_network_comes_from_a_file_of_ours(tmp_path):
    for files in ([], [tmp_path / "theirs.onnx"]):
        with pytest.raises(ConfigError, match="float network"):
            bench(files, runtimes=["onnxruntime"])


def test_on_the_command_line(file, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["featherweight", "bench", str(file), "--seconds", "0.02", "--json"])
    assert run() == 0
    found = json.loads(capsys.readouterr().out)
    assert {s["name"] for s in found["speeds"]} == {"float32", "model.fw"}
    monkeypatch.setattr("sys.argv", ["featherweight", "bench", str(file), "--size", "n"])
    assert run() == 1
    assert "NAME=N" in capsys.readouterr().err


def test_a_free_axis_needs_a_size():
    from featherweight.runtime.bench import _values
    from featherweight.runtime.sessions import Input

    entry, generator = Input("ids", "int64", ("n", "length")), np.random.default_rng(0)
    with pytest.raises(ConfigError, match="free axis"):
        _values(entry, 1, {}, generator)
    assert _values(entry, 3, {"length": 5}, generator).shape == (3, 5)


def test_files_with_other_inputs_are_refused(file, tmp_path):
    import torch

    class Wider(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = torch.nn.Linear(8, 2)

        def forward(self, x):
            return self.fc(x)

    write(
        tmp_path / "other.fw", pack(Model.of(Wider()), export(Wider(), torch.randn(2, 8), dynamic={"x": [0]}))
    )
    with pytest.raises(ConfigError, match="inputs of the first file"):
        bench([file, tmp_path / "other.fw"], runtimes=["onnxruntime"], seconds=0.02)


def test_a_size_of_no_axis_is_refused(file):
    with pytest.raises(ConfigError, match="nosuch"):
        bench([file], runtimes=["onnxruntime"], sizes={"nosuch": 3}, seconds=0.02)


def test_unequal_times_of_equal_work_are_not_quiet(file, monkeypatch):
    from featherweight.runtime import bench as module
    from featherweight.runtime.timing import Timing

    def timed(factor):
        def interleaved(calls, *, seconds):
            times = dict.fromkeys(calls, 1.0) | {f"onnxruntime {module.AGAIN}": factor}
            return [Timing(name, ms, ms, ms, 20, 0, True) for name, ms in times.items()]

        return interleaved

    for factor, quiet in ((1.05, True), (4.72, False)):
        monkeypatch.setattr(module, "interleaved", timed(factor))
        found = bench([file], runtimes=["onnxruntime"])
        assert [s.name for s in found] == ["float32", "model.fw"]
        assert all(s.timing.quiet == quiet for s in found)


def test_the_cost_of_exact_sums_is_shown(tmp_path, monkeypatch):
    from featherweight.runtime import OnnxBackend

    model, graph = saturable_model()
    write(tmp_path / "model.fw", pack(model, graph))
    monkeypatch.setattr(OnnxBackend, "saturates", lambda self: True)
    found = bench([tmp_path / "model.fw"], runtimes=["onnxruntime", "openvino"], seconds=0.02)
    names = ["float32", "model.fw", "model.fw, saturating", "float32", "model.fw, saturating"]
    assert [s.name for s in found] == names


def saturable_model():
    import torch

    from featherweight.techniques import Calibrate

    class Given:
        name = "given"

        def example(self):
            return torch.rand(2, 8)

        def batches(self, split, *, seed, epoch):
            return [(torch.rand(32, 8), None)]

        def inputs(self, batch):
            return batch[0]

    network = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4))
    with torch.no_grad():
        network[0].weight.fill_(1.0)
    made = Calibrate().apply(
        Encode(format=Int(bits=8)).apply(Model.of(network), None, Context()), Given(), Context()
    )
    return made, export(made.module, Given().example())
