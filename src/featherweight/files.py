"""Files that are whole or absent: written under a temporary name, then renamed."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from featherweight.errors import WriteError


def write_whole(path: str | Path, content: bytes | str) -> Path:
    """Write `content` to `path` so that a reader, or a kill, never sees half of it.

    As with `open`, a new file has the mode that the umask leaves, a file that is replaced keeps its mode, and a
    symbolic link stays one.

    Raises:
        WriteError: the file cannot be written; names it and the reason.
    """
    path = Path(path)
    target = path.resolve()
    temporary = target.with_name(f".{secrets.token_hex(8)}.part")
    try:
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))  # noqa: TRY301
        target.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as stream:
            if target.exists():
                temporary.chmod(stat.S_IMODE(target.stat().st_mode))
            stream.write(content.encode() if isinstance(content, str) else content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(target)
    except OSError as error:
        _remove(temporary)
        raise WriteError(path, error) from error
    except BaseException:
        _remove(temporary)
        raise
    return path


def _remove(temporary: Path) -> None:
    with suppress(OSError):
        temporary.unlink()


def cache_dir() -> Path:
    """Where data sets, trained baselines and the store live: `FEATHERWEIGHT_DATA`, else the user's cache folder."""
    chosen = os.environ.get("FEATHERWEIGHT_DATA")
    if chosen:
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "featherweight"
