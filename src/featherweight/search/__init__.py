"""Choosing: sensitivities, exact allocation, trials, the front, `search` and `compress`."""

from featherweight.delivery import Compressed
from featherweight.evaluation.paired_test import Paired, paired, pooled
from featherweight.search.allocation import allocate, pareto
from featherweight.search.searcher import Found, compress, search
from featherweight.search.sensitivity import Cell, Option, Sensitivity, bit_operations, measure
from featherweight.search.trials import Constraint, Trial, choose, front_of

__all__ = [
    "Cell", "Compressed", "Constraint", "Found", "Option", "Paired", "Sensitivity", "Trial", "allocate",
    "bit_operations", "choose", "compress", "front_of", "measure", "paired", "pareto", "pooled", "search",
]  # fmt: skip
