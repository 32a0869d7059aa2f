"""``AudioProbe``: what is heard is the clip, and what is seen is its sound."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from gdm_lib.widgets.audio_probe import FLOOR_DB, AudioProbe, spectrogram
from tests.widgets.test_frames import unpacked

RATE = 8_000


def tone(hertz, seconds=1.0, amplitude=0.5, rate=RATE):
    time = torch.arange(round(seconds * rate), dtype=torch.float64) / rate
    return amplitude * torch.sin(2 * math.pi * hertz * time)


def noise(seconds, rate):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(round(seconds * rate), generator=generator) * 2 - 1


def decibels(widget, clip=0):
    """The stored spectrogram, ``(F, T)``, low frequencies first."""
    frame = unpacked(widget.sheet, widget.spec["layout"])[clip][..., 0]
    return frame[::-1].astype(int) + widget.spec["floor"]


def test_what_is_stored_is_the_clip():
    clips = [noise(0.2, RATE), -tone(440, 0.1, 1.0), torch.tensor([1.0, -1.0, 0.0])]
    widget = AudioProbe(clips, RATE)
    stored = np.frombuffer(widget.samples, "<i2")
    assert widget.spec["lengths"] == [1600, 800, 3]
    error = np.abs(stored / 32_767 - torch.cat([c.double() for c in clips]).numpy())
    assert error.max() <= 1 / 65_534 * (1 + 1e-9)
    assert stored[-3:].tolist() == [32_767, -32_767, 0]


@pytest.mark.parametrize("rate", [4_000, 8_000, 16_000, 22_050, 44_100])
def test_a_tone_stands_at_its_frequency_and_level(rate):
    hertz = 1000.0
    widget = AudioProbe([tone(hertz, 0.5, 0.5, rate)], rate)
    levels = decibels(widget)
    bins = levels.argmax(0)[4:-4] * rate / widget.spec["window"]
    assert np.abs(bins - hertz).max() <= rate / widget.spec["window"] / 2
    # Not at the ends, where the clip is mirrored. Between two bins Hann's window loses 1.42 dB.
    inner = levels.max(0)[4:-4]
    expected = 20 * math.log10(0.5)
    assert inner.max() <= round(expected) + 0.01
    assert inner.min() >= expected - 1.42 - 0.5


def test_full_scale_is_zero_decibels_and_half_is_six_less():
    for amplitude, expected in ((1.0, 0.0), (0.5, -6.0206), (0.001, -60.0)):
        middle = spectrogram(tone(1000, 0.5, amplitude), 256, 64)[32, 20]
        assert float(middle) == pytest.approx(expected, abs=1e-3)


def test_the_transform_is_numpys():
    clip, window, hop = noise(0.3, RATE).double(), 256, 100
    taper = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    got = spectrogram(clip, window, hop).numpy()
    assert got.shape == (129, 1 + len(clip) // hop)
    for column in (3, 10, 20):
        piece = clip.numpy()[column * hop - 128 : column * hop + 128]
        piece = piece - np.average(piece, weights=taper)
        expected = 20 * np.log10(2 * np.abs(np.fft.rfft(piece * taper)) / taper.sum())
        assert np.allclose(got[1:, column], expected[1:], atol=1e-9)


@pytest.mark.parametrize("constant", [0.0, 0.002, -0.3])
def test_a_constant_is_silence(constant):
    """Codes of mu-law rest at a level that isn't quite zero, which nobody hears."""
    widget = AudioProbe([torch.full((RATE,), constant, dtype=torch.float64)], RATE)
    assert (decibels(widget) == FLOOR_DB).all()
    heard = decibels(AudioProbe([tone(1000, amplitude=0.5) + constant], RATE))
    assert np.array_equal(heard, decibels(AudioProbe([tone(1000, amplitude=0.5)], RATE)))


def test_a_click_stands_at_its_time():
    clip = torch.zeros(2 * RATE)
    clip[6_000] = 1.0
    widget = AudioProbe([clip], RATE)
    energy = (10.0 ** (decibels(widget) / 20)).sum(0)
    assert energy.argmax() * widget.spec["hop"] == pytest.approx(6_000, abs=widget.spec["hop"] / 2)
    assert decibels(widget)[:, :50].max() == FLOOR_DB


