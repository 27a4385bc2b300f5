"""The loop of `Cabac`, compiled: one walk over a stream that writes its decisions, reads or weighs them."""

from __future__ import annotations

from collections.abc import Callable
from math import log2
from typing import Any, TypeVar, cast

import numba
import numpy as np

from featherweight.formats.coders.base import Array

Function = TypeVar("Function", bound=Callable[..., Any])

FLAGS = 10
MOST_BITS = 32
LEVELS = 6

# Contexts: a table of models, one section after another.
_SIG = 0
_SIGN = _SIG + 3 * LEVELS
_GREATER = _SIGN + 3
_PREFIX = _GREATER + 2 * FLAGS
_SUFFIX = _PREFIX + MOST_BITS + 1
_CONTEXTS = _SUFFIX + MOST_BITS * (MOST_BITS + 1)

# A model: its probability of a one, of 2**32, by a fast and a slow rate, and how many decisions it has seen.
_FAST, _SLOW, _SEEN = 0, 1, 2

# The state of the coder: where the interval starts (reading: the payload less that), how long it is, bytes
# written or read, how much a model sees before its rates stay as they are, whether this is reading; and whether
# decisions are only weighed, and the bits so far, of 2**-16: then nothing is written and nothing learned.
_LOW, _RANGE, _POSITION, _MOST_FAST, _MOST_SLOW, _READING, _WEIGHING, _BITS = range(8)
_BYTES_A_SYMBOL = 256  # more than any symbol can take: 2 a decision

RATES = (1 << 17) // (2 * np.arange(4097) + 3)
LIMITS = ((16, 256), (128, 4096))
NONE = np.zeros((0, 0), np.uint32), np.zeros((0, 0), np.float32)  # candidates and costs, if nothing is chosen


def compiled(function: Function) -> Function:
    """Compile, and keep the result where that is possible (not beside read-only sources of no user)."""
    try:
        made: Any = numba.njit(cache=True)(function)
    except RuntimeError:
        made = numba.njit(function)
    return cast(Function, made)


@compiled
def to_value(symbol: int, alphabet: int, centre: int, split: int) -> int:
    """Return the signed integer of a symbol; `split < 0`: cyclic order."""
    if symbol == centre:
        return 0
    if split < 0:
        residue = (symbol - centre) % alphabet
        return residue if residue <= (alphabet - 1) // 2 else residue - alphabet
    rank = symbol - (1 if symbol > centre else 0)
    return rank - split + (1 if rank >= split else 0)


