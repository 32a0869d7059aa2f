"""Files from the internet, each verified before it gets its name in the cache."""

from __future__ import annotations

import errno
import hashlib
import http.client
import io
import os
import socket
import ssl
import string
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib import request
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit, urlunsplit

from tqdm import tqdm

from gdm_lib._files import open_plain, replacing

__all__ = ["DataError", "RemoteFile", "cache_dir", "fetch", "intact"]

TIMEOUT = 30  # seconds without a byte, and the head start that MIN_RATE leaves
MIN_RATE = 10_000  # bytes a second, on the average since the first request
MAX_HEAD = 1 << 20  # bytes of all that comes before what was asked for, redirections included
MAX_REDIRECTIONS = 5
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

    Raises:
        DataError: ``GDM_DATA_DIR`` begins with the home folder of somebody whom the system doesn't
            know, or the user's own isn't known.
    """
    chosen = os.environ.get("GDM_DATA_DIR")
    try:
        return Path(chosen).expanduser() if chosen else _default_dir()
    except RuntimeError as error:
        raise DataError(
            f"the folder of the data can't be found ({error}): GDM_DATA_DIR is {chosen!r}; set it "
            "to the path of a folder"
        ) from error


def _default_dir() -> Path:
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

    A source that sends less than ``MIN_RATE``, or nothing at all for ``TIMEOUT`` seconds, is given
    up.

    Raises:
        DataError: no network, an HTTP error, a cut or altered file, a source that is too slow, a
            full disk, or a cache that can't be read or written. The cache is then as it was before.
    """
    path = cache_dir() / file.path
    found = intact(file)
    if found:
        return path
    damaged = found is not None
    faults = []
    for url in _addresses(file):
        try:
            _download(url, path, file)
        except _SourceError as error:
            faults.append(f"{_line(url)}: {error}")
        else:
            return path
    state = f"The copy at {path} is damaged. " if damaged else ""
    raise DataError(
        f"{state}{file.path} could not be downloaded. " + "; ".join(faults) + ". "
        "Check the connection and try again; or put the file (SHA-256 "
        f"{file.sha256}) at {path} yourself; or set GDM_MIRROR to the base address of a copy"
    )


def intact(file: RemoteFile) -> bool | None:
    """Whether the file in the cache is the one that it should be; None if there is none.

    Raises:
        DataError: what is there can't be read.
    """
    path = cache_dir() / file.path
    try:
        with open_plain(path) as stream:
            # The wrong length is found without a look at what may be a terabyte.
            if os.fstat(stream.fileno()).st_size != file.size:
                return False
            return hashlib.file_digest(stream, "sha256").hexdigest() == file.sha256
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} can't be read ({error}); mend its permissions or delete it, or set "
            "GDM_DATA_DIR to another folder"
        ) from error


class _SourceError(Exception):
    """What is wrong with one address: another may still do."""


def _addresses(file: RemoteFile) -> tuple[str, ...]:
    mirror = os.environ.get("GDM_MIRROR")
    if not mirror:
        return file.urls
    try:
        known = urlsplit(mirror).scheme in ("file", "http", "https")
    except ValueError:
        known = False
    if not known:
        raise DataError(
            "GDM_MIRROR must be a base address that begins with file://, http:// or https://, "
            f"got {mirror!r}; set it to one, or unset it to use the official addresses"
        )
    return (f"{mirror.rstrip('/')}/{file.mirror_path or file.path}",)


def _download(url: str, path: Path, file: RemoteFile) -> None:
    chunks = _unpacked(url, file) if file.unpack else _chunks(url, file)
    digest, received = hashlib.sha256(), 0
    with _disk_errors(path, file), replacing(path) as part:
        with part.open("wb") as out:
            for chunk in chunks:
                received += len(chunk)
                if received > file.size:
                    break
                digest.update(chunk)
                out.write(chunk)
        if received != file.size:
            raise _SourceError(f"{received} bytes came, expected {file.size}")
        if digest.hexdigest() != file.sha256:
            raise _SourceError(
                f"what came has SHA-256 {digest.hexdigest()}, expected {file.sha256}"
            )


def _unpacked(url: str, file: RemoteFile) -> Iterator[bytes]:
    assert file.unpack is not None
    archive = b"".join(_chunks(url, file))
    if len(archive) > file.size:
        raise _SourceError(f"more bytes came than the {file.size} that they should unpack to")
    try:
        content = file.unpack(archive)
    except ValueError as error:
        raise _SourceError(f"what came can't be unpacked ({_line(error)})") from error
    yield content


def _chunks(url: str, file: RemoteFile) -> Iterator[bytes]:
    """The bytes at ``url``, with a progress bar; every fault of the source as one error."""
    pace = _Pace(time.monotonic())
    with _source_errors():
        response = _opened(url, pace)
    total = None if file.unpack else file.size  # how long an archive is can't be known
    bar = tqdm(total=total, unit="B", unit_scale=True, desc=Path(file.path).name, leave=False)
    with response, bar:
        while pace.received <= file.size:  # a server that sends without end is cut off
            with _source_errors():
                chunk = response.read1(CHUNK)
            if not chunk:
                return
            pace.received += len(chunk)
            bar.update(len(chunk))
            yield chunk


