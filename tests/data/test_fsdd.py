"""Spoken digits from small archives made here, and from the real one of GDM_MIRROR."""

import dataclasses
import gzip
import hashlib
import io
import lzma
import math
import os
import struct
import tarfile

import pytest
import torch

from gdm_lib.data import DataError, fsdd

SPEAKERS, TAKES = ("ann", "bob"), 12  # more than ten takes: names don't sort as numbers do
NAMES = sorted(f"{d}_{s}_{t}.wav" for d in range(10) for s in SPEAKERS for t in range(TAKES))


def wav(samples, rate=8000, channels=1, bits=16):
    """A wav file of little-endian bytes, written from the format's description."""
    data = struct.pack(f"<{len(samples)}{'h' if bits == 16 else 'B'}", *samples)
    frame = channels * bits // 8
    form = struct.pack("<HHIIHH", 1, channels, rate, rate * frame, frame, bits)
    chunks = b"WAVEfmt " + struct.pack("<I", len(form)) + form
    chunks += b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(chunks)) + chunks


def samples_of(name):
    """Its own for each name: the length and every level tell which one it is."""
    i = NAMES.index(name)
    return [-32768, 32767, *(i + 7 * t for t in range(3 + i % 40)), -i]


@pytest.fixture
def wavs():
    return {name: wav(samples_of(name)) for name in NAMES}


