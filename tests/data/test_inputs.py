"""Inputs of a network without code: what is taken, in which order and type, and what each refusal says."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image

from featherweight.data.inputs import given
from featherweight.data.rows import Pixels
from featherweight.errors import ConfigError, TaskError


@dataclass(frozen=True)
class Taken:
    name: str
    dtype: str = "float32"
    shape: tuple = ("batch", 3)


SETTING = Taken("s", "int64", ())
X, PAIR = Taken("x"), (Taken("a"), Taken("b", "int64", ("batch",)))
SPEECH = (
    Taken("input", "float32", ("batch", None)),
    Taken("state", "float32", (2, "batch", 4)),
    Taken("sr", "int64", ()),
)
PHOTO = Taken("images", "float32", (None, 3, 8, 8))


def rows(count=5, width=3):
    return np.arange(count * width, dtype=np.float32).reshape(count, width)


def taken(found, *indices):
    return found.data.take(np.array(indices))[0]


def test_an_npz_of_arrays_by_input_gives_rows_in_the_networks_order(tmp_path):
    np.savez(tmp_path / "x.npz", b=np.arange(5), a=rows())
    found = given(tmp_path / "x.npz", PAIR)
    assert len(found.data) == 5
    assert not found.whole
    a, b = taken(found, 3, 1)
    assert torch.equal(a, torch.from_numpy(rows()[[3, 1]]))
    assert b.tolist() == [3, 1]
    assert b.dtype == torch.int64


@pytest.mark.parametrize(
    "source", [rows(), torch.from_numpy(rows()), {"x": rows()}, {"x": rows().astype(np.float64)}]
)
def test_arrays_in_python_are_the_same_rows(source):
    assert torch.equal(taken(given(source, [X]), 0, 4), torch.from_numpy(rows()[[0, 4]]))


def test_one_rank_more_makes_calls_that_are_not_put_together():
    arrays = {
        "input": np.ones((6, 1, 7), np.float32),
        "state": np.zeros((6, 2, 1, 4), np.float32),
        "sr": np.array(16000),
    }
    arrays["input"][4] = 5
    found = given(arrays, SPEECH)
    assert found.whole
    assert found.settings["sr"] == 16000
    heard, state, rate = taken(found, 4)
    assert (heard.shape, state.shape, rate.shape) == ((1, 7), (2, 1, 4), ())
    assert heard[0, 0] == 5
    assert rate.dtype == torch.int64


def test_a_fixed_batch_groups_samples_to_calls_and_says_what_is_left_over():
    found = given({"x": rows(7)}, [Taken("x", "float32", (2, 3))])
    assert found.whole
    assert len(found.data) == 3
    assert torch.equal(taken(found, 1), torch.from_numpy(rows(7)[2:4]))
    assert "1 left over" in found.about


def test_a_folder_of_arrays_may_have_other_sizes_in_every_file(tmp_path):
    free = Taken("x", "float32", ("batch", "time"))
    for n in range(3):
        np.save(tmp_path / f"{n}.npy", np.full((1, n + 1), n, np.float32))
    found = given(tmp_path, [free])
    assert [tuple(taken(found, n).shape) for n in range(3)] == [(1, 1), (1, 2), (1, 3)]
    assert found.data.digest == given(tmp_path, [free]).data.digest
    np.save(tmp_path / "2.npy", np.full((1, 3), 9, np.float32))
    assert found.data.digest != given(tmp_path, [free]).data.digest


@pytest.mark.parametrize("item", [lambda r: {"x": r}, lambda r: r, lambda r: (r,), lambda r: r[None]])
def test_a_list_is_calls_and_one_sample_gets_its_batch(item):
    found = given([item(row) for row in rows()], [X])
    assert found.whole
    assert torch.equal(taken(found, 2), torch.from_numpy(rows()[2:3]))


def test_integers_of_another_width_are_taken_where_they_fit():
    assert taken(given({"x": np.arange(6).reshape(2, 3)}, [Taken("x", "int32")]), 0).dtype == torch.int32
    with pytest.raises(TaskError, match="another type"):
        given({"x": np.full((2, 3), 1 << 40)}, [Taken("x", "int32")])


def odd(**more):
    return {"a": rows(), "b": np.arange(5)} | more


BAD = {
    "missing": ({"a": rows()}, PAIR, "without b"),
    "extra": (odd(c=rows()), PAIR, "with c"),
    "type": (odd(b=rows()[:, 0]), PAIR, "got float32, expected int64"),
    "bytes": ({"x": np.zeros((4, 3), np.uint8)}, [X], "astype"),
    "rank": ({"x": rows()[0]}, [X], "another rank"),
    "size": ({"x": rows(4, 2)}, [X], r"another size: got \[4, 2\], expected float32 \[batch, 3\]"),
    "NaN": ({"x": np.where(rows() == 7, np.nan, rows())}, [X], r"NaN: got in 2 \(from 0\)"),
    "lengths": (odd(b=np.arange(4)), PAIR, "not as many samples"),
    "nothing": ([], [X], "no inputs"),
    "empty": ({"x": rows(0)}, [X], "another size"),
    "no name": (rows(), PAIR, "without a name"),
    "setting": ([{"x": rows(1), "s": np.array(n)} for n in range(3)], [X, SETTING], "differs from call"),
    "settings alone": ({"s": np.array(1)}, [SETTING], "differs from sample"),
    "pickled": ({"x": np.array([rows(1), rows(2)], dtype=object)}, [X], "."),
    "kind": (3, [X], "not inputs"),
    "item": ([None], [X], "not the inputs of a call"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_the_network_does_not_take_is_one_clear_error(case):
    source, entries, message = BAD[case]
    with pytest.raises(TaskError, match=message):
        given(source, entries)


def test_nothing_is_unpickled_and_broken_files_say_so(tmp_path):
    np.savez(tmp_path / "pickled.npz", x=np.array([rows(1), rows(2)], dtype=object))
    with pytest.raises(TaskError, match="Object arrays cannot be loaded"):
        given(tmp_path / "pickled.npz", [X])
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04broken")
    with pytest.raises(TaskError, match="not arrays that can be read"):
        given(tmp_path / "broken.npz", [X])
    with pytest.raises(TaskError, match="no such file"):
        given(tmp_path / "absent.npz", [X])
    (tmp_path / "empty").mkdir()
    with pytest.raises(TaskError, match="not a folder of inputs: got none"):
        given(tmp_path / "empty", [X])


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for n in range(3):
        pixels = np.zeros((8, 8, 3), np.uint8)
        pixels[..., 0], pixels[..., 2] = 255, 10 * n
        Image.fromarray(pixels).save(folder / f"{n}.png")
    return folder


def test_images_are_scaled_and_ordered_as_the_network_takes_them(photos):
    plain = taken(given(photos, [PHOTO]), 1, 2)
    assert plain.shape == (2, 3, 8, 8)
    assert torch.allclose(plain[1, :, 0, 0], torch.tensor([1, 0, 20 / 255]))
    turned = given(photos, [PHOTO], Pixels(bgr=True, mean=(0.5,), std=(0.5,)))
    assert torch.allclose(taken(turned, 2)[0, :, 0, 0], torch.tensor([40 / 255 - 1, -1, 1]))
    assert "BGR, (pixels / 255 - 0.5) / 0.5" in turned.about
    last = given(photos, [Taken("images", "uint8", (None, 8, 8, 3))])
    assert taken(last, 2)[0, 0, 0].tolist() == [255, 0, 20]
    assert taken(last, 2).dtype == torch.uint8
    assert "bytes as they are" in last.about


def test_images_of_a_free_size_need_one(photos):
    free = Taken("images", "float32", (1, 3, "h", "w"))
    with pytest.raises(ConfigError, match="any size"):
        given(photos, [free])
    found = given(photos, [free], Pixels(size=(4, 6)))
    assert found.whole
    assert taken(found, 0).shape == (1, 3, 4, 6)
    with pytest.raises(ConfigError, match="not the size that the network takes"):
        given(photos, [PHOTO], Pixels(size=(4, 6)))


def test_images_and_other_inputs_do_not_go_together(photos):
    with pytest.raises(TaskError, match="does not take images alone"):
        given(photos, [PHOTO, X])
    with pytest.raises(TaskError, match="no axis of three channels"):
        given(photos, [Taken("x", "float32", (None, 1, 8, 8))])
    with pytest.raises(ConfigError, match="are of images"):
        given({"x": rows()}, [X], Pixels(bgr=True))
    with pytest.raises(ConfigError, match="0 to 1"):
        Pixels(mean=(123.0, 116.0, 103.0))
    np.save(photos / "x.npy", rows())
    with pytest.raises(TaskError, match="3 images and 1 files of arrays"):
        given(photos, [PHOTO])
