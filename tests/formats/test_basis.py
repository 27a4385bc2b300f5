"""Bases of binary codes: QEM against a slow one, its laws, known optima, and the integers of a geometric basis."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from featherweight.errors import IntegrityError
from featherweight.formats import Basis, Encoded, Fixed, Importance, Int, View
from featherweight.formats.basis import as_integers, fitted, is_geometric, least_squares, levels

vectors = hnp.arrays(np.float32, st.integers(1, 60), elements=st.floats(-100, 100, width=32))


def nearest(values, basis):
    """Every distance to every level; of equal ones the lower."""
    codes = sorted(range(2 ** len(basis)), key=lambda code: level(code, basis))
    found = [min(codes, key=lambda code: abs(x - level(code, basis))) for x in values.astype(np.float64)]
    return np.array([[1.0 if code >> j & 1 else -1.0 for j in range(len(basis))] for code in found])


def level(code, basis):
    return sum(v if code >> j & 1 else -v for j, v in enumerate(basis))


def slow_qem(values, weights, basis, rounds=200):
    """The two steps of QEM as the paper has them, dense matrices, and the error before each."""
    errors, before = [], None
    for _ in range(rounds):
        b = nearest(values, basis)
        errors.append(float((weights * (values - b @ basis) ** 2).sum()))
        if before is not None and (b == before).all():
            break
        before, root = b, np.sqrt(weights)[:, None]
        basis = np.linalg.lstsq(root * b, root[:, 0] * values.astype(np.float64), rcond=None)[0]
    return np.sort(np.abs(basis)), errors


@pytest.mark.parametrize("weighed", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_it_is_qem(bits, weighed):
    rng = np.random.default_rng(bits)
    values = rng.laplace(size=400).astype(np.float32)
    weights = rng.exponential(size=400) if weighed else np.ones(400)
    found = fitted(values[None], weights[None] if weighed else None, bits)[0]
    starts = [
        float(np.abs(values).max()) * 2 ** (-k / 4) / (2**bits - 1) * 2.0 ** np.arange(bits)
        for k in range(17)
    ]

    def error(basis):
        return float((weights * (values - nearest(values, basis) @ basis) ** 2).sum())

    expected, errors = slow_qem(values, weights, min(starts, key=error))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert all(b <= a * (1 + 1e-12) for a, b in pairwise(errors))


@given(vectors, st.integers(1, 4))
def test_it_is_no_worse_than_any_start_and_a_fixed_point(values, bits):
    encoded = Basis(bits=bits).encode(values)
    decoded = encoded.decode().astype(np.float64)
    error, power = np.square(decoded - values).sum(), np.square(values.astype(np.float64)).sum()
    top = float(np.abs(values).max())
    for k in range(17):
        start = np.float32(top * 2 ** (-k / 4) / (2**bits - 1) * 2.0 ** np.arange(bits))
        grid = Basis(bits=bits).encode(values, parts={"basis": start[None]}).decode().astype(np.float64)
        assert error <= np.square(grid - values).sum() + 1e-5 * power + 1e-30
    b = np.array([[1.0 if code >> j & 1 else -1.0 for j in range(bits)] for code in encoded.symbols])
    best = b @ np.linalg.lstsq(b, values.astype(np.float64), rcond=None)[0]
    assert error <= np.square(best - values).sum() + 1e-5 * power + 1e-30


@given(vectors, st.integers(1, 4), st.sampled_from([1e-9, 1e-4, 10.0]), st.integers(0, 99))
def test_a_step_of_least_squares_never_makes_the_error_greater(values, bits, ridge, seed):
    basis = np.abs(np.random.default_rng(seed).normal(size=bits)) * float(np.abs(values).max() + 0.1)
    b = nearest(values, basis)
    codes = ((b > 0) << np.arange(bits)).sum(axis=1)
    wide = values.astype(np.float64)
    mass, moment = (np.bincount(codes, w, 2**bits)[None] for w in (np.ones(len(wide)), wide))
    (new,) = least_squares(mass, moment, basis[None], ridge)
    before, after = (np.square(wide - b @ v).sum() for v in (basis, new))
    assert after <= before * (1 + 1e-9) + 1e-9
    gram = b.T @ b + ridge * np.eye(bits)
    np.testing.assert_allclose(gram @ new, b.T @ wide + ridge * basis, rtol=1e-6, atol=1e-6)


def test_known_optima():
    """Of normal numbers: the quantizer of four levels of least error (Max 1960); one bit is the mean magnitude."""
    x = np.random.default_rng(0).normal(size=1_000_000).astype(np.float32)
    two = Basis(bits=2, per="tensor").encode(x)
    assert np.square(two.decode() - x).mean() == pytest.approx(0.1175, rel=0.005)
    np.testing.assert_allclose(np.unique(two.decode()), [-1.510, -0.4528, 0.4528, 1.510], rtol=0.01)
    np.testing.assert_allclose(two.parts["basis"], [[0.5286, 0.9816]], rtol=0.01)
    rows = x[:60].reshape(3, 20)
    one = Basis(bits=1).encode(rows)
    np.testing.assert_allclose(one.parts["basis"][:, 0], np.abs(rows).mean(axis=1), rtol=1e-6)
    assert (np.sign(one.decode()) == np.sign(rows)).all()


def test_importance_moves_the_basis():
    weight = np.float32([[1.0, -2.0, 10.0]])
    importance = Importance(np.array([[1.0, 3.0, 0.0]]))
    assert Basis(bits=1).encode(weight, importance=importance).parts["basis"].tolist() == [[1.75]]
    assert np.isfinite(Basis().encode(weight, importance=Importance(np.zeros((1, 3)))).decode()).all()


def test_what_fills_a_short_group_counts_nothing():
    weight = np.random.default_rng(0).normal(3, 1, (2, 7)).astype(np.float32)
    encoded = Basis(bits=1, per=5).encode(weight)
    np.testing.assert_allclose(encoded.parts["basis"][:, 1, 0], np.abs(weight[:, 5:]).mean(axis=1), rtol=1e-6)


def test_levels_are_summed_in_float64_and_rounded_once():
    basis = np.float32([0.1, 0.2, 0.4, 1e-9])
    for low in (-1, 0):
        exact = [
            np.float32(sum(float(v) * (1 if code >> j & 1 else low) for j, v in enumerate(basis)))
            for code in range(16)
        ]
        assert levels(basis, low).tolist() == [float(value) for value in exact]


@settings(max_examples=40)
@given(st.integers(1, 8), st.sampled_from(["tensor", "channel", 4]), st.integers(0, 99))
def test_a_geometric_basis_is_an_odd_integer_times_its_first_number(bits, per, seed):
    rng = np.random.default_rng(seed)
    weight, view = rng.normal(size=(4, 2, 9)).astype(np.float32), View((4, 2, 9), (1, 0, 2), 2)
    layout = Basis(bits=bits, per=per).parts(view)["basis"]
    first = rng.lognormal(-2, 3, (*layout.shape[:-1], 1)).astype(np.float32)
    parts = {"basis": np.float32(first * 2.0 ** np.arange(bits))}
    encoded = Basis(bits=bits, per=per).encode(weight, view=view, parts=parts)
    assert is_geometric(encoded)
    integers = as_integers(encoded)
    assert integers.format == Int(bits=bits + 1, per=per)
    assert integers.decode().tobytes() == encoded.decode().tobytes()
    steps = integers.symbols.astype(int)
    steps = np.where(steps >= 2**bits, steps - 2 ** (bits + 1), steps)
    assert (steps % 2 == 1).all() and np.abs(steps).max() < 2**bits
    again = Encoded(encoded.format, Fixed(), view, ((steps + 2**bits - 1) // 2).astype(np.uint8), parts)
    assert again.decode().tobytes() == encoded.decode().tobytes()  # back, bit for bit


@pytest.mark.parametrize("basis", [[1.0, 2.5], [2.0, 1.0], [0.0, 0.0], [-1.0, -2.0]])
def test_other_bases_have_no_integers(basis):
    encoded = Basis(bits=2).encode(np.ones((1, 3)), parts={"basis": np.float32([basis])})
    assert as_integers(encoded) is encoded
    plain = Int().encode(np.ones((1, 3)))
    assert as_integers(plain) is plain


def test_a_learned_basis_need_not_be_sorted_and_levels_may_coincide():
    parts = {"basis": np.float32([[2.0, -1.0], [0.5, 0.5]])}
    encoded = Basis(bits=2).encode(np.float32([[-3, 3, 1.2], [0.1, -9, 9]]), parts=parts)
    assert encoded.decode().tolist() == [[-3, 3, 1], [0, -1, 1]]
    assert encoded.symbols[:3].tolist() == [2, 1, 3]


def test_levels_beyond_float32_are_damage():
    parts = {"basis": np.float32([[3e38, 3e38]])}
    encoded = Encoded(Basis(bits=2), Fixed(), View((1, 2)), np.uint8([3, 0]), parts)
    with pytest.raises(IntegrityError, match="NaN or infinity"):
        encoded.decode()
    great = np.float32([[3.4e38, -3.4e38, 3.4e38], [3.4e38, 1e38, -3.4e38]])
    assert np.isfinite(Basis(bits=2).encode(great).decode()).all()


@pytest.mark.parametrize("per", ["tensor", "channel", 5])
def test_a_basis_is_refitted_to_given_codes(per):
    rng = np.random.default_rng(0)
    weight, heavy = rng.normal(size=(4, 13)).astype(np.float32), rng.exponential(size=(4, 13))
    parts = {
        "basis": np.abs(rng.normal(size=Basis(bits=3, per=per).parts(View((4, 13)))["basis"].shape)).astype(
            "f4"
        )
    }
    encoded = Basis(bits=3, per=per).encode(weight, parts=parts)
    importance = Importance(heavy)
    new = encoded.format.refit(weight, encoded.symbols, parts, view=encoded.view, importance=importance)
    b = np.array([[1.0 if code >> j & 1 else -1.0 for j in range(3)] for code in encoded.symbols])
    rows, cols = np.indices((4, 13)).reshape(2, -1)
    units = {"tensor": rows * 0, "channel": rows}.get(per, rows * 3 + cols // 5)
    for unit, basis in enumerate(new["basis"].reshape(-1, 3)):
        some = units == unit
        root = np.sqrt(heavy.ravel()[some])
        best = np.linalg.lstsq(
            root[:, None] * b[some], root * weight.ravel()[some].astype(float), rcond=None
        )[0]
        errors = [float((root * (weight.ravel()[some] - b[some] @ v)).dot(root * (weight.ravel()[some] - b[some] @ v)))
                  for v in (best, basis.astype(float), parts["basis"].reshape(-1, 3)[unit].astype(float))]  # fmt: skip
        assert errors[0] - 1e-9 <= errors[1] <= errors[0] + 1e-6 and errors[1] <= errors[2] + 1e-6
