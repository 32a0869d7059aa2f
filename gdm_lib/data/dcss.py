"""Tiles of the game Dungeon Crawl Stone Soup: 3,710 colour pictures of 32x32 pixels.

They are downloaded once and verified. The project serves an archive of all its history, whose
bytes vary with the server's compression. So what is verified and kept is a tar archive of the PNG
files that are wanted, made here; Pillow sees them only after that. Data card: ``data/dcss.md``.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from PIL import Image
from torch import Tensor

from gdm_lib._files import read_plain
from gdm_lib.data._download import DataError, RemoteFile, fetch
from gdm_lib.data._packed import BLOCK, gunzip, tar_files, unxz
from gdm_lib.data.levels import from_levels, to_levels
from gdm_lib.data.splits import Labelled, Splits

__all__ = ["CATEGORIES", "LEVELS", "Tiles", "load"]

LEVELS = 256
"""Levels of each colour of a pixel: 0..255, divided by 255."""

CATEGORIES = ("dngn", "effect", "item", "misc", "mon", "player")
"""The folders of the tiles, in the order of their labels: parts of the dungeon (walls, floors,
doors, altars), effects (clouds, bolts), items, marks (blood, icons), monsters, and the layers of
which a player's picture is put together (bodies, clothes, hair, weapons)."""

SIDE = 32
TEST_SHARE = 0.1
MAX_UNPACKED = 64 << 20  # bytes; the archive unpacks to 11 MB
RELEASE = ("releases", "Nov-2015")

# How a PNG file of 32x32 pixels begins: its signature, and its first chunk with width and height.
_HEAD = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + 2 * SIDE.to_bytes(4, "big")

# Things that differ in few pixels but in both name and outline; found by comparing all pairs.
_ALIKE = (
    ("dngn/gateways/enter", "dngn/gateways/return"),  # the same arch
    ("dngn/gateways/enter", "dngn/gateways/stone"),
    ("demigod_f", "gnome_f"),
    ("demigod_f", "dwarf_f"),
    ("efreet", "azrael"),
    ("i-deck_escape", "i-running"),
    ("i-rod_venom", "i-staff_poison"),
    ("misc_lamp", "misc_lamp_inert"),
)


@dataclass(frozen=True, eq=False)
class Tiles(Labelled):
    """Tiles over one background, their categories and names.

    Attributes:
        x: float32, multiples of 1/255 in [0, 1], ``(N, 3, 32, 32)``.
        y: int64 index into ``CATEGORIES``, ``(N,)``.
        names: the file of each below the release's folder, such as ``mon/undead/ghoul.png``.
    """

    names: tuple[str, ...]


def load(background: Sequence[float] = (0.5, 0.5, 0.5)) -> Splits[Tiles]:
    """The tiles in the project's own split, about a tenth of each category for the test.

    No thing is in both parts. Tiles are taken for pictures of one thing if their names differ only
    in a number at the end (in the dungeon: if they share a folder and their first word), or if
    they have the same outline, as what was coloured anew has, or the same pixels. Such groups go
    to the test in the order of a hash, as long as a tenth of their category isn't full. The split
    depends neither on the background nor on any library's random numbers. Each part is in the
    order of a hash too, so that its first items are of all categories.

    Args:
        background: red, green and blue in [0, 1] of what shows through a tile, moved to the
            nearest of the 256 levels. Of the default, a mid grey, both the black shadows and
            outlines of the tiles and their white parts stand out; on black the shadows vanish, and
            with them all that tells some tiles apart.

    Returns:
        ``train`` with 3,342 tiles and ``test`` with 368.

    Raises:
        ValueError: ``background`` isn't three numbers in [0, 1].
        DataError: the files can't be had, or aren't what they should be.
    """
    if len(background) != 3 or not all(0 <= part <= 1 for part in background):
        raise ValueError(
            f"background must be red, green and blue, each from 0 to 1, got {background}"
        )
    below = to_levels(torch.tensor([float(part) for part in background]), LEVELS)
    pixels = _read_tiles(fetch(TILES))
    test = _test_names(_things(pixels), Counter(map(_category, pixels)))

    def part(names: Iterable[str]) -> Tiles:
        order = sorted(names, key=_digest)
        raw = bytearray(b"".join(pixels[name] for name in order))
        tiles = torch.frombuffer(raw, dtype=torch.uint8).reshape(-1, SIDE, SIDE, 4)
        y = torch.tensor([CATEGORIES.index(_category(name)) for name in order])
        return Tiles(from_levels(_over(tiles, below), LEVELS), y, tuple(order))

    return Splits(part(set(pixels) - test), part(test))


