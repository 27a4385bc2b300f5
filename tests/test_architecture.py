"""The shape of the code, tested: import time, what imports torch, what prints, what a file may unpickle."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import featherweight

SOURCE = Path(featherweight.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))


def python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.mark.parametrize(
    "module", ["featherweight", "featherweight.artifact", "featherweight.cli", "featherweight.formats"]
)
def test_light_imports_leave_torch_alone(module):
    heavy = "('torch', 'scipy', 'matplotlib', 'onnxruntime', 'numba')"
    code = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    assert python(code) == "[]"


def test_listing_what_there_is_leaves_torch_alone():
    code = (
        "import sys; sys.argv = ['featherweight', 'list', 'tasks']\n"
        "from featherweight.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "assert 'torch' not in sys.modules"
    )
    assert "lenet-mnist" in python(code)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_files_open_with_what_they_are_for_and_are_short(path):
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text)), "each file says what it is for"
    assert text.count("\n") <= 450
    if "cli" not in path.parts:
        assert not re.search(r"^\s*print\(", text, re.MULTILINE), "only the command line prints"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_nothing_is_unpickled(path):
    text = path.read_text()
    assert "import pickle" not in text
    assert "weights_only=False" not in text
    if "torch.load" in text:
        assert text.count("torch.load(") == text.count("weights_only=True")


def test_every_public_name_is_importable_and_documented():
    for name in featherweight.__all__:
        thing = getattr(featherweight, name)
        assert isinstance(thing, str) or thing.__doc__, name


def imports(path: Path) -> set[str]:
    """The parts of the package that a file imports anywhere in it, those for the type checker aside."""
    found, waiting = set(), [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting.extend(node.orelse)
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("featherweight."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {
                alias.name.split(".")[1] for alias in node.names if alias.name.startswith("featherweight.")
            }
        waiting.extend(ast.iter_child_nodes(node))
    return found


def test_no_packages_import_each_other_in_a_circle():
    below: dict[str, set[str]] = {}
    for path in FILES:
        part = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        if part not in ("__init__", "__main__"):
            below.setdefault(part, set()).update(imports(path) - {part})
    while free := [part for part, needs in below.items() if not needs & below.keys()]:
        for part in free:
            del below[part]
    assert not below, "what is left imports itself by way of the others"


def test_the_drawing_of_the_floors_is_the_checked_one():
    root = Path(__file__).parents[1]
    contracts = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["name"] == "layers")
    drawing = (
        (root / "docs" / "concepts" / "architecture.md").read_text().split("```")[1].strip().splitlines()
    )
    assert [line.split("  ")[0] for line in drawing] == [
        layer.replace("featherweight.", "") for layer in layers
    ]
