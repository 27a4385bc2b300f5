"""The laws of formats, as tests that run on any format: `FormatSuite`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest

from featherweight.errors import IntegrityError, UnsupportedError
from featherweight.formats import CODERS, Encoded, Format, View
from featherweight.formats.view import Array


def tensors() -> Iterator[tuple[str, Array, View]]:
    """Yield name, float32 tensor and view of every kind of tensor that a format has to take."""
    rng = np.random.default_rng(0)
    plain = {
        "empty": np.zeros(0), "no rows": np.zeros((0, 5)), "no columns": np.zeros((3, 0)), "scalar": np.array(-0.3),
        "one element": np.array([0.7]), "constant": np.full((3, 7), 0.1), "zeros": np.zeros((4, 9)),
        "vector": rng.normal(size=65), "matrix": rng.normal(size=(6, 50)) * 0.02,
        "heavy tails": rng.standard_cauchy((5, 2, 3, 3)), "positive": rng.random((4, 33)),
        "sparse": rng.laplace(size=(8, 70)) * rng.integers(0, 2, (8, 70)),  # zeros of either sign
        "subnormal": rng.normal(size=(3, 20)) * 1e-40, "great": rng.normal(size=(3, 20)) * 1e36,
        "rows of all sizes": rng.normal(size=(5, 40)) * np.array([[1e-30], [1e-3], [0], [1], [1e30]]),
    }  # fmt: skip
    for name, weight in plain.items():
        yield name, weight.astype(np.float32), View.of(weight.shape)
    transposed = rng.normal(size=(3, 8, 2, 2)).astype(np.float32)
    yield "transposed", transposed, View(transposed.shape, permutation=(1, 0, 2, 3))
    gates = (rng.normal(size=(4, 6, 5)) * np.array([0.01, 0.1, 1, 10]).reshape(4, 1, 1)).reshape(24, 5)
    yield "groups", gates.astype(np.float32), View(gates.shape, groups=4)


def encodings(format: Format) -> Iterator[tuple[str, Array, View, Encoded]]:
    """Yield name, tensor, view and what a format makes of them."""
    for name, weight, view in tensors():
        yield name, weight, view, format.encode(weight, view=view)


class FormatSuite:
    """Laws of `Format`; a subclass named `Test...` lists the formats, and pytest does the rest.

    ```python
    class TestMine(FormatSuite):
        formats = [Mine(), Mine(bits=3)]

        def error_bound(self, format, weight, encoded):
            return 0.5 * encoded.parts["step"]
    ```

    Attributes:
        formats: configurations to test.
    """

    formats: ClassVar[Sequence[Format]] = ()

    def error_bound(self, format: Format, weight: Array, encoded: Encoded) -> Array:
        """Return what the format states that no error exceeds, of a shape that broadcasts to the tensor's."""
        return np.array(np.inf)

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """Run every law on every format."""
        if "format" in metafunc.fixturenames:
            metafunc.parametrize("format", self.formats, ids=str)

    def test_shape_and_type(self, format: Format) -> None:
        """Decoding gives a float32 tensor of the shape that was encoded."""
        for name, weight, _, encoded in encodings(format):
            decoded = encoded.decode()
            assert decoded.shape == weight.shape, name
            assert decoded.dtype == np.dtype(np.float32), name

    def test_columns_alone_are_as_in_the_whole(self, format: Format) -> None:
        """Columns, or blocks of `width`, assigned and decoded by what `columns` returns, are as in the whole."""
        for name, weight, view, encoded in encodings(format):
            starts = range(0, view.cols, format.width)
            joint = [np.arange(view.cols)[start : start + format.width] for start in starts]
            for some in joint[::-2] if format.width > 1 else [np.arange(view.cols)[::-2]]:
                alone, parts, narrow = format.columns(encoded.parts, view, some)
                symbols = alone.assign(view.matrix(weight)[:, some], parts, view=narrow).reshape(-1)
                whole = encoded.symbols.copy()
                format.put(whole, some, symbols, view=view)
                assert np.array_equal(whole, encoded.symbols), name
                decoded = alone.dequantize(symbols, parts, view=narrow)
                assert np.array_equal(decoded, view.matrix(encoded.decode())[:, some]), name

    def test_the_declared_layout_is_kept(self, format: Format) -> None:
        """Symbols and parts have the types and shapes that `stream` and `parts` announce."""
        for name, _, view, encoded in encodings(format):
            spec, layout = encoded.spec, format.parts(view)
            assert (encoded.symbols.shape, encoded.symbols.dtype) == ((spec.count,), spec.dtype), name
            assert int(encoded.symbols.max(initial=0)) < max(spec.alphabet, 1), name
            assert set(encoded.parts) == set(layout), name
            for key, part in layout.items():
                read = part.read(key, encoded.parts[key].tobytes())
                assert read.dtype == encoded.parts[key].dtype, (name, key)
                np.testing.assert_array_equal(read, encoded.parts[key], err_msg=f"{name}, {key}")

    def test_decoding_is_a_function_of_the_bytes(self, format: Format) -> None:
        """Bytes alone give the same tensor, bit for bit, through every coder that takes the stream."""
        for name, _, view, encoded in encodings(format):
            layout = format.parts(view)
            parts = {key: part.read(key, encoded.parts[key].tobytes()) for key, part in layout.items()}
            spec = format.stream(view, parts)
            assert spec == encoded.spec, name
            for coder in [make() for make in CODERS if not make().misfit(spec)]:
                symbols = coder.decode(encoded.recoded(coder).payload, spec)
                again = Encoded(format, coder, view, symbols, parts)
                assert again.decode().tobytes() == encoded.decode().tobytes(), (name, coder)

    def test_same_input_same_bytes(self, format: Format) -> None:
        """Encoding is deterministic, and does not depend on the layout of memory."""
        for name, weight, view, first in encodings(format):
            second = format.encode(np.array(weight, order="F"), view=view)
            assert first.payload == second.payload, name
            for key in first.parts:
                assert first.parts[key].tobytes() == second.parts[key].tobytes(), (name, key)

    def test_zeros_stay_zeros(self, format: Format) -> None:
        """Exact zeros of either sign are the zero symbol, if there is one, and decode to +0.0."""
        for name, weight, view, encoded in encodings(format):
            zero = encoded.spec.zero
            if zero is not None:
                zeros = view.matrix(weight).reshape(-1) == 0
                np.testing.assert_array_equal(encoded.symbols[zeros], zero, err_msg=name)
                assert not encoded.decode()[weight == 0].view(np.uint32).any(), name

    def test_error_bound(self, format: Format) -> None:
        """No decoded weight is further off than the format states."""
        for name, weight, _, encoded in encodings(format):
            error = np.abs(encoded.decode().astype(np.float64) - weight)
            excess = error - self.error_bound(format, weight, encoded)
            assert (excess <= 0).all(), (name, excess.max())

    def test_nbits_is_a_bound(self, format: Format) -> None:
        """At fixed rate no tensor takes more bits than `nbits` says, the last byte's padding aside."""
        for name, weight, view in tensors():
            if view == View.of(weight.shape):
                encoded = format.encode(weight, view=view)
                assert 8 * encoded.nbytes < format.nbits(weight.shape) + 8, name

    def test_input_is_left_alone(self, format: Format) -> None:
        """Encoding and decoding change nothing they are given."""
        for name, weight, view in tensors():
            kept = weight.copy()
            encoded = format.encode(weight, view=view)
            symbols = encoded.symbols.copy()
            encoded.decode()[...] = 1
            assert weight.tobytes() == kept.tobytes(), name
            np.testing.assert_array_equal(encoded.symbols, symbols, err_msg=name)

    def test_other_floats(self, format: Format) -> None:
        """Float64 and float16 tensors are encoded as their float32 values are."""
        for name, weight, view, encoded in encodings(format):
            assert format.encode(weight.astype(np.float64), view=view).payload == encoded.payload, name
        half = np.linspace(-1, 1, 9, dtype=np.float16)
        assert format.encode(half).payload == format.encode(half.astype(np.float32)).payload

    def test_what_is_no_number_is_refused(self, format: Format) -> None:
        """NaN, infinity, integers and a foreign view are one clear error."""
        for bad, reason, view in (
            *((np.array([0.5, number]), "NaN or infinity", None) for number in (np.nan, np.inf, -np.inf)),
            (np.array([1e300]), "range of float32", None),
            (np.arange(4), "floating-point", None),
            (np.zeros((2, 3)), "view", View.of((3, 2))),
        ):
            with pytest.raises(UnsupportedError, match=reason):
                format.encode(bad, view=view)

    def test_hostile_symbols_and_parts(self, format: Format) -> None:
        """Whatever passes the checks of the layout decodes to finite numbers or is an `IntegrityError`."""
        rng = np.random.default_rng(1)
        for name, weight, view, encoded in encodings(format):
            for _ in range(8):
                scramble = rng.random() < 0.7
                parts = {k: _scrambled(part, rng) if scramble else part for k, part in encoded.parts.items()}
                spec = format.stream(view, parts)
                symbols = rng.integers(0, max(spec.alphabet, 1), spec.count).astype(spec.dtype)
                try:
                    decoded = Encoded(format, encoded.coder, view, symbols, parts).decode()
                except IntegrityError:
                    continue
                assert decoded.shape == weight.shape, name
                assert np.isfinite(decoded).all(), name


def _scrambled(part: Array, rng: np.random.Generator) -> Array:
    """Return random bytes as an array of the same type and shape, as far as a reader lets them pass."""
    made = np.frombuffer(rng.bytes(part.nbytes), part.dtype).reshape(part.shape)
    return np.where(np.isfinite(made), made, part).astype(part.dtype) if part.dtype.kind == "f" else made
