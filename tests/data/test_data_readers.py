"""MNIST, CIFAR-10 and image folders: what is read, and what is refused."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from featherweight.data import cifar, mnist
from featherweight.data.fetch import Asset
from featherweight.data.folder import ImageFiles, class_folders, classes_in, decode, numbered_files
from featherweight.data.indexed import Normalisation
from featherweight.errors import IntegrityError, TaskError
from featherweight.files import write_whole

SAME = Normalisation((0.0,) * 3, (1.0,) * 3)


def test_mnist_is_a_header_and_then_bytes(tmp_path, monkeypatch):
    random, files, made = np.random.default_rng(0), {}, {}
    for part in ("train", "t10k"):
        made[part] = random.integers(0, 256, (3, 1, 28, 28)).astype(np.uint8), random.integers(0, 10, 3)
        files[f"{part}-images-idx3-ubyte"] = bytes(16) + made[part][0].tobytes()
        files[f"{part}-labels-idx1-ubyte"] = bytes(8) + made[part][1].astype(np.uint8).tobytes()
    monkeypatch.setenv("FEATHERWEIGHT_DATA", str(tmp_path))
    asset = Asset("mnist", {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}, ())
    for name, content in files.items():
        write_whole(asset.folder / name, content)
    for images, (pixels, labels) in zip(mnist.load(asset), made.values(), strict=True):
        assert np.array_equal(images.pixels, pixels) and np.array_equal(images.labels, labels)
    write_whole(asset.folder / "t10k-labels-idx1-ubyte", b"something else")
    with pytest.raises(TaskError, match="put t10k-labels-idx1-ubyte into"):
        mnist.load(asset)


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
