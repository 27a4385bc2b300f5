"""Rate-aware assignment: its laws, a slow walk over the weights beside it, and bytes at equal error."""

from dataclasses import replace
from math import log2

import numpy as np
import pytest
from coders.test_coders_cabac import SlowDecoder, layer
from hypothesis import given, settings
from hypothesis import strategies as st

from featherweight.errors import UnsupportedError
from featherweight.formats import Clustered, Float, Importance, Int, Log2
from featherweight.formats.coders import Bitmask, Cabac, Fixed, Huffman, Rans, StreamSpec
from featherweight.formats.rate import alternatives, rate_aware
from featherweight.testing.formats import tensors

FORMATS = [
    Int(bits=4),
    Int(bits=3, per="tensor"),
    Int(bits=1),
    Int(bits=5, per=16, scheme="affine"),
    Int(bits=4, scale_by="mse"),
    Log2(bits=4),
    Log2(bits=5, fraction=1, per="channel"),
    Clustered(bits=3),
    Clustered(bits=2, init="density"),
]
CODERS = [Rans(), Huffman(), Cabac(), Bitmask(values=Rans(), mask=Rans())]


def squared(encoded, weight):
    return float(np.square(encoded.decode().astype(np.float64) - weight).sum())


def relative(encoded, weight):
    return squared(encoded, weight) / float(np.square(weight, dtype=np.float64).sum())


def sample(kind, shape=(60, 50), seed=0):
    draw = np.random.default_rng(seed)
    weight = draw.laplace(size=shape) if kind == "laplacian" else draw.normal(size=shape)
    if kind == "pruned":
        weight[draw.random(shape) < 0.9] = 0
    return weight.astype(np.float32)


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_neighbours_lie_between_each_value_and_zero(format):
    for name, weight, view in tensors():
        encoded = format.encode(weight, view=view)
        values = format.dequantize(encoded.symbols, encoded.parts, view=view).reshape(-1)
        symbols, steps = encoded.symbols, 0
        while True:
            moved = format.toward_zero(symbols, encoded.parts, view=view)
            assert (moved.dtype, moved.shape) == (symbols.dtype, symbols.shape), name
            nearer = format.dequantize(moved, encoded.parts, view=view).reshape(-1)
            changed = moved != symbols
            assert (np.abs(nearer)[changed] < np.abs(values)[changed]).all(), name
            assert (nearer * np.sign(values) >= 0).all(), name
            if not changed.any():
                break
            symbols, values, steps = moved, nearer, steps + 1
        assert steps < encoded.spec.alphabet, name
        if encoded.spec.zero is not None:
            assert (symbols == encoded.spec.zero).all(), name


@pytest.mark.parametrize("format", FORMATS, ids=str)
@pytest.mark.parametrize("coder", [Rans(), Cabac()], ids=str)
def test_laws_on_every_kind_of_tensor(format, coder):
    for name, weight, view in tensors():
        nearest = format.encode(weight, view=view).recoded(coder)
        assert rate_aware(nearest, weight, 0.0) is nearest
        power = float(np.square(weight, dtype=np.float64).sum())
        for rate, refit in ((0.02, False), (0.3, True)):
            found = rate_aware(nearest, weight, rate, refit=refit)
            fewer = 8 * (nearest.nbytes - found.nbytes)
            more = squared(found, weight) - squared(nearest, weight)
            assert more <= rate * power / max(weight.size, 1) * fewer + 1e-6 * power, name
            near = format.encode(weight, view=view, parts=found.parts).decode().astype(np.float64)
            bound = np.maximum(np.abs(near - weight), np.abs(weight))
            assert (np.abs(found.decode() - weight.astype(np.float64)) <= bound * (1 + 1e-6)).all(), name
            if nearest.spec.zero is not None:
                assert not found.decode()[weight == 0].any(), name
            if not refit:
                assert found.parts is nearest.parts and found.nbytes <= nearest.nbytes, name


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
        self.wanted, self.bits = None, None

    def decision(self, *context, bit=None):
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
        for self.wanted, cost in zip(options, self.costs[self.place], strict=True):
            self.bits, self.learning = 0.0, False
            super().value(before, level)
            totals.append(cost + self.bits)
        self.wanted, self.learning = options[totals.index(min(totals))], True
        self.place += 1
        return super().value(before, level)

    def decode(self):
        self.low = 0
        self.bytes = b""
        return super().decode()


