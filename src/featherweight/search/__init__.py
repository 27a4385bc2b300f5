"""Choosing: sensitivities, exact allocation, the front, and `compress`."""

from featherweight.search.allocation import allocate, pareto
from featherweight.search.bitops import bit_operations
from featherweight.search.compressor import compress
from featherweight.search.finish import Compressed
from featherweight.search.front import Trial, choose, front_of, frontier
from featherweight.search.options import Option
from featherweight.search.paired import Paired, paired, pooled
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
