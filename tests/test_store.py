"""The store: whole or absent entries, and a run that goes on after any kill."""

import pytest

from featherweight.errors import ConfigError
from featherweight.files import Store, key_of


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