def choices(rate=0.02, shape=(40, 30)):
    weight = sample("pruned", shape) + 0.3 * sample("laplacian", shape, seed=1)
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
    from featherweight.formats.coders.base import _cheapest

    found = [_cheapest(candidates, costs * np.float32(2.0**k), shares) for k in range(8, -8, -1)]
    bits = [-np.log2(shares)[symbols].sum() for symbols in found]
    error = [costs[(candidates == symbols).argmax(axis=0), np.arange(spec.count)].sum() for symbols in found]
    assert all(b <= a + 1e-3 for a, b in zip(bits, bits[1:], strict=False)) and bits[-1] < bits[0]
    assert all(b >= a * (1 - 1e-5) for a, b in zip(error, error[1:], strict=False)) and error[-1] > error[0]


@pytest.mark.parametrize("coder", CODERS, ids=str)
@pytest.mark.parametrize("kind", ["gaussian", "laplacian", "pruned"])
def test_fewer_bytes_than_nearest_rounding_of_the_same_error(kind, coder):
    weight = sample(kind, (150, 200))
    format = Int(bits=8, per="tensor")
    rms = np.sqrt(np.square(weight[weight != 0]).mean())

    def nearest(step):
        return format.encode(weight, parts={"scale": np.array([step * rms], np.float32)}).recoded(coder)

    fine = nearest(np.float32(1.2))
    found = rate_aware(fine, weight, 1.4 * relative(fine, weight))
    low, high = 1.2, 4.0
    for _ in range(12):  # the step at which nearest rounding makes that error
        middle = (low + high) / 2
        low, high = (
            (middle, high) if squared(nearest(middle), weight) < squared(found, weight) else (low, middle)
        )
    assert found.nbytes < nearest(low).nbytes


def test_a_codebook_follows_its_weights():
    weight = sample("laplacian")
    nearest = Clustered(bits=4).encode(weight).recoded(Rans())
    rate = 2 * relative(nearest, weight)
    kept, moved = (rate_aware(nearest, weight, rate, refit=refit) for refit in (False, True))
    price = rate * np.square(weight, dtype=np.float64).sum() / weight.size

    def lagrangian(entry):
        return squared(entry, weight) + price * 8 * entry.nbytes

    assert lagrangian(moved) < lagrangian(kept) < lagrangian(nearest)


def test_importance_protects():
    weight = sample("gaussian")
    diagonal = np.ones_like(weight)
    diagonal[:, :25] = 100
    nearest = Int(bits=4, per="tensor").encode(weight).recoded(Rans())
    found = rate_aware(nearest, weight, 0.05, importance=Importance(diagonal))
    changed = (found.symbols != nearest.symbols).reshape(weight.shape)
    assert changed[:, :25].mean() < 0.1 * changed[:, 25:].mean()


def test_nothing_is_worth_it_at_fixed_rate():
    weight = sample("gaussian")
    nearest = Int(bits=4).encode(weight).recoded(Fixed())
    assert rate_aware(nearest, weight, 1.0) is nearest


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
        return squared(entry, weight) + price * 8 * entry.nbytes

    assert lagrangian(by_context) < lagrangian(replace(by_count, coder=Cabac())) < lagrangian(by_count)


def test_what_has_no_neighbours_is_refused():
    weight = sample("gaussian")
    with pytest.raises(UnsupportedError, match="neighbours"):
        rate_aware(Float().encode(weight), weight, 0.1)
    with pytest.raises(UnsupportedError, match="alphabet"):
        rate_aware(Int(bits=32).encode(weight), weight, 0.1)
