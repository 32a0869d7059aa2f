"""The readers of compressed files and of tar archives, on files made by others and on bad ones."""

import gzip
import io
import lzma
import tarfile

import pytest

from gdm_lib.data import _packed
from gdm_lib.data._packed import gunzip, tar_files, unxz

DATA = bytes(range(256)) * 40
PACKED = {gunzip: gzip.compress(DATA, mtime=0), unxz: lzma.compress(DATA)}


@pytest.mark.parametrize("unpack", PACKED)
def test_no_more_is_unpacked_than_asked_for(unpack):
    packed = PACKED[unpack]
    for most in (len(DATA), len(DATA) + 1, 1 << 40):
        assert unpack(packed, most) == DATA
    assert unpack(packed, 99) == DATA[:100]
    assert unpack(packed, len(DATA) - 1) == DATA
    for content, told in (
        (packed[:-1], "its end is missing"),
        (packed[:20], "its end is missing"),
        (packed + b"more", "4 bytes follow it"),
        (packed + packed, "bytes follow it"),
        (packed[:-10] + bytes(10), "it is not a whole"),
        (b"<html>", "it is not a whole"),
        (b"", "its end is missing"),
    ):
        with pytest.raises(ValueError, match=told):
            unpack(content, len(DATA))


def test_an_xz_file_may_not_ask_for_gigabytes():
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 30}]
    packed = lzma.compress(DATA, filters=filters)
    with pytest.raises(ValueError, match="it is not a whole xz file: Memory usage limit"):
        unxz(packed, len(DATA))


def tar(*members, form=tarfile.USTAR_FORMAT, **options):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form, **options) as archive:
        for name, kind, content in members:
            member = tarfile.TarInfo(name)
            member.type, member.size = kind.encode(), len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


LONG = "/".join(["folder" * 10, "folder" * 9, "file"])
MEMBERS = [
    ("folder/", "5", b""), ("folder/empty", "0", b""), ("folder/file", "0", DATA),
    ("link", "2", b""), (LONG, "0", DATA[:512]), ("last", "0", DATA[:513]),
]  # fmt: skip


def test_members_come_in_their_order():
    assert list(tar_files(tar(*MEMBERS))) == MEMBERS
    commented = tar(*MEMBERS[:3], form=tarfile.PAX_FORMAT, pax_headers={"comment": "26eb9"})
    assert list(tar_files(commented)) == MEMBERS[:3]
    # Before POSIX's last edition plain files had no type.
    old = bytearray(tar(("a", "0", DATA)))
    old[156] = 0
    assert list(tar_files(signed(old))) == [("a", "0", DATA)]


def signed(archive):
    """With a right checksum in the first header."""
    total = sum(archive[:148]) + sum(archive[156:512]) + 8 * 32
    return bytes(archive[:148]) + f"{total:06o}\0 ".encode() + bytes(archive[156:])


def changed(place, new):
    archive = bytearray(tar(("a", "0", DATA)))
    archive[place : place + len(new)] = new
    return archive


@pytest.mark.parametrize(
    ("archive", "told"),
    [
        (b"", "the end of the tar archive is missing"),
        (tar(*MEMBERS)[:512], "the end of the tar archive is missing"),
        (tar(("a", "0", DATA))[: 512 + 10_240], "the end of the tar archive is missing"),
        (tar(("a", "0", DATA))[:5000], "'a' should have 10240 bytes, which are not there"),
        (changed(0, b"b"), "at byte 0 is no header of a tar archive"),
        (changed(107, b"5"), "at byte 0 is no header of a tar archive"),
        (signed(changed(257, b"USTAR")), "at byte 0 is no header of a tar archive"),
        (signed(changed(124, b"77777777777\0")), "'a' should have 8589934591 bytes, which are not"),
        (signed(changed(124, b"\x80" + bytes(10) + b"\x01")), "for a number"),
        (signed(changed(124, b"-0000000001\0")), "for a number"),
        (signed(changed(124, b"00000000009\0")), "for a number"),
        (signed(changed(124, bytes(12))), "for a number"),
        (signed(changed(156, b"x")), "'a' is not a plain file: its header is of type 'x'"),
        (signed(changed(156, b"L")), "is of type 'L'"),
        (signed(changed(156, b"S")), "is of type 'S'"),
        (signed(changed(156, b"\xff")), "is of type"),
        (changed(512 + 10_240, b"more"), "at byte 10752 is no header"),
        (tar(("a" * 200, "0", b""), form=tarfile.GNU_FORMAT), "is of type 'L'"),
        (tar(("a" * 200, "0", b""), form=tarfile.PAX_FORMAT), "is of type 'x'"),
    ],
)
def test_what_is_no_plain_archive_is_refused(archive, told):
    with pytest.raises(ValueError, match=told):
        list(tar_files(archive))


def test_the_limit_of_memory_leaves_room_for_the_highest_setting():
    packed = lzma.compress(DATA, preset=9 | lzma.PRESET_EXTREME)
    assert unxz(packed, len(DATA)) == DATA
    assert _packed.MAX_MEMORY < 1 << 30
