"""Recipes of the chapters on autoregressive models."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam

from gdm_lib.autoregression import Autoregressive
from gdm_lib.autoregressive.gated_pixelcnn import GatedPixelCNN
from gdm_lib.autoregressive.pixelcnn_pp import PixelCNNpp
from gdm_lib.autoregressive.wavenet import (
    Upsample,
    WaveNet,
    dilations,
    mu_law_decode,
    mu_law_encode,
)
from gdm_lib.data import fsdd, glyphs
from gdm_lib.likelihoods import Softmax
from gdm_lib.nn import ClassEmbedding
from gdm_lib.pretrained import Recipe
from gdm_lib.pretrained.flows import GLYPHS
from gdm_lib.training import cosine, fit

__all__ = [
    "COLOUR_DIGITS",
    "COLOUR_GLYPHS",
    "COLOUR_LEVELS",
    "GLYPH_LEVELS",
    "SPEAKERS",
    "SPEECH",
    "gated_glyphs",
    "pp_digits",
    "pp_full",
    "pp_no_downsampling",
    "pp_no_shortcuts",
    "pp_softmax",
    "spoken",
    "to_levels",
    "wavenet_digits",
]

GLYPH_LEVELS = 8
"""Grey levels that ``gated_glyphs`` was trained on; its letters are ``flows.GLYPHS``."""


def to_levels(x: Tensor, levels: int) -> Tensor:
    """Values in [0, 1] to the nearest of ``levels``, int64 from 0 to ``levels - 1``."""
    return (x * (levels - 1)).round().long()


def bits(model: nn.Module, x: Tensor, y: Tensor | None = None) -> dict[str, float]:
    """Bits per dimension on held-out items, 100 at a time, and the standard error."""
    parts = range(0, len(x), 100)
    with torch.no_grad():
        nats = torch.cat(
            [
                -cast(Autoregressive, model).log_prob(
                    x[i : i + 100], None if y is None else y[i : i + 100]
                )
                for i in parts
            ]
        )
    each = nats / (x[0].numel() * math.log(2))
    return {
        "test bits per dimension": round(float(each.mean()), 4),
        "its standard error": round(float(each.std() / math.sqrt(len(each))), 4),
    }


# Gated PixelCNN: letters, conditional on the class


def _train_gated(model: nn.Module) -> dict[str, Any]:
    steps, items = 5000, 60_000
    train = glyphs.load(items, 0, **GLYPHS).train
    fit(
        model,
        (to_levels(train.x, GLYPH_LEVELS), train.y),
        steps=steps,
        batch_size=64,
        optimizer=partial(Adam, lr=1.5e-3),
        schedule=cosine(steps),
        clip_grad_norm=100.0,
    )
    return {
        "data": f"glyphs: {items:,} capitals, 16x16, upright fonts in two weights",
        "grey levels": GLYPH_LEVELS,
        "batch size": 64,
        "steps": steps,
    }


def _evaluate_gated(model: nn.Module) -> dict[str, float]:
    test = glyphs.load(0, 2000, **GLYPHS).test
    return bits(model, to_levels(test.x, GLYPH_LEVELS), test.y)


gated_glyphs = Recipe(
    lambda: GatedPixelCNN(
        (1, 16, 16),
        levels=GLYPH_LEVELS,
        p=48,
        layers=8,
        context_dim=20,
        embed=ClassEmbedding(len(GLYPHS["characters"]), 20),
    ),
    _train_gated,
    _evaluate_gated,
)


# PixelCNN++: digits in colour, and one colour of letters for the ablations

COLOUR_GLYPHS: dict[str, Any] = {**GLYPHS, "colour": True}
"""Arguments of ``glyphs.load`` for the ablations, which have the green of these, in 256 levels."""

COLOUR_DIGITS: dict[str, Any] = {
    "size": 16,
    "characters": "0123456789",
    "fonts": (0, 2, 8, 10),
    "slant": 10.0,
    "rotation": 0.0,
    "scale": (0.8, 1.1),
    "shift": 0.03,
    "colour": True,
}
"""Arguments of ``glyphs.load`` for ``pp_digits``."""

COLOUR_LEVELS = 32
"""Levels of each colour that ``pp_digits`` was trained on."""


def _train_pp(
    model: nn.Module, x: Tensor, y: Tensor | None, steps: int, data: str
) -> dict[str, Any]:
    batch = 32
    cast(PixelCNNpp, model).initialise(x[:256], None if y is None else y[:256])
    fit(
        model,
        x if y is None else (x, y),
        steps=steps,
        batch_size=batch,
        optimizer=partial(Adam, lr=2e-3),
        schedule=cosine(steps),
        clip_grad_norm=2000.0,
    )
    return {"data": data, "batch size": batch, "steps": steps}


def _train_digits_in_colour(model: nn.Module) -> dict[str, Any]:
    items = 60_000
    train = glyphs.load(items, 0, **COLOUR_DIGITS).train
    what = f"glyphs: {items:,} digits in colour, 16x16, {COLOUR_LEVELS} levels"
    return _train_pp(model, to_levels(train.x, COLOUR_LEVELS), train.y, 9000, what)


def _evaluate_digits_in_colour(model: nn.Module) -> dict[str, float]:
    test = glyphs.load(0, 1000, **COLOUR_DIGITS).test
    return bits(model, to_levels(test.x, COLOUR_LEVELS), test.y)


pp_digits = Recipe(
    lambda: PixelCNNpp(
        (3, 16, 16),
        levels=COLOUR_LEVELS,
        components=5,
        features=24,
        blocks=1,
        dropout=0.0,
        context_dim=10,
        embed=ClassEmbedding(10, 10),
    ),
    _train_digits_in_colour,
    _evaluate_digits_in_colour,
)


def _train_ablation(model: nn.Module) -> dict[str, Any]:
    items = 60_000
    x = to_levels(glyphs.load(items, 0, **COLOUR_GLYPHS).train.x[:, 1:2], 256)
    what = f"glyphs: {items:,} capitals in the green of random colours, 16x16, 256 levels"
    return _train_pp(model, x, None, 1000, what)


def _evaluate_ablation(model: nn.Module) -> dict[str, float]:
    return bits(model, to_levels(glyphs.load(0, 1000, **COLOUR_GLYPHS).test.x[:, 1:2], 256))


def _ablation(**changes: Any) -> Recipe:
    """The same in all but what is named."""
    return Recipe(
        lambda: PixelCNNpp(
            (1, 16, 16), components=5, features=18, blocks=1, dropout=0.0, **changes
        ),
        _train_ablation,
        _evaluate_ablation,
    )


pp_full = _ablation()
pp_softmax = _ablation(likelihood=Softmax(256))
pp_no_downsampling = _ablation(strides=(1, 1))
pp_no_shortcuts = _ablation(shortcuts=False)


# WaveNet: spoken digits, told which is spoken, how far the word has come, and who speaks

SPEECH = 4400
"""Samples of a sound that ``wavenet_digits`` was trained on: 0.55 s."""

SPEAKERS = ("george", "jackson")
"""Whose voices ``wavenet_digits`` has, of those in ``fsdd.SPEAKERS``."""

FRAME = 80  # samples for each value of the series that conditions
PHASES = 8  # features for how far a word has come


def spoken(digit: int, speaker: int, seconds: float = 0.45) -> Tensor:
    """What ``wavenet_digits`` is told of a sound: a series of 100 values a second.

    A word goes through ``PHASES`` phases in the time that it takes, each blending into the next;
    each digit has features of its own for them, so that they can come to mean its phonemes. After
    it comes silence. Features for the speaker are constant: a context that is the same for all
    samples is global conditioning.

    Args:
        digit: 0 to 9.
        speaker: index into ``SPEAKERS``.
        seconds: how long the word takes, at most ``SPEECH / 8000``.

    Returns:
        ``(features, SPEECH / 80)``; stack several for a batch.

    Raises:
        ValueError: there is no such digit or speaker, or the word would take too long.
    """
    if not (0 <= digit <= 9 and 0 <= speaker < len(SPEAKERS)):
        raise ValueError(
            f"digit must be 0 to 9 and speaker 0 to {len(SPEAKERS) - 1}, got {digit} and {speaker}"
        )
    longest = SPEECH / fsdd.RATE
    if not 0 < seconds <= longest:
        raise ValueError(f"seconds must be above 0 and at most {longest}, got {seconds}")
    frames = SPEECH // FRAME
    middle = (torch.arange(frames) + 0.5) * FRAME / fsdd.RATE / seconds * (PHASES - 1)
    phases = (1 - (middle - torch.arange(PHASES)[:, None]).abs()).clamp(min=0)
    speaking = (middle <= PHASES - 1).float()
    series = torch.zeros(10 * PHASES + len(SPEAKERS) + 1, frames)
    series[digit * PHASES :][:PHASES] = phases * speaking
    series[10 * PHASES + speaker] = 1
    series[-1] = 1 - speaking
    return series


def _digits(recordings: fsdd.Recordings) -> tuple[Tensor, Tensor]:
    """Levels ``(N, SPEECH)`` and series of the speakers' recordings that are short enough."""
    sounds, which = recordings.padded(SPEECH)
    series, keep = [], []
    for row, i in enumerate(which.tolist()):
        name = fsdd.SPEAKERS[recordings.speaker[i]]
        if name in SPEAKERS:
            seconds = len(recordings.x[i]) / fsdd.RATE
            series.append(spoken(int(recordings.y[i]), SPEAKERS.index(name), seconds))
            keep.append(row)
    sounds = sounds[keep]
    loudest = sounds.abs().amax(1, keepdim=True).clamp(min=1e-3)
    return mu_law_encode(0.9 * sounds / loudest), torch.stack(series)


