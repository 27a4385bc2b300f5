"""Choosing: sensitivities, exact allocation, the front, and `compress`."""

from featherweight.delivery import Compressed
from featherweight.evaluation.paired_test import Paired, paired, pooled
from featherweight.search.allocation import allocate, pareto
from featherweight.search.bitops import bit_operations
from featherweight.search.candidates import Option
from featherweight.search.compressor import compress
from featherweight.search.front import Trial, choose, front_of, frontier
from featherweight.search.sensitivity import Cell, Sensitivity, measure

__all__ = [
    "Cell",
    "Compressed",
    "Option",
    "Paired",
    "Sensitivity",
    "Trial",
    "allocate",
    "bit_operations",
    "choose",
    "compress",
    "front_of",
    "frontier",
    "measure",
    "paired",
    "pareto",
    "pooled",
]
