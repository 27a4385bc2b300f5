"""Summaries to draw reports from: one with everything in it, one with nothing but a step, one with hostile names."""

from featherweight.delivery.summary import Point, Row, Sensed, Stage, Summary
from featherweight.evaluation.paired_test import Paired
from featherweight.model import Note

HOSTILE = """</script><script>alert(1)</script><img src="http://evil" onerror='alert(2)'>&|%{x}"""


def whole(name="fc1.weight", task="lenet300-mnist", **changes) -> Summary:
    """A searched compression of two weights and a bias; `name` is that of the first weight."""
    fields = {
        "task": task,
        "fingerprint": "f" * 64,
        "primary": "accuracy",
        "parameters": 10_510,
        "float_bytes": 42_040,
        "file_bytes": 5_400,
        "weight_bytes": 4_700,
        "overhead": {"header": 400, "graph": 260, "raw": 40},
        "ratio": 42_040 / 5_400,
        "sha256": "0" * 64,
        "baseline": {"validation": {"accuracy": 0.98}, "test": {"accuracy": 0.981}},
        "test": {"accuracy": 0.978},
        "validation": {"accuracy": 0.977},
        "runtime": "onnxruntime",
        "difference": 3e-7,
        "rows": [
            Row(name, [100, 100], "int 4 channel", "rans", 4_500, 3.6, 0.125),
            Row("fc1.bias", [10], "f32", "", 40, 32.0, 0.0, "no step selected it (a vector)"),
            Row("fc2.weight", [10, 50], "clustered 3", "huffman", 200, 3.2, 0.0),
        ],
        "stages": [
            Stage("train", {"epochs": 2}, 12.5, True, 43_000, {"accuracy": 0.98}),
            Stage("sparsify", {"sparsity": 0.5}, 0.1, False, 43_010, {}),
            Stage("encode", {"where": name, "format": {"format": "int", "bits": 4}}, 0.2, False, 5_400,
                  {"accuracy": 0.977}),
        ],
        "paired": Paired(-0.003, 0.002, 0.13, 40, 10, 10_000),
        "notes": [Note("skipped", name, "not a matrix")],
        "points": [
            Point(1_000, 0.11, 0.87, 0.01, True, False, {name: "int 2 tensor", "fc2.weight": "clustered 2"}),
            Point(5_300, 0.977, 0.003, 0.002, True, True, {name: "int 4 channel", "fc2.weight": "clustered 3"}),
            Point(9_000, 0.976, 0.004, 0.0, False, False, {name: "int 8 channel", "fc2.weight": "clustered 3"}),
        ],
        "sensitivity": [
            Sensed(name, "int 4 channel", 4_500, 0.02),
            Sensed(name, "int 2 tensor", 2_500, 1.7),
            Sensed("fc2.weight", "int 4 channel", 260, -0.001),
        ],
        "recipe": f'about = "{name}"',
        "seed": 3,
        "threads": 2,
        "environment": {"torch": "2.13.0"},
        "seconds": 15.0,
    }  # fmt: skip
    return Summary(**{**fields, **changes})


def bare() -> Summary:
    """The float network, written and nothing else."""
    stage = Stage("given", {}, 0.0, False, 43_000, {"accuracy": 0.98})
    row = Row("fc1.weight", [100, 100], "f32", "", 40_000, 32.0, 0.0, "no step selected it")
    return whole(stages=[stage], rows=[row], notes=[], points=[], sensitivity=[], file_bytes=43_000,
                 weight_bytes=0, ratio=42_040 / 43_000, test={"accuracy": 0.981})  # fmt: skip


def hostile() -> Summary:
    """Names that would be markup, code, a template or a table's border wherever they are not escaped."""
    return whole(HOSTILE, task=HOSTILE, environment={"torch": HOSTILE}, runtime=HOSTILE)
