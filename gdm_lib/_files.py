"""Files on disk: only plain ones are read, and none is ever half-written."""

from __future__ import annotations

import errno
import io
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where nothing tells whether a temporary file is still written to
    fcntl = None  # type: ignore[assignment]

__all__ = ["check_writable", "open_plain", "read_plain", "replacing"]

# Neither a FIFO nor a device may keep the process waiting before it is known what it is.
READING = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
ATTEMPTS = 20


def open_plain(path: Path) -> io.BufferedReader:
    """A plain file, or a link to one, opened for reading.

    Raises:
        OSError: it can't be opened; FileNotFoundError if it isn't there.
        ValueError: it is a folder, a pipe or a device, or no path at all.
    """
    try:
        handle = os.open(path, READING)
    except ValueError as error:
        raise ValueError(f"{str(path)!r} can't be the path of a file: {error}") from error
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ValueError(f"{path} is not a plain file, but a folder, a pipe or a device")
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_plain(path: Path, most: int | None = None) -> bytes:
    """All bytes of a plain file.

    Args:
        path: the file.
        most: how many it may have; any number if left out.

    Raises:
        OSError: it can't be read; FileNotFoundError if it isn't there.
        ValueError: it isn't a plain file, or has more bytes.
    """
    with open_plain(path) as file:
        size = os.fstat(file.fileno()).st_size
        content = b"" if most is not None and size > most else file.read()
    if most is not None and max(size, len(content)) > most:
        raise ValueError(f"{path} has {max(size, len(content)):,} bytes, at most {most:,} expected")
    return content


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its place if the block ends without error.

    Otherwise nothing is left of it, nor of folders that were made for it. What killed processes
    left of the same file is swept away.

    Raises:
        OSError: the file can't be written.
    """
    made = [folder for folder in path.parents if not os.path.lexists(folder)]
    handle = temporary = None
    try:
        handle, temporary = _temporary(path)
        _sweep(path)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # mkstemp's own 0600 would hide what is shared from others
        temporary.replace(path)
    except BaseException:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        with suppress(OSError):  # from the deepest; one that another process uses now stays
            for folder in made:
                folder.rmdir()
        raise
    finally:
        if handle is not None:
            os.close(handle)


class _TriedError(Exception):
    """It could have been written."""


def check_writable(path: Path) -> None:
    """Try whether ``path`` can be written, and leave everything as it is.

    Raises:
        OSError: it can't be.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    with suppress(_TriedError), replacing(path):
        raise _TriedError


def _temporary(path: Path) -> tuple[int | None, Path]:
    """A new file beside ``path``, and a handle that holds a lock on it.

    The system takes the lock away when the process ends, however it ends: an unlocked file is one
    that nobody writes to any more.
    """
    for attempt in range(ATTEMPTS):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle, name = tempfile.mkstemp(
                dir=path.parent, prefix=f".{path.name}.", suffix=".part"
            )
        except FileNotFoundError:  # another process, in vain, made the folder and took it away
            if attempt == ATTEMPTS - 1:
                raise
            continue
        if fcntl is None:
            os.close(handle)  # an open file can't take another's place there
            return None, Path(name)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        except OSError:
            return handle, Path(name)  # a file system without locks, where nothing is swept
        if os.path.lexists(name):
            return handle, Path(name)
        os.close(handle)  # another process swept it away before the lock was there
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), str(path))


def _sweep(path: Path) -> None:
    """Remove temporary files of ``path`` that no process holds a lock on."""
    if fcntl is None:
        return
    ours = re.compile(rf"\.{re.escape(path.name)}\.[a-z0-9_]{{8}}\.part")
    with suppress(OSError), os.scandir(path.parent) as entries:
        left = [entry.path for entry in entries if ours.fullmatch(entry.name)]
        for name in left:
            with suppress(OSError):
                _remove_if_left(name)


def _remove_if_left(name: str) -> None:
    handle = os.open(name, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        found = os.fstat(handle)
        if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid():
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(name)
    finally:
        os.close(handle)
