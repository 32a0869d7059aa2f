"""Files from the internet, each verified before it gets its name in the cache."""

from __future__ import annotations

import errno
import hashlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

from tqdm import tqdm

__all__ = ["DataError", "RemoteFile", "cache_dir", "fetch"]

TIMEOUT = 30  # seconds without a byte
CHUNK = 1 << 18


class DataError(RuntimeError):
    """A data set can't be had; the message says what to do."""


@dataclass(frozen=True)
class RemoteFile:
    """One file to be fetched.

    Attributes:
        path: where it lies below the cache and below a mirror, such as ``mnist/images.gz``.
        urls: its addresses, tried in this order.
        sha256: of its bytes, in hexadecimal.
        size: its length in bytes; no source may send more.
        unpack: makes it from what a source sends, where that is an archive whose own bytes vary.
            It works in memory, and raises ValueError if it can't.
        mirror_path: where the archive lies below a mirror; for what isn't unpacked, ``path``.
    """

    path: str
    urls: tuple[str, ...]
    sha256: str
    size: int
    unpack: Callable[[bytes], bytes] | None = None
    mirror_path: str | None = None


def cache_dir() -> Path:
    """The folder that keeps what was downloaded or rendered.

    ``GDM_DATA_DIR`` if it is set; else ``data/cache`` of the checkout that this package runs from;
    else the user's cache folder. It needn't exist yet.
    """
    chosen = os.environ.get("GDM_DATA_DIR")
    if chosen:
        return Path(chosen).expanduser()
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "pyproject.toml").is_file() and (checkout / "data").is_dir():
        return checkout / "data" / "cache"
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "gdm_lib"


def fetch(file: RemoteFile) -> Path:
    """The path of ``file`` in the cache, downloaded first if it isn't there whole.

    A download goes to a temporary file beside its place, is verified, and only then takes its
    name, in one step; several processes may fetch the same file at once. A cached file that
    fails its checksum is downloaded again. What comes out of an archive is verified and kept; the
    archive isn't.

    ``GDM_MIRROR`` replaces the official addresses: a base such as ``file:///srv/data`` or
    ``http://127.0.0.1:8000``, below which files lie as in the cache, or at their ``mirror_path``.

    Raises:
        DataError: no network, an HTTP error, a cut or altered file, a full disk, or a cache that
            can't be written. The cache is then as it was before.
    """
    path = cache_dir() / file.path
    damaged = path.exists() and not _intact(path, file)
    if path.exists() and not damaged:
        return path
    faults = []
    for url in _addresses(file):
        try:
            _download(url, path, file)
        except _SourceError as error:
            faults.append(f"{url}: {error}")
        else:
            return path
    state = f"The copy at {path} is damaged. " if damaged else ""
    raise DataError(
        f"{state}{file.path} could not be downloaded. " + "; ".join(faults) + ". "
        "Check the connection and try again; or put the file (SHA-256 "
        f"{file.sha256}) at {path} yourself; or set GDM_MIRROR to the base address of a copy"
    )


class _SourceError(Exception):
    """What is wrong with one address: another may still do."""


def _addresses(file: RemoteFile) -> tuple[str, ...]:
    mirror = os.environ.get("GDM_MIRROR")
    if not mirror:
        return file.urls
    if urlsplit(mirror).scheme not in ("file", "http", "https"):
        raise DataError(
            "GDM_MIRROR must be a base address that begins with file://, http:// or https://, "
            f"got {mirror!r}; set it to one, or unset it to use the official addresses"
        )
    return (f"{mirror.rstrip('/')}/{file.mirror_path or file.path}",)


def _intact(path: Path, file: RemoteFile) -> bool:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == file.sha256
    except OSError as error:
        raise DataError(
            f"{path} can't be read ({error}); mend or delete it, or set GDM_DATA_DIR to "
            "another folder"
        ) from error


def _download(url: str, path: Path, file: RemoteFile) -> None:
    with _disk_errors(path, file):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    part = Path(name)
    try:
        # Opened here so that the handle is closed whatever the network does.
        with _disk_errors(path, file), os.fdopen(handle, "wb") as out:
            digest = hashlib.sha256()
            received = 0
            for chunk in _unpacked(url, file) if file.unpack else _chunks(url, file):
                out.write(chunk)
                digest.update(chunk)
                received += len(chunk)
            if received != file.size:
                raise _SourceError(f"{received} bytes came, expected {file.size}")
            if digest.hexdigest() != file.sha256:
                raise _SourceError(
                    f"what came has SHA-256 {digest.hexdigest()}, expected {file.sha256}"
                )
            out.flush()
            os.fsync(out.fileno())
        with _disk_errors(path, file):
            part.chmod(0o644)  # mkstemp's own 0600 would hide a shared cache from others
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _unpacked(url: str, file: RemoteFile) -> Iterator[bytes]:
    assert file.unpack is not None
    archive = b"".join(_chunks(url, file))
    if len(archive) > file.size:
        raise _SourceError(f"more bytes came than the {file.size} that they should unpack to")
    try:
        content = file.unpack(archive)
    except ValueError as error:
        raise _SourceError(f"what came can't be unpacked ({error})") from error
    yield content


def _chunks(url: str, file: RemoteFile) -> Iterator[bytes]:
    """The bytes at ``url``, with a progress bar; every fault of the source as one error."""
    with _source_errors():
        response: BinaryIO = urlopen(url, timeout=TIMEOUT)
    total = None if file.unpack else file.size  # how long an archive is can't be known
    bar = tqdm(total=total, unit="B", unit_scale=True, desc=Path(file.path).name, leave=False)
    with response, bar:
        received = 0
        while received <= file.size:  # a server that sends without end is cut off
            with _source_errors():
                chunk = response.read(CHUNK)
            if not chunk:
                return
            received += len(chunk)
            bar.update(len(chunk))
            yield chunk


@contextmanager
def _source_errors() -> Iterator[None]:
    try:
        yield
    except HTTPError as error:
        error.close()
        raise _SourceError(f"the server answered {error.code} {error.reason}") from error
    except URLError as error:
        raise _SourceError(str(error.reason)) from error
    except (OSError, HTTPException) as error:
        raise _SourceError(f"the connection broke ({error})") from error


@contextmanager
def _disk_errors(path: Path, file: RemoteFile) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
            advice = f"{file.size / 1e6:.1f} MB are needed: free some"
        else:
            advice = "the folder can't be written: mend its permissions"
        raise DataError(
            f"{path} could not be stored ({error.strerror or error}). {advice}, or set "
            "GDM_DATA_DIR to a folder with room that you may write to"
        ) from error
