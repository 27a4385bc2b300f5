"""Run by `test_artifact_hostile.py` in a process of its own: mutated files, and the memory they took."""

import json
import resource
import sys

from artifact_cases import forgeries, mutations, open_all, small

from featherweight.artifact import dumps
from featherweight.errors import IntegrityError


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


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
