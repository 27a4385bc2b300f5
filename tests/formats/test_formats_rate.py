"""Rate-aware assignment: neighbours of every format, the laws, and bytes at equal error."""

import numpy as np
import pytest

from featherweight.errors import UnsupportedError
from featherweight.formats import Basis, Clustered, Float, Importance, Int, Log2
from featherweight.formats.coders import Bitmask, Cabac, Fixed, Huffman, Rans
from featherweight.formats.rate import rate_aware
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
    Basis(bits=2),
    Basis(bits=4, per=16),
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
        assert steps <= encoded.spec.alphabet, name
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


def test_what_has_no_neighbours_is_refused():
    weight = sample("gaussian")
    with pytest.raises(UnsupportedError, match="neighbours"):
        rate_aware(Float().encode(weight), weight, 0.1)
    with pytest.raises(UnsupportedError, match="alphabet"):
        rate_aware(Int(bits=32).encode(weight), weight, 0.1)