def _train_digits(model: nn.Module) -> dict[str, Any]:
    steps, batch = 5000, 4
    data = _digits(fsdd.load().train)
    fit(
        model,
        data,
        steps=steps,
        batch_size=batch,
        optimizer=partial(Adam, lr=2e-3),
        schedule=cosine(steps),
        clip_grad_norm=2000.0,
    )
    return {
        "data": f"Free Spoken Digit Dataset: {len(data[0]):,} recordings of at most 0.55 s by "
        + " and ".join(SPEAKERS),
        "batch size": batch,
        "steps": steps,
    }


def _bands(x: Tensor) -> Tensor:
    """Levels ``(N, SPEECH)`` -> log-energies in 20 bands of frequency, which widen upwards, at 14
    times, without the loudness of the whole: ``(N, 280)``."""
    wave, taper = mu_law_decode(x), torch.hann_window(256)
    power = torch.stft(wave, 256, FRAME, window=taper, return_complex=True).abs() ** 2
    edges = (torch.linspace(0, 1, 21) ** 1.5 * 127 + 1).round().int().tolist()
    bands = torch.stack([power[:, a : max(b, a + 1)].mean(1) for a, b in pairwise(edges)], 1)
    relative = (bands / bands.mean((1, 2), keepdim=True) + 1e-3).log()
    return F.adaptive_avg_pool1d(relative, 14).flatten(1)


