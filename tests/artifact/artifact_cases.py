"""Contents and forgeries that the tests of the file share."""

import copy
import struct

import msgspec
import numpy as np

from featherweight.artifact import Artifact, Contents, Initialiser, Raw, StoredGraph, dumps, loads
from featherweight.artifact.container import compress, decompress, unwrap, wrap
from featherweight.artifact.header import MOST_HEADER, EncodedEntry, Header, all_names, payload_checksum
from featherweight.formats import Clustered, Float, Int, Log2, View
from featherweight.formats.coders import Bitmask, Gaps, Huffman, Rans, Zstd
from featherweight.structure import LayerSpec

LENET5 = {
    "conv1.weight": (20, 1, 5, 5), "conv1.bias": (20,), "conv2.weight": (50, 20, 5, 5), "conv2.bias": (50,),
    "fc1.weight": (500, 800), "fc1.bias": (500,), "fc2.weight": (10, 500), "fc2.bias": (10,),
}  # fmt: skip


def numbers(shape, seed=0, sparsity=0.0):
    generator = np.random.default_rng(seed)
    values = generator.normal(scale=0.1, size=shape).astype(np.float32)
    return np.where(generator.random(shape) < sparsity, np.float32(0), values)


def small():
    """A little of everything that a file may hold."""
    kept_first = View((3, 4, 2, 2), permutation=(1, 0, 2, 3))
    tensors = {
        "conv.weight": Int(bits=4).encode(numbers((6, 3, 3, 3))),
        "conv.bias": Float("float16").encode(numbers(6)),
        "up.weight": Int(bits=8, scheme="affine")
        .encode(numbers((3, 4, 2, 2), 1), view=kept_first)
        .recoded(Rans()),
        "gates.weight": Int(bits=3, per="tensor").encode(numbers((8, 5)), view=View((8, 5), groups=4)),
        "fc1.weight": Clustered(bits=3).encode(numbers((9, 20), 2, 0.6)).recoded(Gaps(bits=4)),
        "fc2.weight": Log2(bits=4).encode(numbers((5, 9), 3)).recoded(Huffman()),
        "fc3.weight": Int(bits=2).encode(numbers((5, 9), 4, 0.5)).recoded(Bitmask()),
        "table": Float("float32").encode(numbers((2, 7), 5)).recoded(Zstd()),
        "norm.count": Raw.of(np.int64(7)),
        "mask": Raw.of(np.array([True, False, True])),
        "bias": Raw("bf16", (2,), b"\x80\x3f\x00\xc0"),
        "none": Raw.of(np.zeros((0, 3), np.float32)),
    }
    graph = StoredGraph(
        onnx=b"a graph of ONNX, or so" * 9,
        initialisers=(
            Initialiser("conv.weight", "conv.weight"),
            Initialiser("val_3", "fc2.weight", (1, 0)),
            Initialiser("val_4", "conv.bias", (), (1, 6, 1, 1)),
        ),
        outputs={"logits": 0, "aux": [1, 2]},
    )
    return Contents(
        tensors,
        aliases={"tied.weight": "fc1.weight"},
        structure={"fc2": LayerSpec("Linear", {"in_features": 9, "out_features": 5, "bias": False})},
        graph=graph,
        facts={"task": "lenet-mnist", "metrics": {"accuracy": 0.9912}, "seed": 1, "notes": [None, True]},
    )


def open_all(content: bytes) -> Artifact:
    """Read a file and decode everything that is in it."""
    artifact = loads(content)
    artifact.weights()
    _ = artifact.graph
    return artifact


def split(content: bytes) -> tuple[list, bytes]:
    """Return the header of a file as plain lists, and the bytes after it."""
    data, _, _ = unwrap(content)
    (length,) = struct.unpack_from("<I", data)
    header = decompress(data[4 : 4 + length], "header", MOST_HEADER)
    return msgspec.msgpack.decode(header), bytes(data[4 + length :])


def join(header: list, body: bytes) -> bytes:
    """Return a file, its hash right, of any header at all."""
    frame = compress(msgspec.msgpack.encode(header))
    return wrap(struct.pack("<I", len(frame)) + frame + body)


