"""Choice of symbols by cost and bits: slow walks beside the fast ones, and what holds along a ladder of rates."""

from dataclasses import replace
from itertools import pairwise
from math import log2

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from test_coders_cabac import SlowDecoder, layer

from featherweight.formats import Int
from featherweight.formats.coders import Cabac, Rans, StreamSpec
from featherweight.formats.coders.base import cheapest
from featherweight.formats.rate import alternatives, rate_aware


def slow_order_0(candidates, costs, spec):
    """The same assignment, one weight at a time."""
    chosen = [int(symbol) for symbol in candidates[0]]
    for _ in range(8):
        bits = [np.float32(-log2(max(chosen.count(s), 1) / spec.count)) for s in range(spec.alphabet)]
        before, chosen = chosen, []
        for symbols, prices in zip(candidates.T, costs.T, strict=True):
            totals = [price + bits[symbol] for symbol, price in zip(symbols, prices, strict=True)]
            chosen.append(int(symbols[totals.index(min(totals))]))
        if chosen == before:
            break
    return chosen


class SlowChooser(SlowDecoder):
    """Walks as the decoder does, and takes of each place's candidates the one of least cost and bits."""

    def __init__(self, candidates, costs, payload, spec):
        super().__init__(payload, spec)
        self.candidates, self.costs, self.place = candidates.T.tolist(), costs.T.tolist(), 0
        self.low, self.bytes = 0, b""

    def decision(self, *context):
        fast, slow, seen = self.models.get(context, (1 << 31, 1 << 31, 0))
        share = max(1, (fast + slow) >> 17)
        bit = self.path(context)
        self.bits -= log2((share if bit else 65536 - share) / 65536)
        if self.learning:
            rates = [2**17 // (2 * min(seen, limit) + 3) for limit in self.limits]
            target = 2**32 if bit else 0
            moved = (p + (target - p) * rate // 2**16 for p, rate in zip((fast, slow), rates, strict=True))
            self.models[context] = *moved, seen + 1
        return bit

    def path(self, context):
        kind, size = context[0], abs(self.wanted)
        if kind == "sig":
            return self.wanted != 0
        if kind == "sign":
            return self.wanted < 0
        assert kind == "greater", "the streams of this test have small values"
        return size > context[1]

    def value(self, before, level):
        options = [(s + 8) % 16 - 8 for s in self.candidates[self.place]]
        totals = []
        for option, cost in zip(options, self.costs[self.place], strict=True):
            self.wanted, self.bits, self.learning = option, 0.0, False
            super().value(before, level)
            totals.append(cost + self.bits)
        self.wanted, self.learning = options[totals.index(min(totals))], True
        self.place += 1
        return super().value(before, level)


def choices(rate=0.02, shape=(40, 30)):
    draw = np.random.default_rng(0)
    weight = (draw.normal(size=shape) * (draw.random(shape) < 0.1) + 0.3 * draw.laplace(size=shape)).astype(
        np.float32
    )
    encoded = Int(bits=4, per="tensor").encode(weight)
    power = float(np.square(weight).mean())
    return *alternatives(encoded, weight, np.float64((rate * power) ** -0.5)), encoded.spec


def test_equals_a_slow_walk_at_order_0():
    candidates, costs, spec = choices()
    assert Rans().choose(candidates, costs, spec).tolist() == slow_order_0(candidates, costs, spec)


def test_equals_a_slow_walk_with_the_contexts_of_cabac():
    candidates, costs, spec = choices()
    payload = Cabac().encode(candidates[0], spec)
    assert payload[0] & 1 == 0, "cyclic order: values are two's complement"
    found = Cabac().choose(candidates, costs, spec).tolist()
    assert found == SlowChooser(candidates, costs, payload, spec).decode()
    assert found != candidates[0].tolist()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 9), st.integers(1, 60))
def test_what_is_free_is_chosen_and_what_is_dear_is_not(seed, alphabet, count):
    draw = np.random.default_rng(seed)
    candidates = draw.integers(0, alphabet, (3, count)).astype(np.uint8)
    spec = StreamSpec(count, alphabet, zero=0, row_length=7)
    right = draw.integers(0, 3, count)
    costs = np.where(np.arange(3)[:, None] == right, 0, 1e9).astype(np.float32)
    expected = candidates[right, np.arange(count)]
    for coder in (Rans(), Cabac()):
        np.testing.assert_array_equal(coder.choose(candidates, costs, spec), expected)


def test_bits_fall_and_error_rises_along_a_ladder_under_one_table_of_bits():
    candidates, costs, spec = choices(rate=1.0)
    shares = np.maximum(np.bincount(candidates[0], minlength=16), 1) / spec.count
    found = [cheapest(candidates, costs * np.float32(2.0**k), shares) for k in range(8, -8, -1)]
    bits = [-np.log2(shares)[symbols].sum() for symbols in found]
    error = [costs[(candidates == symbols).argmax(axis=0), np.arange(spec.count)].sum() for symbols in found]
    assert all(b <= a + 1e-3 for a, b in pairwise(bits)) and bits[-1] < bits[0]
    assert all(b >= a * (1 - 1e-5) for a, b in pairwise(error)) and error[-1] > error[0]


def test_zeros_and_zeros_around_them_cost_less_than_their_order_0_entropy():
    symbols, spec = layer()
    weight = ((symbols.astype(int) + 8) % 16 - 8).reshape(-1, spec.row_length).astype(np.float32)
    weight += np.where(weight, np.random.default_rng(0).uniform(-0.5, 0.5, weight.shape), 0).astype(
        np.float32
    )
    parts = {"scale": np.array([1], np.float32)}
    nearest = Int(bits=4, per="tensor").encode(weight, parts=parts)
    rate = 0.02
    by_context = rate_aware(nearest.recoded(Cabac()), weight, rate)
    by_count = rate_aware(nearest.recoded(Rans()), weight, rate)
    price = rate * np.square(weight).mean()

    def lagrangian(entry):
        return np.square(entry.decode() - weight).sum() + price * 8 * entry.nbytes

    assert lagrangian(by_context) < lagrangian(replace(by_count, coder=Cabac())) < lagrangian(by_count)
