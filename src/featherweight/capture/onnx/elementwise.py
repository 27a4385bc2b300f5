"""ONNX operators that work element by element, and those that reduce axes, by functions of torch."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from featherweight.capture.onnx.values import (
    DTYPES,
    Known,
    Value,
    known,
    number,
    numbers,
    operand,
    sym_float,
    sym_int,
    sym_max,
    sym_min,
    tensor,
)

Function = Callable[..., Any]


def _divide(a: Any, b: Any) -> Any:
    """ONNX divides integers towards zero."""
    if isinstance(a, float | torch.SymFloat) or isinstance(b, float | torch.SymFloat):
        return a / b
    return a // b if not isinstance(a, int) or (a < 0) == (b < 0) else -(-a // b)


def _both(function: Function, of_numbers: Function, result: torch.dtype | None = None) -> Function:
    """Return an operator of values: on known numbers by itself, on tensors by torch."""

    def operate(*values: Value) -> Value:
        if all(isinstance(value, Known) for value in values):
            return known(of_numbers, values, result or values[0].dtype)
        first = next(value for value in values if isinstance(value, Tensor))
        return function(*[operand(value, first) for value in values])

    return operate


def _tensors(function: Function) -> Function:
    """Return an operator of tensors."""
    return lambda *values, **options: function(*map(tensor, values), **options)


def _logical(function: Function, of_numbers: Function) -> Function:
    """Return an operator of truths: torch takes tensors alone."""

    def operate(a: Value, b: Value) -> Value:
        if isinstance(a, Known) and isinstance(b, Known):
            return known(of_numbers, [a, b], torch.bool)
        return function(tensor(a), tensor(b))

    return operate


def divide(a: Value, b: Value) -> Value:
    """Div."""
    if isinstance(a, Known) and isinstance(b, Known):
        return known(_divide, [a, b], a.dtype)
    whole = not (a if isinstance(a, Tensor) else b).dtype.is_floating_point
    if isinstance(a, Known):
        a = a.tensor()
    b = operand(b, a)
    return torch.div(a, b, rounding_mode="trunc") if whole else a / b


def modulo(a: Value, b: Value, *, fmod: int = 0) -> Value:
    """Mod: of the sign of the divisor, or with `fmod` of the dividend."""
    if isinstance(a, Known) and isinstance(b, Known):
        return known(math.fmod if fmod else operator.mod, [a, b], a.dtype)
    a = tensor(a)
    return (torch.fmod if fmod else torch.remainder)(a, operand(b, a))


def power(a: Value, b: Value) -> Value:
    """Pow: of the type of the base."""
    if isinstance(a, Known) and isinstance(b, Known):
        return known(operator.pow, [a, b], a.dtype)
    a = tensor(a)
    return torch.pow(a, operand(b, a)).to(a.dtype)


def _extreme(of_two: Function, limit: str, of_numbers: Function) -> Function:
    """Return Max or Min of any number of values; a number beside a tensor is a limit."""

    def two(a: Value, b: Value) -> Value:
        if isinstance(a, Known) and isinstance(b, Known):
            return known(of_numbers, [a, b], a.dtype)
        if isinstance(a, Known):
            a, b = b, a
        other = operand(b, a)
        return of_two(a, other) if isinstance(other, Tensor) else torch.clamp(a, **{limit: other})

    return lambda *values: reduce(two, values)


def where(condition: Value, a: Value, b: Value) -> Value:
    """Where."""
    if all(isinstance(value, Known) for value in (condition, a, b)):
        return known(lambda c, x, y: x if c else y, [condition, a, b], a.dtype)
    return torch.where(tensor(condition), tensor(a), tensor(b))


def _whole(number: Any) -> Any:
    return sym_int(number) if isinstance(number, torch.SymFloat | torch.SymInt) else int(number)


def _real(number: Any) -> Any:
    return sym_float(number) if isinstance(number, torch.SymInt) else float(number)


def cast(x: Value, *, to: int, saturate: int = 1, round_mode: str = "up") -> Value:
    """Cast."""
    dtype = DTYPES[to]
    if isinstance(x, Known):
        kind = bool if dtype == torch.bool else _real if dtype.is_floating_point else _whole
        return known(kind, [x], dtype)
    return x.to(dtype)


def cast_like(x: Value, like: Value, *, saturate: int = 1, round_mode: str = "up") -> Value:
    """CastLike."""
    return cast(x, to=next(number for number, dtype in DTYPES.items() if dtype == like.dtype))


def clip(
    x: Value, low: Value = None, high: Value = None, *, min: float | None = None, max: float | None = None
) -> Value:
    """Clip: limits are inputs, or attributes before version 11."""
    x = tensor(x)
    low, high = (given if value is None else operand(value, x) for value, given in ((low, min), (high, max)))
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        for limit, bound in ((torch.maximum, low), (torch.minimum, high)):
            x = x if bound is None else limit(x, torch.as_tensor(bound, dtype=x.dtype))
        return x
    return x if low is None and high is None else torch.clamp(x, low, high)


def softmax(x: Tensor, *, axis: int | None = None, opset: int, function: Function = torch.softmax) -> Value:
    """Softmax: along an axis; before version 13 over all axes from `axis` on."""
    if opset >= 13:
        return function(x, -1 if axis is None else axis)
    axis = (1 if axis is None else axis) % max(x.dim(), 1)
    if axis == x.dim() - 1:
        return function(x, axis)
    return function(x.flatten(axis), axis).reshape(x.shape)


def hardmax(x: Tensor, *, axis: int | None = None, opset: int) -> Value:
    """Hardmax: 1 at the first of the largest."""

    def largest(y: Tensor, dim: int) -> Value:
        return F.one_hot(y.argmax(dim), y.shape[dim]).movedim(-1, dim).to(y.dtype)

    return softmax(x, axis=axis, opset=opset, function=largest)


def _axes(x: Tensor, given: Value, axes: list[int] | None, empty: int) -> list[int] | None:
    """Return the axes to reduce; None: nothing is to be done."""
    chosen = numbers(given) if given is not None else axes
    if not chosen:
        return None if empty else list(range(x.dim()))
    return [int(axis) % x.dim() for axis in chosen]


def _reduction(function: Function) -> Function:
    """Return an operator that reduces axes: an input since version 13 or 18, an attribute before."""

    def reduced(
        x: Value, given: Value = None, *, axes: list[int] | None = None, keepdims: int = 1,
        noop_with_empty_axes: int = 0,
    ) -> Value:  # fmt: skip
        x = tensor(x)
        chosen = _axes(x, given, axes, noop_with_empty_axes)
        if chosen is None or not chosen:  # nothing is summed, and yet squared, say
            return function(x.unsqueeze(-1), [-1], False)
        return function(x, chosen, bool(keepdims))

    return reduced


def _product(x: Tensor, axes: list[int], keep: bool) -> Value:
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keepdim=keep, dtype=x.dtype)
    return x


def reduce_product_of_numbers(x: Value, given: Value = None, **options: Any) -> Value:
    """ReduceProd: of sizes too."""
    if isinstance(x, Known):
        made = reduce(operator.mul, x.ints(), 1)
        keep = options.get("keepdims", 1)
        return Known.of([made] * keep if keep else made, x.dtype)
    reduced: Tensor = _reduction(_product)(x, given, **options)
    return reduced


def _mean(x: Tensor, axes: list[int], keep: bool) -> Value:
    return (
        x.mean(axes, keepdim=keep)
        if x.is_floating_point()
        else x.double().mean(axes, keepdim=keep).to(x.dtype)
    )


def _arg(function: Function) -> Function:
    def extreme(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Value:
        if not select_last_index:
            return function(x, axis, bool(keepdims))
        return x.shape[axis] - 1 - function(x.flip(axis), axis, bool(keepdims))

    return extreme


def hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Value:
    """HardSigmoid: `max(0, min(1, alpha * x + beta))`; torch's own has an alpha of 1/6."""
    if beta == 0.5:
        return F.hardsigmoid(x * (6 * alpha))
    return torch.clamp(x * alpha + beta, 0, 1)


