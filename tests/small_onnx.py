"""Small ONNX files for tests: of a few nodes each, written in ONNX's own text form."""

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper, parser

GRAPHS = {
    # A classifier that ends in a softmax.
    "classes": (
        "(float[batch, 16] pixels) => (float[batch, 4] label)",
        "h = Gemm(pixels, w1, b1) r = Relu(h) s = Gemm(r, w2, b2) label = Softmax<axis=-1>(s)",
        {"w1": (16, 64), "b1": (64,), "w2": (64, 4), "b2": (4,)},
    ),
    # Scores of classes at every step of a sequence of any length.
    "sequence": (
        "(float[batch, time, 8] x) => (float[batch, time, 5] y)",
        "h = MatMul(x, w1) r = Relu(h) s = MatMul(r, w2) y = Softmax<axis=2>(s)",
        {"w1": (8, 24), "w2": (24, 5)},
    ),
    # Numbers, and a state whose batch is axis 1; a setting scales the input.
    "state": (
        """(float[batch, 8] input, float[2, batch, 4] state, int64 rate)
        => (float[batch, 1] sure, float[2, batch, 4] next)""",
        """zero = Constant<value_ints=[0]>() f = Cast<to=1>(rate) x = Mul(input, f) h = MatMul(x, w1) r = Relu(h)
        first = Slice(state, c0, c1, c0) s = Squeeze(first, c0) m = MatMul(s, w2) a = Add(r, m) o = MatMul(a, w3)
        sure = Sigmoid(o) n = Tanh(a) u = Unsqueeze(n, c0) next = Concat<axis=0>(u, u)""",
        {"w1": (8, 4), "w2": (4, 4), "w3": (4, 1)},
    ),
    # Another free axis, of which only one size fits the weights.
    "window": (
        "(float[batch, time] heard) => (float[batch, 4] y)",
        "h = Gemm(heard, w1, b1) r = Relu(h) y = Gemm(r, w2, b2)",
        {"w1": (16, 24), "b1": (24,), "w2": (24, 4), "b2": (4,)},
    ),
    # Rows of a table, one of a position, and what a second Gather takes along another axis.
    "words": (
        "(int64[batch, 5] ids) => (float[batch, 4] y)",
        """h = Gather(table, ids) m = ReduceMean<axes=[1], keepdims=0>(h) r = Relu(m)
        some = Slice(ids, c0, c1, c1) flat = Squeeze(some, c1) k = Gather<axis=1>(other, flat) t = Transpose(k)
        s = Gemm(r, w1, b1) y = Add(s, t)""",
        {"table": (12, 8), "other": (4, 12), "w1": (8, 4), "b1": (4,)},
    ),
    # Images of a fixed size and batch, as bytes are not.
    "images": (
        "(float[1, 3, 16, 16] photo) => (float[1, 6] y)",
        """c = Conv<pads=[1, 1, 1, 1]>(photo, w1, b1) r = Relu(c) g = GlobalAveragePool(r) f = Flatten(g)
        y = Gemm(f, w2, b2)""",
        {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (8, 6), "b2": (6,)},
    ),
}  # fmt: skip


def small_onnx(name: str, folder: Path, seed: int = 0) -> Path:
    """Write one of `GRAPHS` with random weights, and return its path."""
    signature, nodes, weights = GRAPHS[name]
    lines = nodes.replace(") ", ")\n")
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {name} {signature} {{ {lines} }}')
    generator = np.random.default_rng(seed)
    for weight, shape in weights.items():
        array = generator.normal(0, 1 / np.sqrt(shape[0]), shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, weight))
    for number in (0, 1):
        model.graph.initializer.append(numpy_helper.from_array(np.array([number]), f"c{number}"))
    path = folder / f"{name}.onnx"
    onnx.save(model, path)
    return path
