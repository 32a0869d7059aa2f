"""The Free Spoken Digit Dataset: 3,000 English digits at 8 kHz, downloaded once and verified.

Six speakers say each digit fifty times. The project serves an archive whose bytes vary with the
server's compression, so what is verified and kept is what the archive holds: the wav files one
after the other, in the order of their names. Data card: ``data/fsdd.md``.
"""

from __future__ import annotations

import io
import wave
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from gdm_lib._files import read_plain
from gdm_lib.data._download import DataError, RemoteFile, fetch
from gdm_lib.data._packed import gunzip, tar_files, unxz
from gdm_lib.data.splits import Splits

__all__ = [
    "FRAME",
    "PHASES",
    "RATE",
    "SPEAKERS",
    "SPEECH",
    "VOICES",
    "Recordings",
    "load",
    "spoken",
]

RATE = 8000
"""Samples per second."""

SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
"""The speakers' names, in the order of ``Recordings.speaker``."""

VOICES = ("george", "jackson")
"""The speakers whom ``spoken`` knows, and ``autoregressive/wavenet_digits`` has learned."""

SPEECH = 4400
"""Samples of the time that ``spoken`` describes: 0.55 s."""

FRAME = 80
"""Samples for each value of the series that ``spoken`` gives."""

PHASES = 8
"""Features of ``spoken`` for how far a word has come, of each digit its own."""

DIGITS = 10
TAKES = 50
TEST_TAKES = 5  # the project's own split: takes 0 to 4 are for the test
FULL_SCALE = 1 << 15
MAX_UNPACKED = 64 << 20  # bytes; the archive unpacks to 24 MB


@dataclass(frozen=True, eq=False)
class Recordings:
    """Sounds of different lengths, and who says what in them.

    Attributes:
        x: float32 in [-1, 1), multiples of 2^-15, ``RATE`` samples per second: one tensor
            ``(T_i,)`` for each recording.
        y: int64, the digit, ``(N,)``.
        speaker: int64 index into ``SPEAKERS``, ``(N,)``.
        take: int64, which of the speaker's fifty takes of this digit, ``(N,)``.
    """

    x: tuple[Tensor, ...]
    y: Tensor
    speaker: Tensor
    take: Tensor

    def __len__(self) -> int:
        return len(self.x)

    def padded(self, length: int) -> tuple[Tensor, Tensor]:
        """The recordings that fit into ``length`` samples, with silence behind them.

        Returns:
            The sounds ``(M, length)``, and which ones they are: int64 ``(M,)``, so that
            ``recordings.y[which]`` are their digits. The M recordings are those of at most
            ``length`` samples.

        Raises:
            ValueError: ``length`` is below 1.
        """
        if length < 1:
            raise ValueError(f"length must be at least 1 sample, got {length}")
        which = [i for i, sound in enumerate(self.x) if len(sound) <= length]
        sounds = torch.zeros(len(which), length)
        for row, i in zip(sounds, which, strict=True):
            row[: len(self.x[i])] = self.x[i]
        return sounds, torch.tensor(which, dtype=torch.int64)


def load() -> Splits[Recordings]:
    """The recordings in the project's own split: 2,700 to train, 300 to test.

    The speakers are the same in both parts: of each speaker and digit, takes 0 to 4 are for the
    test. Each part is ordered by digit, speaker and take.

    Raises:
        DataError: the files can't be had, or aren't what they should be.
    """
    path = fetch(RECORDINGS)
    sounds = _read_wavs(path)
    test = [key for key in sorted(sounds) if key[2] < TEST_TAKES]
    train = [key for key in sorted(sounds) if key[2] >= TEST_TAKES]

    def part(keys: list[tuple[int, int, int]]) -> Recordings:
        y, speaker, take = torch.tensor(keys, dtype=torch.int64).T
        return Recordings(tuple(sounds[key] for key in keys), y, speaker, take)

    return Splits(part(train), part(test))


def spoken(digit: int, voice: int, seconds: float = 0.45) -> Tensor:
    """What a model can be told of a sound: a series of 100 values a second.

    A word goes through ``PHASES`` phases in the time that it takes, each blending into the next;
    each digit has features of its own for them, so that they can come to mean its phonemes. After
    it comes silence. Features for the voice are constant: a context that is the same for all
    samples is global conditioning.

    Args:
        digit: 0 to 9.
        voice: index into ``VOICES``.
        seconds: how long the word takes, at most ``SPEECH / RATE``.

    Returns:
        ``(features, SPEECH / FRAME)``, of features ``10 PHASES`` for the word, one for each voice
        and one for silence; stack several for a batch.

    Raises:
        ValueError: there is no such digit or voice, or the word would take too long.
    """
    if not (0 <= digit < DIGITS and 0 <= voice < len(VOICES)):
        raise ValueError(
            f"digit must be 0 to {DIGITS - 1} and voice 0 to {len(VOICES) - 1}, got {digit} and "
            f"{voice}"
        )
    longest = SPEECH / RATE
    if not 0 < seconds <= longest:
        raise ValueError(f"seconds must be above 0 and at most {longest}, got {seconds}")
    frames = SPEECH // FRAME
    middle = (torch.arange(frames) + 0.5) * FRAME / RATE / seconds * (PHASES - 1)
    phases = (1 - (middle - torch.arange(PHASES)[:, None]).abs()).clamp(min=0)
    speaking = (middle <= PHASES - 1).float()
    series = torch.zeros(DIGITS * PHASES + len(VOICES) + 1, frames)
    series[digit * PHASES :][:PHASES] = phases * speaking
    series[DIGITS * PHASES + voice] = 1
    series[-1] = 1 - speaking
    return series


