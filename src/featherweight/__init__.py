"""featherweight: compress neural networks for the hardware they run on, from data to silicon.

A task around your network and data, one call, one file:

    import featherweight
    task = featherweight.Classification(model, train=train_loader, validation=val_loader, test=test_loader)
    featherweight.compress(task, max_drop=0.5).save("model.fw")

Names are imported when they are first used, so that `import featherweight` is quick and reading a file needs no
torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_NAMES = {
    "artifact": "Artifact load",
    "capture.onnx_task": "from_onnx",
    "delivery": "Compressed",
    "errors": "FeatherweightError",
    "files": "Store",
    "formats": "Clustered Float Int Log2 View",
    "formats.coders": "Bitmask Cabac Fixed Gaps Huffman Rans Zstd",
    "model": "Model",
    "recipe": "Recipe run",
    "runtime": "session",
    "search": "Option compress",
    "task": "Task",
    "task.tasks": "Agreement Classification Regression",
}
_HOMES = {name: f"featherweight.{home}" for home, names in _NAMES.items() for name in names.split()}

__all__ = [
    "Agreement", "Artifact", "Bitmask", "Cabac", "Classification", "Clustered", "Compressed", "FeatherweightError",
    "Fixed", "Float", "Gaps", "Huffman", "Int", "Log2", "Model", "Option", "Rans", "Recipe", "Regression", "Store",
    "Task", "View", "Zstd", "__version__", "compress", "from_onnx", "load", "run", "session",
]  # fmt: skip

if TYPE_CHECKING:
    from featherweight.artifact import Artifact, load
    from featherweight.capture.onnx_task import from_onnx
    from featherweight.delivery import Compressed
    from featherweight.errors import FeatherweightError
    from featherweight.files import Store
    from featherweight.formats import Clustered, Float, Int, Log2, View
    from featherweight.formats.coders import Bitmask, Cabac, Fixed, Gaps, Huffman, Rans, Zstd
    from featherweight.model import Model
    from featherweight.recipe import Recipe, run
    from featherweight.runtime import session
    from featherweight.search import Option, compress
    from featherweight.task import Task
    from featherweight.task.tasks import Agreement, Classification, Regression


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'featherweight' has no attribute {name!r}")
    from featherweight.errors import extras

    with extras():
        return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