def forge(content: bytes, edit) -> bytes:
    """Return the file after `edit(header)` changed its header, hash and checks of payloads made right again."""
    header, body = split(content)
    header = edit(header) or header
    try:
        typed = msgspec.convert(header, Header)
        names = all_names([entry.name for entry in typed.tensors], typed.aliases)
    except (msgspec.ValidationError, ValueError):
        return join(header, body)
    encoded = [entry for entry in typed.tensors if isinstance(entry, EncodedEntry)]
    first = 4 * len(typed.tensors)
    place = first + 4 * len(encoded) + (typed.graph.length if typed.graph else 0)
    checks = []
    for entry in typed.tensors:
        run = body[place : place + sum(entry.lengths)] if sum(entry.lengths) < len(body) else b""
        place += len(run)
        if isinstance(entry, EncodedEntry):
            checks.append(payload_checksum(names[entry.name], entry, [run]))
    return join(header, body[:first] + np.array(checks, "<u4").tobytes() + body[first + 4 * len(encoded) :])


NUMBERS = [0, 1, -1, 2, 3, 7, 255, 2**16, 2**31, 2**39, 2**40 - 1, 2**40, 2**63 - 1, -(2**63), 2**64 - 1, 1.5]
WORDS = [
    "",
    "a",
    "\0",
    "\n",
    "x" * 600,
    "ünï",
    "fixed",
    "rans",
    "int",
    "bfloat16",
    "LSTM",
    "Linear",
    "{}",
    "[]",
    "NaN",
]
CODERS = [{"coder": name} for name in ("fixed", "rans", "zstd", "huffman", "bitmask", "gaps", "cabac")]
HOSTILE = [
    *NUMBERS, *WORDS, *CODERS,
    float("nan"), float("inf"), True, None, "[" * 50 + "]" * 50, b"", b"\xff",
    [], [0], [1, 2, 3], [2**39, 2**39], [0, 0, 0, 0], [[[[[[[[]]]]]]]], {}, {"": ""}, {"a": 1},
    {"format": "int"}, {"format": "int", "bits": 32}, {"format": "clustered", "bits": 12, "init": "linear"},
    {"format": "basis", "bits": 8, "per": "channel"}, {"format": "binary_coded", "basis": [0.5, 1e300]},
    {"format": "float", "kind": "float32", "per": "channel"}, {"coder": "gaps", "bits": 1},
]  # fmt: skip


def surgery(header: list, generator: np.random.Generator) -> list:
    """Return the header with one node, chosen at random, replaced, dropped, doubled or copied over."""
    header = copy.deepcopy(header)
    places = []

    def walk(node):
        for key, child in list(node.items()) if isinstance(node, dict) else list(enumerate(node)):
            places.append((node, key))
            if isinstance(child, dict | list):
                walk(child)

    walk(header)
    node, key = places[generator.integers(len(places))]
    other, place = places[generator.integers(len(places))]
    action = generator.integers(5)
    if action == 0:
        del node[key]
    elif action == 1 and isinstance(node, list):
        node.insert(key, copy.deepcopy(node[key]))
    elif action == 2:
        node[key] = copy.deepcopy(other[place])
    elif action == 3 and isinstance(node[key], int):
        node[key] = int(node[key]) + int(generator.integers(-3, 4)) or int(node[key]) * 10
    else:
        node[key] = copy.deepcopy(HOSTILE[generator.integers(len(HOSTILE))])
    return header


def mutations(content: bytes, count: int, seed: int = 0):
    """Yield `count` damaged copies, their hash wrong: bits flipped, bytes cut, put in or swapped."""
    generator = np.random.default_rng(seed)
    size = len(content)
    for number in range(count):
        damaged = bytearray(content)
        a, b = sorted(int(i) for i in generator.integers(0, size, 2))
        kind = number % 5
        if kind == 0:
            damaged[a] ^= 1 << int(generator.integers(8))
        elif kind == 1:
            del damaged[a:]
        elif kind == 2:
            damaged[a:b] = []
        elif kind == 3:
            damaged[a:a] = generator.bytes(b - a + 1)
        else:
            n = min(b - a, size - b)
            damaged[a : a + n], damaged[b : b + n] = damaged[b : b + n], damaged[a : a + n]
        yield bytes(damaged)


def forgeries(content: bytes, count: int, seed: int = 0):
    """Yield changed copies, their hash right: headers after surgery, and damage behind the envelope."""
    generator = np.random.default_rng(seed)
    header, body = split(content)
    data = bytes(unwrap(content)[0])
    damaged = mutations(data, count, seed)
    for number in range(count):
        if number % 2:
            try:
                yield join(surgery(header, generator), body)
            except (TypeError, OverflowError, msgspec.MsgspecError):
                continue
        else:
            yield wrap(next(damaged))


def lenet5():
    """Return a file of LeNet-5 (Caffe's), weights in 4 bits and biases in 16, without a graph."""
    forms = {name: Int(bits=4) if len(shape) > 1 else Float("float16") for name, shape in LENET5.items()}
    return dumps(Contents({name: forms[name].encode(numbers(shape)) for name, shape in LENET5.items()}))