def shrink(x: Tensor, *, bias: float = 0.0, lambd: float = 0.5) -> Value:
    """Shrink."""
    outer = torch.where(x > lambd, x - bias, torch.zeros_like(x))
    return torch.where(x < -lambd, x + bias, outer)


def gelu(x: Tensor, *, approximate: str = "none") -> Value:
    """Gelu."""
    return F.gelu(x, approximate=approximate)


def prelu(x: Tensor, slope: Value) -> Value:
    """PRelu: slopes are broadcast to the input."""
    return torch.where(x < 0, x * operand(slope, x), x)


def swish(x: Tensor, *, alpha: float = 1.0) -> Value:
    """Swish, and QuickGelu of ONNX Runtime."""
    return F.silu(x) if alpha == 1 else x * torch.sigmoid(x * alpha)


def rounded(x: Tensor) -> Value:
    """Round: halves to even."""
    return torch.round(x)


def shift(x: Tensor, amount: Value, *, direction: str) -> Value:
    """BitShift."""
    function = torch.bitwise_left_shift if direction == "LEFT" else torch.bitwise_right_shift
    return function(x, operand(amount, x))


def is_infinite(x: Tensor, *, detect_negative: int = 1, detect_positive: int = 1) -> Value:
    """IsInf."""
    found = torch.isinf(x)
    if not detect_negative:
        found = found & (x > 0)
    return found if detect_positive else found & (x < 0)


def dropout(x: Value, ratio: Value = None, training: Value = None, *, seed: int = 0, **_: float) -> Value:
    """Dropout in inference: nothing is dropped, the mask is all true."""
    return x, torch.ones_like(tensor(x), dtype=torch.bool)


def summed(*values: Value) -> Value:
    """Sum."""
    return reduce(_both(operator.add, operator.add), values)


def averaged(*values: Value) -> Value:
    """Mean of several values."""
    return tensor(summed(*values)) / len(values)


