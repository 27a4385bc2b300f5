"""No test depends on how busy the machine is; guides run in a folder of their own."""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# No test may depend on how busy the machine is.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def _guides_in_their_own_folder(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if request.node.name.endswith("many-machines.md"):
        pytest.importorskip("distributed", reason="the extra dask is not installed")
    if request.node.name.endswith(".md"):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("FEATHERWEIGHT_DATA", os.fspath(tmp_path))


@pytest.fixture(autouse=True)
def _operators_of_onnx_are_read_once() -> None:
    """Torch reads how it writes each of its operators as ONNX at every export: most of the time that one takes."""
    found = sys.modules.get("torch.onnx._internal.exporter._registration")
    if found and not hasattr(found.ONNXRegistry.from_torchlib, "cache_info"):
        found.ONNXRegistry.from_torchlib = staticmethod(functools.cache(found.ONNXRegistry.from_torchlib))