def _names() -> dict[str, tuple[int, int, int]]:
    """The files' names in the order of their characters; the digit, speaker and take of each."""
    names = {
        f"{digit}_{name}_{take}.wav": (digit, speaker, take)
        for digit in range(DIGITS)
        for speaker, name in enumerate(SPEAKERS)
        for take in range(TAKES)
    }
    return dict(sorted(names.items()))


def _unpack(archive: bytes) -> bytes:
    """The recordings of a gzipped or xz-compressed tar, one after the other.

    Nothing is extracted to disk, and no more than ``MAX_UNPACKED`` bytes are ever made.

    Raises:
        ValueError: it isn't such an archive, would be too large, or lacks a recording.
    """
    names = _names()
    found: dict[str, bytes] = {}
    try:
        content = (unxz if archive[:1] == b"\xfd" else gunzip)(archive, MAX_UNPACKED)
        if len(content) > MAX_UNPACKED:
            raise ValueError(f"it holds more than {MAX_UNPACKED >> 20} MB")
        for member, kind, data in tar_files(content):
            place = PurePosixPath(member)
            if place.parent.name != "recordings" or place.name not in names:
                continue
            if kind != "0":
                raise ValueError(f"{member} is not a plain file")
            if place.name in found:
                raise ValueError(f"it holds {place.name} twice")
            found[place.name] = data
    except ValueError as error:
        raise ValueError(f"it is not a whole .tar.gz or .tar.xz file: {error}") from error
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(
            f"it lacks {len(missing):,} of the {len(names):,} recordings, such as {missing[0]}"
        )
    return b"".join(found[name] for name in names)


def _read_wavs(path: Path) -> dict[tuple[int, int, int], Tensor]:
    """What ``_unpack`` made, by digit, speaker and take.

    A wav file is a RIFF chunk: ``RIFF``, the length of what follows as a little-endian 32-bit
    integer, and that much. So each tells where the next one begins.
    """
    try:
        raw = read_plain(path, MAX_UNPACKED)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} can't be read ({error}); delete it and load it again") from error
    sounds = {}
    end = 0
    for name, key in _names().items():
        start = end
        end = start + 8 + int.from_bytes(raw[start + 4 : start + 8], "little")
        sounds[key] = _read_wav(raw[start:end], f"{name} in {path}")
    if end != len(raw):
        raise DataError(
            f"{path} has {len(raw):,} bytes, its {len(sounds):,} recordings take {end:,}; delete "
            "it and load it again"
        )
    return sounds


def _read_wav(raw: bytes, name: str) -> Tensor:
    try:
        with wave.open(io.BytesIO(raw)) as file:
            form = (file.getframerate(), file.getnchannels(), 8 * file.getsampwidth())
            count = file.getnframes()
            samples = file.readframes(count)
    except (wave.Error, EOFError, RuntimeError) as error:  # the last of a chunk that is too long
        raise DataError(
            f"{name} is not a whole wav file ({error}); delete the folder from the cache and load "
            "it again"
        ) from error
    if form != (RATE, 1, 16) or not count or len(samples) != 2 * count:
        raise DataError(
            f"{name} should have samples at {RATE} Hz in 1 channel of 16 bits, got {form[0]} Hz, "
            f"{form[1]} and {form[2]}, and {len(samples)} bytes for {count} samples; delete the "
            "folder from the cache and load it again"
        )
    # A bytearray, since torch warns of memory that it can't write to.
    return torch.frombuffer(bytearray(samples), dtype=torch.int16).float() / FULL_SCALE


_PROJECT = "Jakobovski/free-spoken-digit-dataset"
_COMMIT = "26eb9aaf76e81b692f806f9140c2d2777410d7a1"

RECORDINGS = RemoteFile(
    "fsdd/recordings.wavs",
    (
        f"https://github.com/{_PROJECT}/archive/{_COMMIT}.tar.gz",
        f"https://codeload.github.com/{_PROJECT}/tar.gz/{_COMMIT}",
    ),
    "ddb17656a0bca4c5ddace082be188ca630516dc2ef1110afe3c4e9cc71173de4",
    21128848,
    unpack=_unpack,
    mirror_path="fsdd/fsdd.tar.xz",
)
