"""The command line as its users meet it: text, JSON, errors on one line, nothing half-written."""

import io
import json
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_onnx import small_onnx

from featherweight.cli import main, output
from featherweight.cli.app import INTERRUPTED

TINY = Path(__file__).parent.parent / "tiny_task.py"


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


def featherweight(*arguments, check=True, cwd=None, **environment):
    """Run the command line in this process, as `main` is run by the shell; a new one costs seconds of imports."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["featherweight", *map(str, arguments)])
        for name, value in {"COLUMNS": "200", **environment}.items():
            patch.setenv(name, value)
        if cwd:
            patch.chdir(cwd)
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
    done = Done(code, out.getvalue(), err.getvalue())
    if check:
        assert done.returncode == 0, done.stderr
    return done


def test_as_a_process_of_its_own():
    done = subprocess.run(
        [sys.executable, "-m", "featherweight", "list", "coders"], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "rans" in done.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compressed")
    done = featherweight(
        "compress",
        "auto",
        "--task",
        f"{TINY}:blobs",
        "-o",
        folder,
        "--max-drop",
        1,
        "--json",
        "--threads",
        1,
        FEATHERWEIGHT_DATA=str(folder / "data"),
    )
    return folder, json.loads(done.stdout)


def test_compress_writes_the_file_and_three_reports(made):
    folder, summary = made
    for name in ("model.fw", "report.json", "report.md", "report.html", "recipe.toml"):
        assert (folder / name).stat().st_size > 0
    assert summary["file_bytes"] == (folder / "model.fw").stat().st_size
    assert summary["difference"] <= 1e-5
    assert json.loads((folder / "report.json").read_text())["sha256"] == summary["sha256"]
    assert summary["stages"][-1]["nbytes"] == summary["file_bytes"]


def test_the_recipe_it_wrote_makes_the_same_tensors(made, tmp_path):
    folder, _ = made
    featherweight(
        "compress",
        folder / "recipe.toml",
        "--task",
        f"{TINY}:blobs",
        "-o",
        tmp_path,
        "--threads",
        1,
        FEATHERWEIGHT_DATA=str(tmp_path / "data"),
    )
    assert (tmp_path / "model.fw").read_bytes() == (folder / "model.fw").read_bytes()


def test_inspect_accounts_for_every_byte(made):
    folder, _ = made
    found = json.loads(featherweight("inspect", folder / "model.fw", "--json").stdout)
    assert sum(found["kinds"].values()) == found["bytes"] == (folder / "model.fw").stat().st_size
    text = featherweight("inspect", folder / "model.fw").stdout
    assert "whole file" in text


def test_eval_reports_the_same_accuracy(made):
    folder, summary = made
    found = json.loads(featherweight("eval", folder / "model.fw", "--task", f"{TINY}:blobs", "--json").stdout)
    assert found["runtime"] == "onnxruntime"
    assert found["metrics"]["accuracy"] == pytest.approx(summary["test"]["accuracy"])


def test_eval_warns_of_another_task(made, tmp_path):
    folder, _ = made
    arguments = ["eval", folder / "model.fw", "--task"]
    assert featherweight(*arguments, f"{TINY}:blobs").stderr == ""
    renamed, changed = tmp_path / "renamed.py", tmp_path / "changed.py"
    (tmp_path / TINY.name).write_text(TINY.read_text())
    renamed.write_text(
        "from tiny_task import *\ndef other():\n    t = blobs()\n    t.name = 'else'\n    return t\n"
    )
    changed.write_text(
        "from tiny_task import *\ndef other():\n    t = blobs()\n    t.more = 1\n    return t\n"
    )
    assert "made for the task 'blobs', not for 'else'" in featherweight(*arguments, f"{renamed}:other").stderr
    assert "changed since the file was made" in featherweight(*arguments, f"{changed}:other").stderr


def test_diff_exits_1_on_differences_and_fits_the_terminal(made, tmp_path, monkeypatch):
    folder, _ = made
    other = Path(__file__).parent.parent / "artifact" / "golden" / "formats.fw"
    monkeypatch.setattr(output, "_room", lambda: 80)
    done = featherweight("diff", folder / "model.fw", other, check=False)
    assert done.returncode == 1
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "{" not in done.stdout, "formats as people write them, not JSON"


def test_diff_of_a_file_with_itself_is_empty(made):
    folder, _ = made
    found = json.loads(featherweight("diff", folder / "model.fw", folder / "model.fw", "--json").stdout)
    assert found["equal"] is True


@pytest.mark.parametrize("target", ["onnx", "onnx-dynamic"])
def test_export_writes_an_onnx_file_that_runs(tmp_path, target):
    import onnxruntime

    featherweight("compress", "int8", "--task", f"{TINY}:blobs", "-o", tmp_path, "--threads", 1)
    featherweight("export", tmp_path / "model.fw", "--to", target, "-o", tmp_path / "m.onnx")
    assert onnxruntime.InferenceSession(str(tmp_path / "m.onnx")).get_inputs()


def test_export_into_a_folder(made, tmp_path):
    folder, _ = made
    featherweight("export", folder / "model.fw", "--to", "onnx", "-o", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize("what", ["formats", "coders", "steps", "tasks", "recipes"])
def test_lists(what):
    assert json.loads(featherweight("list", what, "--json").stdout)[what]
    assert featherweight("list", what).stdout.count("\n") > 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect", "absent.fw"], "absent.fw"),
        (["inspect", str(TINY)], "error:"),
        (["eval", "absent.fw", "--task", f"{TINY}:blobs"], "absent.fw"),
        (["compress", "int8", "--task", str(TINY), "-o", "x"], "blobs"),
        (["compress", "auto", "--task", "lenet-mnst", "-o", "x"], "lenet-mnist"),
        (["compress", "int9", "--task", f"{TINY}:blobs", "-o", "x"], "int8"),
        (["compress", "int8", "--task", f"{TINY}:absent", "-o", "x"], "absent"),
        (["compress", "int8", "--task", f"{TINY}:blobs", "-o", "x", "--max-drop", "1"], "auto"),
    ],
)
def test_bad_input_is_one_error_without_a_traceback(arguments, message, tmp_path):
    done = featherweight(*arguments, check=False, cwd=tmp_path, FEATHERWEIGHT_DATA=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("error:")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "x").exists(), "nothing half-written"


def test_an_executor_by_its_name_finds_what_is_found_here(tmp_path):
    folders = {name: {"FEATHERWEIGHT_DATA": str(tmp_path / name)} for name in ("here", "there")}
    ask = ("sensitivity", "--task", f"{TINY}:blobs", "--batches", 1, "--threads", 1, "--json")
    here = featherweight(*ask, **folders["here"])
    assert featherweight(*ask, "--executor", "processes:1", **folders["there"]).stdout == here.stdout
    done = featherweight(*ask, "--executor", "threads:2", check=False)
    assert done.returncode == 1
    assert "not an executor: got 'threads:2', expected processes:N or dask://HOST:PORT" in done.stderr


@pytest.mark.parametrize(
    "arguments", [["inspect"], ["nope"], ["list", "formats", "--nope"], ["compress", "auto"]]
)
def test_bad_usage_is_one_error_and_json(arguments):
    done = featherweight(*arguments, "--json", check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error:")
    assert "--help" in json.loads(done.stdout)["error"]["hint"]


@pytest.mark.parametrize("arguments", [["reproduce", "sosp"], ["list", "reproductions"]])
def test_published_results_are_a_command_of_a_checkout(arguments):
    done = featherweight(*arguments, check=False)
    assert done.returncode == 2
    assert "python -m reproduce" in done.stderr


def test_what_a_task_prints_does_not_spoil_the_json(tmp_path):
    (tmp_path / "noisy.py").write_text(f"print('hello')\nfrom {TINY.stem} import blobs\n")
    (tmp_path / TINY.name).write_text(TINY.read_text())
    done = featherweight("compress", "int8", "--task", f"{tmp_path}/noisy.py:blobs", "-o", tmp_path / "out",
                         "--json", "--threads", 1, FEATHERWEIGHT_DATA=str(tmp_path))  # fmt: skip
    assert json.loads(done.stdout)["task"] == "blobs"
    assert "hello" in done.stderr


def test_a_folder_that_cannot_be_written_is_found_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    done = featherweight("compress", "int8", "--task", f"{TINY}:blobs", "-o", tmp_path / "file", check=False)
    assert done.returncode == 1
    assert "not a folder that can be written" in done.stderr


def test_errors_are_json_when_json_was_asked_for(tmp_path):
    done = featherweight("inspect", "absent.fw", "--json", check=False, cwd=tmp_path)
    assert "absent.fw" in json.loads(done.stdout)["error"]["message"]


def test_json_is_json_whatever_a_library_writes_to_the_descriptor(made):
    folder, _ = made
    code = f"""
