"""Fetch files once into the cache, from the first source that has them; the SHA-256 decides what they are."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from featherweight.data.sources import Source
from featherweight.errors import TaskError
from featherweight.events import Events, Finished, Message, Progress, Started, silent
from featherweight.files import cache_dir, write_whole


@dataclass(frozen=True)
class Asset:
    """Files that are known by their content.

    Attributes:
        name: folder in the cache, below `data`.
        files: file name to the SHA-256 of its (unpacked) content.
        sources: where to look for them, best first.
    """

    name: str
    files: Mapping[str, str]
    sources: tuple[Source, ...]

    @property
    def folder(self) -> Path:
        """Where the files are kept."""
        return cache_dir() / "data" / self.name

    def missing(self) -> list[str]:
        """Return the files that the cache does not have, or has with other content."""
        return [name for name, known in self.files.items() if sha256(self.folder / name) != known]


def fetch(asset: Asset, events: Events = silent) -> Path:
    """Return the folder that holds the files of `asset`, fetching what is not there.

    Each file appears whole or not at all, so processes may fetch at the same time; a lock makes the later one
    wait and find the files instead.

    Raises:
        TaskError: no source has them; lists what was tried and where to put the files by hand.
    """
    if not asset.missing():
        return asset.folder
    with locked(asset.folder):
        if asset.missing():
            _fetch(asset, events)
    return asset.folder


def _fetch(asset: Asset, events: Events) -> None:
    began = time.monotonic()
    events(Started(f"fetch {asset.name}", len(asset.files)))
    failures = []
    for source in asset.sources:
        events(Message(f"fetching {asset.name} from {source}"))
        try:
            with tempfile.TemporaryDirectory() as scratch:
                for name, content in source.read(asset.missing(), Path(scratch)):
                    _keep(asset, name, content)
                    events(Progress(f"fetch {asset.name}", len(asset.files) - len(asset.missing())))
        except TaskError as error:
            failures.append(f"{source}: {error}")
        if not asset.missing():
            events(Finished(f"fetch {asset.name}", time.monotonic() - began))
            return
    tried = "".join(f"\n  {failure}" for failure in failures)
    raise TaskError(
        f"could not be fetched; tried{tried}",
        where=asset.name,
        hint=f"put {', '.join(asset.missing())} into {asset.folder} by hand, "
        "or set FEATHERWEIGHT_DATA to a cache folder that has them",
    )


def _keep(asset: Asset, name: str, content: bytes) -> None:
    got, known = f"SHA-256 {hashlib.sha256(content).hexdigest()}", asset.files[name]
    if not got.endswith(known):
        raise TaskError("not the published file", where=name, got=got, expected=known)
    write_whole(asset.folder / name, content)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal; an empty string if there is none."""
    if not path.is_file():
        return ""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` against other processes; the system lets go of it when a process dies.

    Without file locks (Windows) nothing waits: the same files are then fetched twice, which does no harm.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
