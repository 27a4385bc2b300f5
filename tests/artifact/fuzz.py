"""Run by `test_artifact_hostile.py` in a process of its own: mutated files, and the memory they took."""

import json
import resource
import sys

import numpy as np
from artifact_cases import forgeries, mutations, open_all, small

from featherweight.artifact import dumps
from featherweight.errors import IntegrityError


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(damaged, forged, seed):
    content = dumps(small())
    original = open_all(content).weights()
    start = peak()
    counts = {"refused": 0, "original": 0, "other": 0, "lines": 0}
    for mutated in [*mutations(content, damaged, seed)]:
        try:
            weights = open_all(mutated).weights()
        except IntegrityError:
            counts["refused"] += 1
        else:
            same = all(np.array_equal(weights[name], original[name]) for name in original)
            counts["original" if same else "other"] += 1
    forged_counts = {"refused": 0, "read": 0}
    for mutated in forgeries(content, forged, seed):
        try:
            open_all(mutated)
        except IntegrityError as error:
            message = str(error).partition("\nhint: ")[0]
            counts["lines"] = max(counts["lines"], message.count("\n") + 1, len(message) // 1000)
            forged_counts["refused"] += 1
        else:
            forged_counts["read"] += 1
    print(
        json.dumps(
            {"damaged": counts, "forged": forged_counts, "memory": peak() - start, "nbytes": len(content)}
        )
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
