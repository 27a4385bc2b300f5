"""ONNX Resize: by torch's own interpolation where it computes the same, else axis by axis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from featherweight.capture.onnx.values import Value, numbers
from featherweight.errors import UnsupportedError

# Where a place of the result lies in the input: of the place, the scale, and both sizes.
_COORDINATES: dict[str, Callable[[Tensor, Any, Any, Any], Tensor]] = {
    "asymmetric": lambda to, scale, _, __: to / scale,
    "half_pixel": lambda to, scale, _, __: (to + 0.5) / scale - 0.5,
    "pytorch_half_pixel": lambda to, scale, _, n: (to + 0.5) / scale - 0.5 if n > 1 else 0 * to,
    "align_corners": lambda to, _, old, n: to * (old - 1) / (n - 1) if n > 1 else 0 * to,
    "tf_half_pixel_for_nn": lambda to, scale, _, __: (to + 0.5) / scale,
}
_NEAREST: dict[str, Callable[[Tensor], Tensor]] = {
    "round_prefer_floor": lambda at: torch.ceil(at - 0.5), "round_prefer_ceil": lambda at: torch.floor(at + 0.5),
    "floor": torch.floor, "ceil": torch.ceil,
}  # fmt: skip
_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


def resize(
    x: Tensor, roi: Value = None, scales: Value = None, sizes: Value = None, *, mode: str = "nearest",
    coordinate_transformation_mode: str = "", nearest_mode: str = "round_prefer_floor", axes: list[int] | None = None,
    cubic_coeff_a: float = -0.75, exclude_outside: int = 0, antialias: int = 0, extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch", opset: int,
) -> Tensor:  # fmt: skip
    """Resize, and Upsample.

    Raises:
        UnsupportedError: another way of resizing.
    """
    if opset < 11:  # two inputs, and one way
        scales, coordinate, nearest = roi, "asymmetric", "floor"
    else:
        coordinate, nearest = coordinate_transformation_mode or "half_pixel", nearest_mode
    if (
        antialias
        or coordinate not in _COORDINATES
        or keep_aspect_ratio_policy != "stretch"
        or (mode == "cubic" and exclude_outside)
    ):
        asked = f"mode {mode}, {coordinate}" + (", antialias" if antialias else "")
        raise UnsupportedError("no such way of resizing", got=asked, expected=", ".join(_COORDINATES))
    chosen = [axis % x.dim() for axis in axes] if axes is not None else list(range(x.dim()))
    given = numbers(scales) if scales is not None else []
    if given:
        factors = {axis: float(factor) for axis, factor in zip(chosen, given, strict=True) if factor != 1}
        wanted = {axis: _scaled(x.shape[axis], factor) for axis, factor in factors.items()}
    else:
        new = zip(chosen, numbers(sizes), strict=True)
        wanted = {axis: n for axis, n in new if not _equal(n, x.shape[axis])}
        factors = {axis: n / x.shape[axis] for axis, n in wanted.items()}
    if plain := _torch_mode(x, mode, coordinate, nearest, factors, wanted, cubic_coeff_a):
        places, corners = range(2, x.dim()), {"align_corners": coordinate == "align_corners"}
        corners = {} if plain == "nearest" else corners
        if given and coordinate != "align_corners":
            ratios = [factors.get(axis, 1.0) for axis in places]
            return F.interpolate(x, scale_factor=ratios, mode=plain, **corners)
        return F.interpolate(
            x, size=[wanted.get(axis, x.shape[axis]) for axis in places], mode=plain, **corners
        )
    for axis, n in wanted.items():
        to = torch.arange(n, dtype=torch.float32)
        at = _COORDINATES[coordinate](to, factors[axis], x.shape[axis], n)
        x = _along(x, axis, at, mode, nearest, cubic_coeff_a)
    return x


def _equal(a: Any, b: Any) -> bool:
    """Return whether two sizes are the same, without asking torch to fix them."""
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    return str(a) == str(b)


def _scaled(n: Any, factor: float) -> Any:
    return n * int(factor) if factor == int(factor) else int(n * factor)


def _torch_mode(
    x: Tensor,
    mode: str,
    coordinate: str,
    nearest: str,
    factors: dict[int, Any],
    wanted: dict[int, Any],
    a: float,
) -> str:
    """Return torch's name of what computes the same, or an empty string."""
    if min(wanted, default=2) < 2 or not 3 <= x.dim() <= 5 or not wanted:
        return ""
    if mode == "nearest":
        whole = all(isinstance(f, int | float) and f >= 1 and f == int(f) for f in factors.values())
        floors = coordinate == "asymmetric" and (nearest == "floor" or (whole and False))
        halves = coordinate.endswith("half_pixel") and nearest.startswith("round") and whole
        return "nearest" if floors or halves else ""
    fits = coordinate in ("half_pixel", "align_corners") or (
        coordinate == "pytorch_half_pixel" and all(isinstance(n, int) and n > 1 for n in wanted.values())
    )
    if not fits or not x.is_floating_point():
        return ""
    if mode == "cubic":
        return "bicubic" if x.dim() == 4 and a == -0.75 else ""
    return _MODES[x.dim() - 2]


def _along(x: Tensor, axis: int, at: Tensor, mode: str, nearest: str, a: float) -> Tensor:
    """Return `x` taken at places `at` of an axis, with what lies between."""
    last = x.shape[axis] - 1

    def take(places: Tensor) -> Tensor:
        return x.index_select(axis, torch.clamp(places, 0, last).to(torch.int64))

    if mode == "nearest":
        return take(_NEAREST[nearest](at))
    shape = [-1 if dim == axis else 1 for dim in range(x.dim())]
    if mode == "linear":
        at = torch.clamp(at, 0, last)
        low = torch.floor(at)
        share = (at - low).reshape(shape)
        return take(low) * (1 - share) + take(low + 1) * share
    low = torch.floor(at)
    share = (at - low).reshape(shape)
    parts = [take(low + tap - 1) * _cubic((share - (tap - 1)).abs(), a) for tap in range(4)]
    return parts[0] + parts[1] + parts[2] + parts[3]


def _cubic(x: Tensor, a: float) -> Tensor:
    """Return the weight of a pixel at distance `x` under cubic convolution (Keys, 1981, eq. 15)."""
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return torch.where(x <= 1, near, far)
