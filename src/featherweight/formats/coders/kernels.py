"""Numba kernels: the walk of `Cabac` over a stream, writing or reading, and the parser of `Huffman`'s words."""

from __future__ import annotations

from math import log2

import numpy as np

from featherweight.formats.coders.base import Array
from featherweight.formats.kernels import compiled

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
_MODELS = np.array([(1 << 31, 1 << 31, 0)] * _CONTEXTS)
# How dense a column is at first, of 2**16. A literal would be a type of its own: another version to compile.
_NUMBERS: Array = np.array([0, 1 << 13])
_NONE, DENSITY = _NUMBERS
_DENSITY = np.zeros(0, np.int32)

_BYTES_A_SYMBOL = 256  # more than any symbol can take: 2 a decision
MARGIN = _BYTES_A_SYMBOL + 4  # zeros behind a payload: a reader is four bytes ahead
MOST_SYMBOLS_A_BYTE = 1 << 19  # each takes at least 2**-16 of the interval, that is 363,412 a byte

# How far a model's fast and slow probability move, of 2**16, when it has seen so many decisions: `[2, seen]`.
_LIMITS = ((16, 256), (128, 4096))
RATES = tuple((1 << 17) // (2 * np.minimum(np.arange(s + 1), [[f], [s]]) + 3) for f, s in _LIMITS)

# Where the interval starts (reading: the payload less that), how long it is, and digits written or read.
Interval = tuple[int, int, int]
# What a decision looks at and changes: digits in base 256, models, one of `RATES`, whether this is reading.
Tables = tuple[Array, Array, Array, bool]


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


# The functions that touch arrays do not branch: else numba counts references at each call, 30 ns a decision.
@compiled
def _chance(models: Array, context: int) -> int:
    """Return the probability of a one, of 2**16."""
    return max(int(models[context, _FAST] + models[context, _SLOW]) >> 17, 1)


@compiled
def _learn(models: Array, rates: Array, context: int, bit: bool) -> None:
    """Move the probabilities of a context's model towards what was decided."""
    fast, slow, seen = models[context, _FAST], models[context, _SLOW], models[context, _SEEN]
    target = np.int64(bit) << 32
    models[context, _FAST] = fast + ((target - fast) * rates[_FAST, seen] >> 16)
    models[context, _SLOW] = slow + ((target - slow) * rates[_SLOW, seen] >> 16)
    models[context, _SEEN] = min(seen + 1, rates.shape[1] - 1)


@compiled
def _written(low: int, digits: Array, position: int) -> int:
    """Return `low` without the digit that is written; a carry makes the digit before it one more, even 256."""
    digits[position - 1] += low >> 40
    digits[position] = low >> 32 & 255
    return (low & 0xFFFFFFFF) << 8


@compiled
def _shifted(tables: Tables, interval: Interval) -> Interval:
    """Return the interval moved on by a digit."""
    digits, _, _, reading = tables
    low, length, position = interval
    low = low << 8 | int(digits[position]) if reading else _written(low, digits, position)
    return low, length << 8, position + 1


@compiled
def _decide(tables: Tables, interval: Interval, context: int, bit: bool) -> tuple[bool, Interval]:
    """Write `bit`, or read it; either way return it, and let the context's model learn it."""
    _, models, rates, reading = tables
    low, length, position = interval
    bound = (length >> 16) * _chance(models, context)
    bit = low < bound if reading else bit
    _learn(models, rates, context, bit)
    if not bit:
        low, bound = low - bound if reading else low + bound, length - bound
    interval = low, bound, position
    while interval[1] < 1 << 32:
        interval = _shifted(tables, interval)
    return bit, interval


@compiled
def _remainder(tables: Tables, interval: Interval, rest: int) -> tuple[int, Interval]:
    """Write or read a number of at least 1 by an Exp-Golomb code; -1 if it has more than 33 bits."""
    width, more = 0, True
    while more:
        more, interval = _decide(tables, interval, _PREFIX + width, rest >> width > 1)
        width += more
        if width > MOST_BITS:
            return -1, interval
    found = 1
    for place in range(width - 1, -1, -1):
        context = _SUFFIX + MOST_BITS * width + place
        bit, interval = _decide(tables, interval, context, rest >> place & 1 == 1)
        found = found << 1 | bit
    return found, interval


@compiled
def _nonzero(tables: Tables, interval: Interval, before: int, value: int) -> tuple[int, Interval]:
    """Write or read a signed integer that is not 0; 2**40 if there is no such."""
    negative, interval = _decide(tables, interval, _SIGN + before, value < 0)
    context, size, greater = _GREATER + FLAGS * negative - 1, 1, True
    while greater and size <= FLAGS:
        greater, interval = _decide(tables, interval, context + size, abs(value) > size)
        size += greater
    if size > FLAGS:
        rest, interval = _remainder(tables, interval, abs(value) - FLAGS)
        if rest < 0:
            return 1 << 40, interval
        size = FLAGS + rest
    return -size if negative else size, interval


@compiled
def _level(density: int) -> int:
    """Return how often the density, of 2**16, doubles before it is a half; `LEVELS - 1` at most."""
    level = 0
    while level < LEVELS - 1 and density < 1 << (15 - level):
        level += 1
    return level


@compiled
def _grown(array: Array, size: int, value: int) -> Array:
    """Return a copy of `array: [n]` of `size`, filled up with `value`."""
    longer = np.empty(size, array.dtype)
    for i in range(size):
        longer[i] = array[i] if i < array.size else value
    return longer


@compiled
def walk(
    symbols: Array, digits: Array, count: int, row_length: int, order: tuple[int, int, int], rates: Array,
    reading: bool,
) -> tuple[Array, Array, Interval]:  # fmt: skip
    """Write `symbols` as digits in base 256, or read them; memory grows with what is written or read.

    Args:
        symbols: uint32 `[count]`; reading: room for some, at least one.
        digits: uint16; reading: the payload and `MARGIN` zeros.
        count: number of symbols.
        row_length: symbols in a row.
        order: alphabet, centre and split: see `to_value`.
        rates: one of `RATES`.
        reading: whether to read.

    Returns:
        The symbols, the digits, and the interval; its length is 0 if the digits are no payload.
    """
    alphabet, centre, split = order
    models, density = _MODELS.copy(), _grown(_DENSITY, min(row_length, symbols.size), DENSITY)
    tables = (digits, models, rates, reading)
    interval = (_NONE, _NONE + (1 if reading else 1 << 40), _NONE)
    for _ in range(5 if reading else 0):
        interval = _shifted(tables, interval)
    before, column, value = 0, 0, 0
    for i in range(count):
        if interval[2] + _BYTES_A_SYMBOL > digits.size:
            if reading:
                return symbols, digits, (_NONE, _NONE, _NONE)
            digits = _grown(digits, 2 * digits.size + _BYTES_A_SYMBOL, _NONE)
            tables = (digits, models, rates, reading)
        if i == symbols.size:
            symbols = _grown(symbols, min(2 * i, count), _NONE)
            density = _grown(density, min(row_length, symbols.size), DENSITY)
        if not reading:
            value = to_value(int(symbols[i]), alphabet, centre, split)
        context = _SIG + LEVELS * before + _level(density[column])
        nonzero, interval = _decide(tables, interval, context, value != 0)
        if nonzero:
            value, interval = _nonzero(tables, interval, before, value)
        else:
            value = 0
        if reading:
            symbol = to_symbol(value, alphabet, centre, split)
            if symbol < 0:
                return symbols, digits, (_NONE, _NONE, _NONE)
            symbols[i] = symbol
        density[column] += ((1 << 16 if value else 0) - density[column]) >> 5
        before = 0 if value == 0 else 1 if value < 0 else 2
        column += 1
        if column == row_length:
            before, column = 0, 0
    return symbols, digits, interval


@compiled
def _bits(models: Array, rates: Array, context: int, bit: bool, learning: bool) -> float:
    """Return the bits of a decision, and let the context's model learn it if asked to."""
    share = _chance(models, context)
    if learning:
        _learn(models, rates, context, bit)
    return 16 - log2(share if bit else 65536 - share)


@compiled
def _weight(models: Array, rates: Array, before: int, level: int, value: int, learning: bool) -> float:
    """Return the bits of a signed integer as the models stand, and let them learn it if asked to."""
    total = _bits(models, rates, _SIG + LEVELS * before + level, value != 0, learning)
    if value == 0:
        return total
    total += _bits(models, rates, _SIGN + before, value < 0, learning)
    context, size, greater = _GREATER + FLAGS * (value < 0) - 1, 1, True
    while greater and size <= FLAGS:
        greater = abs(value) > size
        total += _bits(models, rates, context + size, greater, learning)
        size += greater
    rest, width = abs(value) - FLAGS, 0
    if rest < 1:
        return total
    while rest >> width > 1:
        total += _bits(models, rates, _PREFIX + width, True, learning)
        width += 1
    total += _bits(models, rates, _PREFIX + width, False, learning)
    for place in range(width - 1, -1, -1):
        context = _SUFFIX + MOST_BITS * width + place
        total += _bits(models, rates, context, rest >> place & 1 == 1, learning)
    return total


@compiled
def cheapest(
    candidates: Array, costs: Array, row_length: int, order: tuple[int, int, int], rates: Array
) -> Array:
    """Return the symbols `[count]` of least cost and bits, each as the models stand when `walk` comes to it.

    Args:
        candidates: uint32 `[k, count]`; of equals, the first is taken.
        costs: in bits, float32 `[k, count]`.
        row_length: symbols in a row.
        order: alphabet, centre and split: see `to_value`.
        rates: one of `RATES`.
    """
    alphabet, centre, split = order
    count = candidates.shape[1]
    models, density = _MODELS.copy(), _grown(_DENSITY, min(row_length, count), DENSITY)
    chosen = np.empty(count, np.uint32)
    before, column = 0, 0
    for i in range(count):
        level, best, least = _level(density[column]), 0, np.inf
        for k in range(candidates.shape[0]):
            if costs[k, i] >= least:
                continue
            value = to_value(int(candidates[k, i]), alphabet, centre, split)
            total = costs[k, i] + _weight(models, rates, before, level, value, False)
            if total < least:
                best, least = k, total
        chosen[i] = candidates[best, i]
        value = to_value(int(chosen[i]), alphabet, centre, split)
        _weight(models, rates, before, level, value, True)
        density[column] += ((1 << 16 if value else 0) - density[column]) >> 5
        before = 0 if value == 0 else 1 if value < 0 else 2
        column += 1
        if column == row_length:
            before, column = 0, 0
    return chosen


@compiled
def finished(digits: Array, interval: Interval) -> Array:
    """Return what was written as bytes: the first multiple of 2**32 in the interval, all carries added."""
    low, _, position = interval
    _written(low + (1 << 32) - 1, digits, position)
    found, carry = np.empty(position + 1, np.uint8), 0
    for i in range(position, -1, -1):
        digit = carry + digits[i]
        found[i], carry = digit & 255, digit >> 8
    return found


@compiled
def parse(ranks: Array, following: Array) -> Array:
    """Return the words of a stream, uint16: the longest at each place.

    `ranks: [count]` are those of the symbols; `following: [words]` is the child of rank 0 of each word, of a leaf the
    root's: 0.
    """
    words, count, base = np.empty(ranks.size, np.uint16), 0, 0
    for place in range(ranks.size):
        word = base + ranks[place]
        base = following[word]
        if base == 0 or place == ranks.size - 1:
            words[count] = word
            count += 1
    return words[:count].copy()
