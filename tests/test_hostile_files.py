"""A thousand hostile files to each loader, and hostile arguments to the command.

Each ends with a named error that says what to do, or with the right value. The files are made from
sound ones with hypothesis's dice, see ``helpers.hostile``. Nothing may hang, change what lies on
the disk, leave a temporary file, or give a wrong value without a word.
"""

import dataclasses
import gzip
import hashlib
import io
import json
import lzma
import os
import random
import socketserver
import tarfile
import threading
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume
from PIL import Image

from gdm_lib import _tensorfile, cli, pretrained
from gdm_lib.data import DataError, _download, dcss, fsdd, glyphs, mnist
from gdm_lib.data._download import RemoteFile, fetch
from tests.helpers import hostile

COUNT = 1000


def damaged(content: bytes, dice: random.Random) -> bytes:
    """A copy that was cut off, lengthened, overwritten, shuffled, or had bits flipped."""
    copy = bytearray(content)
    place = dice.randrange(len(copy))
    match dice.randrange(8):
        case 0:
            del copy[place:]
        case 1:
            copy += dice.randbytes(dice.choice((1, 8, 1000)))
        case 2:
            copy[place] ^= 1 << dice.randrange(8)
        case 3:
            copy[place : place + 8] = dice.choice((b"\0" * 8, b"\xff" * 8, dice.randbytes(8)))
        case 4:
            del copy[place : place + dice.randrange(1, 20)]
        case 5:
            other = dice.randrange(len(copy))
            copy[place:place] = copy[other : other + 50]
        case 6:
            for _ in range(dice.randrange(2, 30)):
                copy[dice.randrange(len(copy))] = dice.randrange(256)
        case 7:
            copy = bytearray(dice.randbytes(dice.randrange(200)))
    assume(copy != content)
    return bytes(copy)


def test_a_thousand_are_damaged_and_a_fault_in_one_is_found() -> None:
    made: list[bytes] = []
    hostile(lambda dice: made.append(damaged(b"sound" * 20, dice)))
    assert len(made) >= COUNT
    assert len(set(made)) > COUNT / 2  # some are short

    def check(dice: random.Random) -> None:
        assert damaged(b"sound" * 20, dice)[50:51] == b"s", "one that was overwritten there"

    with pytest.raises(AssertionError, match="overwritten there"):
        hostile(check)


