"""ONNX operators that make shapes, move numbers and look them up, by functions of torch."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from featherweight.capture.onnx.values import DTYPES, Known, Value, from_start, number, numbers, tensor

_MOST_KNOWN = 64  # numbers of a value that stays known


def shape(x: Value, *, start: int = 0, end: int | None = None) -> Known:
    """Shape."""
    sizes = x.numbers.shape if isinstance(x, Known) else x.shape
    return Known.of(list(sizes)[start:end], torch.int64)


def size(x: Value) -> Known:
    """Size."""
    found: Any = 1
    for n in shape(x).ints():
        found = found * n
    return Known.of(found, torch.int64)


def reshape(x: Value, sizes: Value, *, allowzero: int = 0) -> Value:
    """Reshape: a 0 keeps the size of that axis."""
    wanted = numbers(sizes)
    if isinstance(x, Known):
        own = x.numbers.shape
        kept = [own[axis] if n == 0 and not allowzero else n for axis, n in enumerate(wanted)]
        return Known(x.numbers.reshape([int(n) for n in kept]), x.dtype)
    zero = [isinstance(n, int) and n == 0 and not allowzero for n in wanted]
    return x.reshape(
        [x.shape[axis] if keeps else n for axis, (n, keeps) in enumerate(zip(wanted, zero, strict=True))]
    )


def flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    """Flatten: to two axes."""
    axis = axis % x.dim() if axis < 0 else axis
    if axis == 1 and x.dim() > 1:
        return x.flatten(1)
    rows: Any = 1
    for n in x.shape[:axis]:
        rows = rows * n
    return x.reshape(rows, -1) if x.numel() or axis == 0 else x.reshape(rows, 0)


def squeeze(x: Value, given: Value = None, *, axes: list[int] | None = None) -> Value:
    """Squeeze: of axes that are an input from version 13 on."""
    chosen = numbers(given) if given is not None else axes
    if isinstance(x, Known):
        return Known(np.squeeze(x.numbers, tuple(chosen) if chosen is not None else None), x.dtype)
    if chosen is None:
        chosen = [axis for axis, n in enumerate(x.shape) if isinstance(n, int) and n == 1]
    gone = {axis % x.dim() for axis in chosen}
    for axis in sorted(gone, reverse=True):
        x = x.squeeze(axis)
    return x


def unsqueeze(x: Value, given: Value = None, *, axes: list[int] | None = None) -> Value:
    """Unsqueeze: axes are those of the result."""
    chosen = numbers(given) if given is not None else axes or []
    dims = (x.numbers.ndim if isinstance(x, Known) else x.dim()) + len(chosen)
    places = sorted(axis % dims for axis in chosen)
    if isinstance(x, Known):
        return Known(np.expand_dims(x.numbers, places), x.dtype)
    for axis in places:
        x = x.unsqueeze(axis)
    return x


def transpose(x: Value, *, perm: list[int] | None = None) -> Value:
    """Transpose."""
    if isinstance(x, Known):
        return Known(x.numbers.transpose(perm), x.dtype)
    return x.permute(perm if perm is not None else list(range(x.dim()))[::-1])


def concat(*values: Value, axis: int = 1) -> Value:
    """Concat."""
    if all(isinstance(value, Known) for value in values):
        return Known(np.concatenate([value.numbers for value in values], axis), values[0].dtype)
    return torch.cat([tensor(value) for value in values], axis)


def split(
    x: Value,
    sizes: Value = None,
    *,
    axis: int = 0,
    split: list[int] | None = None,
    num_outputs: int = 0,
    outputs: int,
) -> tuple[Value, ...]:
    """Split: into given sizes, or into equal parts, the last of which may be smaller."""
    parts = numbers(sizes) if sizes is not None else split
    if isinstance(x, Known):
        x = x.tensor()
    if parts is None:
        count = num_outputs or outputs
        part = -(-x.shape[axis] // count)
        parts = [part] * (count - 1) + [x.shape[axis] - part * (count - 1)]
    return tuple(torch.split(x, parts, axis))


def cut(
    x: Value,
    starts: Value = None,
    ends: Value = None,
    axes: Value = None,
    steps: Value = None,
    **old: list[int],
) -> Value:
    """Slice."""
    first = numbers(starts) if starts is not None else old["starts"]
    last = numbers(ends) if ends is not None else old["ends"]
    chosen = numbers(axes) if axes is not None else old.get("axes", range(len(first)))
    strides = numbers(steps) if steps is not None else [1] * len(first)
    for axis, start, end, step in zip(chosen, first, last, strides, strict=True):
        if isinstance(x, Known):
            where = [slice(None)] * x.numbers.ndim
            where[axis] = _python_slice(start, end, step, x.numbers.shape[axis])
            x = Known(x.numbers[tuple(where)], x.dtype)
        else:
            x = _sliced(x, axis % x.dim(), start, end, step)
    return x


def _python_slice(start: int, end: int, step: int, n: int) -> slice:
    """Return the slice of Python that ONNX means; behind the first place going backwards is None."""
    return slice(start, None if step < 0 and end < -n else end, step)


def _sliced(x: Tensor, axis: int, start: Any, end: Any, step: Any) -> Tensor:
    n = x.shape[axis]
    if step < 0:
        begin = start + n if start < 0 else start
        begin = n - 1 if begin >= n else begin
        stop = end if end >= 0 else (end + n if end >= -n else -1)
        x, start, end, step = x.flip(axis), n - 1 - begin, n - 1 - stop, -step
    where: list[Any] = [slice(None)] * x.dim()
    open_end = isinstance(end, int) and end >= 2**31 - 1
    where[axis] = slice(start, None if open_end else end, step)
    return x[tuple(where)]


def gather(x: Value, places: Value, *, axis: int = 0) -> Value:
    """Gather: whole slices along an axis."""
    if isinstance(x, Known) and isinstance(places, Known):
        return Known(np.asarray(np.take(x.numbers, places.numbers.astype(int), axis), dtype=object), x.dtype)
    x = tensor(x)
    if isinstance(places, Known) and places.numbers.ndim == 0:
        return x.select(axis, places.ints()[0])
    if isinstance(places, Known):
        n = x.shape[axis]
        flat = [place + n if place < 0 else place for place in places.ints()]
        run = all(b - a == 1 for a, b in pairwise(flat))
        if run and places.numbers.ndim == 1 and flat:
            return x.narrow(axis, flat[0], len(flat))
        places = Known(np.array(flat, object).reshape(places.numbers.shape), places.dtype).tensor()
    axis = axis % x.dim()
    places = from_start(places, x.shape[axis])
    if axis == 0 and x.dim() == 2 and x.is_floating_point():
        return F.embedding(places, x)
    found = x.index_select(axis, places.reshape(-1))
    return (
        found if places.dim() == 1 else found.reshape([*x.shape[:axis], *places.shape, *x.shape[axis + 1 :]])
    )


def gather_elements(x: Tensor, places: Value, *, axis: int = 0) -> Tensor:
    """GatherElements."""
    index = tensor(places)
    return torch.gather(tensor(x), axis, torch.where(index < 0, index + x.shape[axis], index))


def gather_nd(x: Tensor, places: Value, *, batch_dims: int = 0) -> Tensor:
    """GatherND."""
    x, index = tensor(x), tensor(places)
    lead = tuple(
        torch.arange(index.shape[axis]).reshape([-1 if axis == a else 1 for a in range(index.dim() - 1)])
        for axis in range(batch_dims)
    )
    return x[(*lead, *index.unbind(-1))]


def scatter_nd(x: Tensor, places: Value, updates: Tensor, *, reduction: str = "none") -> Tensor:
    """ScatterND."""
    x, index, updates = tensor(x), tensor(places), tensor(updates)
    if reduction == "none":
        return x.index_put(index.unbind(-1), updates)
    if reduction == "add":
        return x.index_put(index.unbind(-1), updates, accumulate=True)
    depth = index.shape[-1]
    rows = index[..., 0]
    for axis in range(1, depth):
        rows = rows * x.shape[axis] + index[..., axis]
    flat = x.reshape(-1, *x.shape[depth:])
    values = updates.reshape(-1, *x.shape[depth:])
    at = rows.reshape([-1] + [1] * (values.dim() - 1)).expand(values.shape)
    return flat.scatter_reduce(0, at, values, _REDUCTIONS[reduction]).reshape(x.shape)


_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def scatter_elements(
    x: Tensor, places: Value, updates: Value, *, axis: int = 0, reduction: str = "none"
) -> Tensor:  # fmt: skip
    """ScatterElements, and Scatter."""
    x, index = tensor(x), tensor(places)
    index = torch.where(index < 0, index + x.shape[axis], index)
    if reduction == "none":
        return x.scatter(axis, index, tensor(updates))
    return x.scatter_reduce(axis, index, tensor(updates), _REDUCTIONS[reduction])


def expand(x: Value, sizes: Value) -> Value:
    """Expand: the shapes are broadcast, in both directions."""
    wanted = numbers(sizes)
    fixed = all(isinstance(n, int) for n in wanted)  # numpy would make a number of a size that is free
    if isinstance(x, Known) and fixed and x.numbers.size <= _MOST_KNOWN and not x.dtype.is_floating_point:
        return Known(np.broadcast_to(x.numbers, np.broadcast_shapes(x.numbers.shape, wanted)), x.dtype)
    x = tensor(x)
    lead = max(len(wanted) - x.dim(), 0)
    wanted = [1] * (x.dim() - len(wanted)) + wanted
    own = [1] * lead + list(x.shape)
    return x.expand([n if isinstance(m, int) and m == 1 else m for n, m in zip(wanted, own, strict=True)])


def tile(x: Value, repeats: Value) -> Tensor:
    """Tile."""
    return tensor(x).repeat(numbers(repeats))


def filled(sizes: Value, *, value: Any = None) -> Value:
    """ConstantOfShape: small whole numbers stay known."""
    fill, dtype = (0.0, torch.float32) if value is None else (value.ints()[0], value.dtype)
    wanted = numbers(sizes)
    small = len(wanted) <= 1 and all(isinstance(n, int) for n in wanted) and sum(wanted) <= _MOST_KNOWN
    if small and not dtype.is_floating_point:
        return Known(np.full(wanted, fill, dtype=object), dtype)
    return torch.full(wanted, fill, dtype=dtype)


def arange(start: Value, limit: Value, step: Value) -> Value:
    """Range: of sizes that are known small, numbers; else a tensor."""
    dtype = start.dtype
    ends = [number(value) for value in (start, limit, step)]
    if all(isinstance(n, int) for n in ends) and len(found := range(*ends)) <= _MOST_KNOWN:
        return Known.of(list(found), dtype)
    return torch.arange(*ends, dtype=dtype)


def one_hot(places: Value, depth: Value, values: Value, *, axis: int = -1) -> Tensor:
    """OneHot: negative places count from the end."""
    index, count = tensor(places), number(depth)
    off, on = tensor(values).unbind(0)
    axis = axis % (index.dim() + 1)
    classes = torch.arange(int(count)).reshape([-1] + [1] * (index.dim() - axis))
    index = index.to(torch.int64)
    index = torch.where(index < 0, index + int(count), index)
    return torch.where(index.unsqueeze(axis) == classes, on, off)


def top_k(x: Tensor, k: Value, *, axis: int = -1, largest: int = 1, sorted: int = 1) -> tuple[Tensor, Tensor]:
    """TopK."""
    values, places = torch.topk(tensor(x), number(k), axis, bool(largest), True)
    return values, places


def triangle(x: Value, diagonal: Value = None, *, upper: int = 1) -> Tensor:
    """Trilu."""
    keep = 0 if diagonal is None else int(number(diagonal))
    return (torch.triu if upper else torch.tril)(tensor(x), keep)


def eye_like(x: Tensor, *, dtype: int = 0, k: int = 0) -> Tensor:
    """EyeLike."""
    rows, columns = x.shape
    found = torch.arange(columns)[None] - torch.arange(rows)[:, None] == k
    return found.to(DTYPES[dtype] if dtype else x.dtype)


def compress(x: Tensor, condition: Value, *, axis: int | None = None) -> Tensor:
    """Compress: by a condition that is known."""
    kept = [place for place, keep in enumerate(numbers(condition)) if keep]
    x = x.reshape(-1) if axis is None else x
    return x.index_select(axis or 0, torch.tensor(kept, dtype=torch.int64))


def depth_to_space(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    """DepthToSpace: channels are blocks of depth (DCR), or depth of blocks (CRD)."""
    if mode == "CRD":
        return F.pixel_shuffle(x, blocksize)
    n, c, h, w = x.shape
    depth = c // blocksize**2
    parts = x.reshape(n, blocksize, blocksize, depth, h, w).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(n, depth, h * blocksize, w * blocksize)


def space_to_depth(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    """SpaceToDepth: blocks of depth (DCR), or depth of blocks (CRD)."""
    n, c, h, w = x.shape
    parts = x.reshape(n, c, h // blocksize, blocksize, w // blocksize, blocksize)
    parts = parts.permute(0, 3, 5, 1, 2, 4) if mode == "DCR" else parts.permute(0, 1, 3, 5, 2, 4)
    return parts.reshape(n, c * blocksize**2, h // blocksize, w // blocksize)


def reverse_sequence(x: Tensor, lengths: Value, *, batch_axis: int = 1, time_axis: int = 0) -> Tensor:
    """ReverseSequence: the first `length` steps of each sample are turned around."""
    moved = x.movedim((time_axis, batch_axis), (0, 1))
    steps = torch.arange(moved.shape[0])[:, None]
    count = tensor(lengths)[None]
    place = torch.where(steps < count, count - 1 - steps, steps)
    index = place.reshape([*place.shape, *[1] * (moved.dim() - 2)]).expand(moved.shape)
    return torch.gather(moved, 0, index).movedim((0, 1), (time_axis, batch_axis))


def identity(x: Value) -> Value:
    """Identity."""
    return x


MOVES: dict[str, Callable[..., Any]] = {
    "Shape": shape, "Size": size, "Reshape": reshape, "Flatten": flatten, "Squeeze": squeeze,
    "Unsqueeze": unsqueeze, "Transpose": transpose, "Concat": concat, "Split": split, "Slice": cut,
    "Gather": gather, "GatherElements": gather_elements, "GatherND": gather_nd, "ScatterND": scatter_nd,
    "ScatterElements": scatter_elements, "Scatter": scatter_elements, "Expand": expand, "Tile": tile,
    "ConstantOfShape": filled, "Range": arange, "OneHot": one_hot, "TopK": top_k, "Trilu": triangle,
    "EyeLike": eye_like, "Compress": compress, "DepthToSpace": depth_to_space,
    "SpaceToDepth": space_to_depth, "ReverseSequence": reverse_sequence, "Identity": identity,
}  # fmt: skip