import os, sys
import featherweight.artifact as artifact
load = artifact.load
artifact.load = lambda path: (os.write(1, b"Running HiGHS\\n"), load(path))[1]
sys.argv = ["featherweight", "inspect", {str(folder / "model.fw")!r}, "--json"]
from featherweight.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["tensors"]
    assert "Running HiGHS" in done.stderr


def test_version():
    assert featherweight("--version").stdout == f"featherweight {version('featherweight')}\n"


def test_the_cause_of_an_error_is_one_line_and_with_debug_its_traceback(tmp_path):
    (tmp_path / "broken.py").write_text("def task():\n    return {}['labels']\n")
    arguments = ["compress", "int8", "--task", f"{tmp_path}/broken.py:task", "-o", tmp_path / "out"]
    done = featherweight(*arguments, check=False)
    assert "KeyError" in done.stderr and "labels" in done.stderr and "Traceback" not in done.stderr
    for debug in (["--debug", *arguments], [*arguments, "--debug"]):
        done = featherweight(*debug, check=False)
        assert done.stderr.count("Traceback") == 2 and "return {}['labels']" in done.stderr


def test_ctrl_c_says_that_the_same_command_goes_on(tmp_path):
    (tmp_path / "slow.py").write_text("import time, sys\nprint('here', flush=True)\ntime.sleep(60)\n")
    command = ["compress", "int8", "--task", f"{tmp_path}/slow.py:task", "-o", str(tmp_path / "out")]
    # A shell's background job ignores SIGINT, and what it starts too.
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from featherweight.cli import main; main()"
    )
    with subprocess.Popen([sys.executable, "-c", code, *command], text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:  # fmt: skip
        assert process.stdout.readline() == "here\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert process.returncode == 130
    assert errors == f"error: {INTERRUPTED}\n"


@pytest.fixture(scope="module")
def onnx_inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx")
    small_onnx("classes", folder)
    np.savez(folder / "inputs.npz", pixels=np.random.default_rng(0).normal(size=(80, 16)).astype(np.float32))
    photos = folder / "photos"
    photos.mkdir()
    for n in range(24):
        pixels = np.random.default_rng(n).integers(0, 256, (20, 24, 3), np.uint8)
        Image.fromarray(pixels).save(photos / f"{n:02}.png")
    small_onnx("images", folder)
    return folder


def test_an_onnx_file_and_inputs_make_a_file_that_is_measured(onnx_inputs, tmp_path):
    source = ["--onnx", onnx_inputs / "classes.onnx", "--inputs", onnx_inputs / "inputs.npz", "--threads", 1]
    summary = json.loads(featherweight("compress", "w8a8", *source, "-o", tmp_path, "--json").stdout)
    assert summary["test"]["agreement"] >= 0.9
    assert "classes.onnx" in {note["name"] for note in summary["notes"]}
    assert "classes.onnx" in (tmp_path / "report.md").read_text()
    found = json.loads(featherweight("eval", tmp_path / "model.fw", *source, "--json").stdout)
    assert found["metrics"]["agreement"] == summary["test"]["agreement"]
    table = featherweight("sensitivity", *source[:4], "--batches", 1, "--threads", 1).stdout
    assert "loss added" in table


def test_a_folder_of_photographs_is_scaled_as_the_report_says(onnx_inputs, tmp_path):
    source = [
        "--onnx",
        onnx_inputs / "images.onnx",
        "--inputs",
        onnx_inputs / "photos",
        "--bgr",
        "--mean",
        "0.4,0.5,0.6",
    ]
    featherweight("compress", "w8a8", *source, "-o", tmp_path, "--threads", 1)
    assert "BGR, (pixels / 255 - [0.4, 0.5, 0.6]) / 1" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--task", "lenet5-mnist", "--onnx", "x.onnx"],
            "one of --task and --onnx says what to work on: got both",
        ),
        ([], "got neither"),
        (["--onnx", "x.onnx"], "inputs are missing"),
        (["--task", "lenet5-mnist", "--inputs", "x.npz"], "--inputs: belongs to --onnx"),
        (["--task", "lenet5-mnist", "--bgr"], "--bgr: belongs to --onnx"),
        (["--onnx", "x.onnx", "--inputs", "x.npz", "--mean", "a"], "--mean: not numbers"),
        (["--onnx", "x.onnx", "--inputs", "x.npz", "--image-size", "3x"], "--image-size: not a size"),
        (["--onnx", "absent.onnx", "--inputs", "x.npz"], "absent.onnx"),
        (["--onnx", "x.onnx", "--inputs", "x.npz", "--untrained"], "comes trained"),
    ],
)
def test_what_to_work_on_is_said_once(arguments, said, tmp_path):
    done = featherweight("compress", "w8a8", *arguments, "-o", tmp_path / "out", check=False)
    assert done.returncode == 1
    assert said in done.stderr
    assert not (tmp_path / "out").exists()
