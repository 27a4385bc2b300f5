"""The decoders in C against ours: every stream, and every damaged one, gets the same answer, and none reads beyond."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from featherweight.errors import IntegrityError
from featherweight.export.c import streams as c_code
from featherweight.formats.coders import Bitmask, Cabac, Fixed, Gaps, Huffman, Rans, StreamSpec, Zstd
from featherweight.testing.coders import mutated, named_streams

GCC = shutil.which("gcc")
pytestmark = pytest.mark.skipif(GCC is None, reason="needs gcc")

TEMPLATES = Path(c_code.__file__).with_name("templates")
STRICT = ["-std=c99", "-O1", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror"]
SANITIZED = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
LEAVES = (Fixed(), Rans(), Huffman(), Cabac())
CODERS = (
    *LEAVES, *(Bitmask(values=values, mask=mask) for values in LEAVES for mask in LEAVES),
    *(Gaps(bits=bits, values=leaf, gaps=leaf) for leaf in LEAVES for bits in (1, 5)),
)  # fmt: skip
PLENTY = 1 << 20


@pytest.fixture(scope="module")
def decode(tmp_path_factory):
    """Decodes codes, each with a number of bytes of memory: symbols, or None where the payload is refused."""
    program = tmp_path_factory.mktemp("c") / "streams"
    source = Path(__file__).with_name("streams.c")
    subprocess.run([GCC, *STRICT, *SANITIZED, "-I", TEMPLATES, source, "-o", program], check=True)

    def run(codes):
        asked = [np.array([*code.fields, work], "<u4").tobytes() + code.payload for code, work in codes]
        told = subprocess.run([program], input=b"".join(asked), check=True, capture_output=True).stdout
        numbers, found = np.frombuffer(told, "<u4"), []
        for code, _ in codes:
            count = code.spec.count if numbers[0] else 0
            found.append(numbers[1 : 1 + count] if numbers[0] else None)
            numbers = numbers[1 + count :]
        assert not numbers.size
        return found

    return run


def random_streams(draw, many):
    for _ in range(many):
        alphabet, count = int(draw.choice([1, 2, 3, 4, 7, 16, 200, 256, 4096])), int(draw.integers(0, 1200))
        peaked = np.minimum(draw.geometric(draw.choice([0.02, 0.3, 0.9]), count) - 1, alphabet - 1)
        symbols = (peaked + draw.integers(0, alphabet)) % alphabet
        zero = None if draw.random() < 0.2 else int(draw.integers(0, alphabet))
        if zero is not None and draw.random() < 0.6:
            symbols = np.where(draw.random(count) < 0.8, zero, symbols)
        spec = StreamSpec(count, alphabet, zero, int(draw.integers(1, 100)))
        yield symbols.astype(spec.dtype), spec


def coded(coder, symbols, spec):
    return c_code.code_of(coder.encode(symbols, spec), symbols, coder, spec)


def takes(coder, spec):
    return not coder.misfit(spec) and not c_code.misfit(coder, spec)


def test_every_stream_decodes_to_its_symbols_in_the_memory_that_is_stated(decode):
    draw = np.random.default_rng(1)
    streams = [*named_streams().values(), *random_streams(draw, 60)]
    cases = [(coder, *stream) for stream in streams for coder in CODERS if takes(coder, stream[1])]
    codes = [coded(*case) for case in cases]
    assert {part for code in codes for part in code.parts} == {"fixed", "rans", "huffman", "cabac", "sparse"}
    for (coder, symbols, spec), got in zip(cases, decode([(code, code.work) for code in codes]), strict=True):
        assert got is not None, (coder, spec)
        np.testing.assert_array_equal(got, symbols, err_msg=f"{coder} {spec}")


def test_with_less_memory_a_stream_is_refused(decode):
    draw = np.random.default_rng(2)
    cases = [
        (coder, *stream) for stream in random_streams(draw, 10) for coder in CODERS if takes(coder, stream[1])
    ]
    codes = [code for code in (coded(*case) for case in cases) if code.work]
    assert len(codes) > 100
    assert all(got is None for got in decode([(code, code.work - 8) for code in codes]))


def test_damaged_payloads_get_the_same_answer_as_from_ours(decode):
    draw = np.random.default_rng(3)
    streams = [*random_streams(draw, 30), *(s for s in named_streams().values() if s[1].count < 4000)]
    codes = []
    for symbols, spec in streams:
        for coder in CODERS:
            if takes(coder, spec):
                payload = coder.encode(symbols, spec)
                codes += [c_code.Code(mutated(payload, draw), spec, coder, PLENTY) for _ in range(3)]
    refused = 0
    for code, got in zip(codes, decode([(code, code.work) for code in codes]), strict=True):
        try:
            expected = code.coder.decode(code.payload, code.spec)
        except IntegrityError:
            expected = None
        refused += expected is None
        assert (got is None) == (expected is None), (code.coder, code.spec, code.payload.hex())
        if expected is not None:
            np.testing.assert_array_equal(got, expected)
    assert len(codes) / 2 < refused < len(codes)


def test_what_there_is_no_decoder_for_is_named():
    assert c_code.misfit(Zstd(), StreamSpec(4, 16)) == "coder zstd"
    assert c_code.misfit(Gaps(values=Zstd()), StreamSpec(4, 16, 0)) == "coder zstd"
    assert "65537 symbols" in c_code.misfit(Fixed(), StreamSpec(4, (1 << 16) + 1))
