"""Undecimated blocks (one weight per texel) of one channel: partitions are fitted independently. Compiled.

Values are texels from 0 to 255; `cut` says that what is interpolated is cut off to eight bits.
"""

from __future__ import annotations

from featherweight.formats.astc.modes import Array
from featherweight.formats.astc.quantization import (
    ENDPOINT_COUNTS,
    ENDPOINT_VALUES,
    FINE,
    NEAREST_WEIGHT,
    WEIGHT_COUNTS,
    WEIGHT_VALUES,
)
from featherweight.formats.kernels import compiled

SQUEEZE = (0.2, 0.15, 0.1)  # how far ends start inside the range, of it, with 2, 3 and 4 or 5 weights


@compiled
def decoded(low: int, high: int, weight: int, cut: bool) -> float:
    """Return the texel, 0 to 255, between two ends by a weight of 64."""
    wide = (257 * (low * (64 - weight) + high * weight) + 32) >> 6
    return float(wide >> 8) if cut else wide / 257


@compiled
def gather(
    values: Array, importance: Array, partition: Array, number: int, found: tuple[Array, Array]
) -> int:
    """Copy values and importance of a partition's texels, those of importance 0 left out; return how many."""
    count = 0
    for t in range(partition.size):
        if partition[t] == number and importance[t] > 0:
            found[0][count], found[1][count] = values[t], importance[t]
            count += 1
    return count


@compiled
def error(
    texels: tuple[Array, Array], count: int, kind: int, ends: tuple[int, int], cut: bool, exact: bool
) -> float:
    """Return the squared error of texels between two ends, each with its best weight.

    Which one that is, is looked up; if `exact`, its neighbours are tried too.
    """
    low, high = ends
    factor = FINE / (high - low) if high != low else 0.0
    shift = 0.5 - low * factor
    stretch, half = (255 / 256, 0.5) if cut else (1.0, 0.0)
    total = 0.0
    for i in range(count):
        value = texels[0][i]
        if exact:
            rank = best_weight(value, kind, ends, cut)
        else:
            rank = NEAREST_WEIGHT[kind, min(max(int((value + half) * stretch * factor + shift), 0), FINE)]
        off = decoded(low, high, WEIGHT_VALUES[kind, rank], cut) - value
        total += texels[1][i] * off * off
    return total


@compiled
def best_weight(value: float, kind: int, ends: tuple[int, int], cut: bool) -> int:
    """Return the rank of the weight whose texel is nearest to a value."""
    low, high = ends
    factor = FINE / (high - low) if high != low else 0.0
    place = min(max(int((value - low) * factor + 0.5), 0), FINE)
    middle = NEAREST_WEIGHT[kind, place]
    best, least = middle, 1e30
    for rank in range(max(middle - 1, 0), min(middle + 2, WEIGHT_COUNTS[kind])):
        off = abs(decoded(low, high, WEIGHT_VALUES[kind, rank], cut) - value)
        if off < least:
            best, least = rank, off
    return best  # type: ignore[no-any-return]


@compiled
def start(texels: tuple[Array, Array], count: int, kind: int, rounds: int, cut: bool) -> tuple[float, float]:
    """Return the ends of least squares, alternating with the weights."""
    low, high = 1e30, -1e30
    for i in range(count):
        low, high = min(low, texels[0][i]), max(high, texels[0][i])
    levels = WEIGHT_COUNTS[kind]
    if levels < 6 and count > 2:
        inside = SQUEEZE[min(levels - 2, 2)] * (high - low)
        low, high = low + inside, high - inside
    for _ in range(rounds):
        if high - low < 1e-6:
            break
        factor, total, first, second, value, product = FINE / (high - low), 0.0, 0.0, 0.0, 0.0, 0.0
        for i in range(count):
            place = min(max(int((texels[0][i] - low) * factor + 0.5), 0), FINE)
            a, h = WEIGHT_VALUES[kind, NEAREST_WEIGHT[kind, place]] / 64, texels[1][i]
            total, first, second = total + h, first + h * a, second + h * a * a
            value, product = value + h * texels[0][i], product + h * a * texels[0][i]
        determinant = total * second - first * first
        if determinant < 1e-9 * total * total:
            break
        slope = (total * product - first * value) / determinant
        low = (value - slope * first) / total
        high = low + slope
    if cut:
        low, high = (low + 0.5) * 255 / 256, (high + 0.5) * 255 / 256
    return low, high


@compiled
def climb(
    texels: tuple[Array, Array], count: int, kinds: tuple[int, int], ranks: tuple[int, int], climbs: int,
    cut: bool, exact: bool,
) -> tuple[float, int, int]:  # fmt: skip
    """Move both ends of a partition by single ranks while that helps; return error and ranks."""
    kind, of = kinds
    ends = ENDPOINT_VALUES[of]
    low, high = ranks
    best = error(texels, count, kind, (ends[low], ends[high]), cut, exact)
    for _ in range(climbs):
        at_low, at_high = low, high
        for a in range(max(at_low - 1, 0), min(at_low + 2, ENDPOINT_COUNTS[of])):
            for b in range(max(at_high - 1, 0), min(at_high + 2, ENDPOINT_COUNTS[of])):
                if a != at_low or b != at_high:
                    found = error(texels, count, kind, (ends[a], ends[b]), cut, exact)
                    if found < best:
                        best, low, high = found, a, b
        if low == at_low and high == at_high:
            break
    return best, low, high
