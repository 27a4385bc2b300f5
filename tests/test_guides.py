"""The README's Python runs as it stands; the guides are doctests of their own."""

import doctest
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_the_readmes_python_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEATHERWEIGHT_DATA", str(tmp_path))
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
    assert (tmp_path / "model.fw").stat().st_size > 0


@pytest.mark.parametrize("page", sorted(path.name for path in (ROOT / "docs" / "concepts").glob("*.md")))
def test_the_concepts_examples_run(page):
    assert doctest.testfile(str(ROOT / "docs" / "concepts" / page), module_relative=False).failed == 0


def test_links_between_pages_lead_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page}: {target}"


def test_the_reference_is_that_of_the_code():
    subprocess.run([sys.executable, str(ROOT / "docs" / "make_reference.py"), "--check"], check=True)