def cumulative(x: Tensor, axis: Value, *, exclusive: int = 0, reverse: int = 0) -> Value:
    """CumSum."""
    dim = int(number(axis))
    turned = x.flip(dim) if reverse else x
    found = turned.cumsum(dim, dtype=x.dtype)
    found = found - turned if exclusive else found
    return found.flip(dim) if reverse else found


def einsum(*values: Value, equation: str) -> Value:
    """Einsum."""
    return torch.einsum(equation.replace(" ", ""), *map(tensor, values))


def _unary(function: Function, of_numbers: Function | None = None) -> Function:
    if of_numbers is None:
        return _tensors(function)
    return _both(function, of_numbers)


def _sqrt(x: Any) -> Any:
    return torch.sym_sqrt(x) if isinstance(x, torch.SymInt | torch.SymFloat) else math.sqrt(x)


_COMPARED: dict[str, Function] = {
    "Equal": operator.eq, "Less": operator.lt, "Greater": operator.gt, "LessOrEqual": operator.le,
    "GreaterOrEqual": operator.ge,
}  # fmt: skip

ELEMENTWISE: dict[str, Function] = {
    **{name: _both(function, function) for name, function in {
        "Add": operator.add, "Sub": operator.sub, "Mul": operator.mul,
    }.items()},
    **{name: _both(function, function, torch.bool) for name, function in _COMPARED.items()},
    "Div": divide, "Mod": modulo, "Pow": power, "Sum": summed, "Mean": averaged,
    "Max": _extreme(torch.maximum, "min", sym_max), "Min": _extreme(torch.minimum, "max", sym_min),
    "And": _logical(torch.logical_and, lambda a, b: a and b), "Or": _logical(torch.logical_or, lambda a, b: a or b),
    "Xor": _logical(torch.logical_xor, operator.ne), "Not": _unary(torch.logical_not, operator.not_),
    "BitwiseAnd": _tensors(torch.bitwise_and), "BitwiseOr": _tensors(torch.bitwise_or),
    "BitwiseXor": _tensors(torch.bitwise_xor), "BitwiseNot": _tensors(torch.bitwise_not), "BitShift": shift,
    "Where": where, "Cast": cast, "CastLike": cast_like, "Clip": clip,
    "Neg": _unary(torch.neg, operator.neg), "Abs": _unary(torch.abs, abs), "Sign": _tensors(torch.sign),
    "Floor": _unary(torch.floor, lambda x: _real(math.floor(x))),
    "Ceil": _unary(torch.ceil, lambda x: _real(math.ceil(x))),
    "Round": _tensors(rounded), "Sqrt": _unary(torch.sqrt, _sqrt), "Reciprocal": _tensors(torch.reciprocal),
    **{name: _tensors(getattr(torch, name.lower())) for name in (
        "Exp", "Log", "Erf", "Sin", "Cos", "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Acosh", "Atanh",
        "Tanh", "Sigmoid", "IsNaN", "Det",
    )},
    "IsInf": is_infinite,
    "Relu": _tensors(F.relu), "LeakyRelu": lambda x, alpha=0.01: F.leaky_relu(x, alpha), "PRelu": prelu,
    "Elu": lambda x, alpha=1.0: F.elu(x, alpha), "Celu": lambda x, alpha=1.0: F.celu(x, alpha),
    "Selu": lambda x, alpha=1.67326319217681884765625, gamma=1.05070102214813232421875: gamma * F.elu(x, alpha),
    "Mish": F.mish, "Gelu": gelu, "Swish": swish, "HardSwish": F.hardswish, "HardSigmoid": hard_sigmoid,
    "Softplus": _tensors(F.softplus), "Softsign": F.softsign,
    "ThresholdedRelu": lambda x, alpha=1.0: torch.where(x > alpha, x, torch.zeros_like(x)),
    "Shrink": shrink, "Dropout": dropout,
    "Softmax": softmax, "LogSoftmax": partial(softmax, function=torch.log_softmax), "Hardmax": hardmax,
    "ReduceSum": _reduction(lambda x, axes, keep: x.sum(axes, keepdim=keep, dtype=x.dtype)),
    "ReduceMean": _reduction(_mean),
    "ReduceMax": _reduction(lambda x, axes, keep: x.amax(axes, keepdim=keep)),
    "ReduceMin": _reduction(lambda x, axes, keep: x.amin(axes, keepdim=keep)), "ReduceProd": reduce_product_of_numbers,
    "ReduceL1": _reduction(lambda x, axes, keep: x.abs().sum(axes, keepdim=keep, dtype=x.dtype)),
    "ReduceL2": _reduction(lambda x, axes, keep: x.square().sum(axes, keepdim=keep).sqrt()),
    "ReduceSumSquare": _reduction(lambda x, axes, keep: x.square().sum(axes, keepdim=keep, dtype=x.dtype)),
    "ReduceLogSum": _reduction(lambda x, axes, keep: x.sum(axes, keepdim=keep).log()),
    "ReduceLogSumExp": _reduction(lambda x, axes, keep: x.logsumexp(axes, keepdim=keep)),
    "ArgMax": _arg(torch.argmax), "ArgMin": _arg(torch.argmin), "CumSum": cumulative, "Einsum": einsum,
}  # fmt: skip