def _over(tiles: Tensor, below: Tensor) -> Tensor:
    """RGBA tiles ``(N, 32, 32, 4)`` over levels ``(3,)``: levels ``(N, 3, 32, 32)``."""
    colour, alpha = tiles[..., :3].int(), tiles[..., 3:].int()
    mixed = alpha * colour + (LEVELS - 1 - alpha) * below.int()
    # Half of 255 on top, so that the division rounds to the nearest level, in whole numbers.
    rounded = (mixed + (LEVELS - 1) // 2).div(LEVELS - 1, rounding_mode="floor")
    return rounded.movedim(-1, 1).contiguous()


# -- the split


def _category(name: str) -> str:
    return name.partition("/")[0]


def _digest(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def _thing(name: str) -> str:
    """What a tile shows, as far as its name tells.

    Walls and floors are drawn in variants of many words (``grass_flowers_red2``), so there only
    the first word counts.
    """
    path = PurePosixPath(name)
    if _category(name) == "dngn":
        word = re.match(r"[^\d_-]*", path.stem)
        assert word
        return f"{path.parent}/{word[0]}"
    return path.stem.rstrip("0123456789_-") or path.stem


def _things(pixels: dict[str, bytes]) -> list[list[str]]:
    """The names of the tiles in groups that show one thing; pixels are RGBA, one after another."""
    leader: dict[str | bytes, str | bytes] = {}

    def lead(key: str | bytes) -> str | bytes:
        while (above := leader.setdefault(key, key)) != key:
            key = above
        return key

    for one, other in _ALIKE:
        leader[lead(one)] = lead(other)
    for name, raw in pixels.items():
        alpha = raw[3::4]
        shape = raw if min(alpha) == LEVELS - 1 else alpha  # what fills the tile has no outline
        leader[lead(shape)] = lead(_thing(name))
    groups = defaultdict(list)
    for name in sorted(pixels):
        groups[lead(_thing(name))].append(name)
    return list(groups.values())


def _test_names(things: list[list[str]], sizes: Counter[str]) -> set[str]:
    """The tiles for the test, all of a thing or none, at most a tenth of each category."""
    room = {category: TEST_SHARE * size for category, size in sizes.items()}
    test: set[str] = set()
    for thing in sorted(things, key=lambda names: _digest(names[0])):
        taken = Counter(map(_category, thing))
        if all(count <= room[category] for category, count in taken.items()):
            test.update(thing)
            for category, count in taken.items():
                room[category] -= count
    return test


# -- the files


def _unpack(archive: bytes) -> bytes:
    """The wanted tiles of a gzipped or xz-compressed tar, as a tar of their names and bytes only.

    Nothing is extracted to disk, and no more than ``MAX_UNPACKED`` bytes are ever made.

    Raises:
        ValueError: it isn't such an archive, would be too large, or holds no tiles.
    """
    found: dict[str, bytes] = {}
    try:
        content = (unxz if archive[:1] == b"\xfd" else gunzip)(archive, MAX_UNPACKED)
        if len(content) > MAX_UNPACKED:
            raise ValueError(f"it holds more than {MAX_UNPACKED >> 20} MB")
        for member, kind, data in tar_files(content):
            name = _wanted(member)
            if name is None:
                continue
            if kind != "0":
                raise ValueError(f"{member} is not a plain file")
            if name in found:
                raise ValueError(f"it holds {name} twice")
            if data.startswith(_HEAD):
                found[name] = data
    except ValueError as error:
        raise ValueError(f"it is not a whole .tar.gz or .tar.xz file: {error}") from error
    if not found:
        raise ValueError(f"it has no tiles in a folder {'/'.join(RELEASE)}")
    members = (_member(name, found[name]) for name in sorted(found))
    return b"".join(members) + bytes(2 * BLOCK)


def _wanted(member: str) -> str | None:
    """Of a tile that is wanted its name below the release's folder, of another file nothing."""
    parts = PurePosixPath(member).parts
    for i in range(min(2, len(parts))):  # below the archive's folder, or at the top of a mirror's
        if parts[i : i + 2] == RELEASE and member.endswith(".png"):
            name = "/".join(parts[i + 2 :])
            return name if _category(name) in CATEGORIES else None
    return None


def _member(name: str, data: bytes) -> bytes:
    """A member of a tar archive, its header as POSIX 1988 has it, of no owner and no time.

    Written here, since what Python's ``tarfile`` puts into unused fields may change some day.
    """
    place = name.encode("ascii")
    if len(place) > 100:
        raise ValueError(f"the name {name!r} should have at most 100 letters, it has {len(place)}")
    numbers = (b"0000644", b"0000000", b"0000000", b"%011o" % len(data), b"%011o" % 0)
    before = place.ljust(100, b"\0") + b"".join(number + b"\0" for number in numbers)
    after = b"0" + bytes(100) + b"ustar\00000" + bytes(247)
    checksum = b"%06o\0 " % (sum(before) + 8 * ord(" ") + sum(after))
    return before + checksum + after + data + bytes(-len(data) % BLOCK)


def _read_tiles(path: Path) -> dict[str, bytes]:
    """The pixels in RGBA of each tile in what ``_unpack`` made, by its name."""
    try:
        members = list(tar_files(read_plain(path, MAX_UNPACKED)))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} can't be read ({error}); delete it and load it again") from error
    tiles = {name: _read_png(data, f"{name!r} in {path}") for name, _, data in members}
    if strange := [name for name in tiles if _category(name) not in CATEGORIES]:
        raise DataError(
            f"{path} should hold tiles of {', '.join(CATEGORIES)}, got {strange[0]!r}; delete it "
            "and load it again"
        )
    return tiles


def _read_png(data: bytes, name: str) -> bytes:
    try:
        # Before the pixels are looked at, it is known that there are few.
        if not data.startswith(_HEAD):
            raise ValueError(f"it doesn't begin as one of {SIDE}x{SIDE} pixels does")
        if data[24:25] > b"\x08":  # Pillow would drop the lower bits of a colour without a word
            raise ValueError(f"expected at most 8 bits a colour, got {data[24]}")
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            return image.convert("RGBA").tobytes()
    except Exception as error:  # Pillow's readers raise a dozen kinds, down to SyntaxError
        told = repr(str(error))[:300]
        raise DataError(
            f"{name} is not a sound PNG file ({told}); delete the file from the cache and load it "
            "again"
        ) from error


_PROJECT = "crawl/tiles"
_COMMIT = "a6ea1655db5c044829d9eea19a232fa6fcac87b0"

TILES = RemoteFile(
    "dcss/tiles.tar",
    (
        f"https://github.com/{_PROJECT}/archive/{_COMMIT}.tar.gz",
        f"https://codeload.github.com/{_PROJECT}/tar.gz/{_COMMIT}",
    ),
    "47d2802069e7c94583a47d1718894d50d896ad121091dfa27af62bd286294c3d",
    5309952,
    unpack=_unpack,
    mirror_path="dcss/dcss_tiles_nov2015.tar.xz",
)
