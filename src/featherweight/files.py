"""Files that are whole or absent, the folder of caches, and the content-addressed store: what resumes a run."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from featherweight.errors import ConfigError, WriteError

ALIGNED = 64  # bytes
Pieces = Sequence[bytes | memoryview]  # of the content of a file, one behind the other


def write_whole(path: str | Path, content: bytes | str | Pieces) -> Path:
    """Write `content` to `path` so that a reader, or a kill, never sees half of it.

    As with `open`, a new file has the mode that the umask leaves, a file that is replaced keeps its mode, and a
    symbolic link stays one.

    Raises:
        WriteError: the file cannot be written; names it and the reason.
    """
    path = Path(path)
    for last in (False, False, True):
        try:
            _write(path.resolve(), pieces_of(content))
            break
        except OSError as error:
            if last or not isinstance(
                error, FileNotFoundError
            ):  # else another process has removed the folder
                raise WriteError(path, error) from error
    return path


def _write(target: Path, pieces: Pieces) -> None:
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as stream:
            if target.exists():
                temporary.chmod(stat.S_IMODE(target.stat().st_mode))
            stream.writelines(pieces)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(target)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def pieces_of(content: bytes | str | Pieces) -> Pieces:
    """Return content in pieces: bytes and text are one."""
    if isinstance(content, str):
        return [content.encode()]
    return [content] if isinstance(content, bytes) else content


def sha256_of(pieces: Pieces) -> Any:
    """Return the hash of pieces, one behind the other."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest


def mapped(pieces: Pieces, folder: Path) -> list[NDArray[np.uint8]]:
    """Return pieces as maps of a nameless file in `folder`: the system reads them at need, and gives their memory up.

    What is written to them stays in memory.
    """
    folder.mkdir(parents=True, exist_ok=True)
    starts = []
    with tempfile.TemporaryFile(dir=folder) as stream:
        for piece in pieces:
            stream.write(bytes(-stream.tell() % ALIGNED))
            starts.append(stream.tell())
            stream.write(piece)
        stream.flush()
        whole = np.memmap(stream, np.uint8, mode="c")
    return [whole[start : start + len(piece)] for start, piece in zip(starts, pieces, strict=True)]


def cache_dir() -> Path:
    """Where data sets, trained baselines and the store live: `FEATHERWEIGHT_DATA`, else the user's cache folder."""
    chosen = os.environ.get("FEATHERWEIGHT_DATA")
    if chosen:
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "featherweight"


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
            if error.errno == errno.ESTALE:  # on a network: another process has just replaced it
                return None
            what = f"the store cannot be read: {error.strerror or error}"
            hint = "choose another folder: Store(folder), or FEATHERWEIGHT_DATA"
            raise ConfigError(what, where=str(self.folder), hint=hint) from error
        content = memoryview(entry)[32:]
        return bytes(content) if entry[:32] == hashlib.sha256(content).digest() else None

    def put(self, key: str, content: bytes | Pieces) -> None:
        """Keep `content` under a key, and drop the scratch of the work that made it."""
        pieces = pieces_of(content)
        write_whole(self._path(key), [sha256_of(pieces).digest(), *pieces])
        shutil.rmtree(self.scratch(key), ignore_errors=True)

    def drop(self, key: str) -> None:
        """Forget the content under a key."""
        self._path(key).unlink(missing_ok=True)

    def scratch(self, key: str) -> Path:
        """Return the folder where unfinished work on a key may leave checkpoints; it need not exist."""
        return self.folder / "scratch" / key

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / key[2:]
