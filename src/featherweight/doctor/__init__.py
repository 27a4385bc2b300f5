"""Why a file is not smaller and not faster: findings, each with what to do. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from featherweight.artifact import load
from featherweight.doctor.size import Finding, size_findings
from featherweight.doctor.speed import Kernel, kernels, speed_findings
from featherweight.doctor.stored import ir_findings, litert_findings, onnx_held, size_of_stored
from featherweight.export import model_of, read_onnx

__all__ = ["Finding", "Kernel", "diagnose", "kernels", "size_findings", "speed_findings"]


def diagnose(file: str | Path, runtimes: Sequence[str], *, threads: int = 1) -> list[Finding]:
    """Return the findings about a `.fw` file, or about an ONNX file, an OpenVINO IR or a LiteRT file of anyone's.

    Args:
        file: where it lies.
        runtimes: where it is to run; an IR (`.xml`) runs in OpenVINO, a `.tflite` in LiteRT.
        threads: of their sessions.

    Raises:
        OSError: the file cannot be read.
        IntegrityError: it is damaged.
        MissingExtraError: what reads it is not installed.
    """
    path = Path(file)
    if path.suffix == ".xml":
        return ir_findings(path, threads)
    if path.suffix == ".tflite":
        return litert_findings(path, threads)
    if path.suffix == ".onnx":
        model = read_onnx(path)
        held = onnx_held(model)
        sizes = size_of_stored(held, max(path.stat().st_size, sum(one.nbytes for one in held)))
        return [*sizes, *speed_findings(model, runtimes, threads=threads, foreign=True)]
    artifact = load(path)
    found = size_findings(artifact)
    if artifact.graph is None:
        reason = artifact.facts.get("graph", "written without one")
        what = f"no runtime can run the file, it holds weights alone: {reason}"
        hint = "artifact.into(module) fills your network in PyTorch"
        return [*found, Finding("no graph", "speed", ["graph"], what, hint)]
    return [*found, *speed_findings(model_of(artifact), runtimes, threads=threads)]
