"""EfficientNet-Lite0 in 8-bit integers: ours beside ONNX Runtime's own quantizer and NNCF, in one interleaved run.

100 images are given to calibrate; the others, as they are and mirrored, measure how often the greatest output is that
of the float network. Run it as `python -m benchmarks integers [-o DIR]`; it takes minutes.
A file is made on all cores, as the rivals make theirs, and timed on one. On x86 without VNNI, where 8-bit products can
saturate, ONNX Runtime adds them in 32 bits; OpenVINO cannot, and the agreement there is that of the saturated sums.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from benchmarks.common import decibels, tiny
from featherweight.doctor import kernels
from featherweight.export import build_onnx, build_qdq
from featherweight.export.check import arrays
from featherweight.export.onnx import export
from featherweight.files import write_whole
from featherweight.formats import Int
from featherweight.model import Model
from featherweight.processors import usable_processors
from featherweight.runtime import Session
from featherweight.task import Restricted, Task
from featherweight.techniques import Calibrate, Context, Encode, Fold, Gptq, Step
from featherweight.workspace import pinned
from featherweight.zoo.tasks import resolve

CALIBRATION, ROUNDS, SEED = 100, 60, 0
CURVATURE, RANGES = 24, 48  # of these, as many as the recipe w8a8 takes for GPTQ and for activations
RUNTIMES = ("onnxruntime", "openvino")


@dataclass(frozen=True)
class Images:
    """A task that calibrates on given images."""

    task: Task
    images: torch.Tensor

    def __getattr__(self, name: str):
        return getattr(self.task, name)

    def example(self) -> torch.Tensor:
        """Return two images."""
        return self.images[:2]

    def batches(self, split: str, *, seed: int, epoch: int):
        """Return the images, unlabelled, whatever the split."""
        return [(part, None) for part in self.images.split(50)]

    def inputs(self, batch):
        """Return the images of a batch."""
        return batch[0]


def every_image(task: Task) -> torch.Tensor:
    parts = [
        images
        for split in ("train", "validation", "test")
        for images, _ in task.batches(split, seed=0, epoch=0)
    ]
    images = torch.cat(parts)
    return images[torch.randperm(len(images), generator=torch.Generator().manual_seed(SEED))]


def ours(model: Model, graph, task: Images, weights: Step, **options) -> Callable[[], onnx.ModelProto]:
    def make() -> onnx.ModelProto:
        seen = Restricted(task, "unlabelled")
        encoded = weights.apply(
            Model.of(model.module), seen, Context()
        )  # traced again: that is part of the time
        made = Calibrate(samples=RANGES, **options).apply(encoded, seen, Context())
        return build_qdq(graph, arrays(made.module), made.weights, made.activations).onnx

    return make


class Reader(CalibrationDataReader):
    """Images one by one, for ONNX Runtime's quantizer."""

    def __init__(self, images: torch.Tensor) -> None:
        self.left = iter([{"x": image[None]} for image in images.numpy()])

    def get_next(self):
        """Return the next image, or None after the last."""
        return next(self.left, None)


def static(plain: onnx.ModelProto, images: torch.Tensor, folder: Path) -> Callable[[], onnx.ModelProto]:
    def make() -> onnx.ModelProto:
        onnx.save(plain, folder / "plain.onnx")
        quant_pre_process(folder / "plain.onnx", folder / "ready.onnx")
        quantize_static(
            folder / "ready.onnx", folder / "static.onnx", Reader(images), per_channel=True,
            quant_format=QuantFormat.QDQ, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip
        return onnx.load(folder / "static.onnx")

    return make


def nncf(plain: onnx.ModelProto, images: torch.Tensor) -> Callable[[], onnx.ModelProto] | None:
    try:
        import nncf
    except ImportError:
        print("NNCF is not installed: left out")
        return None
    data = nncf.Dataset([{"x": image[None]} for image in images.numpy()])
    return lambda: nncf.quantize(plain, data, subset_size=len(images))


def makers(task: Task, calibration: torch.Tensor, folder: Path) -> Iterator[tuple[str, Callable]]:
    given = Images(task, calibration)
    model = Fold().apply(Model.of(task.model()), given, Context())
    graph = export(model.module, given.example())
    plain = build_onnx(graph, arrays(model.module))
    yield "float32", lambda: plain
    format = Int(scale_by="mse")
    for name, portable in (("w8a8", True), ("w8a8, not portable", False)):
        sweep = Gptq(format=format, samples=CURVATURE, places=64, inputs="float", portable=portable)
        yield f"featherweight, {name}", ours(model, graph, given, sweep)
    yield "featherweight, nearest", ours(model, graph, given, Encode(format=format))
    yield "featherweight, nearest, minmax", ours(model, graph, given, Encode(), ranges="minmax")
    yield "onnxruntime quantize_static, minmax", static(plain, calibration, folder)
    if rival := nncf(plain, calibration):
        yield "nncf.quantize", rival


def outputs(session: Session, images: np.ndarray) -> np.ndarray:
    return np.concatenate([session.run(images[i : i + 4]) for i in range(0, len(images), 4)])


def main(quick: bool, out: Path | None = None) -> None:
    task = tiny() if quick else resolve("efficientnet-lite0-imagenet")
    images, count = every_image(task), 50 if quick else CALIBRATION
    others = images[count:]
    others = torch.cat([others, others.flip(-1)]).contiguous().numpy()
    rows, sessions = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for name, make in makers(task, images[:count], Path(folder)):
            wall, processor = time.perf_counter(), time.process_time()
            with pinned(usable_processors()):
                made = make()
            row = {
                "name": name,
                "seconds": time.perf_counter() - wall,
                "cpu": time.process_time() - processor,
            }
            content = made.SerializeToString()
            operators = Counter(kernel.op for kernel in kernels(made, RUNTIMES[0]))
            row |= {"bytes": len(content), "float convolutions": operators["Conv"] + operators["FusedConv"]}
            for runtime in RUNTIMES:
                sessions[name, runtime] = Session.of_onnx(made, runtime=runtime, exact=runtime != "openvino")
                got = outputs(sessions[name, runtime], others)
                if not rows and runtime == RUNTIMES[0]:
                    reference = got
                row[f"agreement {runtime}"] = float((got.argmax(1) == reference.argmax(1)).mean())
                noise = decibels(reference, got)
                row[f"dB {runtime}"] = noise if np.isfinite(noise) else None
            rows.append(row)
            print(json.dumps(row), flush=True)
    times = {key: [] for key in sessions}
    for _ in range(2 if quick else ROUNDS):
        for key, session in sessions.items():
            start = time.perf_counter()
            session.run(others[:1])
            times[key].append(time.perf_counter() - start)
    for row in rows:
        for runtime in RUNTIMES:
            row[f"ms {runtime}"] = 1e3 * float(np.median(times[row["name"], runtime]))
        print(json.dumps(row), flush=True)
    report = {"images": len(others), "calibration": count, "seed": SEED, "rounds": ROUNDS, "rows": rows}
    if out:
        write_whole(out / "integers.json", json.dumps(report, indent=1) + "\n")
