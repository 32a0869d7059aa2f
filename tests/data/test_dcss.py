"""Tiles from small archives made here, and from the real one of GDM_MIRROR."""

import dataclasses
import gzip
import hashlib
import io
import lzma
import os
import random
import re
import struct
import tarfile
import zlib
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
import pytest
import torch

from gdm_lib.data import DataError, dcss

CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of the colour types of PNG


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(raw, kind=6, side=(32, 32), depth=8, extra=b""):
    """A PNG file of bytes, pixel after pixel, written from the format's description."""
    row = side[0] * CHANNELS[kind] * depth // 8
    lines = b"".join(b"\0" + raw[i : i + row] for i in range(0, len(raw), row))
    head = struct.pack(">IIBBBBB", *side, depth, kind, 0, 0, 0)
    parts = chunk(b"IHDR", head) + extra + chunk(b"IDAT", zlib.compress(lines))
    return b"\x89PNG\r\n\x1a\n" + parts + chunk(b"IEND", b"")


def noise(seed, outline=None):
    """Pixels in RGBA; those with one outline share their alpha, and that of 0 fills the tile."""
    dice = random.Random(seed)
    raw = bytearray(dice.randbytes(4 * 32 * 32))
    raw[3::4] = b"\xff" * 1024 if outline == 0 else random.Random(outline or seed).randbytes(1024)
    return bytes(raw)


NAMES = (
    *(f"{category}/thing{i}_a.png" for category in dcss.CATEGORIES for i in range(20)),
    *(f"mon/undead/ghoul{i}.png" for i in range(3)),
    "dngn/floor/a'b,c-1.png",
)
TILES = {name: noise(i, 0 if i % 3 == 0 else None) for i, name in enumerate(NAMES)}


@pytest.fixture
def pngs():
    return {name: png(raw) for name, raw in TILES.items()}


def tar(files, folder="releases/Nov-2015", others=()):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        entries = [
            ("README.md", b"read me"),
            (f"{folder}/README.png", b"of no category"),
            (f"{folder}/UNUSED/old.png", png(noise(1000))),
            (f"{folder}/gui/spells/fog.png", png(noise(1001))),
            (f"{folder.replace('Nov-2015', 'Ancient')}/mon/thing0_a.png", png(noise(1002))),
            (f"{folder}/mon/list.txt", b"rat"),
            (f"{folder}/mon/tall.png", png(bytes(4 * 32 * 48), side=(32, 48))),
            (f"{folder}/mon/wide.png", png(bytes(4 * 48 * 32), side=(48, 32))),
            *((f"{folder}/{name}", content) for name, content in files.items()),
        ]
        for name, content in entries:
            member = tarfile.TarInfo(name)
            member.size, member.mtime, member.uname = len(content), 1234567, "ann"
            archive.addfile(member, io.BytesIO(content))
        for member, content in others:
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """An empty cache, and a function that puts an archive into a mirror."""
    monkeypatch.setenv("GDM_DATA_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("GDM_MIRROR", (tmp_path / "mirror").as_uri())

    def fill(archive, pngs):
        """``pngs`` are the tiles whose checksum the module is made to expect."""
        path = tmp_path / "mirror" / "dcss" / "dcss_tiles_nov2015.tar.xz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(archive)
        content = dcss._unpack(gzip.compress(tar(pngs)))
        digest = hashlib.sha256(content).hexdigest()
        expected = dataclasses.replace(dcss.TILES, sha256=digest, size=len(content))
        monkeypatch.setattr(dcss, "TILES", expected)

    return fill


LAYOUTS = {
    "mirror": lambda pngs: lzma.compress(tar(pngs)),
    "project": lambda pngs: gzip.compress(tar(pngs, "tiles-a6ea1655/releases/Nov-2015")),
    "another order": lambda pngs: gzip.compress(tar(dict(reversed(pngs.items())))),
}


def over(raw, background):
    """What shows of RGBA bytes, in exact levels: a list of three channels."""
    return [
        [(c * a + below * (255 - a)) / 255 for c, a in zip(raw[channel::4], raw[3::4], strict=True)]
        for channel, below in enumerate(background)
    ]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_pixel_arrives_with_its_category_and_name(mirror, pngs, tmp_path, layout):
    mirror(LAYOUTS[layout](pngs), pngs)
    data = dcss.load((0, 1, 0.4))
    for part in (data.train, data.test):
        assert part.x.shape == (len(part), 3, 32, 32)
        assert len(part.names) == len(part.y) == len(part)
        assert part.x.dtype == torch.float32
        assert part.y.dtype == torch.int64
        assert part.x.is_contiguous()
        for x, y, name in zip(part.x, part.y.tolist(), part.names, strict=True):
            assert dcss.CATEGORIES[y] == name.split("/")[0]
            levels = x.double().flatten(1) * 255
            torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)
            exact = torch.tensor(over(TILES[name], (0, 255, 102)), dtype=torch.double)
            assert (levels - exact).abs().max() < 0.5 + 1e-4
            full = torch.tensor(list(TILES[name][3::4])) == 255
            assert torch.equal(levels.round()[:, full], exact[:, full])
    assert sorted(data.train.names + data.test.names) == sorted(TILES)
    # tiles are kept, in a tar archive that others can read, and nothing else is
    (kept,) = (path for path in (tmp_path / "cache").rglob("*") if path.is_file())
    with tarfile.open(kept) as archive:
        members = archive.getmembers()
        assert [member.name for member in members] == sorted(pngs)
        assert all(member.isreg() and member.mode == 0o644 for member in members)
        assert all(archive.extractfile(m).read() == pngs[m.name] for m in members)


