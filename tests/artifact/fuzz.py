"""Run by `test_artifact_hostile.py` in a process of its own: mutated files, and the memory they took."""

import json
import resource
import sys

from artifact_cases import forgeries, mutations, open_all, small
from hostile_graphs import TENSORS, W, damaged, model, stored

from featherweight.activations import Affine
from featherweight.artifact import dumps
from featherweight.errors import FeatherweightError, IntegrityError
from featherweight.export import build_onnx
from featherweight.export.linear import build_linear
from featherweight.export.qdq import build_qdq
from featherweight.formats import Int


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def outcome(content, original):
    """Return what came of a file: refused, the original tensors under all their names, or others."""
    try:
        weights = open_all(content).weights()
    except IntegrityError as error:
        return "refused", str(error).partition("\nhint: ")[0]
    return "original" if bits(weights) == original else "other", ""


def bits(weights):
    return {name: (value.dtype.str, value.shape, value.tobytes()) for name, value in weights.items()}


def main(damaged, forged, seed):
    content = dumps(small())
    original = bits(open_all(content).weights())
    start = peak()
    result = {"nbytes": len(content), "lines": 0}
    for kind, files in {
        "damaged": mutations(content, damaged, seed),
        "forged": forgeries(content, forged, seed),
    }.items():
        counts = {"refused": 0, "original": 0, "other": 0}
        for file in files:
            which, message = outcome(file, original)
            counts[which] += 1
            result["lines"] = max(result["lines"], message.count("\n") + 1, len(message) // 1000)
        result[kind] = counts
    print(json.dumps({**result, "memory": peak() - start}))


def graphs(count, seed):
    """Build damaged graphs in float and in integers: refused with one of our errors, or complete."""
    encoded, quantizers = {"fc": Int().encode(W)}, {"x": Affine(0.125, 0), "fc": Affine(0.125, 0)}
    build_qdq(stored(model()), TENSORS, encoded, quantizers)
    start, result = peak(), {"refused": 0, "built": 0, "lines": 0}
    for graph in damaged(count, seed):
        for build in (
            lambda graph=graph: build_onnx(graph, TENSORS),
            lambda graph=graph: build_qdq(graph, TENSORS, encoded, quantizers),
            lambda graph=graph: build_linear(graph, TENSORS, encoded, "dynamic"),
        ):
            try:
                build()
                result["built"] += 1
            except FeatherweightError as error:
                result["refused"] += 1
                message = str(error).partition("\nhint: ")[0]
                result["lines"] = max(result["lines"], message.count("\n") + 1)
    print(json.dumps({**result, "memory": peak() - start}))


if __name__ == "__main__":
    if sys.argv[1] == "graphs":
        graphs(*map(int, sys.argv[2:]))
    else:
        main(*map(int, sys.argv[1:]))
