"""ONNX operators on images and signals: convolution, pooling, padding, resizing, normalising; by functions of torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from featherweight.capture.onnx.values import Value, number, numbers, operand, sym_max, tensor
from featherweight.errors import UnsupportedError

CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED: dict[int, Callable[..., Tensor]] = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}


def spatial(given: Sequence[int] | None, dims: int, default: int = 1) -> list[int]:
    """Return an attribute of a number for each spatial axis."""
    return list(given) if given else [default] * dims


def same_padding(
    sizes: Sequence[Any], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], lower: bool
) -> list[Any]:
    """Return what auto_pad SAME adds: before each axis, then behind each."""
    total = []
    for n, k, s, d in zip(sizes, kernel, strides, dilations, strict=True):
        reach = d * (k - 1) + 1
        needed = reach - 1 if s == 1 else (-(-n // s) - 1) * s + reach - n
        total.append(max(needed, 0) if isinstance(needed, int) else sym_max(needed, 0))
    small, large = [n // 2 for n in total], [n - n // 2 for n in total]
    return [*large, *small] if lower else [*small, *large]


def padded(x: Tensor, pads: Sequence[Any], value: float = 0.0) -> Value:
    """Return `x` with its last axes padded: `pads` are before each axis, then behind each."""
    half = len(pads) // 2
    if all(isinstance(n, int) and n == 0 for n in pads):
        return x
    amounts = [n for axis in reversed(range(half)) for n in (pads[axis], pads[axis + half])]
    return F.pad(x, amounts, value=value)


def windows(
    x: Tensor, kernel: Sequence[int], *, auto_pad: str, pads: Sequence[int] | None, strides: Sequence[int],
    dilations: Sequence[int],
) -> list[Any]:  # fmt: skip
    """Return the padding of a convolution or pooling: before each axis, then behind each."""
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        return same_padding(x.shape[2:], kernel, strides, dilations, auto_pad == "SAME_LOWER")
    return spatial(None if auto_pad == "VALID" else pads, 2 * len(kernel), 0)


def even(pads: Sequence[Any]) -> list[Any] | None:
    """Return the padding of each axis where it is the same on both sides, else None."""
    half = len(pads) // 2
    same = all(
        isinstance(a, int) and a == b and a >= 0 for a, b in zip(pads[:half], pads[half:], strict=True)
    )
    return list(pads[:half]) if same else None


def convolution(
    x: Tensor, weight: Value, bias: Value = None, *, auto_pad: str = "NOTSET", dilations: list[int] | None = None,
    group: int = 1, kernel_shape: list[int] | None = None, pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Value:  # fmt: skip
    """Conv, of a weight that is computed."""
    weight, dims = tensor(weight), x.dim() - 2
    steps, gaps = spatial(strides, dims), spatial(dilations, dims)
    around = windows(x, weight.shape[2:], auto_pad=auto_pad, pads=pads, strides=steps, dilations=gaps)
    plain = even(around)
    if plain is None:
        x, plain = padded(x, around), [0] * dims
    bias = None if bias is None else tensor(bias)
    return CONVOLUTIONS[dims](x, weight, bias, steps, plain, gaps, group)


def transposed_padding(
    x: Tensor, kernel: Sequence[int], *, auto_pad: str, pads: Sequence[int] | None, strides: Sequence[int],
    dilations: Sequence[int], output_padding: Sequence[int], output_shape: Sequence[int] | None,
) -> list[Any]:  # fmt: skip
    """Return what a transposed convolution cuts off: before each axis, then behind each."""
    dims = len(kernel)
    if not output_shape and auto_pad not in ("SAME_UPPER", "SAME_LOWER"):
        return spatial(None if auto_pad == "VALID" else pads, 2 * dims, 0)
    wanted = output_shape or [n * s for n, s in zip(x.shape[2:], strides, strict=True)]
    found: tuple[list[Any], list[Any]] = ([], [])
    for axis, n in enumerate(x.shape[2:]):
        whole = (n - 1) * strides[axis] + output_padding[axis] + (kernel[axis] - 1) * dilations[axis] + 1
        total = whole - wanted[-dims:][axis]
        half = total // 2
        ends = (half, total - half) if auto_pad == "SAME_UPPER" else (total - half, half)
        for side, n_side in zip(found, ends, strict=True):
            side.append(n_side)
    return [*found[0], *found[1]]


def cropped(x: Tensor, pads: Sequence[Any]) -> Value:
    """Return `x` with so much cut off its last axes: before each axis, then behind each."""
    half = len(pads) // 2
    for axis in range(half):
        before, behind = pads[axis], pads[axis + half]
        dim = x.dim() - half + axis
        if isinstance(behind, int) and behind < 0:  # an output larger than what is computed: zeros
            x = F.pad(x, [0, 0] * (x.dim() - 1 - dim) + [0, -behind])
            behind = 0
        x = x.narrow(dim, before, x.shape[dim] - before - behind)
    return x


def transposed_convolution(
    x: Tensor, weight: Value, bias: Value = None, *, auto_pad: str = "NOTSET", dilations: list[int] | None = None,
    group: int = 1, kernel_shape: list[int] | None = None, output_padding: list[int] | None = None,
    output_shape: list[int] | None = None, pads: list[int] | None = None, strides: list[int] | None = None,
) -> Value:  # fmt: skip
    """ConvTranspose, of a weight that is computed."""
    weight, dims = tensor(weight), x.dim() - 2
    steps, gaps, more = spatial(strides, dims), spatial(dilations, dims), spatial(output_padding, dims, 0)
    off = transposed_padding(
        x, weight.shape[2:], auto_pad=auto_pad, pads=pads, strides=steps, dilations=gaps, output_padding=more,
        output_shape=output_shape,
    )  # fmt: skip
    plain = even(off)
    bias = None if bias is None else tensor(bias)
    made = TRANSPOSED[dims](x, weight, bias, steps, plain or [0] * dims, more, group, gaps)
    return made if plain is not None else cropped(made, off)


def max_pool(
    x: Tensor, *, kernel_shape: list[int], auto_pad: str = "NOTSET", ceil_mode: int = 0, pads: list[int] | None = None,
    dilations: list[int] | None = None, storage_order: int = 0, strides: list[int] | None = None, outputs: int = 1,
) -> Any:  # fmt: skip
    """MaxPool; the places of the largest are counted over the whole tensor."""
    dims = len(kernel_shape)
    steps, gaps = spatial(strides, dims), spatial(dilations, dims)
    around = windows(x, kernel_shape, auto_pad=auto_pad, pads=pads, strides=steps, dilations=gaps)
    plain = even(around)
    pool = getattr(F, f"max_pool{dims}d")
    if plain is None or any(2 * n > k for n, k in zip(plain, kernel_shape, strict=True)):
        low = -float("inf") if x.is_floating_point() else torch.iinfo(x.dtype).min
        x, plain = padded(x, around, low), [0] * dims
        if outputs > 1:
            raise UnsupportedError("the places of the largest under uneven padding")
    if not x.is_floating_point():
        return pool(x.float(), kernel_shape, steps, plain, gaps, bool(ceil_mode)).to(x.dtype)
    if outputs == 1:
        return pool(x, kernel_shape, steps, plain, gaps, bool(ceil_mode))
    found, places = pool(x, kernel_shape, steps, plain, gaps, bool(ceil_mode), return_indices=True)
    planes = torch.arange(x.shape[0] * x.shape[1]).reshape(x.shape[0], x.shape[1], *[1] * dims)
    return found, places + planes * prod(x.shape[2:])


def average_pool(
    x: Tensor, *, kernel_shape: list[int], auto_pad: str = "NOTSET", ceil_mode: int = 0, count_include_pad: int = 0,
    pads: list[int] | None = None, strides: list[int] | None = None, dilations: list[int] | None = None,
) -> Value:  # fmt: skip
    """AveragePool."""
    dims = len(kernel_shape)
    steps, gaps = spatial(strides, dims), spatial(dilations, dims)
    if any(n != 1 for n in gaps):
        raise UnsupportedError("an average of pixels that are apart (dilations)")
    around = windows(x, kernel_shape, auto_pad=auto_pad, pads=pads, strides=steps, dilations=gaps)
    plain = even(around)
    pool = getattr(F, f"avg_pool{dims}d")
    if plain is not None and all(2 * n <= k for n, k in zip(plain, kernel_shape, strict=True)):
        counts = bool(count_include_pad) or not any(plain)
        return pool(x, kernel_shape, steps, plain, bool(ceil_mode), counts)
    if count_include_pad:
        return pool(padded(x, around), kernel_shape, steps, 0, bool(ceil_mode), True)
    ones = torch.ones([1, 1, *x.shape[2:]], dtype=x.dtype)
    total, share = (pool(padded(y, around), kernel_shape, steps, 0, bool(ceil_mode), True) for y in (x, ones))
    return total / share


def lp_pool(
    x: Tensor, *, kernel_shape: list[int], p: int = 2, auto_pad: str = "NOTSET", ceil_mode: int = 0,
    pads: list[int] | None = None, strides: list[int] | None = None, dilations: list[int] | None = None,
) -> Value:  # fmt: skip
    """LpPool: zeros around the edge add nothing, so that it is an average of powers, times their number."""
    dims = len(kernel_shape)
    steps, gaps = spatial(strides, dims), spatial(dilations, dims)
    if any(n != 1 for n in gaps) or ceil_mode:
        raise UnsupportedError("dilations or ceil_mode of LpPool")
    around = windows(x, kernel_shape, auto_pad=auto_pad, pads=pads, strides=steps, dilations=gaps)
    powers = padded(x.abs().pow(p), around)
    return (getattr(F, f"avg_pool{dims}d")(powers, kernel_shape, steps) * prod(kernel_shape)).pow(1 / p)


def _over_space(x: Tensor) -> list[int]:
    return list(range(2, x.dim()))


def global_average(x: Tensor) -> Value:
    """GlobalAveragePool."""
    return F.adaptive_avg_pool2d(x, 1) if x.dim() == 4 else x.mean(_over_space(x), keepdim=True)


def global_max(x: Tensor) -> Value:
    """GlobalMaxPool."""
    return x.amax(_over_space(x), keepdim=True)


def pad(
    x: Tensor, amounts: Value = None, fill: Value = None, axes: Value = None, *, mode: str = "constant",
    pads: list[int] | None = None, value: float = 0.0,
) -> Value:  # fmt: skip
    """Pad: amounts before each axis, then behind each; an input since version 11."""
    x = tensor(x)
    given = numbers(amounts) if amounts is not None else list(pads or [])
    chosen = [axis % x.dim() for axis in numbers(axes)] if axes is not None else range(x.dim())
    half = len(given) // 2
    ends = {axis: (given[n], given[n + half]) for n, axis in enumerate(chosen)}
    around = [ends.get(axis, (0, 0)) for axis in range(x.dim())]
    if mode == "constant":
        filling = number(fill) if fill is not None else value
        while around and all(isinstance(n, int) and n == 0 for n in around[0]):
            around.pop(0)
        return F.pad(x, [n for pair in reversed(around) for n in pair], value=filling) if around else x
    for axis, (before, behind) in enumerate(around):
        if isinstance(before, int) and isinstance(behind, int) and (before < 0 or behind < 0):
            x = x.narrow(axis, max(-before, 0), x.shape[axis] + min(before, 0) + min(behind, 0))
    around = [(sym_max(a, 0), sym_max(b, 0)) for a, b in around]
    touched = [
        axis for axis, pair in enumerate(around) if not all(isinstance(n, int) and n == 0 for n in pair)
    ]
    return _mirrored(x, around, touched, {"edge": "replicate", "wrap": "circular"}.get(mode, mode))


def _mirrored(x: Tensor, around: list[tuple[Any, Any]], touched: list[int], mode: str) -> Value:
    """Pad by what is there, axis after axis; torch wants the axis last, behind two others."""
    for axis in touched:
        moved = x.movedim(axis, -1)
        lead = moved.shape[:-1]
        flat = moved.reshape(1, -1, moved.shape[-1]) if len(lead) != 2 else moved
        made = F.pad(flat, list(around[axis]), mode=mode)
        x = (made.reshape(*lead, made.shape[-1]) if len(lead) != 2 else made).movedim(-1, axis)
    return x


def grid_sample(
    x: Tensor, grid: Tensor, *, align_corners: int = 0, mode: str = "linear", padding_mode: str = "zeros"
) -> Value:
    """GridSample."""
    modes = {"linear": "bilinear", "cubic": "bicubic"}
    return F.grid_sample(x, grid, modes.get(mode, mode), padding_mode, bool(align_corners))


def instance_norm(x: Tensor, scale: Value, bias: Value, *, epsilon: float = 1e-5) -> Value:
    """InstanceNormalization."""
    return F.instance_norm(x, weight=tensor(scale), bias=tensor(bias), eps=epsilon)


def group_norm(
    x: Tensor,
    scale: Value,
    bias: Value,
    *,
    num_groups: int,
    epsilon: float = 1e-5,
    stash_type: int = 1,
    opset: int,
) -> Value:
    """GroupNormalization: a scale for each group in versions 18 to 20, for each channel since."""
    scale, bias = tensor(scale), tensor(bias)
    if scale.shape[0] == num_groups != x.shape[1]:
        scale, bias = (y.repeat_interleave(x.shape[1] // num_groups) for y in (scale, bias))
    return F.group_norm(x, num_groups, scale, bias, epsilon)


def batch_norm(
    x: Tensor, scale: Value, bias: Value, mean: Value, variance: Value, *, epsilon: float = 1e-5, momentum: float = 0.9,
    spatial: int = 1, training_mode: int = 0,
) -> Value:  # fmt: skip
    """BatchNormalization, of tensors that are computed."""
    if training_mode:
        raise UnsupportedError("batch norm in training mode")
    return F.batch_norm(x, tensor(mean), tensor(variance), tensor(scale), tensor(bias), False, 0.1, epsilon)


def layer_norm(
    x: Tensor, scale: Value, bias: Value = None, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1,
    outputs: int = 1,
) -> Value:  # fmt: skip
    """LayerNormalization, over all axes from `axis` on; perhaps with the mean and the inverse of the deviation."""
    if outputs > 1:
        over = list(range(axis % x.dim(), x.dim()))
        mean = x.mean(over, keepdim=True)
        inverse = torch.rsqrt(x.var(over, correction=0, keepdim=True) + epsilon)
        made = (x - mean) * inverse * tensor(scale)
        return (made if bias is None else made + tensor(bias), mean, inverse)[:outputs]
    shape = list(x.shape[axis % x.dim() :])
    scale = tensor(scale)
    if list(scale.shape) != shape:
        made = F.layer_norm(x, shape, None, None, epsilon) * scale
        return made if bias is None else made + tensor(bias)
    return F.layer_norm(x, shape, scale, None if bias is None else tensor(bias), epsilon)


def rms_norm(x: Tensor, scale: Value, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1) -> Value:
    """RMSNormalization, over all axes from `axis` on."""
    return F.rms_norm(x, list(x.shape[axis % x.dim() :]), None, epsilon) * operand(scale, x)


def lp_normalization(x: Tensor, *, axis: int = -1, p: int = 2) -> Value:
    """LpNormalization."""
    size = x.norm(p, axis, keepdim=True)
    return x / torch.where(size == 0, 1, size)


def mean_variance_normalization(x: Tensor, *, axes: list[int] | None = None) -> Value:
    """MeanVarianceNormalization."""
    over = axes or [0, 2, 3]
    centred = x - x.mean(over, keepdim=True)
    return centred / (centred.square().mean(over, keepdim=True).sqrt() + 1e-9)


def local_response_norm(
    x: Tensor, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0
) -> Value:
    """LRN."""
    return F.local_response_norm(x, size, alpha, beta, bias)


SPATIAL: dict[str, Callable[..., Any]] = {
    "Conv": convolution, "ConvTranspose": transposed_convolution, "MaxPool": max_pool, "AveragePool": average_pool,
    "LpPool": lp_pool, "GlobalAveragePool": global_average, "GlobalMaxPool": global_max,
    "Pad": pad, "GridSample": grid_sample, "InstanceNormalization": instance_norm, "GroupNormalization": group_norm,
    "BatchNormalization": batch_norm, "LayerNormalization": layer_norm, "RMSNormalization": rms_norm,
    "LpNormalization": lp_normalization, "MeanVarianceNormalization": mean_variance_normalization,
    "LRN": local_response_norm,
}  # fmt: skip
