"""Tasks by name and by reference."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from featherweight.errors import TaskError
from featherweight.task import Task
from featherweight.zoo.tasks import TASKS, resolve

SOURCE = """
import torch
from featherweight.task.tasks import Classification
from beside import classes

def task():
    x, y = torch.randn(40, 4), torch.arange(40) % classes
    return Classification(torch.nn.Linear(4, classes), train=(x, y), test=(x, y))

made = task()
broken = lambda: 1 / 0
number = 3
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    (tmp_path / "beside.py").write_text("classes = 3\n")
    path = tmp_path / "mine.py"
    path.write_text(SOURCE)
    monkeypatch.delitem(sys.modules, "beside", raising=False)
    return path


@pytest.mark.parametrize("name", ["task", "made"])
def test_a_file(file, name):
    found = resolve(f"{file}:{name}")
    assert isinstance(found, Task) and found.example().shape == (2, 4)


def test_a_file_without_a_name_asks_for_one(file):
    with pytest.raises(TaskError, match=r"expected .*mine\.py:NAME\nhint: it defines task, made"):
        resolve(str(file))


def test_a_file_with_a_dataclass_and_postponed_annotations(file):
    config = "@dataclass\nclass Config:\n    width: int = 3\nclasses = Config().width\n"
    header = "from __future__ import annotations\nfrom dataclasses import dataclass\n"
    file.write_text(header + SOURCE.replace("from beside import classes\n", config))
    assert isinstance(resolve(f"{file}:task"), Task)
    other = file.with_name("json.py")  # a name that is taken
    other.write_text(file.read_text())
    assert isinstance(resolve(f"{other}:task"), Task)
    assert sys.modules["json"].dumps


def test_a_module(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    path = list(sys.path)
    assert isinstance(resolve("mine:made"), Task)
    assert sys.path == path


@pytest.mark.parametrize(
    ("name", "message"),
    [("tsk", "did you mean task"), ("broken", "ZeroDivisionError"), ("number", "not a task")],
)
def test_refusals_of_a_file(file, name, message):
    with pytest.raises(TaskError, match=message):
        resolve(f"{file}:{name}")


def test_refusals(tmp_path):
    with pytest.raises(TaskError, match="did you mean lenet-mnist"):
        resolve("lennet-mnist")
    with pytest.raises(TaskError, match="no such file"):
        resolve(f"{tmp_path}/none.py:task")
    with pytest.raises(TaskError, match="ModuleNotFoundError"):
        resolve("no_such_module_anywhere:task")


def test_listing_names_does_not_import_torch():
    code = "import sys; from featherweight.zoo.tasks import TASKS; print(len(TASKS), 'torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == [str(len(TASKS)), "False"]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FEATHERWEIGHT_DATA", str(tmp_path))
    return tmp_path


def test_resnet20_on_a_folder_of_ones_own(cache):
    folder = cache / "cifar-10-batches-bin"
    folder.mkdir()
    random = np.random.default_rng(0)
    for name in ["test_batch", *(f"data_batch_{k}" for k in range(1, 6))]:
        records = random.integers(0, 10, (10, 3073)).astype(np.uint8)
        (folder / f"{name}.bin").write_bytes(records.tobytes())
    task = resolve("resnet20-cifar10")
    assert task.dataset == "CIFAR-10 (unofficial)" and task.example().shape == (2, 3, 32, 32)
    assert task.training is None  # it comes trained
    assert resolve("resnet20-cifar10", trained=False).training.optimizer == "nesterov"
    assert sum(len(y) for _, y in task.batches("train", seed=0, epoch=0)) == 45


def test_imagenet_needs_images_and_takes_them_by_number(cache, monkeypatch):
    from featherweight.zoo import efficientnet_lite

    monkeypatch.setattr(efficientnet_lite, "pretrained", lambda events: efficientnet_lite.EfficientNetLite0())
    with pytest.raises(TaskError, match="no images"):
        resolve("efficientnet-lite0-imagenet")
    (cache / "imagenet").mkdir()
    for label in range(8):
        Image.new("RGB", (224, 224), (127, 127 + label, 0)).save(cache / "imagenet" / f"{label:04}.png")
    task = resolve("efficientnet-lite0-imagenet")
    splits = {split: list(task.batches(split, seed=0, epoch=0)) for split in ("train", "validation", "test")}
    counts = {split: sum(len(y) for _, y in batches) for split, batches in splits.items()}
    assert counts == {"train": 2, "validation": 2, "test": 4}
    inputs, labels = splits["test"][0]
    assert inputs[0, :, 0, 0].tolist() == [0.0, labels[0].item() / 128, -127 / 128]
    (cache / "imagenet" / "train" / "cat").mkdir(parents=True)
    with pytest.raises(TaskError, match="not all classes"):
        resolve("efficientnet-lite0-imagenet")
