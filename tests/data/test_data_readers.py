"""IDX, CIFAR-10 and image folders: what is read, and what is refused."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from featherweight.data import cifar
from featherweight.data.folder import ImageFiles, class_folders, classes_in, decode, numbered_files
from featherweight.data.indexed import Normalisation
from featherweight.data.mnist import parse
from featherweight.errors import IntegrityError, TaskError

SAME = Normalisation((0.0,) * 3, (1.0,) * 3)


def idx(array, code=0x08):
    header = bytes([0, 0, code, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


@given(
    shape=st.lists(st.integers(0, 4), min_size=1, max_size=3),
    kind=st.sampled_from([(8, "u1"), (11, "i2"), (13, "f4")]),
)
def test_idx_round_trip(shape, kind):
    code, dtype = kind
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    read = parse(idx(array, code))
    assert read.dtype == array.dtype and np.array_equal(read, array)


def test_idx_of_absurd_shapes():
    empty = (0).to_bytes(4, "big")
    for content in (bytes([0, 0, 8, 255]) + empty * 255, bytes([0, 0, 8, 4]) + empty + b"\xff" * 12):
        with pytest.raises(IntegrityError, match="IDX file"):
            parse(content)


@given(content=st.binary(max_size=40))
def test_idx_takes_or_refuses_any_bytes(content):
    try:
        read = parse(content)
    except IntegrityError:
        return
    assert idx(read, content[2]) == content


@pytest.mark.parametrize(
    "content",
    [b"", b"\0\0\x08", b"\0\0\x07\x01\0\0\0\0", b"\0\0\x08\x00", b"\0\0\x08\x02\0\0\0\1",
     b"\0\0\x08\x01\0\0\0\2a", b"\0\0\x08\x01\0\0\0\1ab", b"\0\0\x08\x03" + b"\xff" * 12],
)  # fmt: skip
def test_idx_refuses(content):
    with pytest.raises(IntegrityError, match="somefile"):
        parse(content, where="somefile")


def records(count, seed=0):
    random = np.random.default_rng(seed)
    return np.concatenate(
        [random.integers(0, 10, (count, 1)), random.integers(0, 256, (count, 3072))], 1
    ).astype(np.uint8)


def test_cifar_record_is_label_then_planes():
    made = records(3)
    pixels, labels = cifar.parse(made.tobytes())
    assert labels.tolist() == made[:, 0].tolist()
    assert pixels[1, 2, 5, 7] == made[1, 1 + 2 * 1024 + 5 * 32 + 7]


@pytest.mark.parametrize("content", [b"", b"\0" * 3072, b"\x0a" + b"\0" * 3072])
def test_cifar_refuses(content):
    with pytest.raises(IntegrityError):
        cifar.parse(content)


def test_cifar_folder_in_the_cache_is_taken(tmp_path, monkeypatch):
    folder = tmp_path / cifar.FOLDER
    folder.mkdir()
    for seed, name in enumerate((*cifar.TRAIN, cifar.TEST)):
        (folder / name).write_bytes(records(4, seed).tobytes())
    monkeypatch.setenv("FEATHERWEIGHT_DATA", str(tmp_path))
    data = cifar.load()
    assert (len(data.train), len(data.test), data.edition) == (20, 4, "CIFAR-10 (unofficial)")
    inputs, labels = data.train.take(np.array([4]))
    first = records(4, seed=1)[0]
    assert labels[0] == first[0]
    assert inputs[0, 0, 0, 0].item() == pytest.approx((first[1] / 255 - 0.485) / 0.229, abs=1e-5)

    content = b"".join((folder / name).read_bytes() for name in (*cifar.TRAIN, cifar.TEST))
    monkeypatch.setitem(cifar.EDITIONS, hashlib.sha256(content).hexdigest(), "known")
    assert cifar.load().edition == "known"
    (folder / cifar.TEST).unlink()
    with pytest.raises(TaskError, match=r"test_batch\.bin"):
        cifar.load()


def save(path, size, colour=(10, 20, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def test_class_folders_are_numbered_by_name(tmp_path):
    save(tmp_path / "train" / "b" / "x.png", (9, 9))
    save(tmp_path / "train" / "a" / "y.png", (9, 9))
    save(tmp_path / "val" / "b" / "z.png", (9, 9))
    classes = classes_in(tmp_path / "train")
    assert classes == ("a", "b")
    assert class_folders(tmp_path / "train", classes)[1] == (0, 1)
    assert class_folders(tmp_path / "val", classes)[1] == (1,)
    with pytest.raises(TaskError, match="not one of the classes"):
        class_folders(tmp_path / "val", ["a"])
    with pytest.raises(TaskError, match="no images"):
        class_folders(tmp_path / "test", classes)


def test_numbered_files(tmp_path):
    save(tmp_path / "0042.png", (8, 8))
    save(tmp_path / "7_again.png", (8, 8))
    paths, labels = numbered_files(tmp_path)
    assert labels == (42, 7)
    inputs, taken = ImageFiles(paths, labels, 8, SAME).take(np.array([1, 0]))
    assert taken.tolist() == [7, 42] and inputs[0, :, 3, 3].tolist() == [10, 20, 30]
    assert ImageFiles(paths, (), 8, SAME).take(np.array([0]))[1] is None
    save(tmp_path / "cat.png", (8, 8))
    with pytest.raises(TaskError, match="class index"):
        numbered_files(tmp_path)


def test_decode_scales_the_shorter_side_and_takes_the_middle(tmp_path):
    image = np.zeros((64, 128, 3), np.uint8)
    image[8:56, 40:88] = 255
    Image.fromarray(image).save(tmp_path / "x.png")
    middle = decode(tmp_path / "x.png", size=16, crop=0.5)
    assert middle.shape == (3, 16, 16) and middle.min() == 255
    whole = decode(tmp_path / "x.png", size=16, crop=1.0)
    assert whole[0, 0, 0] == 0 and whole[0, 8, 8] == 255


def test_decode_refuses_many_pixels_before_it_reads_them(tmp_path):
    Image.new("1", (13_000, 13_000)).save(tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size < 30_000
    with pytest.raises(TaskError, match="too many pixels: got 13000 x 13000"):
        decode(tmp_path / "x.png", 8, 1.0)


def test_decode_turns_images_upright(tmp_path):
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:8] = 255  # the upper half
    sideways = Image.fromarray(pixels).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # Orientation: turn a quarter clockwise
    sideways.save(tmp_path / "x.png", exif=exif)
    assert np.array_equal(decode(tmp_path / "x.png", 16, 1.0), pixels.transpose(2, 0, 1))


def test_decode_refuses_what_is_no_image(tmp_path):
    (tmp_path / "x.png").write_bytes(b"no image")
    with pytest.raises(TaskError, match=r"x\.png"):
        decode(tmp_path / "x.png", 8, 1.0)
