"""Laws: what is written is read, bit for bit; the same contents are the same bytes."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from artifact_cases import join, lenet5, numbers, small, split
from hypothesis import given, settings
from hypothesis import strategies as st

from featherweight.artifact import Contents, Raw, StoredGraph, dumps, load, loads, pieces, write
from featherweight.artifact import file as file_module
from featherweight.artifact.contents import DTYPES
from featherweight.errors import ConfigError, IntegrityError, UnsupportedError
from featherweight.formats import Basis, Clustered, Encoded, Float, Int, Log2, View
from featherweight.formats.coders import Bitmask, Cabac, Fixed, Gaps, Huffman, Rans, Zstd

FORMATS = [
    Int(bits=1),
    Int(bits=5, scheme="affine", per=4),
    Int(bits=8),
    Float("bfloat16"),
    Log2(bits=3),
    Clustered(bits=2),
    Basis(bits=3, per=2),
]
CODERS = [Fixed(), Rans(), Huffman(), Zstd(), Gaps(bits=2), Bitmask(), Cabac()]


@st.composite
def encoded(draw):
    shape = tuple(draw(st.lists(st.integers(0, 5), max_size=4)))
    permutation = tuple(draw(st.permutations(range(len(shape)))))
    rows = View(shape, permutation).rows
    groups = draw(st.sampled_from([n for n in range(1, max(rows, 1) + 1) if rows % n == 0]))
    view = View(shape, permutation, groups)
    tensor = draw(st.sampled_from(FORMATS)).encode(
        numbers(shape, draw(st.integers(0, 9)), draw(st.sampled_from([0.0, 0.7, 1.0]))), view=view
    )
    return tensor.recoded(draw(st.sampled_from([c for c in CODERS if not c.misfit(tensor.spec)])))


@st.composite
def raw(draw):
    dtype = draw(st.sampled_from(sorted(DTYPES)))
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
    size = int(np.prod(shape, dtype=int)) * np.dtype(DTYPES[dtype]).itemsize
    data = draw(st.binary(min_size=size, max_size=size))
    return Raw(dtype, shape, bytes(b & 1 for b in data) if dtype == "bool" else data)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(encoded(), raw()), max_size=5))
def test_what_is_written_is_read(tensors):
    contents = Contents({f"layer.{i}": tensor for i, tensor in enumerate(tensors)})
    content = dumps(contents)
    artifact = loads(content)
    assert artifact.names == tuple(contents.tensors)
    for name, tensor in contents.tensors.items():
        back = artifact.tensors[name]
        if isinstance(tensor, Raw):
            assert back == tensor
            continue
        assert (back.format, back.coder, back.view) == (tensor.format, tensor.coder, tensor.view)
        np.testing.assert_array_equal(back.symbols, tensor.symbols, strict=True)
        np.testing.assert_array_equal(artifact.weight(name).view("u4"), tensor.decode().view("u4"))
    assert dumps(Contents(artifact.tensors)) == content
    assert sum(artifact.index().nbytes.values()) == artifact.nbytes == len(content)


def test_everything_else_is_read():
    contents = small()
    artifact = loads(dumps(contents))
    assert artifact.graph == contents.graph
    assert artifact.facts == contents.facts
    assert artifact.aliases == contents.aliases
    assert artifact.structure == contents.structure
    weights = artifact.weights()
    assert list(weights) == [*contents.tensors, "tied.weight"]
    assert weights["tied.weight"] is weights["fc1.weight"]
    assert weights["bias"].tolist() == [1.0, -2.0]
    assert weights["mask"].tolist() == [True, False, True]
    again = Contents(artifact.tensors, artifact.aliases, artifact.structure, artifact.graph, artifact.facts)
    assert dumps(again) == dumps(contents)


def test_the_order_of_facts_does_not_matter():
    a = dumps(Contents({}, facts={"a": 1, "b": {"c": 2, "d": 3}}))
    assert a == dumps(Contents({}, facts={"b": {"d": 3, "c": 2}, "a": 1}))


def test_another_process_writes_the_same_bytes():
    code = "import hashlib; from artifact_cases import *; print(hashlib.sha256(dumps(small())).hexdigest())"
    path = [str(Path(__file__).parent), *sys.path]
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": ":".join(path)}
    )
    assert run.stdout.strip() == hashlib.sha256(dumps(small())).hexdigest(), run.stderr


def test_overhead_of_a_small_network_is_small():
    fixed = len(dumps(Contents({})))
    header = loads(lenet5()).index().nbytes["header"]
    assert fixed <= 225
    assert (header - fixed) / 8 <= 28  # bytes a tensor


def test_loading_needs_no_torch(tmp_path):
    write(tmp_path / "a.fw", small())
    code = f"""
import sys
from featherweight.artifact import load, diff
a = load({str(tmp_path / "a.fw")!r})
a.weights(); a.index(); a.graph; diff(a, a)
assert not {{"torch", "onnx", "onnxruntime", "scipy"}} & set(sys.modules), sorted(sys.modules)
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": ":".join(sys.path)}
    )
    assert run.returncode == 0, run.stderr


def test_safetensors_opens_the_file(tmp_path):
    from safetensors import safe_open

    write(tmp_path / "a.fw", small())
    with safe_open(tmp_path / "a.fw", "numpy") as opened:
        metadata = opened.metadata()
        data = opened.get_tensor("data").tobytes()
    assert metadata["format"] == "featherweight"
    assert hashlib.sha256(data).hexdigest() == metadata["sha256"] == load(tmp_path / "a.fw").sha256


