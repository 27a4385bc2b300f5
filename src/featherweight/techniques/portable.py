"""Weights in 8 bits whose products cannot saturate on x86 without VNNI: bounds on the integers that share a sum.

Between 7 bits, which always fit, and 8, which do not: `featherweight.integers.pairing` tells which weights share an
int16 sum, and only those are bounded, by 128 for the sum of two of one sign. Scales fitted to free integers are
too small then, so each row takes the one of a few larger scales that has the least error. Where kernels differ in
what they pair (windows over an odd number of channels: mostly the first layer), 7 bits are left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from featherweight.formats import Encoded, Fixed, Format, Importance, Int, View
from featherweight.formats.integer import storable
from featherweight.formats.sweep import Order, Uniform, sweep
from featherweight.formats.view import Array
from featherweight.graph.operators import operator
from featherweight.integers import (
    MOST_PAIR,
    Pairing,
    greatest_pair,
    obstacle,
    paired_columns,
    pairing,
    steps_of,
)

if TYPE_CHECKING:
    from featherweight.model import Model
    from featherweight.task import Task

GROWTH: Array = np.exp2(np.arange(9) / 8).astype(np.float32)  # of a scale; at twice the scale 7 bits remain
AT_ONCE = 1 << 23  # numbers that are swept together
STRICTNESS: tuple[Pairing, ...] = ("none", "neighbours", "any")


def pairings(model: Model, task: Task) -> dict[str, Pairing]:
    """Return how the weights of layers are paired, by name; the strictest way, where several layers read one.

    Raises:
        UnsupportedError: the network cannot be traced.
    """
    found: dict[str, Pairing] = {}
    for node in model.program(task.example()).graph.nodes:
        name = node.roles.get("weight")
        if operator(node.op).integer == "layer" and name:
            kind = pairing(tuple(model.tensors[name].shape), node.options.get("groups", 1))
            found[name] = max(kind, found.get(name, "none"), key=STRICTNESS.index)
    return found


def bounded(format: Format) -> bool:
    """Return whether runtimes multiply weights of a format as integers that can saturate: 8 bits, a step a row."""
    known = isinstance(format, Int) and format.bits == 8 and format.scheme == "symmetric"
    return known and not isinstance(format.per, int)  # type: ignore[attr-defined]


def fits(encoded: Encoded, kind: Pairing) -> bool:
    """Return whether the products of an encoded weight cannot saturate."""
    if obstacle(encoded) or kind == "none":
        return True
    shape = encoded.view.shape
    steps = encoded.view.tensor(steps_of(encoded)).reshape(shape[0], shape[1], -1)
    return greatest_pair(steps if kind == "neighbours" else steps.reshape(len(steps), 1, -1)) <= MOST_PAIR


def portable(
    target: Array, hessian: Array | None, format: Format, view: View, kind: Pairing,
    *, importance: Importance | None = None, damping: float = 0.01, order: Order = "given",
) -> Encoded:  # fmt: skip
    """Return a weight in `format` whose products cannot saturate, swept within the bounds.

    Args:
        target: `[rows, cols]`; exact zeros stay.
        hessian: as for `sweep`; None: each number by itself.
        format: `bounded(format)` holds.
        view: of the weight.
        kind: how its integers are paired.
        importance: what errors matter when scales are fitted.
        damping: of the Hessian.
        order: of the columns.
    """
    free = kind != "any"
    fitted = format if free else msgspec.structs.replace(format, bits=7)
    parts = fitted.fit(target.astype(np.float32), view=view, importance=importance)
    grid = format.uniform(parts, view)
    assert grid is not None, format
    growths = GROWTH if free else GROWTH[:1]
    columns = paired_columns(view.shape) if free else np.arange(view.cols)
    bound = MOST_PAIR if free else MOST_PAIR // 2
    low, high = (np.clip(np.where(target == 0, 0, end), -bound, bound) for end in (grid.low, grid.high))
    groups = 1 if hessian is None or hessian.ndim == 2 else len(hessian)
    inputs = None if hessian is None else hessian[..., columns[:, None], columns]

    def swept(scales: Array) -> tuple[Array, Array]:
        """Return what is written under `scales: [rows, n]`, `[rows, n, cols]`, and the errors, `[rows, n]`."""
        times = scales.shape[1]

        def repeated(array: Array) -> Array:
            """Each row of a group, then each again, for every scale: `[groups * n * rows, ...]`."""
            parted = array.reshape(groups, -1, 1, *array.shape[1:])
            whole = np.broadcast_to(parted, (*parted.shape[:2], times, *array.shape[1:]))
            return whole.reshape(-1, *array.shape[1:])

        shape, made = (view.rows * times, view.cols), np.empty((view.rows, times, view.cols))
        least, most = (repeated(np.broadcast_to(end, target.shape)[:, columns]) for end in (low, high))
        width, pair = (2, MOST_PAIR) if free else (1, None)
        tried = _Tried(Uniform(shape, scales.reshape(-1, 1), least, most, pair))
        whole = repeated(target[:, columns])
        found = sweep(whole, inputs, tried, width=width, damping=damping, order=order)
        made[:, :, columns] = found.reshape(made.shape)
        return made, np.reshape(tried.errors, (view.rows, times))

    assert isinstance(format, Int)
    scale = np.broadcast_to(grid.scale, (view.rows, 1)).astype(np.float32) * growths
    scale = storable(scale, np.zeros(scale.shape, np.int64), format.bits, format.half)
    many = max(1, AT_ONCE // max(target.size, 1))
    parts_of = [scale[:, start : start + many] for start in range(0, len(growths), many)]
    errors = np.concatenate([swept(scales)[1] for scales in parts_of], axis=1)
    units = parts["scale"].size  # runs of rows that share a scale
    best = errors.reshape(units, -1, len(growths)).sum(axis=1).argmin(axis=1)
    scale = np.take_along_axis(scale, np.repeat(best, view.rows // units)[:, None], 1)
    made = swept(scale)[0][:, 0].astype(np.float32)
    kept = scale.reshape(units, -1)[:, 0].reshape(parts["scale"].shape)
    parts = {**parts, "scale": kept.astype(parts["scale"].dtype)}
    return Encoded(format, Fixed(), view, format.assign(made, parts, view=view).reshape(-1), parts)


@dataclass(eq=False)
class _Tried:
    """A grid that adds up the error of each row, `[groups, rows of a group]`."""

    grid: Uniform
    errors: Array | float = 0.0

    def in_turn(self, left: Array, corner: Array, columns: Array) -> tuple[Array, Array]:
        made, errors = self.grid.in_turn(left, corner, columns)
        self.errors = self.errors + np.square(errors).sum(axis=1)
        return made, errors
