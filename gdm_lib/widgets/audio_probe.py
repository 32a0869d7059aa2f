"""``AudioProbe``: listen to clips, and see their waveform and spectrogram."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from torch import Tensor

from gdm_lib.viz.display import CSS_DPI
from gdm_lib.viz.style import COLORS, INK, PAPER
from gdm_lib.widgets._base import Widget, buffer, script
from gdm_lib.widgets._frames import FRAME_BYTES, pack, ticks

__all__ = ["FLOOR_DB", "AudioProbe", "spectrogram"]

FLOOR_DB = -80
"""What is quieter looks like silence."""

WIDTH, HEIGHT = 560, 340
MARGIN = {"left": 46, "right": 62, "top": 10, "gap": 14, "bottom": 40}
"""Around and between the two plots, in CSS pixels."""

WAVE = 0.3
"""Share of the waveform in the height of both plots."""

WINDOW_S = 0.032
COLUMNS = 320
RATES = (3_000, 48_000)


class AudioProbe(Widget):
    """Clips to listen to, with their waveform and their spectrogram.

    A clip is stored in 16 bits a sample, like a CD: exact to 1 / 65,534. All clips with their
    spectrograms may take 300,000 bytes: one clip of 13 s at 8 kHz or of 6 s at 16 kHz fits, and so
    do five of 2 s at 8 kHz.

    Args:
        clips: mono, each ``(T,)`` with values in [-1, 1], by name or in order; they may differ in
            length.
        rate: samples a second, from 3,000 to 48,000.
        names: of the clips, if they have none yet; "clip 1" and so on by default.

    Raises:
        ValueError: no clips, another shape, values out of range or not numbers, another rate, not
            one name for each clip, or more sound than can be stored.
    """

    _esm = script("audio_probe")

    samples = buffer()
    """All clips, one after the other, 16-bit integers."""

    sheet = buffer()
    """The spectrograms: decibels above ``FLOOR_DB`` as grey levels, high frequencies on top."""

    def __init__(
        self,
        clips: Mapping[str, Tensor | np.ndarray] | Sequence[Tensor | np.ndarray],
        rate: int,
        *,
        names: Sequence[str] | None = None,
    ) -> None:
        if isinstance(clips, Mapping):
            names, clips = names or list(clips), list(clips.values())
        names = [f"clip {i + 1}" for i in range(len(clips))] if names is None else list(names)
        if not len(clips) or len(names) != len(clips):
            raise ValueError(
                f"names: expected one for each of one or more clips, got {len(names)} for "
                f"{len(clips)}"
            )
        if not RATES[0] <= rate <= RATES[1]:
            raise ValueError(f"rate: expected {RATES[0]:,} to {RATES[1]:,} Hz, got {rate}")
        waves = [_checked(clip, f"clips[{i}]") for i, clip in enumerate(clips)]
        lengths = [len(wave) for wave in waves]
        longest = max(lengths)
        _held(2 * sum(lengths), lengths, rate)
        window, hop = _window(rate, longest)
        levels = [_levels(wave, rate, longest) for wave in waves]
        sheet, layout = pack(levels)
        _held(2 * sum(lengths) + len(sheet), lengths, rate)
        seconds = longest / rate
        spec = {
            "names": names,
            "lengths": lengths,
            "rate": rate,
            "window": window,
            "hop": hop,
            "layout": layout,
            "floor": FLOOR_DB,
            "shades": _shades(),
            "margin": MARGIN,
            "wave": WAVE,
            "ticks": {
                "time": ticks(0, seconds),
                "wave": ticks(-1, 1)[::2],
                "pitch": ticks(0, rate / 2000),
            },
        }
        super().__init__(
            spec,
            width=WIDTH,
            aspect=WIDTH / HEIGHT,
            rows=2 + (len(names) > 1),
            poster=_drawn(spec, waves[0], levels[0]),
            alt=f"Waveform and spectrogram of {names[0]}: {lengths[0] / rate:.2f} s.",
            values={"position": 0.0, **({"clip": 0} if len(names) > 1 else {})},
            samples=torch.cat(waves).mul(32_767).round().numpy().astype("<i2").tobytes(),
            sheet=sheet,
        )


def spectrogram(clip: Tensor, window: int, hop: int) -> Tensor:
    """The short-time Fourier transform's magnitude in decibels.

    A sine of amplitude 1 has 0 dB. Column ``j`` belongs to sample ``j * hop``, row ``k`` to the
    frequency ``k / window`` times the rate. The window is Hann's, and what it sees is taken about
    its mean: nobody hears a constant, such as the level at which mu-law codes rest. A clip is
    mirrored at its ends: silence there would show as a click.

    Args:
        clip: ``(T,)``.
        window: in samples.
        hop: samples from one column to the next.

    Returns:
        ``(window // 2 + 1, 1 + T // hop)``.
    """
    taper = torch.hann_window(window, dtype=torch.float64)
    mode = "reflect" if len(clip) > window // 2 else "constant"
    waves = torch.stft(clip.double(), window, hop, window=taper, pad_mode=mode, return_complex=True)
    constant = torch.fft.rfft(taper)[:, None] / taper.sum()
    waves = waves - waves[0].real * constant
    return 20 * (2 * waves.abs() / taper.sum()).clamp_min(1e-12).log10()


def _checked(clip: Tensor | np.ndarray, what: str) -> Tensor:
    wave = torch.as_tensor(clip).detach().cpu()
    if wave.dim() != 1 or not len(wave) or not wave.is_floating_point():
        raise ValueError(
            f"{what}: expected floating-point samples (T,), got {tuple(wave.shape)} {wave.dtype}"
        )
    if not wave.isfinite().all():
        raise ValueError(f"{what}: expected finite samples, got NaN or infinity")
    if wave.abs().max() > 1:
        raise ValueError(
            f"{what}: expected samples in [-1, 1], got {wave.min():.3g} to {wave.max():.3g}; "
            "divide by the largest magnitude, or clamp"
        )
    return wave.double()


def _held(size: int, lengths: Sequence[int], rate: int) -> None:
    if size > FRAME_BYTES:
        raise ValueError(
            f"clips: {sum(lengths) / rate:.1f} s at {rate:,} Hz take {size:,} bytes or more, and a "
            f"notebook carries at most {FRAME_BYTES:,} for a widget; take shorter or fewer clips, "
            "or a lower rate"
        )


def _window(rate: int, length: int) -> tuple[int, int]:
    """Window and hop in samples, so that the picture is not wider than it is shown."""
    window = 2 ** round(math.log2(WINDOW_S * rate))
    return window, max(window // 4, math.ceil(length / COLUMNS))


def _levels(wave: Tensor, rate: int, longest: int) -> np.ndarray:
    """Whole decibels above the floor; a shorter clip is silent up to the length of the longest."""
    window, hop = _window(rate, longest)
    decibels = spectrogram(wave, window, hop).clamp(FLOOR_DB, 0)
    levels = np.zeros((window // 2 + 1, 1 + longest // hop), np.uint8)
    levels[:, : decibels.shape[1]] = (decibels - FLOOR_DB).round().flip(0).numpy()
    return levels


def _shades() -> list[list[int]]:
    """A colour for each decibel: silence is paper, and louder is darker."""
    loud = np.linspace(0, 1, 1 - FLOOR_DB)[:, None]
    share = np.clip(4 * loud, 0, 1)
    mixed = (1 - share) * to_rgb(PAPER) + share * matplotlib.colormaps["magma_r"](loud[:, 0])[:, :3]
    return (mixed * 255).round().astype(int).tolist()


def _drawn(spec: Mapping[str, Any], wave: Tensor, levels: np.ndarray) -> np.ndarray:
    """The still picture, where the script will draw its own."""
    figure = Figure(figsize=(WIDTH / CSS_DPI, HEIGHT / CSS_DPI), dpi=2 * CSS_DPI, facecolor=PAPER)
    figure.set_layout_engine("none")
    rate, window, hop = spec["rate"], spec["window"], spec["hop"]
    inner = HEIGHT - MARGIN["top"] - MARGIN["gap"] - MARGIN["bottom"]
    across = MARGIN["left"] / WIDTH, 1 - (MARGIN["left"] + MARGIN["right"]) / WIDTH
    low, high = MARGIN["bottom"] / HEIGHT, (1 - WAVE) * inner / HEIGHT
    upper = figure.add_axes(
        (across[0], low + high + MARGIN["gap"] / HEIGHT, across[1], WAVE * inner / HEIGHT)
    )
    lower = figure.add_axes((across[0], low, across[1], high))
    upper.plot(np.arange(len(wave)) / rate, wave.numpy(), color=INK, linewidth=0.5)
    colours = np.array(spec["shades"], np.uint8)
    step, bin_khz = hop / rate, rate / window / 1000
    lower.imshow(
        colours[levels],
        aspect="auto",
        interpolation="nearest",  # a fifth of the size of a smooth picture
        extent=(
            -step / 2,
            (levels.shape[1] - 0.5) * step,
            -bin_khz / 2,
            rate / 2000 + bin_khz / 2,
        ),
    )
    seconds = max(spec["lengths"]) / rate
    for ax, name, limits in ((upper, "wave", (-1, 1)), (lower, "pitch", (0, rate / 2000))):
        ax.set(xlim=(0, seconds), ylim=limits, facecolor=PAPER)
        ax.set_yticks(*zip(*spec["ticks"][name], strict=True))
        ax.set_xticks(*zip(*spec["ticks"]["time"], strict=True))
        ax.grid(False)
        ax.axvline(0, color=COLORS["model"], linewidth=1.5)
        ax.tick_params(labelsize=9, labelcolor=INK, length=0)
        for spine in ax.spines.values():
            spine.set(visible=True, color="#c9c6bc", linewidth=0.75)
    upper.tick_params(labelbottom=False)
    strip = figure.add_axes(
        (1 - (MARGIN["right"] - 10) / WIDTH, low, 10 / WIDTH, high), xticks=[], yticks=[]
    )
    strip.imshow(colours[::-1, None], aspect="auto")
    strip.set_frame_on(False)
    for text, x, y, align in (
        ("time, s", across[0] + across[1], 4 / HEIGHT, ("right", "bottom")),
        ("kHz", 4 / WIDTH, low + high, ("left", "top")),
        ("0 dB", 1 - (MARGIN["right"] - 24) / WIDTH, low + high, ("left", "top")),
        (f"\N{MINUS SIGN}{-FLOOR_DB}", 1 - (MARGIN["right"] - 24) / WIDTH, low, ("left", "bottom")),
    ):
        figure.text(x, y, text, ha=align[0], va=align[1], fontsize=9, color=INK)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
