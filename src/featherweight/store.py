"""The content-addressed store: results under the hash of all that they depend on. It is what resumes a run."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import msgspec

from featherweight.errors import ConfigError
from featherweight.files import cache_dir, write_whole


def key_of(*inputs: Any) -> str:
    """Return the SHA-256 of JSON-able inputs: equal inputs, in any process, have equal keys."""
    return hashlib.sha256(msgspec.json.encode(inputs, order="sorted")).hexdigest()


class Store:
    """Bytes under keys in a folder; entries are whole or absent, and never change.

    An entry is the SHA-256 of its content and the content; one that is damaged counts as absent.

    Args:
        folder: where; the default is `store` in the cache folder.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = Path(folder) if folder is not None else cache_dir() / "store"

    def get(self, key: str) -> bytes | None:
        """Return the content under a key, or None.

        Raises:
            ConfigError: the folder cannot be read.
        """
        try:
            entry = self._path(key).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigError(
                f"the store cannot be read: {error.strerror or error}",
                where=str(self.folder),
                hint="choose another folder: Store(folder), or FEATHERWEIGHT_DATA",
            ) from error
        content = entry[32:]
        return content if entry[:32] == hashlib.sha256(content).digest() else None

    def put(self, key: str, content: bytes) -> None:
        """Keep `content` under a key, and drop the scratch of the work that made it."""
        write_whole(self._path(key), hashlib.sha256(content).digest() + content)
        shutil.rmtree(self.scratch(key), ignore_errors=True)

    def drop(self, key: str) -> None:
        """Forget the content under a key."""
        self._path(key).unlink(missing_ok=True)

    def scratch(self, key: str) -> Path:
        """Return the folder where unfinished work on a key may leave checkpoints; it need not exist."""
        return self.folder / "scratch" / key

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / key[2:]