def test_the_second_time_nothing_is_asked_for(mirror, pngs, tmp_path):
    mirror(lzma.compress(tar(pngs)), pngs)
    first = dcss.load()
    (tmp_path / "mirror" / "dcss" / "dcss_tiles_nov2015.tar.xz").unlink()
    second = dcss.load()
    assert first.train.names == second.train.names
    assert torch.equal(first.train.x, second.train.x)


def test_all_kinds_of_pixels_that_the_release_has(mirror, pngs):
    grey = bytes(range(256)) * 4
    half = grey[::-1]
    pair = bytes(b for both in zip(grey, half, strict=True) for b in both)
    triple = bytes(b for g in grey for b in (g, 7, 255 - g))
    palette = bytes(b for i in range(256) for b in (255 - i, i, 99))
    clear = bytes([0, 128]) + b"\xff" * 254
    paletted = chunk(b"PLTE", palette) + chunk(b"tRNS", clear)
    files = {
        "mon/grey.png": (png(grey, 0), [(g, g, g, 255) for g in grey]),
        "mon/pair.png": (png(pair, 4), [(g, g, g, a) for g, a in zip(grey, half, strict=True)]),
        "mon/rgb.png": (png(triple, 2), [(g, 7, 255 - g, 255) for g in grey]),
        "mon/indexed.png": (
            png(grey, 3, extra=paletted),
            [(255 - i, i, 99, clear[i]) for i in grey],
        ),
    }
    pngs |= {name: content for name, (content, _) in files.items()}
    mirror(gzip.compress(tar(pngs)), pngs)
    data = dcss.load((0, 0, 0))
    arrived = {n: x for p in (data.train, data.test) for n, x in zip(p.names, p.x, strict=True)}
    for name in files:
        x = arrived[name]
        raw = bytes(b for pixel in files[name][1] for b in pixel)
        exact = torch.tensor(over(raw, (0, 0, 0)), dtype=torch.double)
        assert (x.double().flatten(1) * 255 - exact).abs().max() < 0.5 + 1e-4, name


def test_the_background_shows_where_nothing_is_and_changes_nothing_else(mirror):
    clear = {f"item/clear{i}.png": bytes(3 * [i, 0, 0, 0] * 342)[:4096] for i in range(3)}
    pngs = {n: png(raw) for n, raw in (TILES | clear).items()}
    mirror(gzip.compress(tar(pngs)), pngs)
    grey, red = dcss.load(), dcss.load((1, 0, 0))
    for a, b in ((grey.train, red.train), (grey.test, red.test)):
        assert a.names == b.names
        for x, z, name in zip(a.x, b.x, a.names, strict=True):
            if "clear" in name:
                assert torch.equal(x, torch.full((3, 32, 32), 128 / 255))
                assert torch.equal(z, torch.eye(3)[0][:, None, None].expand(3, 32, 32))
            if name in TILES and min(TILES[name][3::4]) == 255:
                assert torch.equal(x, z)


@pytest.mark.parametrize(
    "background", [(0, 0), (0, 0, 0, 0), (0, 0, 255), (-0.1, 0, 0), (float("nan"), 0, 0)]
)
def test_a_background_that_is_no_colour(background):
    with pytest.raises(ValueError, match="background must be red, green and blue, each from 0 to"):
        dcss.load(background)


# -- the split


