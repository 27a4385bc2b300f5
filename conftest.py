"""Every test has its own cache of results; guides run in a folder of their own."""

from __future__ import annotations

import os
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
    if request.node.name.endswith(".md"):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("FEATHERWEIGHT_DATA", os.fspath(tmp_path))