def _said(series: Tensor) -> Tensor:
    """The digit that each of ``(N, features, frames)`` tells."""
    return series[:, : 10 * PHASES].unflatten(1, (10, PHASES)).sum((2, 3)).argmax(1)


def _evaluate_digits(model: nn.Module) -> dict[str, float]:
    """Likelihood, and how often a linear recogniser that has learned from the recordings knows
    the word: in recordings that it has not heard, and in what the model says."""
    # Here, since they take a second to import, and chapters import this module.
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    net = cast(WaveNet, model)
    (x, y), (seen, told) = _digits(fsdd.load().test), _digits(fsdd.load().train)

    @torch.no_grad()
    def nats(y: Tensor) -> Tensor:
        parts = range(0, len(x), 10)
        return torch.cat([-net.log_prob(x[i : i + 10], y[i : i + 10]) for i in parts]) / SPEECH

    def mean(each: Tensor) -> float:
        return round(float(each.mean()), 4)

    each, voices = nats(y), slice(10 * PHASES, -1)
    other_voice, other_digit = y.clone(), y.clone()
    other_voice[:, voices] = y[:, voices].flip(1)
    other_digit[:, : 10 * PHASES] = y[:, : 10 * PHASES].roll(PHASES, 1)
    single = torch.bincount(seen.flatten(), minlength=256) + 1.0
    pairs = torch.bincount((256 * seen[:, :-1] + seen[:, 1:]).flatten(), minlength=256**2) + 0.1
    after = pairs.view(256, 256) / pairs.view(256, 256).sum(1, keepdim=True)

    recogniser = make_pipeline(StandardScaler(), LogisticRegression(C=0.003, max_iter=500))
    recogniser.fit(_bands(seen), _said(told))
    asked = told[::3]
    made = net.sample(len(asked), asked, generator=torch.Generator().manual_seed(0))
    return {
        "test recordings": len(x),
        "test nats per sample": mean(each),
        "its standard error": round(float(each.std() / math.sqrt(len(each))), 4),
        "told the other voice": mean(nats(other_voice)),
        "told the next digit": mean(nats(other_digit)),
        "frequencies of levels": mean(-(single / single.sum()).log()[x]),
        "frequencies of pairs of levels": mean(-after[x[:, :-1], x[:, 1:]].log()),
        "recognised, of test recordings": round(recogniser.score(_bands(x), _said(y)), 3),
        "words made": len(made),
        "recognised, of words made": round(recogniser.score(_bands(made), _said(asked)), 3),
    }


wavenet_digits = Recipe(
    lambda: WaveNet(
        (SPEECH,),
        residual=32,
        skip=64,
        dilations=dilations(2, 10),
        context_dim=16,
        embed=nn.Sequential(
            nn.Conv1d(10 * PHASES + len(SPEAKERS) + 1, 16, 3, padding=1), Upsample(16, 16, FRAME)
        ),
    ),
    _train_digits,
    _evaluate_digits,
)