def test_variants_recolourings_and_duplicates_are_one_thing():
    outline = {"mon/red_imp.png": noise(1, 7), "player/body/blue.png": noise(2, 7)}
    full = {"mon/a_wall.png": noise(3, 0), "item/b_wall.png": noise(3, 0)}
    numbers = {f"mon/{n}.png": noise(n) for n in ("rat", "rat1", "rat_2", "rat3-04", "undead/rat9")}
    chained = {"item/imp1.png": noise(5, 9), "item/imp_2.png": noise(6, 10)}
    chained |= {"misc/x.png": noise(7, 9), "misc/y.png": noise(8, 10)}
    surfaces = {f"dngn/floor/{n}.png": noise(n) for n in ("grass0", "grass_flowers_red1", "grass")}
    alone = {
        f"{n}.png": noise(n)
        for n in ("dngn/wall/grass_2", "mon/ratty", "mon/rat_m", "misc/12", "misc/13", "misc/3_f")
    }
    alone |= {"effect/c.png": noise(11, 0), "effect/d.png": noise(12, 0)}  # no outline
    groups = (outline, full, numbers, chained, surfaces)
    tiles = {name: raw for group in groups for name, raw in group.items()} | alone
    expected = {frozenset(group) for group in groups} | {frozenset([name]) for name in alone}
    for order in (1, -1):
        found = dcss._things(dict(list(tiles.items())[::order]))
        assert {frozenset(group) for group in found} == expected
        assert sum(map(len, found)) == len(tiles)


def test_a_tenth_of_each_category_goes_to_the_test_and_no_thing_is_divided():
    dice = random.Random(0)
    things, names = [], []
    for i in range(400):
        category = dice.choice(dcss.CATEGORIES)
        things.append([f"{category}/{i}_{k}" for k in range(dice.choice((1, 1, 2, 5, 40)))])
        if i % 7 == 0:  # across categories
            things[-1].append(f"misc/{i}_more")
        names += things[-1]
    sizes = Counter(name.split("/")[0] for name in names)
    test = dcss._test_names(things, sizes)
    assert all(test.issuperset(thing) or not test & set(thing) for thing in things)
    taken = Counter(name.split("/")[0] for name in test)
    for category, size in sizes.items():
        assert 0.1 * size - 1 < taken[category] <= 0.1 * size
    assert dcss._test_names(things[::-1], sizes) == test


# -- what may be wrong


def link(name):
    member = tarfile.TarInfo(f"releases/Nov-2015/{name}")
    member.type, member.linkname = tarfile.SYMTYPE, "/etc/hostname"
    return member, b""


def again(name):
    return tarfile.TarInfo(f"elsewhere/releases/Nov-2015/{name}"), b""


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: b"<html>moved</html>", "can't be unpacked.*is not a whole .tar.gz or .tar.xz"),
        (lambda p: b"", "is not a whole .tar.gz or .tar.xz"),
        (lambda p: lzma.compress(tar(p))[:-100], "is not a whole .tar.gz or .tar.xz"),
        (lambda p: gzip.compress(tar(p))[:-100], "is not a whole .tar.gz or .tar.xz"),
        (lambda p: gzip.compress(gzip.compress(tar(p))), "is not a whole .tar.gz or .tar.xz"),
        (lambda p: gzip.compress(tar(p, "Nov-2015")), "no tiles in a folder releases/Nov-2015"),
        (lambda p: gzip.compress(tar(p, "a/b/releases/Nov-2015")), "has no tiles in a folder"),
        (lambda p: gzip.compress(tar(dict(list(p.items())[1:]))), r"\d+ bytes came, expected \d+"),
        (
            lambda p: gzip.compress(tar(p | {NAMES[0]: p[NAMES[0]][:-1] + b"?"})),
            "what came has SHA-256",
        ),
        (
            lambda p: gzip.compress(tar({n.replace("ghoul1", "zomby"): b for n, b in p.items()})),
            "what came has SHA-256",
        ),
        (lambda p: gzip.compress(tar(p, others=[link("mon/more.png")])), "is not a plain file"),
        (lambda p: gzip.compress(tar(p, others=[again(NAMES[0])])), f"holds {NAMES[0]} twice"),
        (
            lambda p: gzip.compress(tar(p | {"mon/" + 50 * "a/" + "b.png": p[NAMES[0]]})),
            "should have at most 100 letters, it has 109",
        ),
        (lambda p: gzip.compress(bytes((64 << 20) + 1), 1), "it holds more than 64 MB"),
    ],
)
def test_a_damaged_archive_is_refused_and_leaves_nothing(mirror, pngs, tmp_path, damage, message):
    mirror(damage(pngs), pngs)
    with pytest.raises(DataError, match=message):
        dcss.load()
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