# -- what a server may do


@dataclass
class _Pace:
    """How long a source may still take."""

    start: float
    before: int = 0  # bytes that came before those that were asked for
    received: int = 0  # and of those

    def left(self) -> float:
        """Seconds that the next bytes may take.

        Raises:
            _SourceError: the time is over.
        """
        now = time.monotonic()
        end = self.start + TIMEOUT + self.received / MIN_RATE
        if now >= end:
            raise _SourceError(
                f"it is too slow: {self.received:,} bytes came in {now - self.start:.1f} s, where "
                f"{MIN_RATE:,} a second are the least"
            )
        return min(TIMEOUT, end - now)


class _Paced(io.RawIOBase):
    """What a socket receives, in the time that there is for it."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, pace: _Pace) -> None:
        self.raw, self.sock, self.pace = raw, sock, pace

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self.sock.settimeout(self.pace.left())
        try:
            count = self.raw.readinto(buffer)
        except TimeoutError:
            self.pace.left()  # says so if it was the whole time that is over
            raise
        if not self.pace.received:
            self.pace.before += count or 0
            if self.pace.before > MAX_HEAD + CHUNK:  # of the content, a chunk may be among them
                raise _SourceError(f"more than {MAX_HEAD:,} bytes of headers and redirections came")
        return count

    def close(self) -> None:
        self.raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, pace: _Pace, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_Paced(self.fp.detach(), sock, pace))


class _Redirections(request.HTTPRedirectHandler):
    max_redirections = MAX_REDIRECTIONS
    max_repeats = 2


class _Handler(request.AbstractHTTPHandler):
    """Plain and encrypted connections, each kept to the pace."""

    http_request = https_request = request.AbstractHTTPHandler.do_request_

    def __init__(self, pace: _Pace) -> None:
        super().__init__()
        self.pace = pace

    def http_open(self, req: request.Request) -> http.client.HTTPResponse:
        return self.do_open(partial(self._connection, http.client.HTTPConnection), req)

    def https_open(self, req: request.Request) -> http.client.HTTPResponse:
        kind = partial(http.client.HTTPSConnection, context=ssl.create_default_context())
        return self.do_open(partial(self._connection, kind), req)

    def _connection(self, kind: Any, host: str, timeout: float, **kwargs: Any) -> Any:
        connection = kind(host, timeout=self.pace.left(), **kwargs)
        connection.response_class = partial(_Response, pace=self.pace)
        return connection


def _opened(url: str, pace: _Pace) -> io.BufferedReader | http.client.HTTPResponse:
    """What is at an address. Of all that urllib can open, only http, https and plain files."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost"):
            raise _SourceError("a file's address has no host: it begins with file:///")
        return open_plain(Path(request.url2pathname(parts.path)))
    opener = request.OpenerDirector()
    for handler in (
        request.ProxyHandler(),
        request.UnknownHandler(),
        request.HTTPDefaultErrorHandler(),
        request.HTTPErrorProcessor(),
        _Redirections(),
        _Handler(pace),
    ):
        opener.add_handler(handler)
    return opener.open(_in_ascii(url), timeout=TIMEOUT)


def _in_ascii(url: str) -> str:
    """An address as a server is asked for it: its path percent-encoded, its host in IDNA."""
    parts = urlsplit(url)
    host = parts.netloc if parts.netloc.isascii() else parts.netloc.encode("idna").decode()
    path, query = (
        quote(part, safe=string.punctuation, errors="surrogateescape")
        for part in (parts.path, parts.query)
    )
    return urlunsplit((parts.scheme, host, path, query, ""))


@contextmanager
def _source_errors() -> Iterator[None]:
    try:
        yield
    except _SourceError:
        raise
    except HTTPError as error:
        error.close()
        raise _SourceError(f"the server answered {error.code} {_line(error.reason)}") from error
    except URLError as error:
        raise _SourceError(_line(error.reason)) from error
    except (OSError, http.client.HTTPException) as error:
        raise _SourceError(f"the connection broke ({_line(error)})") from error
    # An address that can't be one, given by a redirection or GDM_MIRROR: urllib, http.client and
    # socket raise UnicodeError, OverflowError, AttributeError and more, each at its own point.
    except Exception as error:
        raise _SourceError(
            f"its address or its answer is malformed ({type(error).__name__}: {_line(error)})"
        ) from error


def _line(told: object) -> str:
    """What a server may have written, as a short line that can be printed anywhere."""
    text = str(told).encode("ascii", "backslashreplace").decode()
    return "".join(c if c.isprintable() else " " for c in text)[:300]


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