def on_disk(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# -- reference weights and their records

TOY = """
from torch import nn

__all__ = ["small", "other"]

def small():
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))

other = small
"""


@pytest.fixture
def weights(tmp_path: Path, add_family) -> Path:
    """Two sets of toy weights."""
    add_family(TOY, "")
    folder = tmp_path / "weights"
    for seed, name in enumerate(("toy/small", "toy/other")):
        torch.manual_seed(seed)
        record = {"steps": 3, "seconds": 1.5, "metrics": {"bits": -0.25}}
        pretrained.save(pretrained.build(name), name, record, directory=folder)
    return folder


def tried(kind: type[Exception], function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What the function returns and no message; or, after an error of the kind that it names,
    nothing and the message, which is one short line."""
    try:
        return function(*args, **kwargs), ""
    except kind as error:
        told = str(error)
    assert 0 < len(told) < 2000
    assert told.isprintable(), repr(told)
    return None, told


def refused(path: Path, folder: Path) -> bool:
    """Whether loading the weights fails by naming the file and the way out. What loads is whole,
    and nothing on the disk changes."""
    before = on_disk(folder)
    model, told = tried(ValueError, pretrained.load, "toy/small", directory=folder)
    assert on_disk(folder) == before
    if told:
        assert str(path) in told
        assert "gdm train toy/small" in told or "Build the model" in told or "delete it" in told
        return True
    assert not model.training
    assert all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values())
    return False


def test_damaged_weights(weights: Path) -> None:
    path = weights / "toy/small.safetensors"
    content = path.read_bytes()

    def check(dice: random.Random) -> None:
        path.write_bytes(damaged(content, dice))
        assert refused(path, weights)

    hostile(check)


def test_damaged_weights_that_their_record_vouches_for(weights: Path) -> None:
    """As somebody would write them on purpose: then it is the format that must hold."""
    path = weights / "toy/small.safetensors"
    record = pretrained.record("toy/small", directory=weights)
    content = path.read_bytes()
    ended = []

    def check(dice: random.Random) -> None:
        other = damaged(content, dice)
        path.write_bytes(other)
        write_record(weights, record | {"bytes": len(other), "sha256": digest(other)})
        ended.append(refused(path, weights))

    hostile(check)
    assert 0 < ended.count(False) < COUNT / 2  # other numbers, in the same places


def write_record(folder: Path, told: dict[str, Any]) -> None:
    told = told | {"record_sha256": pretrained._digest(told)}
    (folder / "toy/small.json").write_text(json.dumps(told), "utf-8")


def test_damaged_records(weights: Path) -> None:
    path = weights / "toy/small.json"
    right = pretrained.record("toy/small", directory=weights)
    other = pretrained.load("toy/other", directory=weights)
    content = path.read_bytes()

    def check(dice: random.Random) -> None:
        path.write_bytes(damaged(content, dice))
        if not refused(path, weights):  # a line break for a space, say
            assert pretrained.record("toy/small", directory=weights) == right
        if dice.randrange(10) == 0:  # a model that has nothing to do with it
            assert pretrained.identify(other, directory=weights) == "toy/other"

    hostile(check)


DEEP = "[" * 20_000 + "]" * 20_000
HOSTILE = (
    *("null", "true", "-1", "0.5", "1e999", "NaN", "Infinity", "9" * 5000, '""', '"\\ud800"'),
    *('"x"', "[]", "{}", '{"a": "b"}', '{"a": NaN}', '{"a": true}', "[[1]]", f'"{"x" * 5000}"'),
    *('"a\\nb"', '"\\u001b[2J"', DEEP, f'"{"F" * 64}"', '"../../etc/passwd"', "2000001"),
)
TEXTS = {'"x"', f'"{"F" * 64}"', '"../../etc/passwd"'}
SOUND = {  # what an entry may well be
    "command": TEXTS, "torch": TEXTS, "gdm_lib": TEXTS, "parameters": {"2000001"},
    "steps": {"2000001", "absent"}, "seconds": {"0.5", "2000001", "absent"},
    "metrics": {"{}", "absent"},
}  # fmt: skip


def test_records_with_hostile_entries(weights: Path) -> None:
    """Each entry with each hostile value, and each left out, under a digest that is right."""
    path = weights / "toy/small.json"
    right = pretrained.record("toy/small", directory=weights)
    model = pretrained.load("toy/small", directory=weights)
    for key in right.keys() - {"record_sha256"}:
        others = {k: v for k, v in right.items() if k != key}
        for value in (*HOSTILE, "absent"):
            try:
                told = others if value == "absent" else {**others, key: json.loads(value)}
                write_record(weights, told)
            except (ValueError, RecursionError):  # can't be written with a digest
                path.write_text(f'{json.dumps(others)[:-1]}, "{key}": {value}}}', "utf-8")
            _, told = tried(ValueError, pretrained.record, "toy/small", directory=weights)
            assert (not told) == (value in SOUND.get(key, ())), (key, value[:80], told)
            assert not told or str(path) in told
            assert pretrained.identify(model, directory=weights) == "toy/small"


@pytest.mark.parametrize("dtype", ["F4", "F6_E2M3", "F8_E8M0", "F32", "I128", 5, None])
def test_dtypes_that_torch_lacks_are_told(dtype: object) -> None:
    header = {"a": {"dtype": dtype, "shape": [4], "data_offsets": [0, 2]}}
    text = json.dumps(header).encode()
    content = len(text).to_bytes(8, "little") + text + b"xx"
    with pytest.raises(ValueError, match=r"weights is not a whole safetensors file .*; delete it"):
        _tensorfile.decode(content, Path("weights"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_neither_stored_nor_loaded(
    weights: Path, value: float
) -> None:
    model = pretrained.load("toy/small", directory=weights)
    before = on_disk(weights)
    with torch.no_grad():
        model[0].bias[1] = value
    with pytest.raises(ValueError, match=r"0\.bias holds nan or infinite values"):
        pretrained.save(model, "toy/small", {}, directory=weights)
    assert on_disk(weights) == before
    content = _tensorfile.encode(pretrained.as_stored(model), {})
    path = weights / "toy/small.safetensors"
    path.write_bytes(content)
    record = pretrained.record("toy/small", directory=weights)
    write_record(weights, record | {"bytes": len(content), "sha256": digest(content)})
    with pytest.raises(ValueError, match=r"small\.safetensors holds nan or infinite .* 0\.bias"):
        pretrained.load("toy/small", directory=weights)


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_numbers_of_another_kind_are_refused(weights: Path) -> None:
    model = pretrained.build("toy/small")
    state = model.state_dict()
    for name, dtype in (
        ("0.weight", torch.int64), ("0.weight", torch.bool), ("0.bias", torch.complex64),
        ("1.num_batches_tracked", torch.float32), ("1.num_batches_tracked", torch.uint8),
    ):  # fmt: skip
        wrong = state | {name: state[name].to(dtype)}
        with pytest.raises(ValueError, match=f"w does not fit Sequential: {name} holds {dtype}"):
            _tensorfile.load_state(model, wrong, Path("w"))


# -- data sets


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a mirror beside it."""
    monkeypatch.setenv("GDM_DATA_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("GDM_MIRROR", (tmp_path / "mirror").as_uri())
    return tmp_path / "cache"


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def test_damaged_downloads_and_caches(cache: Path, tmp_path: Path) -> None:
    content = random.Random(4).randbytes(3000)
    file = RemoteFile("set/file", ("http://127.0.0.1:9/",), digest(content), len(content))
    source, place = tmp_path / "mirror/set/file", cache / "set/file"

    def check(dice: random.Random) -> None:
        other = damaged(content, dice)
        put(source, other)
        place.unlink(missing_ok=True)
        if dice.random() < 0.5:
            put(place, other)
        before = on_disk(tmp_path)
        _, told = tried(DataError, fetch, file)
        assert str(place) in told
        assert source.as_uri() in told
        assert on_disk(tmp_path) == before
        if dice.randrange(10) == 0:  # and when the source is sound again
            put(source, content)
            assert fetch(file).read_bytes() == content
            assert [path.name for path in place.parent.iterdir()] == ["file"]

    hostile(check)


class Answers(socketserver.StreamRequestHandler):
    """A server that answers whatever it is asked with the next of its answers."""

    def handle(self) -> None:
        self.rfile.readline()
        self.wfile.write(self.server.answers.pop())


def test_damaged_answers(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = random.Random(16).randbytes(300)
    sound = (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 300\r\n\r\n" + content,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n12C\r\n"
        + content
        + b"\r\n0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: /a\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 1\r\n\r\n?",
    )
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(_download, "TIMEOUT", 2)
    with socketserver.TCPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            address = f"http://127.0.0.1:{server.server_address[1]}"
            monkeypatch.setenv("GDM_MIRROR", address)
            file = RemoteFile("set/file", (), digest(content), len(content))

            def check(dice: random.Random) -> None:
                answer = dice.choice(sound)
                other = answer if dice.randrange(50) == 0 else damaged(answer, dice)
                server.answers = [other] * 6  # a redirection may lead back here
                path, told = tried(DataError, fetch, file)
                if told:
                    assert f"{address}/set/file: " in told
                    assert not cache.exists()
                else:
                    assert path.read_bytes() == content
                    path.unlink()
                    path.parent.rmdir()
                    cache.rmdir()

            hostile(check)
        finally:
            server.shutdown()
            thread.join()


def idx(shape: tuple[int, ...], data: bytes) -> bytes:
    header = bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)
    return header + data


def test_damaged_idx_files(tmp_path: Path) -> None:
    path = tmp_path / "images.gz"
    data = random.Random(6).randbytes(2 * 28 * 28)
    sound = idx((2, 28, 28), data)
    packed = gzip.compress(sound, mtime=0)

    def check(dice: random.Random) -> None:
        inside = dice.random() < 0.3
        content = gzip.compress(damaged(sound, dice), 1) if inside else damaged(packed, dice)
        path.write_bytes(content)
        images, told = tried(DataError, mnist._read_idx, path)
        if told:
            assert str(path) in told
            assert "delete it and load it again" in told
            return
        # Other pixels, which the checksum of the file is there for; or nothing but another header
        # of gzip's.
        assert images.dtype == torch.uint8
        unpacked = gzip.decompress(content)
        assert unpacked == idx(tuple(images.shape), images.numpy().tobytes())

    hostile(check)


def wav(samples: bytes) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, fsdd.RATE, 0, "NONE", ""))
        file.writeframes(samples)
    return buffer.getvalue()


@pytest.fixture
def recordings(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Ten recordings instead of three thousand."""
    monkeypatch.setattr(fsdd, "SPEAKERS", ("ann",))
    monkeypatch.setattr(fsdd, "TAKES", 1)
    dice = random.Random(9)
    return {name: wav(dice.randbytes(20 + 2 * dice.randrange(20))) for name in fsdd._names()}


def tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", pax_headers={"comment": "26eb9"}) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"free-spoken-digit-dataset/recordings/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def test_damaged_archives(recordings: dict[str, bytes], cache: Path, tmp_path: Path) -> None:
    content = b"".join(recordings.values())
    expected = dataclasses.replace(fsdd.RECORDINGS, sha256=digest(content), size=len(content))
    sound = tar(recordings)
    source = tmp_path / "mirror/fsdd/fsdd.tar.xz"
    packed = gzip.compress(sound, mtime=0), lzma.compress(sound)
    for archive in packed:
        assert fsdd._unpack(archive) == content

    def check(dice: random.Random) -> None:
        if dice.random() < 0.4:
            archive = damaged(dice.choice(packed), dice)
        else:
            archive = gzip.compress(damaged(sound, dice), 1)
        unpacked, told = tried(ValueError, fsdd._unpack, archive)
        assert told or len(unpacked) < 2 * len(sound)
        if dice.randrange(5) == 0:  # what is kept is what the checksum is of
            put(source, archive)
            before = on_disk(tmp_path)
            _, told = tried(DataError, fetch, expected)
            if not told:
                assert (cache / expected.path).read_bytes() == content
                (cache / expected.path).unlink()
            else:
                assert source.as_uri() in told
            assert on_disk(tmp_path) == before

    hostile(check)


def tile(dice: random.Random) -> bytes:
    buffer = io.BytesIO()
    picture = Image.frombytes("RGBA", (32, 32), dice.randbytes(4 * 32 * 32))
    (picture.quantize(16) if dice.random() < 0.5 else picture).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def tiles() -> bytes:
    """An archive of a dozen tiles, as the cache keeps it."""
    dice = random.Random(11)
    names = [f"{category}/{i}.png" for category in dcss.CATEGORIES for i in range(2)]
    return b"".join(dcss._member(name, tile(dice)) for name in names) + bytes(1024)


def test_damaged_archives_of_tiles(tiles: bytes) -> None:
    members = {f"releases/Nov-2015/{name}": data for name, _, data in dcss.tar_files(tiles)}
    sound = b"".join(dcss._member(*member) for member in members.items()) + bytes(1024)
    packed = gzip.compress(sound, mtime=0), lzma.compress(sound)
    for archive in packed:
        assert dcss._unpack(archive) == tiles

    def check(dice: random.Random) -> None:
        if dice.random() < 0.4:
            archive = damaged(dice.choice(packed), dice)
        else:
            archive = gzip.compress(damaged(sound, dice), 1)
        unpacked, told = tried(ValueError, dcss._unpack, archive)
        assert told or len(unpacked) < 2 * len(sound)

    hostile(check)


def test_damaged_tiles(tiles: bytes, tmp_path: Path) -> None:
    """As if the checksum had been taken of something else."""
    path = tmp_path / "tiles.tar"

    def check(dice: random.Random) -> None:
        if dice.random() < 0.5:
            path.write_bytes(damaged(tiles, dice))
        else:
            data = damaged(tile(dice), dice)
            path.write_bytes(dcss._member("mon/one.png", data) + bytes(1024))
        pixels, told = tried(DataError, dcss._read_tiles, path)
        if told:
            assert str(path) in told
            assert "load it again" in told
            return
        assert all(len(raw) == 4 * 32 * 32 for raw in pixels.values())

    hostile(check)


def test_damaged_recordings(recordings: dict[str, bytes], tmp_path: Path) -> None:
    """As if the checksum had been taken of something else."""
    path = tmp_path / "recordings.wavs"
    content = b"".join(recordings.values())

    def check(dice: random.Random) -> None:
        path.write_bytes(damaged(content, dice))
        sounds, told = tried(DataError, fsdd._read_wavs, path)
        if told:
            assert str(path) in told
            assert "load it again" in told
            return
        assert len(sounds) == len(recordings)
        for sound in sounds.values():
            assert sound.dtype == torch.float32
            assert sound.abs().max() <= 1

    hostile(check)


# -- the cache of drawn glyphs


def drawn() -> dict[str, torch.Tensor]:
    data = glyphs.load(2, 1, size=8, characters="AB")
    return {"train": data.train.x, "test": data.test.x, **vars(data.train.factors)}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_a_damaged_cache_of_glyphs_is_drawn_anew(cache: Path) -> None:
    right = drawn()
    (path,) = (cache / "glyphs").iterdir()
    content = path.read_bytes()
    shapes = {"train": (2, 1, 8, 8), "test": (1, 1, 8, 8)}
    levels = glyphs._kept(path, shapes)

    def check(dice: random.Random) -> None:
        other = damaged(content, dice)
        path.write_bytes(other)
        kept = glyphs._kept(path, shapes)
        assert kept is None or same(kept, levels)  # only the header is spelt another way
        if dice.randrange(20) == 0:
            assert same(drawn(), right)
            assert list((cache / "glyphs").iterdir()) == [path]
            assert path.read_bytes() == (content if kept is None else other)

    hostile(check)


def test_a_cache_of_glyphs_with_other_pictures_is_drawn_anew(cache: Path) -> None:
    """As somebody would write it on purpose, with a checksum that is right."""
    right = drawn()
    (path,) = (cache / "glyphs").iterdir()
    content = path.read_bytes()
    levels, _ = _tensorfile.read(path)
    train, test = levels["train"], levels["test"]
    for wrong in (
        {"train": train},
        {"train": train, "test": test, "more": test},
        {"train": train[:1], "test": test},
        {"train": train, "test": test.repeat(2, 1, 1, 1)},
        {"train": train.repeat(1, 3, 1, 1), "test": test},
        {"train": train[..., :7], "test": test},
        {"train": train.flatten(1), "test": test},
        {"train": train.float() * 1e9, "test": test},
        {"train": train.float() * float("nan"), "test": test},
        {"train": train.long() - 300, "test": test},
        {"train": train.to(torch.int8), "test": test},
        {"train": train, "test": test.new_zeros(100_000)},
    ):
        _tensorfile.write(path, wrong, {"sha256": glyphs._digest(wrong)})
        assert same(drawn(), right)
        assert path.read_bytes() == content
    _tensorfile.write(path, levels, {"sha256": "0" * 64})
    drawn()
    assert path.read_bytes() == content
    _tensorfile.write(path, {"train": train + 1, "test": test}, {"sha256": glyphs._digest(levels)})
    assert same(drawn(), right)


def test_what_is_no_plain_file_in_the_cache_of_glyphs(cache: Path) -> None:
    right = drawn()
    (path,) = (cache / "glyphs").iterdir()
    for make in (os.mkfifo, lambda p: p.symlink_to("/dev/zero"), lambda p: p.symlink_to(p)):
        path.unlink()
        make(path)
        assert same(drawn(), right)
        assert path.is_file()
    path.unlink()
    path.mkdir()
    with pytest.warns(UserWarning, match="could not be kept"):
        assert same(drawn(), right)


# -- the command line

RECIPES = """
from gdm_lib.recipes import Recipe

small = other = Recipe(lambda model: {"steps": 0}, lambda model: {"error": 0.25})
"""
WORDS = (
    *("data", "train", "where", "--out", "--out=", "--version", "--help", "--", "-", "-x", ""),
    *("mnist", "fsdd", "toy/small", "toy/none", "toy/../small", "../small", "toy/small/", "out"),
    *("file", "file/below", "\0", "a\0b", "\udcff", "\u4e2d", "a\nb\r\tc", "\x1b[2J", "%s", "{0}"),
    *(
        "x" * 5000,
        "x" * 300,
        "/dev/null/x",
        "/proc/none",
        "~nosuchuser",
        "@file",
        "--o",
        "-1",
        "1e9",
    ),
)


def test_hostile_arguments(
    cache: Path,
    tmp_path: Path,
    add_family,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    add_family(TOY, RECIPES)
    monkeypatch.setattr(pretrained, "where", lambda: tmp_path / "weights")
    (tmp_path / "work").mkdir()
    (tmp_path / "work/file").touch()
    monkeypatch.chdir(tmp_path / "work")
    stored = []

    def check(dice: random.Random) -> None:
        arguments = dice.choices(WORDS, k=dice.randrange(5))
        if dice.randrange(20) == 0:
            arguments = ["train", "toy/small"]
        elif dice.random() < 0.7:
            arguments = [dice.choice(("data", "train", "where")), *arguments]
        before = on_disk(tmp_path)
        try:
            status = cli.main(arguments)
        except SystemExit as ended:
            status = ended.code or 0
        told = capsys.readouterr()
        assert status in (0, 1, 2), arguments
        if status:
            assert told.err.startswith("gdm: "), arguments
            assert told.err.count("\n") == 1, arguments
            assert told.err[:-1].isprintable(), arguments
            assert told.out == ""
            assert on_disk(tmp_path) == before, arguments
        else:
            assert told.err == ""
            stored.append("of training" in told.out)

    hostile(check)
    assert any(stored)  # those that were sound
    assert not list(tmp_path.rglob("*.part"))
    assert not cache.exists()