def test_a_crash_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.fw"
    nbytes = write(path, small())
    assert nbytes == path.stat().st_size
    before = path.read_bytes()
    monkeypatch.setattr("os.fsync", lambda handle: (_ for _ in ()).throw(OSError("power cut")))
    with pytest.raises(OSError, match="power cut"):
        file_module.write(path, Contents({}))
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.fw"]


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (
            Contents({}, facts={"a": {"b": [1, float("nan")]}}),
            r"facts\.a\.b\[1\]: not plain JSON: got float nan",
        ),
        (Contents({}, facts={"a": b""}), r"facts\.a: not plain JSON: got bytes"),
        (Contents({}, facts={"a": {1: 2}}), r"facts\.a: not plain JSON: got dict"),
        (Contents({}, facts={"a": 2**70}), r"facts\.a: not plain JSON: got int"),
        (Contents({}, facts={"a": "x" * (1 << 20)}), r"decompressed size"),
        (Contents({"a\nb": Raw.of(np.zeros(1))}), r"name: got 'a\\nb'"),
        (Contents({"a": Raw.of(np.zeros(1))}, aliases={"b": "c"}), r"b: alias of no tensor"),
        (Contents({"a": Raw.of(np.zeros(1))}, aliases={"a": "a"}), r"a: appears twice"),
    ],
)
def test_what_could_not_be_read_is_not_written(contents, message):
    with pytest.raises((ConfigError, UnsupportedError), match=message):
        dumps(contents)


def test_a_part_of_another_type_is_not_written():
    tensor = Int(bits=4).encode(numbers((3, 4)))
    wrong = type(tensor)(
        tensor.format, tensor.coder, tensor.view, tensor.symbols, {"scale": np.zeros(3, np.int32)}
    )
    with pytest.raises(UnsupportedError, match="a: scale: type of a part: got int32, expected <f4"):
        dumps(Contents({"a": wrong}))


def test_raw_tensors_state_what_they_are():
    with pytest.raises(ConfigError, match="not an element type"):
        Raw.of(np.zeros(1, np.complex64))
    with pytest.raises(ConfigError, match="got 3 bytes, expected 8"):
        Raw("f32", (2,), b"abc")
    assert Raw.of(np.arange(3, dtype=">i4")).numpy().tolist() == [0, 1, 2]


def test_outputs_keep_the_order_of_the_network():
    outputs = {"logits": 0, "aux": {"z": 1, "a": 2}}
    contents = Contents({}, graph=StoredGraph(b"graph", (), outputs))
    read = loads(dumps(contents)).graph.outputs
    assert json.dumps(read) == json.dumps(outputs)
    assert dumps(contents) == dumps(contents)


def nearly_zero():
    weight = np.zeros((2000, 2100), np.float32)
    weight[5, :10] = 1
    return Contents(
        {"a": Int(bits=4, per="tensor").encode(weight).recoded(Gaps(bits=12, values=Rans(), gaps=Rans()))}
    )


def test_tensors_of_nearly_all_zeros_are_written():
    content = dumps(nearly_zero())
    assert len(content) < 2000
    assert np.count_nonzero(loads(content).weight("a")) == 10


def test_what_decodes_to_too_much_is_not_written(monkeypatch):
    monkeypatch.setattr("featherweight.artifact.file.MOST_BEYOND", 1 << 20)
    with pytest.raises(UnsupportedError, match="too large for its bytes"):
        dumps(nearly_zero())


def test_symbols_are_checked_without_computing_values(monkeypatch):
    """What runs a file on its integers need not decode it to know that they are those that were written."""
    contents = small()
    content = dumps(contents)
    monkeypatch.setattr(Encoded, "decode", None)
    artifact = loads(content)
    for name, tensor in contents.tensors.items():
        if isinstance(tensor, Encoded):
            np.testing.assert_array_equal(artifact.encoded(name).symbols, tensor.symbols)


def test_a_payload_that_decodes_alike_is_still_another():
    """The check of the bytes finds what that of the values cannot: another payload of the same numbers."""
    encoded = Int(bits=4).encode(numbers((6, 6)))
    content = dumps(Contents({"a": encoded}))
    assert content != dumps(Contents({"a": encoded.recoded(Zstd())}))
    header, body = split(dumps(Contents({"a": encoded.recoded(Zstd())})))
    first, second = split(content)[1][:8], body[8:]
    forged = loads(join(header, first + second))
    with pytest.raises(IntegrityError, match="a: not the tensor that was written"):
        forged.encoded("a")


def test_pieces_are_the_bytes_of_the_file_and_no_copies_of_raw_tensors(tmp_path):
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    raw = Raw("f32", array.shape, array.reshape(-1).view(np.uint8).data)
    contents = Contents({"encoded": Int(bits=4).encode(array), "raw": raw}, facts={"a": 1})
    found = pieces(contents)
    assert b"".join(found) == dumps(contents)
    assert np.shares_memory(np.frombuffer(found[-1], np.uint8), array)
    same = Contents({**contents.tensors, "raw": Raw.of(array)}, facts={"a": 1})
    assert dumps(same) == dumps(contents)
    assert write(tmp_path / "a.fw", contents) == (tmp_path / "a.fw").stat().st_size
    assert (tmp_path / "a.fw").read_bytes() == dumps(contents)
