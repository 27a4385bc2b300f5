"""What other tools make of a trained network without further training: whole files, correct answers, seconds."""

from __future__ import annotations

import copy
import gzip
import io
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn


@dataclass(frozen=True)
class Rival:
    """One file.

    Attributes:
        tool: what made it.
        file: what kind of file it is.
        nbytes: its bytes; of several that belong together, their sum.
        correct: test images that are labelled correctly when it runs.
        seconds: to make it from the trained network.
        exempt: what stayed float32.
    """

    tool: str
    file: str
    nbytes: int
    correct: int
    seconds: float
    exempt: str


@dataclass(frozen=True, eq=False)
class Trained:
    """What a rival gets: the network, images to calibrate on, and test images with labels."""

    network: nn.Module
    calibration: Tensor
    images: Tensor
    labels: Tensor

    def correct(self, predict: Callable[[Tensor], object]) -> int:
        """Return how many test images `predict` labels correctly."""
        scores = np.asarray(predict(self.images))
        return int((scores.argmax(1) == self.labels.numpy()).sum())


def rivals(trained: Trained, folder: Path) -> Iterator[Rival]:
    """Yield every rival that is installed; `folder` takes their files."""
    yield from float_files(trained)
    yield from onnxruntime_int8(trained, folder)
    try:
        import nncf  # noqa: F401
    except ImportError:
        print("NNCF is not installed: its rows are left out (pip install 'featherweight[bench]')")
        return
    yield from nncf_weights(trained, folder)


def float_files(trained: Trained) -> Iterator[Rival]:
    """The float network as torch saves it, and that file packed by general tools."""
    started = time.perf_counter()
    buffer = io.BytesIO()
    torch.save(trained.network.state_dict(), buffer)
    content, correct = buffer.getvalue(), trained.correct(module(trained.network))
    yield Rival("torch.save", ".pt, float32", len(content), correct, time.perf_counter() - started, "all")
    for tool, pack in (("gzip -9", gzip.compress), ("zip -9", zipped)):
        started = time.perf_counter()
        size = len(pack(content))
        yield Rival(tool, ".pt, float32", size, correct, time.perf_counter() - started, "all")


def zipped(content: bytes) -> bytes:
    """Return a zip archive of one file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr("model.pt", content)
    return buffer.getvalue()


def module(network: nn.Module) -> Callable[[Tensor], object]:
    def predict(images: Tensor) -> object:
        with torch.no_grad():
            return network(images).numpy()

    return predict


def session(path: Path) -> Callable[[Tensor], object]:
    run = onnxruntime.InferenceSession(path)
    name = run.get_inputs()[0].name
    return lambda images: run.run(None, {name: images.numpy()})[0]


def export(network: nn.Module, example: Tensor, path: Path) -> Path:
    """Write the network as ONNX, any number of images at once."""
    shapes = ({0: torch.export.Dim("n", min=2)},)
    torch.onnx.export(
        network, (example[:2],), path, dynamo=True, dynamic_shapes=shapes, external_data=False, verbose=False
    )
    return path


class Calibration(CalibrationDataReader):
    """Hands ONNX Runtime the images to calibrate on, in one batch."""

    def __init__(self, path: Path, images: Tensor) -> None:
        name = onnxruntime.InferenceSession(path).get_inputs()[0].name
        self.batches = iter([{name: images.numpy()}])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next batch."""
        return next(self.batches, None)


def onnxruntime_int8(trained: Trained, folder: Path) -> Iterator[Rival]:
    """ONNX Runtime's own quantizers: weights alone, then activations too, each by its defaults."""
    exported = export(trained.network, trained.images, folder / "float.onnx")
    plain, ready = exported, folder / "ready.onnx"
    quant_pre_process(plain, ready)

    def dynamic(path: Path) -> None:
        quantize_dynamic(ready, path, weight_type=QuantType.QUInt8)

    def static(path: Path) -> None:
        quantize_static(ready, path, Calibration(ready, trained.calibration), per_channel=True)

    for name, quantize in (("quantize_dynamic", dynamic), ("quantize_static", static)):
        path, started = folder / f"{name}.onnx", time.perf_counter()
        quantize(path)
        seconds = time.perf_counter() - started
        correct = trained.correct(session(path))
        yield Rival(f"ONNX Runtime {name}", ".onnx, int8", path.stat().st_size, correct, seconds, "biases")


def nncf_weights(trained: Trained, folder: Path) -> Iterator[Rival]:
    """NNCF's `compress_weights` by its defaults (INT8_ASYM), and every file that can be made of the result."""
    import nncf

    started = time.perf_counter()
    # It changes the network it is given, and needs data only to trace it.
    network = nncf.compress_weights(
        copy.deepcopy(trained.network), dataset=nncf.Dataset([trained.images[:2]])
    )
    seconds = time.perf_counter() - started
    tool, exempt = f"NNCF {nncf.__version__} compress_weights", "biases, batch norm"
    path = folder / "nncf.pt"
    torch.save(network.state_dict(), path)
    correct = trained.correct(module(network))
    yield Rival(tool, ".pt, int8", path.stat().st_size, correct, seconds, exempt)
    started = time.perf_counter()
    path = export(network, trained.images, folder / "nncf.onnx")
    spent = seconds + time.perf_counter() - started
    correct = trained.correct(session(path))
    yield Rival(tool, ".onnx, int8", path.stat().st_size, correct, spent, exempt)
    try:
        import openvino
    except ImportError:
        return
    started = time.perf_counter()
    path = folder / "nncf.xml"
    openvino.save_model(openvino.convert_model(network, example_input=trained.images[:2]), path)
    spent = seconds + time.perf_counter() - started
    size = path.stat().st_size + path.with_suffix(".bin").stat().st_size
    compiled = openvino.compile_model(path, "CPU")
    correct = trained.correct(lambda images: compiled(images.numpy())[0])
    yield Rival(tool, ".xml and .bin of OpenVINO, int8", size, correct, spent, exempt)
