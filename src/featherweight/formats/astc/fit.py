"""The fit of endpoints and weights to texels, compiled; both start from least squares.

Decimated blocks (fewer weights than texels), or several channels: a texel is `e0 + a (e1 - e0)` for the ends of its
partition, `a` a fixed mean of up to four weights of the grid. Given the ends, weights go one by one to the level of
least error (coordinate descent); given the weights, the ends are those of least squares.

Undecimated blocks (one weight per texel) of one channel: partitions are fitted independently. Values are texels from
0 to 255; `cut` says that what is interpolated is cut off to eight bits.
"""

from __future__ import annotations

import numpy as np

from featherweight.formats.astc.quantization import (
    ENDPOINT_COUNTS,
    ENDPOINT_VALUES,
    FINE,
    NEAREST_WEIGHT,
    WEIGHT_COUNTS,
    WEIGHT_VALUES,
    nearest_endpoint,
    nearest_weight,
)
from featherweight.formats.astc.tables import Array
from featherweight.formats.kernels import compiled

WIDTH = 1.5  # first distance of the ends from the mean, in standard deviations
POWERS = 6  # steps towards the principal axis of four channels
SQUEEZE = (0.2, 0.15, 0.1)  # how far ends start inside the range, of it, with 2, 3 and 4 or 5 weights


@compiled
def first_ends(values: Array, importance: Array, partition: Array, number: int, ends: Array) -> None:
    """Set `ends: [2, channels]` to points on both sides of a partition's mean, along its principal axis."""
    channels = values.shape[1]
    mean, axis, total = np.zeros(channels), np.zeros(channels), 0.0
    for t in range(partition.size):
        if partition[t] == number:
            total += importance[t]
            for c in range(channels):
                mean[c] += importance[t] * values[t, c]
    mean /= max(total, 1e-30)
    axis[:] = 1.0
    length = 0.0
    for _ in range(POWERS if channels > 1 else 1):
        following = np.zeros(channels)
        for t in range(partition.size):
            if partition[t] == number:
                along = 0.0
                for c in range(channels):
                    along += (values[t, c] - mean[c]) * axis[c]
                for c in range(channels):
                    following[c] += importance[t] * along * (values[t, c] - mean[c])
        length = np.sqrt((following * following).sum())
        if length < 1e-12:
            break
        axis = following / length
    reach = WIDTH * np.sqrt(length / max(total, 1e-30)) if length >= 1e-12 else 0.0
    sign = 1.0 if axis[: min(channels, 3)].sum() >= 0 else -1.0
    for c in range(channels):
        ends[0, c] = mean[c] - sign * reach * axis[c]
        ends[1, c] = mean[c] + sign * reach * axis[c]


@compiled
def slopes(
    values: Array, importance: Array, partition: Array, ends: Array, bends: Array, pulls: Array
) -> None:
    """Set `bends` and `pulls`, `[texels]`: the error by a texel's weight is `bends a**2 - 2 pulls a` and a constant.

    `values: [texels, channels]` lie between the `ends: [4, 2, channels]` of their partitions.
    """
    for t in range(partition.size):
        bend, pull = 0.0, 0.0
        for c in range(values.shape[1]):
            low = ends[partition[t], 0, c]
            span = ends[partition[t], 1, c] - low
            bend += span * span
            pull += span * (values[t, c] - low)
        bends[t], pulls[t] = importance[t] * bend, importance[t] * pull


@compiled
def descend(
    slopes: tuple[Array, Array], grid: tuple[Array, Array, Array], kind: int, sweeps: int, ranks: Array,
    mixed: Array,
) -> None:  # fmt: skip
    """Choose the weights of a grid, one by one.

    Args:
        slopes: `bends` and `pulls` of the function `slopes`.
        grid: of each point of the grid, where its texels begin; these texels; and its share in each.
        kind: position of the range of weights.
        sweeps: how often each weight is looked at again.
        ranks: `[points]`, set.
        mixed: `[texels]`, set to the interpolation weight of each, from 0 to 1.
    """
    bends, pulls = slopes
    starts, texels, shares = grid
    points = starts.size - 1
    mixed[:] = 0.0
    for k in range(points):
        bend, pull = 0.0, 0.0
        for i in range(starts[k], starts[k + 1]):
            bend += shares[i] * bends[texels[i]]
            pull += shares[i] * pulls[texels[i]]
        ranks[k] = nearest_weight(pull / bend, kind) if bend > 0 else 0
        for i in range(starts[k], starts[k + 1]):
            mixed[texels[i]] += shares[i] * WEIGHT_VALUES[kind, ranks[k]] / 64
    for _ in range(sweeps):
        moved = False
        for k in range(points):
            bend, pull, old = 0.0, 0.0, WEIGHT_VALUES[kind, ranks[k]] / 64
            for i in range(starts[k], starts[k + 1]):
                t = texels[i]
                bend += shares[i] * shares[i] * bends[t]
                pull += shares[i] * (pulls[t] - bends[t] * mixed[t])
            rank = nearest_weight(old + pull / bend, kind) if bend > 0 else ranks[k]
            if rank != ranks[k]:
                moved, ranks[k] = True, rank
                step = WEIGHT_VALUES[kind, rank] / 64 - old
                for i in range(starts[k], starts[k + 1]):
                    mixed[texels[i]] += shares[i] * step
        if not moved:
            break


@compiled
def least_squares(
    values: Array, importance: Array, partition: Array, number: int, mixed: Array, sums: Array, ends: Array
) -> bool:
    """Set the ends `[2, channels]` of a partition to those of least squares; return whether these are determined.

    `sums: [3]` is set to the sums of importance times 1, `a` and `a**2`.
    """
    total, first, second = 0.0, 0.0, 0.0
    for t in range(partition.size):
        if partition[t] == number:
            total += importance[t]
            first += importance[t] * mixed[t]
            second += importance[t] * mixed[t] * mixed[t]
    sums[0], sums[1], sums[2] = total, first, second
    determinant = total * second - first * first
    if determinant <= 1e-6 * total * total:
        return False
    for c in range(values.shape[1]):
        value, product = 0.0, 0.0
        for t in range(partition.size):
            if partition[t] == number:
                value += importance[t] * values[t, c]
                product += importance[t] * mixed[t] * values[t, c]
        slope = (total * product - first * value) / determinant
        ends[0, c] = (value - slope * first) / total
        ends[1, c] = ends[0, c] + slope
    return True


@compiled
def rounded(kind: int, sums: Array, ends: Array, ranks: Array) -> None:
    """Round the ends `[2, channels]` of a partition to levels, jointly; `ranks: [2 * channels]` is set.

    Of the levels around both, the pair that adds least to the squared error, by `sums` of `least_squares`.
    """
    for c in range(ends.shape[1]):
        low, high = ends[0, c], ends[1, c]
        middle = nearest_endpoint(low, kind), nearest_endpoint(high, kind)
        best = 1e300
        for a in range(max(middle[0] - 1, 0), min(middle[0] + 2, ENDPOINT_COUNTS[kind])):
            for b in range(max(middle[1] - 1, 0), min(middle[1] + 2, ENDPOINT_COUNTS[kind])):
                x = ENDPOINT_VALUES[kind, a] - low
                y = ENDPOINT_VALUES[kind, b] - high - x
                found = sums[0] * x * x + 2 * sums[1] * x * y + sums[2] * y * y
                if found < best:
                    best, ranks[2 * c], ranks[2 * c + 1] = found, a, b
        ends[0, c], ends[1, c] = ENDPOINT_VALUES[kind, ranks[2 * c]], ENDPOINT_VALUES[kind, ranks[2 * c + 1]]


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
