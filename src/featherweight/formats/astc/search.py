"""The encoder's search over modes and partitionings for the least squared error. Compiled."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from featherweight.formats.astc import fit, quantization
from featherweight.formats.astc.quantization import ENDPOINT_VALUES, nearest_endpoint
from featherweight.formats.astc.tables import MOST_ENDPOINTS, MOST_WEIGHTS, Array
from featherweight.formats.kernels import compiled

# Columns of `Plan.layouts`.
MODE, PARTITIONS, WEIGHT_KIND, ENDPOINT_KIND, GRID, TRIES = 0, 1, 2, 3, 4, 5


class Plan(NamedTuple):
    """What is tried for blocks of a footprint, as arrays that kernels accept.

    Attributes:
        layouts: mode, partitions, ranges of weights and of endpoints, grid (-1: one weight a texel, one
            channel), how many partitionings are tried; rising in partitions, int64 `[n, 6]`.
        points: for each grid, where in `starts` it begins, `[grids + 1]`.
        starts: for each point of each grid, where in `texels` its texels begin, one number more a grid.
        texels: on which the points bear.
        shares: how much, 0 to 1.
        partitions: of each texel by seed, uint8 `[4, 1024, texels]`.
        members: whether a texel is in each partition but the last, float32 `[3, 3, texels, 1024]`: by
            partitions less two, partition, texel, place in `seeds`.
        seeds: distinct partitionings, int64 `[3, 1024]`; as many as `distinct: [3]`.
        distinct: how many there are.
        cut: whether the texture decodes to eight bits.
        effort: rounds of least squares, steps of a climb, and whether it counts the error exactly.
        prune_factor: rounded endpoints whose error exceeds this factor times the least so far are dropped.
    """

    layouts: Array
    points: Array
    starts: Array
    texels: Array
    shares: Array
    partitions: Array
    members: Array
    seeds: Array
    distinct: Array
    cut: bool
    effort: tuple[int, int, bool]
    prune_factor: float


@compiled
def promising(values: Array, importance: Array, plan: Plan, count: int, wanted: int, best: Array) -> int:
    """Set `best: [wanted]` to the seeds of least (weighted) variance within partitions, falling; return how many.

    `values: [texels]` are of one channel; there are `count` partitions, 2 to 4.
    """
    n = plan.distinct[count - 2]
    sums, masses = np.zeros((3, n), np.float32), np.zeros((3, n), np.float32)
    left_sum, left_mass = np.zeros(n, np.float32), np.zeros(n, np.float32)
    gain = np.zeros(n, np.float32)
    for t in range(values.size):
        h = np.float32(importance[t])
        hx = np.float32(importance[t] * (values[t] - 127.5))
        left_sum += hx
        left_mass += h
        for p in range(count - 1):
            member = plan.members[count - 2, p, t]
            for s in range(n):
                sums[p, s] += member[s] * hx
                masses[p, s] += member[s] * h
    tiny = np.float32(1e-20)
    for p in range(count - 1):
        for s in range(n):
            gain[s] += sums[p, s] * sums[p, s] / max(masses[p, s], tiny)
            left_sum[s] -= sums[p, s]
            left_mass[s] -= masses[p, s]
    floor = np.float32(1e-3) * np.float32(importance.sum()) / np.float32(values.size)
    for s in range(n):
        if left_mass[s] > floor:
            gain[s] += left_sum[s] * left_sum[s] / left_mass[s]
    return _greatest(gain, plan.seeds[count - 2], min(wanted, n), best)


@compiled
def _greatest(gain: Array, seeds: Array, wanted: int, best: Array) -> int:
    """Set `best` to the seeds of greatest gain, falling; return how many."""
    filled = 0
    kept = np.empty(wanted, np.float32)
    for s in range(gain.size):
        if filled == wanted and gain[s] <= kept[wanted - 1]:
            continue
        k = filled if filled < wanted else wanted - 1
        filled = min(filled + 1, wanted)
        while k > 0 and kept[k - 1] < gain[s]:
            kept[k], best[k] = kept[k - 1], best[k - 1]
            k -= 1
        kept[k], best[k] = gain[s], seeds[s]
    return filled


@compiled
def try_undecimated(
    values: Array, importance: Array, plan: Plan, layout: Array, seed: int, least: float,
    scratch: tuple[Array, Array], ranks: Array,
) -> float:  # fmt: skip
    """Return the error of a layout with one weight a texel, one channel; `ranks: [18]` is set to endpoints.

    What is above `least` may be above the true one.
    """
    rounds, climbs, exact = plan.effort
    kind, of = layout[WEIGHT_KIND], layout[ENDPOINT_KIND]
    total, count = 0.0, layout[PARTITIONS]
    partition = plan.partitions[count - 1, seed]
    for p in range(count):
        texels = fit.gather(values, importance, partition, p, scratch)
        ends = fit.start(scratch, texels, kind, rounds, plan.cut) if texels else (0.0, 0.0)
        a, b = nearest_endpoint(ends[0], of), nearest_endpoint(ends[1], of)
        pair = ENDPOINT_VALUES[of, a], ENDPOINT_VALUES[of, b]
        found = fit.error(scratch, texels, kind, pair, plan.cut, exact)
        if total + found > plan.prune_factor * least:
            return 1e300
        found, a, b = fit.climb(scratch, texels, (kind, of), (a, b), climbs, plan.cut, exact)
        ranks[2 * p], ranks[2 * p + 1] = a, b
        total += found
        if total >= least:
            return total
    return total


@compiled
def finish_undecimated(
    values: Array, plan: Plan, layout: Array, seed: int, endpoints: Array, ranks: Array
) -> None:
    """Set `ranks: [64]` to those of the weights that are best for the ranks of `endpoints: [18]`."""
    kind, of = layout[WEIGHT_KIND], layout[ENDPOINT_KIND]
    for t in range(values.size):
        p = plan.partitions[layout[PARTITIONS] - 1, seed, t]
        pair = ENDPOINT_VALUES[of, endpoints[2 * p]], ENDPOINT_VALUES[of, endpoints[2 * p + 1]]
        ranks[t] = fit.best_weight(values[t], kind, pair, plan.cut)


@compiled
def try_decimated(
    values: Array, aims: Array, importance: Array, plan: Plan, layout: Array, seed: int, ranks: Array,
    weights: Array,
) -> float:  # fmt: skip
    """Return the error of a layout with a grid of weights; `ranks: [18]` and `weights: [64]` are set.

    `aims` are the values that interpolation should give, so that `values: [texels, channels]` come out.
    """
    size, channels = values.shape
    count, of, kind = layout[PARTITIONS], layout[ENDPOINT_KIND], layout[WEIGHT_KIND]
    partition = plan.partitions[count - 1, seed]
    first, last = plan.points[layout[GRID]], plan.points[layout[GRID] + 1]
    grid = (plan.starts[first:last], plan.texels, plan.shares)
    bends, pulls, mixed = np.empty(size), np.empty(size), np.empty(size)
    ends, sums = np.zeros((4, 2, channels)), np.zeros((4, 3))
    for p in range(count):
        fit.first_ends(aims, importance, partition, p, ends[p])
    for _ in range(plan.effort[0]):
        fit.slopes(aims, importance, partition, ends, bends, pulls)
        fit.descend((bends, pulls), grid, kind, 2, weights, mixed)
        for p in range(count):
            fit.least_squares(aims, importance, partition, p, mixed, sums[p], ends[p])
    for p in range(count):
        fit.rounded(of, sums[p], ends[p], ranks[2 * channels * p :])
        _put_in_order(ends[p], ranks[2 * channels * p :])
    fit.slopes(aims, importance, partition, ends, bends, pulls)
    fit.descend((bends, pulls), grid, kind, 3, weights, mixed)
    return _error_of_grid(values, importance, partition, ends, mixed, plan.cut)


@compiled
def _put_in_order(ends: Array, ranks: Array) -> None:
    """Swap ends `[2, 4]` whose first is the greater in red, green and blue: decoders read that order differently."""
    if ends.shape[1] == 4 and ends[1, :3].sum() < ends[0, :3].sum():
        for c in range(4):
            ends[0, c], ends[1, c] = ends[1, c], ends[0, c]
            ranks[2 * c], ranks[2 * c + 1] = ranks[2 * c + 1], ranks[2 * c]


@compiled
def _error_of_grid(
    values: Array, importance: Array, partition: Array, ends: Array, mixed: Array, cut: bool
) -> float:
    """Return the squared error of what a block decodes to."""
    total = 0.0
    for t in range(partition.size):
        weight = int(64 * mixed[t] + 0.5 + 1e-9)
        for c in range(values.shape[1]):
            low, high = int(ends[partition[t], 0, c]), int(ends[partition[t], 1, c])
            off = fit.decoded(low, high, weight, cut) - values[t, c]
            total += importance[t] * off * off
    return total


@compiled
def search(
    values: Array, importance: Array, plan: Plan, mode: Array, partitions: Array, seed: Array, endpoints: Array,
    weights: Array,
) -> None:  # fmt: skip
    """Encode `values: [blocks, texels, channels]`, float64, 0 to 255 where nothing is clipped, as `plan` says.

    `importance: [blocks, texels]` is of the squared error of each texel, 0 outside the texture; the others, as in
    `Blocks`, are set.
    """
    texels, channels = values.shape[1:]
    scratch = (np.empty(texels), np.empty(texels))
    seeds, aims, line = np.zeros(1024, np.int64), np.empty((texels, channels)), np.empty(texels)
    ends, grid = np.zeros(MOST_ENDPOINTS, np.int64), np.zeros(MOST_WEIGHTS, np.int64)
    for n in range(len(values)):
        aims[:] = (values[n] + 0.5) * (255 / 256) if plan.cut else values[n]
        for t in range(texels):
            line[t] = values[n, t].sum() / channels
        least, tried, count, best = 1e300, 0, 1, 0
        for k in range(len(plan.layouts)):
            layout = plan.layouts[k]
            if layout[PARTITIONS] > 1 and layout[PARTITIONS] != count:
                count = layout[PARTITIONS]
                tried = promising(line, importance[n], plan, count, plan.layouts[k:, TRIES].max(), seeds)
            for j in range(min(tried, layout[TRIES]) if count > 1 else 1):
                one = seeds[j] if count > 1 else 0
                if layout[GRID] < 0:
                    total = try_undecimated(line, importance[n], plan, layout, one, least, scratch, ends)
                else:
                    total = try_decimated(values[n], aims, importance[n], plan, layout, one, ends, grid)
                if total < least:
                    least, best, seed[n] = total, k, one
                    endpoints[n], weights[n] = ends, grid
        layout, points = plan.layouts[best], texels
        if layout[GRID] < 0:
            finish_undecimated(line, plan, layout, seed[n], endpoints[n], weights[n])
        else:
            points = plan.points[layout[GRID] + 1] - plan.points[layout[GRID]] - 1
        mode[n], partitions[n] = layout[MODE], layout[PARTITIONS]
        for k in range(MOST_ENDPOINTS):  # ranks to integers
            used, of = (
                k < 2 * channels * layout[PARTITIONS],
                quantization.RISING_ENDPOINTS[layout[ENDPOINT_KIND]],
            )
            endpoints[n, k] = of[endpoints[n, k]] if used else 0
        for k in range(MOST_WEIGHTS):
            levels = quantization.RISING_WEIGHTS[layout[WEIGHT_KIND]]
            weights[n, k] = levels[weights[n, k]] if k < points else 0
