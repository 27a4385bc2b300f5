"""Hostile files: damaged ones, and forged ones whose hash is right. One clear error, and little memory."""

import json
import struct
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
import zstandard
from artifact_cases import forge, forgeries, join, mutations, numbers, open_all, small, split
from torch import nn

from featherweight.artifact import Contents, Raw, dumps, load, loads
from featherweight.artifact.container import compress, unwrap, wrap
from featherweight.errors import IntegrityError
from featherweight.formats import Int

MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def content():
    return dumps(small())


def test_ten_thousand_mutations_within_64_megabytes():
    path = [str(Path(__file__).parent), *sys.path]
    run = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "fuzz.py"), "10000", "3000", "20261122"],
        capture_output=True, text=True, env={"PYTHONPATH": ":".join(path), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    assert result["damaged"]["other"] == 0
    assert result["damaged"]["refused"] + result["damaged"]["original"] == 10_000
    assert result["forged"]["other"] == 0
    assert result["forged"]["refused"] > 2000
    assert result["forged"]["original"] > 100  # what no check covers: facts, structure, graph
    assert result["lines"] <= 1
    assert result["memory"] < 64 * MEGABYTE + result["nbytes"]


def test_every_bit_flip_is_refused(content):
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        with pytest.raises(IntegrityError):
            open_all(bytes(damaged))


def test_every_truncation_is_refused(content):
    for length in range(len(content)):
        with pytest.raises(IntegrityError):
            open_all(content[:length])


def set_at(*path_and_value):
    *path, key, value = path_and_value

    def edit(header):
        node = header
        for step in path:
            node = node[step]
        if value is DELETE:
            del node[key]
        else:
            node[key] = value

    return edit


DELETE = object()
TENSORS, ALIASES, STRUCTURE, GRAPH, FACTS = range(5)
NAME, SHAPE, FORMAT, CODER, LENGTHS, PERMUTATION, GROUPS = range(1, 8)
LAYER = {"kind": "Linear", "arguments": {"in_features": 9}}


def quantized(quantizer, edges):
    """A header with one quantizer."""
    return lambda header: [*header[:5], [[quantizer, edges]]]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            set_at(TENSORS, 0, SHAPE, [6, 3, 3, 4]),
            r"conv\.weight: fixed-rate payload: got 81 bytes, expected 108",
        ),
        (set_at(TENSORS, 0, SHAPE, [6, 3, 3, -3]), r"Expected `int` >= 0 - at `\$\[0\]\[0\]\[2\]\[3\]`"),
        (set_at(TENSORS, 0, SHAPE, [2**20, 2**20, 1, 1]), r"32 axes, 2\*\*40 elements at most"),
        (set_at(TENSORS, 0, SHAPE, [0, 2**39, 2**39, 1]), r"32 axes, 2\*\*40 elements at most"),
        (
            set_at(TENSORS, 0, SHAPE, [2**14, 2**14, 1, 1]),
            r"conv\.weight: too large for its bytes: got 1073741824 decoded of 105",
        ),
        (set_at(TENSORS, 2, SHAPE, [1] * 33), r"32 axes"),
        (set_at(TENSORS, 0, LENGTHS, [81]), r"bytes after the header"),
        (set_at(TENSORS, 0, LENGTHS, [80, 25]), r"conv\.weight: part scale: got 25 bytes, expected 24 bytes"),
        (
            set_at(TENSORS, 0, LENGTHS, [81, 20, 4]),
            r"conv\.weight: payload and parts: got 3 lengths, expected 2",
        ),
        (set_at(TENSORS, 0, LENGTHS, [2**39, 24]), r"bytes after the header"),
        (set_at(TENSORS, 0, FORMAT, {"format": "pickle"}), r"Invalid value 'pickle'(.|\n)*hint: it may need"),
        (set_at(TENSORS, 0, FORMAT, {"format": "int", "bits": 64}), r"Expected `int` <= 32"),
        (set_at(TENSORS, 0, FORMAT, {"format": "int", "bits": 4, "x": 1}), r"unknown field `x`"),
        (set_at(TENSORS, 0, CODER, {"coder": "exec"}), r"Invalid value 'exec'"),
        (set_at(TENSORS, 0, PERMUTATION, [0, 0, 1, 2]), r"conv\.weight: not an order of the axes"),
        (set_at(TENSORS, 0, PERMUTATION, [0, 1]), r"conv\.weight: not an order of the axes"),
        (set_at(TENSORS, 0, GROUPS, 5), r"conv\.weight: groups do not divide the rows"),
        (set_at(TENSORS, 0, NAME, "conv.bias"), r"conv\.bias: appears twice"),
        (set_at(TENSORS, 0, NAME, "a\x1b[2Jb"), r"name: got 'a\\x1b\[2Jb'"),
        (set_at(TENSORS, 0, NAME, ""), r"name: got ''"),
        (set_at(TENSORS, 0, NAME, "\u202egnp.exe"), r"name: got '\\u202egnp"),
        (set_at(TENSORS, 8, 3, "object"), r"Invalid enum value 'object'"),
        (set_at(TENSORS, 9, 3, "i8"), r"mask: not the tensor that was written: got check \w{8}, expected"),
        (set_at(TENSORS, 4, CODER, {"coder": "gaps", "bits": 1}), r"fc1\.weight: "),
        (set_at(ALIASES, {"x": "tied.weight", "tied.weight": "x"}), r"alias of no tensor"),
        (set_at(ALIASES, {"x": "x"}), r"x: alias of no tensor: got 'x'"),
        (set_at(ALIASES, {"table": "fc1.weight"}), r"table: appears twice"),
        (set_at(ALIASES, {"a\0": "table"}), r"name: got 'a\\x00'"),
        (set_at(STRUCTURE, {"fc2": {"kind": "LSTM"}}), r"fc2: not a stock layer: got 'LSTM'"),
        (set_at(STRUCTURE, {"fc2": {"kind": "__class__"}}), r"fc2: not a stock layer"),
        (set_at(STRUCTURE, {"": LAYER}), r"name: got ''"),
        (set_at(STRUCTURE, {"fc2": {"kind": "Linear", "arguments": {"device": "cuda"}}}), r"not an argument"),
        (set_at(STRUCTURE, {"fc2": {"kind": "Linear", "arguments": {"_weight": [1]}}}), r"not an argument"),
        (set_at(STRUCTURE, {"fc2": {"kind": "Linear", "arguments": {"a": {}}}}), r"Expected"),
        (set_at(GRAPH, 1, 0, 1, "nowhere"), r"initialiser conv\.weight: no such tensor: got 'nowhere'"),
        (set_at(GRAPH, 1, 0, 2, [0, 1, 2, 2]), r"initialiser conv\.weight: not an order of the axes"),
        (
            set_at(GRAPH, 1, 0, 3, [6, 28]),
            r"initialiser conv\.weight: shape: got \(6, 28\), expected 162 elements",
        ),
        (set_at(GRAPH, 1, 0, 3, [-6, -27]), r"initialiser conv\.weight: shape"),
        (set_at(GRAPH, 1, 0, 0, "val_3"), r"val_3: appears twice"),
        (set_at(GRAPH, 2, "[" * 900 + "]" * 900), r"graph outputs: .*nested too deeply"),
        (set_at(GRAPH, 2, "[" * 90000), r"graph outputs: "),
        (set_at(GRAPH, 0, 2**40), r"Expected `int` <= "),
        (set_at(GRAPH, None), r"bytes after the header"),
        (set_at(FACTS, "[]"), r"facts: not a mapping"),
        (set_at(FACTS, "{"), r"facts: "),
        (set_at(FACTS, "x" * 2**20), r"header: decompressed size"),
        (
            set_at(TENSORS, 0, SHAPE, [1] * 100_000),
            r"conv\.weight: shape: got \(1, 1.* \.\.\., expected 32 axes",
        ),
        (
            set_at(TENSORS, 0, PERMUTATION, [0] * 100_000),
            r"conv\.weight: not an order of the axes: got \(0, 0",
        ),
        (
            set_at(GRAPH, 1, 0, 2, [0] * 100_000),
            r"initialiser conv\.weight: not an order of the axes: got \(0, 0",
        ),
        (set_at(TENSORS, 8, 3, "x" * 100_000), r"Invalid enum value 'xxx"),
        (set_at(FACTS, DELETE), r"Expected `array` of at least length 5"),
        (lambda header: [*header, [], [], 1], r"Expected `array` of at most length 7"),
        (
            lambda header: [*header, [], [[{"format": "float", "scale": 1.0, "kind": "x"}, ["a"]]]],
            "Invalid enum",
        ),
        (
            lambda header: [*header, [], [[{"format": "nosuch", "scale": 1.0}, ["a"]]]],
            "Invalid value 'nosuch'",
        ),
        (
            lambda header: [*header, [], [[{"format": "binary_coded", "basis": [1e300]}, ["a"]]]],
            r"quantizer\.basis: not a number of a basis: got 1e\+300",
        ),
        (
            lambda header: [*header, [], [[{"format": "binary_coded", "basis": [1.0] * 9}, ["a"]]]],
            "Expected `array` of length <= 8",
        ),
        (quantized([0.0, 0, 8, False], ["a"]), r"quantizer\.scale: not a step: got 0\.0"),
        (quantized([-1.0, 0, 8, False], ["a"]), r"quantizer\.scale: not a step: got -1\.0"),
        (quantized([float("inf"), 0, 8, False], ["a"]), r"quantizer\.scale: not a finite number"),
        (quantized([float("nan"), 0, 8, False], ["a"]), r"quantizer\.scale: not a finite number"),
        (quantized([0.1, 0, 8, False], ["a"]), r"quantizer\.scale: not a step: got 0\.1, expected float32"),
        (quantized([0.5, 256, 8, False], ["a"]), r"quantizer\.zero_point: outside the grid: got 256"),
        (quantized([0.5, 8, 4, True], ["a"]), r"quantizer\.zero_point: outside the grid: got 8"),
        (quantized([0.5, 0, 17, False], ["a"]), r"Expected `int` <= 16"),
        (quantized([0.5, 0], ["a", "a"]), r"activations: a: appears twice"),
        (quantized([0.5, 0], ["a\0"]), r"activations: name: got 'a"),
    ],
)
def test_a_forged_header_is_refused_with_its_place(content, edit, message):
    forged = forge(content, edit)
    with pytest.raises(IntegrityError, match=message) as caught:
        open_all(forged)
    assert "\n" not in str(caught.value).partition("\nhint: ")[0]
    assert len(str(caught.value)) < 1000


