"""Files are whole, with the mode, links and names that `open` would give; entries of the store are whole or absent."""

import os
import resource
import signal
import stat

import pytest

from featherweight.errors import ConfigError, FeatherweightError
from featherweight.files import Store, key_of, write_whole


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


def test_put_get_drop(tmp_path):
    store = Store(tmp_path)
    key = key_of("a", 1, {"b": [2, 3]})
    assert store.get(key) is None
    store.scratch(key).mkdir(parents=True)
    store.put(key, b"content")
    assert store.get(key) == b"content"
    assert not store.scratch(key).exists()
    store.drop(key)
    assert store.get(key) is None


def test_damaged_entries_count_as_absent(tmp_path):
    store = Store(tmp_path)
    key = key_of("a")
    for damage in (
        lambda b: b[:-1],
        lambda b: b"",
        lambda b: b[:40] + bytes([b[40] ^ 1]) + b[41:],
        lambda b: b + b"x",
    ):
        store.put(key, b"some content that is long enough")
        (path,) = [p for p in tmp_path.rglob("*") if p.is_file()]
        path.write_bytes(damage(path.read_bytes()))
        assert store.get(key) is None


def test_keys_do_not_depend_on_the_order_of_mappings():
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})
    assert key_of("a", "b") != key_of("ab") != key_of("a,b")


def test_a_store_that_is_no_folder_is_one_error(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ConfigError, match="the store cannot be read: Not a directory"):
        Store(tmp_path / "file").get(key_of(1))


def test_pieces_are_written_one_behind_the_other(tmp_path):
    store, key = Store(tmp_path), key_of("pieces")
    store.put(key, [b"some ", memoryview(b"content")])
    whole = (tmp_path / key[:2] / key[2:]).read_bytes()
    assert store.get(key) == b"some content"
    store.put(key, b"some content")
    assert (tmp_path / key[:2] / key[2:]).read_bytes() == whole