@compiled
def to_symbol(value: int, alphabet: int, centre: int, split: int) -> int:
    """Undo `to_value`; -1 if no symbol has this value."""
    if value == 0:
        return centre
    if split < 0:
        inside = -(alphabet // 2) <= value <= (alphabet - 1) // 2
        return (centre + value) % alphabet if inside else -1
    rank = value + split - (1 if value > 0 else 0)
    return rank + (1 if rank >= centre else 0) if 0 <= rank < alphabet - 1 else -1


@compiled
def magnitude(symbols: Array, counts: Array, alphabet: int, centre: int, split: int) -> float:
    """Return the sum of the absolute values of `symbols: [n]`, each `counts: [n]` times."""
    total = 0.0
    for i in range(symbols.size):
        total += counts[i] * abs(to_value(int(symbols[i]), alphabet, centre, split))
    return total


@compiled
def _carry(buffer: Array, position: int) -> None:
    """Add one to the number that ends before `position`."""
    while buffer[position - 1] == 255:
        position -= 1
        buffer[position] = 0
    buffer[position - 1] += 1


@compiled
def _shift(state: Array, buffer: Array) -> None:
    """Move the interval on by a byte; what follows a payload reads as zeros."""
    low, position = state[_LOW], state[_POSITION]
    if state[_READING]:
        byte = np.int64(buffer[position]) if position < buffer.size else 0
        state[_LOW] = low << 8 | byte
    else:
        if low >> 40:
            _carry(buffer, position)
        buffer[position] = low >> 32 & 255
        state[_LOW] = (low & 0xFFFFFFFF) << 8
    state[_RANGE] <<= 8
    state[_POSITION] = position + 1


@compiled
def _decide(state: Array, buffer: Array, models: Array, rates: Array, context: int, bit: bool) -> bool:
    """Write `bit`, or read it; either way return it, and let the context's model learn it."""
    fast, slow, seen = models[context, _FAST], models[context, _SLOW], models[context, _SEEN]
    share = max((fast + slow) >> 17, 1)
    if state[_WEIGHING]:
        state[_BITS] += np.int64((16 - log2(share if bit else 65536 - share)) * 65536)
        return bit
    bound = (state[_RANGE] >> 16) * share
    if state[_READING]:
        bit = state[_LOW] < bound
    if bit:
        state[_RANGE] = bound
    else:
        state[_RANGE] -= bound
        state[_LOW] += -bound if state[_READING] else bound
    target = 1 << 32 if bit else 0
    models[context, _FAST] = fast + ((target - fast) * rates[min(seen, state[_MOST_FAST])] >> 16)
    models[context, _SLOW] = slow + ((target - slow) * rates[seen] >> 16)
    models[context, _SEEN] = min(seen + 1, state[_MOST_SLOW])
    while state[_RANGE] < 1 << 32:
        _shift(state, buffer)
    return bit


@compiled
def _remainder(state: Array, buffer: Array, models: Array, rates: Array, rest: int) -> int:
    """Write or read a number of at least 1 by an Exp-Golomb code; -1 if it has more than 33 bits."""
    width = 0
    while _decide(state, buffer, models, rates, _PREFIX + width, rest >> width > 1):
        width += 1
        if width > MOST_BITS:
            return -1
    found = 1
    for place in range(width - 1, -1, -1):
        context = _SUFFIX + MOST_BITS * width + place
        found = found << 1 | _decide(state, buffer, models, rates, context, rest >> place & 1 == 1)
    return found


@compiled
def _nonzero(state: Array, buffer: Array, models: Array, rates: Array, before: int, value: int) -> int:
    """Write or read a signed integer that is not 0; 2**40 if there is no such."""
    negative = _decide(state, buffer, models, rates, _SIGN + before, value < 0)
    context, size = _GREATER + FLAGS * negative - 1, 1
    while size <= FLAGS and _decide(state, buffer, models, rates, context + size, abs(value) > size):
        size += 1
    if size > FLAGS:
        rest = _remainder(state, buffer, models, rates, abs(value) - FLAGS)
        if rest < 0:
            return 1 << 40
        size = FLAGS + rest
    return -size if negative else size


@compiled
def _value(
    state: Array, buffer: Array, models: Array, rates: Array, before: int, level: int, value: int
) -> int:
    """Write or read a signed integer; 2**40 if there is no such."""
    if not _decide(state, buffer, models, rates, _SIG + LEVELS * before + level, value != 0):
        return 0
    return _nonzero(state, buffer, models, rates, before, value)


@compiled
def _cheapest(
    state: Array,
    buffer: Array,
    models: Array,
    rates: Array,
    before: int,
    level: int,
    values: Array,
    costs: Array,
) -> int:
    """Return which of `values: [k]` takes the least sum of its cost and its bits as the models stand."""
    state[_WEIGHING] = 1
    best, least = -1, np.inf
    for k in range(values.size):
        if costs[k] >= least or (k and values[k] == values[k - 1] and costs[k] == costs[k - 1]):
            continue
        state[_BITS] = 0
        _value(state, buffer, models, rates, before, level, values[k])
        total = costs[k] + state[_BITS] / 65536
        if total < least:
            best, least = k, total
    state[_WEIGHING] = 0
    return best


@compiled
def _level(density: int) -> int:
    """Return how often the density, of 2**16, doubles before it is a half; `LEVELS - 1` at most."""
    level = 0
    while level < LEVELS - 1 and density < 1 << (15 - level):
        level += 1
    return level


@compiled
def _end(state: Array, buffer: Array) -> int:
    """Write the byte that is left and return the bytes that count; or check that this was done, -1: not.

    The byte makes the first multiple of 2**32 in the interval, and zeros at the end are dropped: what is left
    to the reader lies less than 2**32 above the interval's start, and it had to make up its last four bytes.
    """
    position = int(state[_POSITION])
    if state[_READING]:
        whole = buffer.size <= position - 4 and (buffer.size == 0 or buffer[buffer.size - 1] != 0)
        return int(buffer.size) if whole and state[_LOW] < 1 << 32 else -1
    state[_LOW] += (1 << 32) - 1
    _shift(state, buffer)
    position += 1
    while position and buffer[position - 1] == 0:
        position -= 1
    return position


@compiled
def walk(
    symbols: Array,
    buffer: Array,
    row_length: int,
    order: tuple[int, int, int],
    rates: Array,
    limits: tuple[int, int],
    reading: bool,
    candidates: Array,
    costs: Array,
) -> tuple[Array, int]:
    """Write `symbols` to a buffer, which grows, or read them from it into `symbols`.

    Args:
        symbols: uint32 `[count]`.
        buffer: uint8; the payload if reading.
        row_length: symbols in a row.
        order: alphabet, centre and split: see `to_value`.
        rates: how far a model moves when it has seen so many decisions, of 2**16.
        limits: how many decisions a model sees before its fast rate, and its slow one, stay as they are.
        reading: whether to read.
        candidates: symbols, `[k, count]`; with k > 0, those of least cost and bits are written, and put into
            `symbols`.
        costs: of the candidates, in bits, float32 `[k, count]`.

    Returns:
        The buffer, and how many of its bytes count; reading, -1 if it is not a payload.
    """
    alphabet, centre, split = order
    models = np.full((_CONTEXTS, 3), 1 << 31, np.int64)
    models[:, _SEEN] = 0
    density = np.full(min(row_length, symbols.size), 1 << 13, np.int32)
    state = np.array([0, 1, 0, limits[0], limits[1], int(reading), 0, 0])
    values = np.zeros(candidates.shape[0], np.int64)
    for _ in range(5 if reading else 0):
        _shift(state, buffer)
    state[_RANGE] = 1 << 40
    before, column, value = 0, 0, 0
    for i in range(symbols.size):
        if not reading:
            if state[_POSITION] + _BYTES_A_SYMBOL > buffer.size:
                buffer = np.concatenate((buffer, np.zeros(buffer.size + _BYTES_A_SYMBOL, np.uint8)))
            value = to_value(int(symbols[i]), alphabet, centre, split)
        level = _level(density[column])
        if values.size:
            for k in range(values.size):
                values[k] = to_value(int(candidates[k, i]), alphabet, centre, split)
            best = _cheapest(state, buffer, models, rates, before, level, values, costs[:, i])
            symbols[i], value = candidates[best, i], values[best]
        value = _value(state, buffer, models, rates, before, level, value)
        if reading:
            symbol = to_symbol(value, alphabet, centre, split)
            if symbol < 0:
                return buffer, -1
            symbols[i] = symbol
        density[column] += ((1 << 16 if value else 0) - density[column]) >> 5
        before = 0 if value == 0 else 1 if value < 0 else 2
        column += 1
        if column == row_length:
            before, column = 0, 0
    return buffer, _end(state, buffer)