def plain():
    """Two tensors that differ in nothing but their numbers, one of them tied, and a raw one."""
    tensors = {name: Int(bits=4).encode(numbers((6, 6), seed)) for seed, name in enumerate("ab")}
    return dumps(Contents({**tensors, "n": Raw.of(np.float32([1, 2]))}, aliases={"tied": "a"}))


def swap_names(header):
    first, second = header[TENSORS][:2]
    first[NAME], second[NAME] = second[NAME], first[NAME]


@pytest.mark.parametrize(
    "edit",
    [
        set_at(TENSORS, 0, SHAPE, [6, 2, 3]),
        set_at(TENSORS, 0, PERMUTATION, [1, 0]),
        set_at(TENSORS, 1, NAME, "c"),
        set_at(TENSORS, 2, NAME, "c"),
        set_at(TENSORS, 2, SHAPE, [2, 1]),
        set_at(TENSORS, 2, 3, "i32"),
        set_at(ALIASES, {"tied": "b"}),
        set_at(ALIASES, {"tied": "a", "more": "n"}),
        set_at(ALIASES, {}),
        swap_names,
    ],
)
def test_a_forged_tensor_is_not_the_one_that_was_written(edit):
    header, body = split(plain())
    edit(header)
    with pytest.raises(IntegrityError, match=r"^[abcn]: not the tensor that was written: got check \w{8}"):
        open_all(join(header, body))


