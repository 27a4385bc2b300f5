"""Why a file is not smaller and not faster: findings, each with what to do. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from featherweight.artifact import Artifact, load
from featherweight.doctor.finding import Finding
from featherweight.doctor.kernels import Kernel, kernels
from featherweight.doctor.size import size_findings
from featherweight.doctor.speed import speed_findings
from featherweight.runtime import Runtime
from featherweight.runtime.build import read_onnx
from featherweight.runtime.session import model_of

__all__ = ["Finding", "Kernel", "diagnose", "kernels", "size_findings", "speed_findings"]


def diagnose(file: str | Path, runtimes: Sequence[Runtime], *, threads: int = 1) -> list[Finding]:
    """Return the findings about a `.fw` file, or about the graph in an ONNX file.

    Raises:
        OSError: the file cannot be read.
        IntegrityError: it is damaged.
    """
    path = Path(file)
    if path.suffix == ".onnx":
        return speed_findings(read_onnx(path), runtimes, threads=threads)
    artifact = load(path)
    found = size_findings(artifact)
    if artifact.graph is None:
        return [*found, _no_graph(artifact)]
    return [*found, *speed_findings(model_of(artifact), runtimes, threads=threads)]


def _no_graph(artifact: Artifact) -> Finding:
    return Finding(
        "no graph", "speed", ["graph"],
        f"no runtime can run the file, it holds weights alone: {artifact.facts.get('graph', 'written without one')}",
        "artifact.into(module) fills your network in PyTorch",
    )  # fmt: skip
