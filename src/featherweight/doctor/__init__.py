"""Why a file is not smaller and not faster: findings, each with what to do. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from featherweight.artifact import load
from featherweight.doctor.size import Finding, size_findings
from featherweight.doctor.speed import Kernel, kernels, speed_findings
from featherweight.export import model_of, read_onnx

__all__ = ["Finding", "Kernel", "diagnose", "kernels", "size_findings", "speed_findings"]


def diagnose(file: str | Path, runtimes: Sequence[str], *, threads: int = 1) -> list[Finding]:
    """Return the findings about a `.fw` file, or about the graph in an ONNX file.

    Args:
        file: where it lies.
        runtimes: where it is to run.
        threads: of their sessions.

    Raises:
        OSError: the file cannot be read.
        IntegrityError: it is damaged.
    """
    path = Path(file)
    if path.suffix == ".onnx":
        return speed_findings(read_onnx(path), runtimes, threads=threads, foreign=True)
    artifact = load(path)
    found = size_findings(artifact)
    if artifact.graph is None:
        reason = artifact.facts.get("graph", "written without one")
        what = f"no runtime can run the file, it holds weights alone: {reason}"
        hint = "artifact.into(module) fills your network in PyTorch"
        return [*found, Finding("no graph", "speed", ["graph"], what, hint)]
    return [*found, *speed_findings(model_of(artifact), runtimes, threads=threads)]