def test_every_way_to_a_swapped_tensor_is_refused():
    header, body = split(plain())
    net = nn.ParameterDict({name: nn.Parameter(torch.zeros(6, 6)) for name in "ab"})
    net.n, net.tied = nn.Parameter(torch.zeros(2)), net.a
    start, size = 4 * 3 + 4 * 2, 18 + 24
    runs = body[start:]
    swapped = loads(join(header, body[:start] + runs[size : 2 * size] + runs[:size] + runs[2 * size :]))
    assert swapped.weight("n").tolist() == [1, 2]
    for look in (
        lambda: swapped.weight("a"),
        lambda: swapped.tensors["a"],
        lambda: swapped.encoded("a"),
        swapped.weights,
        swapped.index,
        lambda: swapped.into(net),
    ):
        with pytest.raises(IntegrityError, match=r"^a: not the tensor that was written"):
            look()


def bomb(size):
    return compress(bytes(size))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"header"),
        (b"\0" * 4, r"header"),
        (b"\xff" * 4, r"header"),
        (struct.pack("<I", 5) + b"hello", r"header"),
        (struct.pack("<I", len(bomb(1 << 28))) + bomb(1 << 28), r"decompressed size: got 268435456"),
        (struct.pack("<I", len(bomb(1 << 19))) + bomb(1 << 19), r"header"),
    ],
)
def test_hostile_data_is_refused(data, message):
    with pytest.raises(IntegrityError, match=message):
        open_all(wrap(data))


