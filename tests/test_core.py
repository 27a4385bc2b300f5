"""The core needs no torch: files load, run, are inspected, exported, timed and diagnosed without the extras."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from featherweight import Classification, Store, compress

GOLDEN = Path(__file__).parent / "artifact" / "golden"
BLOCKED = """
import sys

EXTRAS = {"torch", "onnxscript", "onnx_ir", "scipy", "threadpoolctl", "safetensors", "PIL", "plotly", "tomli_w",
          "numba", "matplotlib"}

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in EXTRAS:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A file with a graph: a small network in integers, made here with all extras."""
    folder = tmp_path_factory.mktemp("made")
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    data = torch.randn(40, 8), torch.arange(40) % 3
    task = Classification(network, train=data, validation=data, test=data)
    return compress(task, "int8", threads=1, store=Store(folder)).save(folder / "small.fw")


def without_extras(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", BLOCKED + code, *map(str, arguments)], capture_output=True, text=True
    )


@pytest.mark.parametrize(
    "encoded", ["Int(bits=4).encode(w).recoded(Cabac())", "Astc(footprint='4x4').encode(w)"]
)
def test_a_file_that_needs_an_extra_is_not_called_damaged(encoded, tmp_path):
    made = f"""
import numpy as np
from featherweight.artifact import Contents, write
from featherweight.formats import Astc, Int
from featherweight.formats.coders import Cabac
w = np.linspace(-1, 1, 64, dtype=np.float32).reshape(8, 8)
write({str(tmp_path / "a.fw")!r}, Contents({{"w": {encoded}}}))
"""
    subprocess.run([sys.executable, "-c", made], check=True)
    code = "import featherweight; featherweight.load(sys.argv[1]).weights()"
    done = without_extras(code, tmp_path / "a.fw")
    assert "MissingExtraError" in done.stderr
    assert "numba" in done.stderr.splitlines()[-2] + done.stderr.splitlines()[-1]
    assert "IntegrityError" not in done.stderr


def test_each_core_module_imports_and_a_file_runs(small):
    code = """
import importlib, numpy
for name in ("artifact", "runtime", "runtime.bench", "doctor", "formats", "structure", "activations", "task",
             "techniques", "zoo.tasks", "data", "testing", "cli"):
    importlib.import_module(f"featherweight.{name}")
import featherweight
session = featherweight.load(sys.argv[1]).session()
print(session.run(numpy.zeros((3, 8), "f")).shape)
"""
    done = without_extras(code, small)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "(3, 3)\n"


@pytest.mark.parametrize(
    "command",
    [
        "inspect small.fw",
        "inspect small.fw --json",
        "bench small.fw --seconds 0.01 --runtime onnxruntime",
        "doctor small.fw --runtime onnxruntime",
        "diff small.fw small.fw",
        "export small.fw --to onnx",
        *(f"list {what}" for what in ("formats", "coders", "steps", "tasks", "recipes")),
    ],
)
def test_a_command(command, small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(small, "small.fw")
    done = without_extras("from featherweight.cli import main; main()", *command.split())
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize(
    ("code", "extra"),
    [
        ("import featherweight; featherweight.compress", "compress"),
        ("import featherweight; featherweight.Classification", "compress"),
        ("import featherweight; featherweight.load(sys.argv[1]).weights()", "numba"),
        ("from featherweight.cli import main; sys.argv[1:] = ['train', '-t', 'lenet300-mnist', '-o', 'x']; main()",
         "compress"),
    ],
)  # fmt: skip
def test_a_missing_extra_is_one_error_that_names_it(code, extra, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = without_extras(code, GOLDEN / "astc.fw")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"hint: pip install 'featherweight[{extra}]'"
