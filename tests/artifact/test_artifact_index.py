"""The index adds up; the difference of two files is what changed."""

import numpy as np
import pytest
from artifact_cases import numbers, small

from featherweight.artifact import Contents, Raw, diff, dumps, loads
from featherweight.errors import ConfigError
from featherweight.formats import Int
from featherweight.formats.coders import Rans


def artifact(**tensors):
    return loads(dumps(Contents(tensors)))


def test_bytes_by_kind_are_the_file():
    content = dumps(small())
    index = loads(content).index()
    assert list(index.nbytes) == ["header", "graph", "payload", "parts", "raw"]
    assert sum(index.nbytes.values()) == len(content)
    assert sum(row.nbytes for row in index.rows) == sum(
        index.nbytes[kind] for kind in ("payload", "parts", "raw")
    )
    assert index.nbytes["payload"] + index.nbytes["parts"] == sum(
        tensor.nbytes for tensor in small().tensors.values() if not isinstance(tensor, Raw)
    )


def test_rows_say_how_a_tensor_is_kept():
    weight = numbers((4, 10), sparsity=0.5)
    encoded = Int(bits=4).encode(weight)
    rows = artifact(w=encoded, b=Raw.of(np.float32([0, 1, 2, 0]))).index().rows
    assert [row.name for row in rows] == ["w", "b"]
    w, b = rows
    assert (w.format, w.coder, w.shape, w.symbols, w.nbytes) == ("int", "fixed", (4, 10), 40, 20 + 16)
    assert w.options == {"bits": 4, "scheme": "symmetric", "per": "channel", "scale_by": "minmax"}
    assert w.bits_per_weight == 8 * 36 / 40
    assert w.sparsity == (encoded.decode() == 0).mean()
    assert (b.format, b.options, b.coder, b.symbols, b.sparsity) == ("raw", {"dtype": "f32"}, "", 0, 0.5)


def test_a_notebook_shows_one_line():
    shown = repr(artifact(w=Raw.of(np.zeros(4, np.float32))))
    assert shown.startswith("Artifact(1 tensors, ") and len(shown) < 80


def test_encoded_tensors_by_name():
    loaded = artifact(w=Int(bits=4).encode(numbers((4, 10))), b=Raw.of(np.float32([0])))
    assert loaded.encoded("w").format == Int(bits=4)
    for name in ("b", "x"):
        with pytest.raises(
            ConfigError, match=f"not an encoded tensor of the file: got {name}, expected one of w"
        ):
            loaded.encoded(name)


def test_equal_files_do_not_differ():
    content = dumps(small())
    assert diff(loads(content), loads(content)) == []


def test_differences():
    weight = numbers((4, 10))
    four, three = Int(bits=4).encode(weight), Int(bits=3).encode(weight)
    a = artifact(
        w=four, gone=four, coder=four, same=four, shape=four, nan=Raw.of(np.float32([np.nan, np.inf, 1]))
    )
    b = artifact(
        w=three, coder=four.recoded(Rans()), same=four, shape=Int(bits=4).encode(weight[:2]),
        nan=Raw.of(np.float32([np.nan, np.inf, 3])), new=four,
    )  # fmt: skip
    changes = {change.name: change for change in diff(a, b)}
    assert list(changes) == ["w", "gone", "coder", "shape", "nan", "new"]
    assert changes["w"].kind == "changed"
    assert changes["w"].difference == np.abs(four.decode().astype(float) - three.decode()).max()
    assert '"bits":4' in changes["w"].before.format
    assert '"bits":3' in changes["w"].after.format
    assert (changes["gone"].kind, changes["gone"].after, changes["gone"].difference) == (
        "removed",
        None,
        None,
    )
    assert (changes["new"].kind, changes["new"].before) == ("added", None)
    assert changes["coder"].difference == 0
    assert '"rans"' in changes["coder"].after.coder
    assert changes["shape"].difference is None
    assert changes["nan"].difference == 2
