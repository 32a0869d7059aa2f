"""Compressed files and tar archives from strangers, unpacked in memory within limits."""

from __future__ import annotations

import lzma
import re
import zlib
from collections.abc import Iterator

__all__ = ["gunzip", "tar_files", "unxz"]

BLOCK = 512
MAX_MEMORY = 128 << 20  # bytes for a decompressor; the format's highest setting takes 65 MB
_OCTAL = re.compile(rb" *([0-7]{1,12})[ \0]*")


def gunzip(content: bytes, most: int) -> bytes:
    """What a gzip file holds, but no more than ``most`` + 1 bytes of it.

    Raises:
        ValueError: it isn't one whole gzip file. One that holds more than ``most`` bytes isn't
            looked at to its end.
    """
    reader = zlib.decompressobj(wbits=31)  # with the header and the checksum of gzip
    try:
        found = reader.decompress(content, most + 1)
    except zlib.error as error:
        raise ValueError(f"it is not a whole gzip file: {error}") from error
    if len(found) <= most and not reader.eof:
        raise ValueError("it is not a whole gzip file: its end is missing")
    if len(found) <= most and reader.unused_data:
        raise ValueError(f"it is not a whole gzip file: {len(reader.unused_data)} bytes follow it")
    return found


def unxz(content: bytes, most: int) -> bytes:
    """What an xz file holds, but no more than ``most`` + 1 bytes of it.

    Raises:
        ValueError: as ``gunzip`` does, or it takes too much memory.
    """
    reader = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_MEMORY)
    try:
        found = reader.decompress(content, most + 1)
    except (lzma.LZMAError, EOFError) as error:
        raise ValueError(f"it is not a whole xz file: {error}") from error
    if len(found) <= most and not reader.eof:
        raise ValueError("it is not a whole xz file: its end is missing")
    if len(found) <= most and reader.unused_data:
        raise ValueError(f"it is not a whole xz file: {len(reader.unused_data)} bytes follow it")
    return found


def tar_files(content: bytes) -> Iterator[tuple[str, str, bytes]]:
    """The name, the type and the content of each member of a tar archive, in its order.

    Of the format it knows what ``git archive`` writes of short names: the headers of POSIX 1988
    (ustar), and the global header that holds a comment. Python's ``tarfile`` knows all dialects,
    and has been made to hang by their headers (CVE-2024-6232).

    Returns:
        Types are those of the header: ``0`` is a plain file and ``5`` a folder.

    Raises:
        ValueError: a header is none, a member is cut off or has a header of another dialect, or
            the end is missing.
    """
    place = 0
    while place + BLOCK <= len(content):
        header = content[place : place + BLOCK]
        if not any(header):
            return
        # The checksum is of the header with spaces in its own place.
        checksum = sum(header[:148]) + sum(header[156:]) + 8 * ord(" ")
        if header[257:262] != b"ustar" or _octal(header[148:156]) != checksum:
            raise ValueError(f"at byte {place} is no header of a tar archive")
        name, prefix = (part.partition(b"\0")[0] for part in (header[:100], header[345:500]))
        shown = (prefix + b"/" * bool(prefix) + name).decode("ascii", "backslashreplace")
        kind = chr(header[156]) if header[156] else "0"
        size = _octal(header[124:136])
        start = place + BLOCK
        place = start + -(-size // BLOCK) * BLOCK
        if place > len(content):
            raise ValueError(f"{shown!r} should have {size} bytes, which are not there")
        if kind == "g":
            continue
        if kind not in "01234567":
            raise ValueError(f"{shown!r} is not a plain file: its header is of type {kind!r}")
        yield shown, kind, content[start : start + size]
    raise ValueError("the end of the tar archive is missing")


def _octal(field: bytes) -> int:
    digits = _OCTAL.fullmatch(field)
    if not digits:
        raise ValueError(f"a header of the tar archive has {field!r} for a number")
    return int(digits[1], 8)
