"""Files are written whole, with the mode, the links and the names that `open` would give."""

import os
import resource
import signal
import stat

import pytest

from featherweight.errors import FeatherweightError
from featherweight.files import write_whole


@pytest.fixture
def umask():
    old = os.umask(0o077)
    yield 0o077
    os.umask(old)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_file_has_the_mode_of_the_umask(tmp_path, umask):
    assert mode(write_whole(tmp_path / "a", b"x")) == 0o600


def test_a_replaced_file_keeps_its_mode(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"x")
    for bits in (0o600, 0o640, 0o444):
        path.chmod(bits)
        write_whole(path, b"yy")
        assert (path.read_bytes(), mode(path)) == (b"yy", bits)


def test_a_symbolic_link_stays_one(tmp_path):
    (tmp_path / "real").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "real" / "a")
    for content in (b"first", b"second"):  # the link dangles at first
        write_whole(link, content)
        assert link.is_symlink()
        assert (tmp_path / "real" / "a").read_bytes() == content


@pytest.mark.parametrize("length", [1, 252, 255])
def test_names_as_long_as_the_file_system_takes(tmp_path, length):
    assert write_whole(tmp_path / ("x" * length), b"x").read_bytes() == b"x"


def test_what_cannot_be_written_is_one_error_and_leaves_nothing(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "folder", tmp_path / "file" / "below", tmp_path / ("x" * 256)):
        with pytest.raises(FeatherweightError, match="cannot be written: ") as caught:
            write_whole(path, b"x")
        assert str(path) in str(caught.value)
        assert isinstance(caught.value, OSError)
        assert caught.value.errno == caught.value.__cause__.errno
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "folder"]


def test_a_full_disk_leaves_the_old_file(tmp_path):
    path = write_whole(tmp_path / "a", b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        with pytest.raises(FeatherweightError, match="a: cannot be written: File too large"):
            write_whole(path, bytes(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
