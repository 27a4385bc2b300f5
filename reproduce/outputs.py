"""Files for other runtimes, of one network each: bytes, time of a call, and how often they decide as the simulation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from featherweight.artifact import Artifact
from featherweight.deploy import NAMES, make
from featherweight.errors import MissingExtraError
from featherweight.events import Events
from featherweight.export import onnx_of, qdq_of, serialized
from featherweight.packing import unpack
from featherweight.recipe import Recipe
from featherweight.recipe.recipe import read_recipe
from featherweight.runtime import Session
from featherweight.runtime.timing import Timing, interleaved
from featherweight.search import compress
from featherweight.simulation import simulate
from featherweight.task import Task
from featherweight.techniques import Calibrate, Encode, Fold
from featherweight.zoo.tasks import resolve
from reproduce.figure import new_figure, svg
from reproduce.results import Cell, Check, Measured, Plot, Sheet

Images = NDArray[np.float32]
Decide = Callable[[Images], NDArray[np.float32]]  # of images [n, c, h, w] to scores [n, classes]

FEW = 100
ABOUT = "EfficientNet-Lite0 and MobileNetV2 in the files of four runtimes: bytes, milliseconds, decisions."
REMARKS = [
    "Milliseconds are medians of one image a call on one thread, all files of a network in turns in one process.",
    "Images are of the test (where it is small, of validation too, and mirrored); none calibrated, no label is read.",
    "Files in 8 bits are compared with the simulation in PyTorch; float files, and 16x8, with the float network.",
    "Every file ran in its own runtime, and was compared with ONNX Runtime, before it counted as made.",
    "LiteRT and ExecuTorch have no integer product that writes floats: the last layer computes in float there.",
    "Its weights stay int8 in LiteRT, and are float32 in ExecuTorch.",
    "Files with integer outputs were calibrated with outputs = true: their last layer computes in integers as well.",
    "LiteRT integer takes and gives int8; its time has the rounding of the image in it, which NumPy does before.",
    f"LiteRT 16x8 runs reference kernels on x86, for it is made for other hardware; it saw the first {FEW} images.",
]
GOAL = 0.99
WHOLE = ", integer outputs"
JUDGED = ("LiteRT int8", "ExecuTorch int8", "LiteRT integer" + WHOLE, "ExecuTorch int8" + WHOLE)
TITLES = {
    "openvino": "OpenVINO IR float32", "openvino-int8": "OpenVINO IR int8", "litert": "LiteRT float32",
    "litert-int8": "LiteRT int8", "litert-integer": "LiteRT integer", "litert-16x8": "LiteRT 16x8",
    "executorch": "ExecuTorch float32", "executorch-int8": "ExecuTorch int8",
}  # fmt: skip
INTEGERS = ("openvino-int8", "litert-integer", "executorch-int8")  # of files whose outputs are integers
NETWORKS = {"EfficientNet-Lite0": "efficientnet-lite0-imagenet", "MobileNetV2": "mobilenetv2-cifar10"}
MOST = 1000  # images
QUICK = Recipe([Fold(), Encode(portable=True), Calibrate(samples=16)])


@dataclass(frozen=True)
class File:
    """A file that was made.

    Attributes:
        title: runtime and numbers.
        nbytes: of all its parts.
        decide: what it computes.
        call: one run of one image, in the file's own order of axes.
        reference: what its decisions are compared with: `float`, or the simulation of the file that it was made of.
        checked: what was compared when it was made, and how near it is.
    """

    title: str
    nbytes: int
    decide: Decide
    call: Callable[[], object]
    reference: str
    checked: str = ""


def measure(quick: bool, threads: int, events: Events) -> Measured:
    """Measure every file of both networks; quick: a few images of MobileNetV2, quickly calibrated, no ExecuTorch."""
    sheets, checks = [], []
    for network, name in list(NETWORKS.items())[1 if quick else 0 :]:
        task = resolve(name, events)
        recipe = QUICK if quick else read_recipe("w8a8")
        made = [compress(task, r, threads=threads, events=events).artifact for r in (recipe, whole(recipe))]
        wanted = [n for n in NAMES if not quick or not n.startswith("executorch")]
        sheet, found = compared(network, made, task, images_of(task, 32 if quick else MOST), wanted, quick)
        sheets.append(sheet)
        checks += found
    return Measured([], checks, sheets, [drawn(sheets)])


def whole(recipe: Recipe) -> Recipe:
    """Return a recipe whose outputs are quantized too."""
    steps = [
        msgspec.structs.replace(s, outputs=True) if isinstance(s, Calibrate) else s for s in recipe.steps
    ]
    return Recipe(steps, recipe.about)


def drawn(sheets: Sequence[Sheet]) -> Plot:
    """Return the bytes of every file, a panel a network."""
    figure = new_figure(9.0, 3.6)
    for number, sheet in enumerate(sheets):
        axes = figure.add_subplot(1, len(sheets), number + 1)
        titles, sizes = (
            [str(row[0]) for row in sheet.rows][::-1],
            [float(row[1] or 0) / 1e6 for row in sheet.rows][::-1],
        )
        colours = ["tab:blue" if "int" in title else "lightgray" for title in titles]
        axes.barh(titles, sizes, color=colours)
        axes.set_title(sheet.title)
        axes.set_xlabel("MB")
    return Plot("bytes.svg", svg(figure))


def images_of(task: Task, most: int) -> Images:
    """Return images of the test split; and, where there are few, of validation and the mirrors of both."""
    batches = [task.inputs(batch) for batch in task.batches("test", seed=0, epoch=0)]
    if sum(map(len, batches)) < most:
        batches += [task.inputs(batch) for batch in task.batches("validation", seed=0, epoch=0)]
        batches += [batch.flip(-1) for batch in batches]
    return np.asarray(torch.cat(batches)[:most].contiguous().numpy(), np.float32)


def compared(
    network: str,
    made: Sequence[Artifact],
    task: Task,
    images: Images,
    wanted: Sequence[str],
    quick: bool = False,
) -> tuple[Sheet, list[Check]]:
    """Return the table of a network and whether the judged files decide as the simulation.

    Args:
        network: its name.
        made: a calibrated file, and one whose outputs are integers.
        task: that it was made for.
        images: `[n, c, h, w]`.
        wanted: outputs, by name.
        quick: time for a moment only.
    """
    parts = [n for n in wanted if n != "litert-integer"]
    files = files_of(made[0], images[:1], parts)
    files += [
        replace(file, title=file.title + WHOLE, reference="whole")
        for file in files_of(made[1], images[:1], [n for n in wanted if n in INTEGERS])
        if file.reference != "float"
    ]
    references = {
        "float": files[0].decide, "part": simulated(made[0], task), "whole": simulated(made[1], task),
    }  # fmt: skip
    decisions = {k: decide(images).argmax(1) for k, decide in references.items()}
    timings = interleaved({file.title: file.call for file in files}, seconds=0.05 if quick else 5.0)
    rows: list[list[Cell]] = []
    checks = []
    for file, timing in zip(files, timings, strict=True):
        seen = images[:FEW] if "16x8" in file.title else images
        same = float((file.decide(seen).argmax(1) == decisions[file.reference][: len(seen)]).mean())
        rows.append([file.title, file.nbytes, *_times(timing), f"{100 * same:.2f} %", file.checked])
        if file.title in JUDGED:
            checks.append(
                Check(
                    f"{network}, {file.title}: decisions of the simulation",
                    f"{GOAL:.0%}",
                    f"{same:.2%}",
                    same >= GOAL,
                )
            )
    head = ["file", "bytes", "ms", "quiet", f"same decisions of {len(images)}", "compared when made"]
    return Sheet(network, head, rows), checks


def _times(timing: Timing) -> list[Cell]:
    return [f"{timing.milliseconds:.2f}", "yes" if timing.quiet else "no"]


def simulated(artifact: Artifact, task: Task) -> Decide:
    """Return the simulation of a file."""
    module = simulate(unpack(artifact, task), task.example())

    def decide(images: Images) -> NDArray[np.float32]:
        with torch.no_grad():
            parts = [torch.from_numpy(images[k : k + 25]) for k in range(0, len(images), 25)]
            return np.concatenate([module(part).numpy() for part in parts])

    return decide


def files_of(artifact: Artifact, image: Images, wanted: Sequence[str]) -> list[File]:
    """Return the ONNX files and those of other runtimes; what is not installed is left out.

    Args:
        artifact: a calibrated file.
        image: `[1, c, h, w]`, to be timed with.
        wanted: outputs, by name.
    """
    found = []
    for title, model in (("ONNX float32", onnx_of(artifact)), ("ONNX int8", qdq_of(artifact).onnx)):
        session = Session.of_onnx(model)
        decide = partial(_by, run=lambda arrays, session=session: [session.run(arrays[0])], each=25)
        size = len(serialized(model))
        found.append(
            File(title, size, decide, partial(session.run, image), "part" if "int8" in title else "float")
        )
    for name in NAMES:
        if name not in wanted:
            continue
        try:
            made = make(artifact, name)
        except MissingExtraError:
            continue
        last = name.startswith("litert") and image.ndim == 4
        each = 1 if name.startswith("executorch") else 25
        laid = np.ascontiguousarray(image.transpose(0, 2, 3, 1)) if last else image
        found.append(
            File(
                TITLES[name], sum(map(len, made.files.values())), partial(_by, run=made.run, each=each, last=last),
                partial(made.run, [laid]), "part" if "int" in name else "float", made.checked,
            )
        )  # fmt: skip
    return found


def _by(
    images: Images, *, run: Callable[..., list[Images]], each: int, last: bool = False
) -> NDArray[np.float32]:
    """Return scores of images, so many at a time."""
    moved = np.ascontiguousarray(images.transpose(0, 2, 3, 1)) if last else images
    whole = len(moved) - len(moved) % each
    parts = [moved[k : k + each] for k in range(0, whole, each)]
    parts += [moved[k : k + 1] for k in range(whole, len(moved))]
    return np.concatenate([run([part])[0] for part in parts])
