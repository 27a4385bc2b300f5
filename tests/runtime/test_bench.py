"""Bench: files and the float network in one run; sizes of free axes; what is refused."""

import json

import numpy as np
import onnx
import pytest

from featherweight.artifact import write
from featherweight.cli.app import run
from featherweight.errors import ConfigError, IntegrityError
from featherweight.export import export
from featherweight.formats import Int
from featherweight.model import Model
from featherweight.packing import pack
from featherweight.runtime import onnx_of
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
    from featherweight.runtime.session import Input

    entry, generator = Input("ids", "int64", ("n", "length")), np.random.default_rng(0)
    with pytest.raises(ConfigError, match="free axis"):
        _values(entry, 1, {}, generator)
    assert _values(entry, 3, {"length": 5}, generator).shape == (3, 5)