def tar(files, folder="recordings", others=()):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entries = [("README.md", b"read me"), *((f"{folder}/{n}", b) for n, b in files.items())]
        for name, content in entries:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for member, content in others:
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A mirror of two speakers, an empty cache, and a function that puts an archive there."""
    monkeypatch.setenv("GDM_DATA_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("GDM_MIRROR", (tmp_path / "mirror").as_uri())
    monkeypatch.setattr(fsdd, "SPEAKERS", SPEAKERS)
    monkeypatch.setattr(fsdd, "TAKES", TAKES)

    def fill(archive, wavs):
        """``wavs`` are the recordings whose checksum the module is made to expect."""
        path = tmp_path / "mirror" / "fsdd" / "fsdd.tar.xz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(archive)
        content = b"".join(wavs[name] for name in sorted(wavs))
        digest = hashlib.sha256(content).hexdigest()
        expected = dataclasses.replace(fsdd.RECORDINGS, sha256=digest, size=len(content))
        monkeypatch.setattr(fsdd, "RECORDINGS", expected)

    return fill


LAYOUTS = {
    "mirror": lambda wavs: lzma.compress(tar(wavs)),
    "project": lambda wavs: gzip.compress(tar(wavs, "free-spoken-digit-dataset-26eb9/recordings")),
    "another order": lambda wavs: gzip.compress(tar(dict(reversed(wavs.items())))),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_sample_arrives_with_its_digit_speaker_and_take(mirror, wavs, tmp_path, layout):
    mirror(LAYOUTS[layout](wavs), wavs)
    data = fsdd.load()
    seen = []
    for part, takes in ((data.train, range(5, TAKES)), (data.test, range(5))):
        assert len(part) == len(part.x) == 10 * len(SPEAKERS) * len(takes)
        keys = list(zip(part.y.tolist(), part.speaker.tolist(), part.take.tolist(), strict=True))
        assert keys == [(d, s, t) for d in range(10) for s in range(2) for t in takes]
        for x, (digit, speaker, take) in zip(part.x, keys, strict=True):
            name = f"{digit}_{SPEAKERS[speaker]}_{take}.wav"
            assert x.dtype == torch.float32
            assert (x * 32768).tolist() == samples_of(name)
            seen.append(name)
        for labels in (part.y, part.speaker, part.take):
            assert labels.dtype == torch.int64
    assert sorted(seen) == NAMES
    # the recordings are kept, and the archive isn't
    (kept,) = (path for path in (tmp_path / "cache").rglob("*") if path.is_file())
    assert kept.read_bytes() == b"".join(wavs[name] for name in NAMES)


def test_the_second_time_nothing_is_asked_for(mirror, wavs, tmp_path):
    mirror(lzma.compress(tar(wavs)), wavs)
    first = fsdd.load()
    (tmp_path / "mirror" / "fsdd" / "fsdd.tar.xz").unlink()
    second = fsdd.load()
    assert all(map(torch.equal, first.train.x, second.train.x))


def test_padded_sounds_are_those_that_fit_with_silence_behind(mirror, wavs):
    mirror(lzma.compress(tar(wavs)), wavs)
    part = fsdd.load().train
    lengths = torch.tensor([len(x) for x in part.x])
    for length in (20, int(lengths.max())):
        sounds, which = part.padded(length)
        assert sounds.shape == (len(which), length)
        assert torch.equal(which, (lengths <= length).nonzero()[:, 0])
        for sound, i in zip(sounds, which.tolist(), strict=True):
            assert torch.equal(sound[: lengths[i]], part.x[i])
            assert not sound[lengths[i] :].any()
    assert len(which) == len(part)
    none, which = part.padded(1)
    assert none.shape == (0, 1)
    assert part.y[which].tolist() == []
    with pytest.raises(ValueError, match="length must be at least 1 sample, got 0"):
        part.padded(0)


def flipped(archive):
    middle = len(archive) // 2
    return (
        archive[:middle]
        + bytes(255 - b for b in archive[middle : middle + 50])
        + archive[middle + 50 :]
    )


def endless():
    """A header that announces more bytes than any machine could count."""
    member = tarfile.TarInfo("endless")
    member.size = 2**80
    return member.tobuf(tarfile.GNU_FORMAT)


def link(name):
    member = tarfile.TarInfo(f"recordings/{name}")
    member.type, member.linkname = tarfile.SYMTYPE, "/etc/hostname"
    return member, b""


def again(name):
    return tarfile.TarInfo(f"elsewhere/recordings/{name}"), b""


def holes(name):
    """A sparse file: a petabyte that takes no room in the archive."""
    member = tarfile.TarInfo(f"recordings/{name}")
    member.size = 512
    member.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": f"recordings/{name}",
        "GNU.sparse.realsize": str(10**15),
    }
    return member, b"0\n".ljust(512, b"\0")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda w: b"<html>moved</html>", "can't be unpacked.*is not a whole .tar.gz or .tar.xz"),
        (lambda w: b"", "is not a whole .tar.gz or .tar.xz"),
        (lambda w: lzma.compress(tar(w))[:-100], "is not a whole .tar.gz or .tar.xz"),
        (lambda w: gzip.compress(tar(w))[:-100], "is not a whole .tar.gz or .tar.xz"),
        (lambda w: flipped(lzma.compress(tar(w))), "is not a whole .tar.gz or .tar.xz"),
        (lambda w: gzip.compress(tar(w))[:10] + b"\xff" * 50, "is not a whole .tar.gz or .tar.xz"),
        (lambda w: gzip.compress(endless() + tar(w)), "is not a whole .tar.gz or .tar.xz"),
        (lambda w: gzip.compress(tar(w)[:-50_000]), "not a whole .tar.gz|lacks 40 of the 240"),
        (lambda w: gzip.compress(gzip.compress(tar(w))), "is not a whole .tar.gz or .tar.xz"),
        (
            lambda w: gzip.compress(tar({n: b for n, b in w.items() if n != "7_bob_3.wav"})),
            "lacks 1 of the 240 recordings, such as 7_bob_3.wav",
        ),
        (lambda w: gzip.compress(tar(w, "records")), "lacks 240 of the 240 recordings"),
        (
            lambda w: gzip.compress(tar(w | {"0_ann_0.wav": w["0_ann_0.wav"][:-1] + b"?"})),
            "what came has SHA-256",
        ),
        (
            lambda w: gzip.compress(tar(w | {"0_ann_0.wav": w["0_ann_1.wav"]})),
            r"\d+ bytes came, expected \d+",
        ),
        (lambda w: gzip.compress(tar(w, others=[link("0_ann_0.wav")])), "is not a plain file"),
        (lambda w: gzip.compress(tar(w, others=[again("0_ann_0.wav")])), "holds 0_ann_0.wav twice"),
        (lambda w: gzip.compress(tar(w, others=[holes("0_ann_0.wav")])), "is not a plain file"),
        (lambda w: gzip.compress(bytes((64 << 20) + 1), 1), "it holds more than 64 MB"),
    ],
)
def test_a_damaged_archive_is_refused_and_leaves_nothing(mirror, wavs, tmp_path, damage, message):
    mirror(damage(wavs), wavs | {"padding": bytes(1 << 20)} if "64 MB" in message else wavs)
    with pytest.raises(DataError, match=message):
        fsdd.load()
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            wav([1, 2, 3], rate=16000),
            "3_bob_1.wav in .*8000 Hz in 1.*got 16000 Hz, 1 and",
        ),
        (wav([1, 2, 3, 4], channels=2), "got 8000 Hz, 2 and 16"),
        (wav([1, 2, 3, 4], bits=8), "got 8000 Hz, 1 and 8"),
        (wav([1, 2, 3, 4], channels=2, bits=8), "got 8000 Hz, 2 and 8"),
        (wav([]), "0 bytes for 0 samples"),
        (wav([1, 2, 3]).replace(b"data\x06", b"data\x0c"), "not a whole wav|6 bytes for 6"),
        (
            wav([1, 2, 3]).replace(b"fmt \x10", b"fmt \xf0"),
            "3_bob_1.wav .* is not a whole wav file",
        ),
        (wav([1, 2, 3]).replace(b"WAVE", b"WAIL"), "3_bob_1.wav .* is not a whole wav file"),
        (wav([1, 2, 3]).replace(b"RIFF", b"RAFF"), "3_bob_1.wav .* is not a whole wav file"),
    ],
)
def test_a_recording_that_is_not_what_it_should_be(mirror, wavs, other, message):
    """As if the checksum had been taken of something else."""
    wavs["3_bob_1.wav"] = other
    mirror(gzip.compress(tar(wavs)), wavs)
    with pytest.raises(DataError, match=message):
        fsdd.load()


def test_bytes_behind_the_last_recording_are_told(mirror, wavs):
    wavs["9_bob_9.wav"] += b"more"
    mirror(gzip.compress(tar(wavs)), wavs)
    with pytest.raises(DataError, match=r"its 240 recordings take"):
        fsdd.load()


def test_the_addresses_are_those_of_one_commit():
    urls = fsdd.RECORDINGS.urls
    commits = {url.removesuffix(".tar.gz").rsplit("/", 1)[1] for url in urls}
    assert len(commits) == 1
    assert len(commits.pop()) == 40
    assert all(url.startswith("https://") for url in urls)
    assert len(fsdd.RECORDINGS.sha256) == 64


def test_a_word_goes_through_its_phases_and_then_comes_silence():
    series = fsdd.spoken(3, 1, 0.4)
    assert series.shape == (10 * fsdd.PHASES + len(fsdd.VOICES) + 1, fsdd.SPEECH // fsdd.FRAME)
    others, voices, silence = series[:-3], series[-3:-1], series[-1]
    phases = others[3 * fsdd.PHASES : 4 * fsdd.PHASES]
    frames = round(0.4 * fsdd.RATE / fsdd.FRAME)
    # Each moment blends at most two neighbouring phases, in order, and nothing else is on.
    torch.testing.assert_close(phases.sum(0), 1 - silence)
    assert silence.tolist() == [0.0] * frames + [1.0] * (len(silence) - frames)
    assert float(others.sum()) == pytest.approx(float(phases.sum()))
    assert (phases > 0).sum(0).max() == 2
    at = phases[:, :frames].T @ torch.arange(fsdd.PHASES).float()
    assert (at.diff() > 0).all()
    assert voices.unique(dim=1).tolist() == [[0.0], [1.0]]
    assert set(fsdd.VOICES) <= set(fsdd.SPEAKERS)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ((10, 0), "digit must be 0 to 9 and voice 0 to 1, got 10 and 0"),
        ((-1, 0), "got -1 and 0"),
        ((0, 2), "got 0 and 2"),
        ((0, 0, 0.6), "seconds must be above 0 and at most 0.55, got 0.6"),
        ((0, 0, 0.0), "got 0.0"),
    ],
)
def test_what_nobody_could_say_is_told(asked, told):
    with pytest.raises(ValueError, match=told):
        fsdd.spoken(*asked)


@pytest.mark.skipif("GDM_MIRROR" not in os.environ, reason="GDM_MIRROR names no mirror")
def test_real_recordings(tmp_path, monkeypatch):
    monkeypatch.setenv("GDM_DATA_DIR", str(tmp_path))
    data = fsdd.load()
    assert (len(data.train), len(data.test)) == (2700, 300)
    for part, each in ((data.train, 45), (data.test, 5)):
        cell = part.y * len(fsdd.SPEAKERS) + part.speaker
        assert torch.bincount(cell).tolist() == [each] * 60
    train, test = ({x.numpy().tobytes() for x in part.x} for part in (data.train, data.test))
    assert len(train) == 2700
    assert len(test) == 300
    assert not train & test
    lengths = [len(x) / fsdd.RATE for part in (data.train, data.test) for x in part.x]
    assert min(lengths) == pytest.approx(0.1435)
    assert max(lengths) == pytest.approx(2.28275)
    assert math.fsum(lengths) / 60 == pytest.approx(21.87, abs=0.01)  # minutes