def test_a_shorter_clip_ends_in_silence():
    widget = AudioProbe({"long": tone(1000, 2.0), "short": tone(1000, 1.0)}, RATE)
    short = decibels(widget, 1)
    half = RATE // widget.spec["hop"]
    assert (short[:, half + 1 :] == FLOOR_DB).all()
    assert np.array_equal(short[:, : half - 4], decibels(widget)[:, : half - 4])


def test_long_clips_keep_the_picture_small():
    widget = AudioProbe([tone(440, 15.0)], RATE)
    assert widget.spec["layout"]["width"] <= 321


@pytest.mark.parametrize(
    ("count", "seconds", "rate"), [(1, 13, 8_000), (1, 6, 16_000), (5, 2, 8_000)]
)
def test_what_the_documentation_says_fits_does_fit(count, seconds, rate):
    widget = AudioProbe(list(noise(count * seconds, rate).chunk(count)), rate)
    assert len(widget.samples) + len(widget.sheet) <= 300_000


def test_names_controls_and_still_picture():
    widget = AudioProbe({"real": tone(440), "generated": tone(660)}, RATE)
    assert widget.spec["names"] == ["real", "generated"]
    assert (widget.values, widget.spec["rows"]) == ({"position": 0.0, "clip": 0}, 3)
    said = widget._repr_mimebundle_()[0]["text/plain"]
    assert said == "[widget: Waveform and spectrogram of real: 1.00 s.]"
    one = AudioProbe([np.zeros(800)], RATE)
    assert (one.values, one.spec["rows"]) == ({"position": 0.0}, 2)
    assert one.spec["names"] == ["clip 1"]
    still = Image.open(io.BytesIO(widget.poster))
    assert still.width / still.height == pytest.approx(widget.spec["aspect"], abs=0.01)
    assert widget.spec["ticks"]["pitch"][-1] == (4.0, "4")
    assert widget.spec["ticks"]["wave"] == [(-1.0, "\N{MINUS SIGN}1"), (0.0, "0"), (1.0, "1")]


def test_the_still_picture_shows_the_tone_where_it_is():
    widget = AudioProbe([tone(1000)], RATE)
    still = np.asarray(Image.open(io.BytesIO(widget.poster)).convert("RGB"), int).sum(-1)
    margin, (height, width) = widget.spec["margin"], still.shape
    inner = height / 2 - margin["top"] - margin["gap"] - margin["bottom"]
    foot = height - 2 * margin["bottom"]
    plot = 2 * inner * (1 - widget.spec["wave"])
    column = still[round(foot - plot) + 2 : foot - 2, width // 2]
    assert (len(column) + 2 - column.argmin()) / plot == pytest.approx(1 / 4, abs=0.02)


@pytest.mark.parametrize(
    ("clips", "rate", "options", "said"),
    [
        ([], RATE, {}, "names: expected one for each of one or more clips, got 0 for 0"),
        ([tone(440)], RATE, {"names": ["a", "b"]}, "names: .* got 2 for 1"),
        ([tone(440), 3 * tone(440)], RATE, {}, r"clips\[1\]: .*in \[-1, 1\], got -1.5 to 1.5"),
        ([torch.full((10,), torch.nan)], RATE, {}, r"clips\[0\]: .* got NaN"),
        ([torch.zeros(2, 10)], RATE, {}, r"clips\[0\]: .*samples \(T,\), got \(2, 10\)"),
        ([torch.zeros(0)], RATE, {}, r"clips\[0\]: .* got \(0,\)"),
        ([np.zeros(10, np.int16)], RATE, {}, r"clips\[0\]: .*int16"),
        ([tone(440)], 100, {}, "rate: expected 3,000 to 48,000 Hz, got 100"),
        ([tone(440, 20)], RATE, {}, "clips: 20.0 s at 8,000 Hz take 320,000 bytes"),
    ],
)
def test_bad_input_is_named(clips, rate, options, said):
    with pytest.raises(ValueError, match=said):
        AudioProbe(clips, rate, **options)