SOUND = png(noise(0))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (png(2 * noise(0), depth=16), "expected at most 8 bits a colour, got 16"),
        (png(bytes(2048), kind=0, depth=16), "expected at most 8 bits a colour, got 16"),
        (SOUND[:24], "is not a sound PNG file"),
        (SOUND[:60], "is not a sound PNG file"),
        (SOUND[:-40], "is not a sound PNG file"),
        (SOUND[:24] + b"\x08\x09" + SOUND[26:], "is not a sound PNG file"),
        (SOUND[:33] + SOUND[33:].replace(b"IDAT", b"JDAT"), "is not a sound PNG file"),
    ],
)
def test_a_tile_that_is_not_what_it_should_be(mirror, pngs, other, message):
    """As if the checksum had been taken of something else."""
    pngs["mon/undead/ghoul1.png"] = other
    mirror(gzip.compress(tar(pngs)), pngs)
    with pytest.raises(DataError, match=message) as told:
        dcss.load()
    assert "'mon/undead/ghoul1.png' in " in str(told.value)
    assert "load it again" in str(told.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("mon/tall.png", png(bytes(4 * 32 * 48), side=(32, 48)), "32x32 pixels does"),
        ("mon/photo.png", b"\xff\xd8\xff\xe0\0\x10JFIF", "is not a sound PNG file"),
        ("gui/fog.png", SOUND, "should hold tiles of dngn, effect.*got 'gui/fog.png'; delete it"),
    ],
    ids=["size", "format", "category"],
)
def test_what_unpacking_leaves_out_is_not_read_either(tmp_path, name, content, message):
    path = tmp_path / "tiles.tar"
    path.write_bytes(dcss._member(name, content) + bytes(1024))
    with pytest.raises(DataError, match=message):
        dcss._read_tiles(path)


def test_the_addresses_are_those_of_one_commit():
    urls = dcss.TILES.urls
    commits = {url.removesuffix(".tar.gz").rsplit("/", 1)[1] for url in urls}
    assert len(commits) == 1
    assert len(commits.pop()) == 40
    assert all(url.startswith("https://") for url in urls)
    assert len(dcss.TILES.sha256) == 64


# -- the real ones

real = pytest.mark.skipif("GDM_MIRROR" not in os.environ, reason="GDM_MIRROR names no mirror")


@real
def test_real_tiles(tmp_path, monkeypatch):
    monkeypatch.setenv("GDM_DATA_DIR", str(tmp_path))
    data = dcss.load()
    assert (len(data.train), len(data.test)) == (3342, 368)
    counts = [torch.bincount(part.y).tolist() for part in (data.train, data.test)]
    assert counts == [[996, 177, 606, 199, 626, 738], [110, 19, 67, 22, 69, 81]]
    assert not set(data.train.names) & set(data.test.names)
    # Black makes some tiles the same that differ in their shadows.
    for parts, distinct in ((dcss.load((0, 0, 0)), 3632), (data, 3655)):
        train, test = ({x.numpy().tobytes() for x in p.x} for p in (parts.train, parts.test))
        assert not train & test
        assert len(train | test) == distinct

    # No tile of the test has a near-duplicate to learn from: of the pixels in which there is
    # something in either, fewer than 4 of 5 are the same.
    def colours(part):
        levels = (part.x * 255).round().int()
        return (levels[:, 0] << 16 | levels[:, 1] << 8 | levels[:, 2]).flatten(1).numpy()

    train, test = colours(data.train), colours(data.test)
    grey = 128 << 16 | 128 << 8 | 128
    shown = train != grey
    for tile in test:
        visible = shown | (tile != grey)
        same = (train == tile) & visible
        assert (np.count_nonzero(same, 1) / np.count_nonzero(visible, 1)).max() < 0.8


@real
def test_no_real_tile_is_on_the_list_of_those_with_an_unknown_licence(tmp_path, monkeypatch):
    mirror = urlsplit(os.environ["GDM_MIRROR"])
    if mirror.scheme != "file":
        pytest.skip("the mirror is no folder")
    with tarfile.open(Path(url2pathname(mirror.path)) / str(dcss.TILES.mirror_path)) as archive:
        text = archive.extractfile("TILES_UNDER_UNKNOWN_LICENSE.md").read().decode()
    listed = {line.rsplit("/", 1)[-1] for line in re.findall(r"^\s*- (\S.*\.png)\s*$", text, re.M)}
    assert len(listed) > 1000
    monkeypatch.setenv("GDM_DATA_DIR", str(tmp_path))
    data = dcss.load()
    names = {name.rsplit("/", 1)[1] for part in (data.train, data.test) for name in part.names}
    assert not names & listed
