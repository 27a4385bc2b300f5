"""Every test has its own cache of results; guides run in a folder of their own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _guides_in_their_own_folder(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if request.node.name.endswith(".md"):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("FEATHERWEIGHT_DATA", os.fspath(tmp_path))