def test_frames_without_size_or_with_more_behind_are_refused(content):
    header, body = split(content)
    text = msgspec.msgpack.encode(header)
    sizeless = zstandard.ZstdCompressor(write_content_size=False).compress(text)
    for frame in (sizeless, compress(text) + b"x", compress(text) + compress(text), compress(text)[:-1]):
        with pytest.raises(IntegrityError, match="header"):
            open_all(wrap(struct.pack("<I", len(frame)) + frame + body))
    assert open_all(join(header, body)).sha256 == open_all(content).sha256


def test_a_graph_that_explodes_is_refused(content):
    header, body = split(content)
    frame = bomb(1 << 26)
    header[GRAPH][0], old = len(frame), header[GRAPH][0]
    start = 4 * (len(header[TENSORS]) + sum(line[0] == 0 for line in header[TENSORS]))
    with pytest.raises(IntegrityError, match="graph: decompressed size"):
        open_all(join(header, body[:start] + frame + body[start + old :]))


def test_holes_and_leftovers_are_refused(content):
    data = bytes(unwrap(content)[0])
    for other in (data + b"\0", data[:-1]):
        with pytest.raises(IntegrityError, match="bytes after the header"):
            open_all(wrap(other))


def test_the_envelope_says_what_is_wrong(content, tmp_path):
    path = tmp_path / "a.fw"
    for damaged, message in [
        (b"", "not a featherweight file"),
        (b"PK\3\4 a zip of pickles", "not a featherweight file"),
        (
            content.replace(b'"version":"2"', b'"version":"3"'),
            "container version: got '3', expected '1' or '2'",
        ),
        (content[:-1], "damaged or truncated"),
        (content + b"\0", "damaged or truncated"),
        (content.replace(b'"U8"', b'"I8"'), "damaged or truncated"),
        (content[:8] + b" " + content[9:], "not a featherweight file"),
        (b"\xff" * 8 + content[8:], "damaged or truncated"),
    ]:
        path.write_bytes(damaged)
        with pytest.raises(IntegrityError, match=message) as caught:
            load(path)
        assert str(caught.value).startswith(str(path))


def test_the_mutations_mutate(content):
    assert len(set(mutations(content, 200))) > 190
    assert len(set(forgeries(content, 200))) > 150
