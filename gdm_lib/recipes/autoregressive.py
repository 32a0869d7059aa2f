"""Recipes of the chapters on autoregressive models."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Adam

from gdm_lib.autoregression import Autoregressive
from gdm_lib.autoregressive.pixelcnn_pp import PixelCNNpp
from gdm_lib.autoregressive.wavenet import WaveNet, mu_law_decode, mu_law_encode
from gdm_lib.data import fsdd, glyphs, mnist
from gdm_lib.data.fsdd import PHASES, SPEECH, VOICES
from gdm_lib.data.levels import to_levels
from gdm_lib.recipes import Recipe
from gdm_lib.recipes._measure import bits
from gdm_lib.recipes._speech import bands, recogniser, sounds
from gdm_lib.training import cosine, fit

__all__ = [
    "gated_glyphs",
    "pixelcnn_mnist",
    "pp_digits",
    "pp_full",
    "pp_no_downsampling",
    "pp_no_shortcuts",
    "pp_softmax",
    "wavenet_digits",
]


def _levels(model: nn.Module) -> int:
    return cast(Autoregressive, model).levels


def _bits(model: nn.Module, x: Tensor, y: Tensor | None = None) -> dict[str, float]:
    """On held-out items, 100 at a time."""
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
    return bits(nats, x)


# PixelCNN: digits in black and white


def _train_digits_in_ink(model: nn.Module) -> dict[str, Any]:
    steps, batch = 12_000, 16
    fit(
        model,
        to_levels(mnist.load().train.x, _levels(model)),
        steps=steps,
        batch_size=batch,
        optimizer=partial(Adam, lr=2e-3),
        schedule=cosine(steps),
        clip_grad_norm=100.0,
    )
    data = "MNIST, 60,000 training images, black from one half on"
    return {"data": data, "batch size": batch, "steps": steps}


def _evaluate_digits_in_ink(model: nn.Module) -> dict[str, float]:
    """In nats for each image, as the papers tell it of black and white."""
    x = to_levels(mnist.load().test.x, _levels(model))
    with torch.no_grad():
        nats = torch.cat([-cast(Autoregressive, model).log_prob(part) for part in x.split(100)])
    return {
        "test nats": round(float(nats.mean()), 2),
        "its standard error": round(float(nats.std() / math.sqrt(len(nats))), 2),
    }


pixelcnn_mnist = Recipe(_train_digits_in_ink, _evaluate_digits_in_ink)


# Gated PixelCNN: letters, conditional on the class


def _train_gated(model: nn.Module) -> dict[str, Any]:
    steps, items = 5000, 60_000
    train = glyphs.load(items, 0, **glyphs.GLYPHS).train
    fit(
        model,
        (to_levels(train.x, _levels(model)), train.y),
        steps=steps,
        batch_size=64,
        optimizer=partial(Adam, lr=1.5e-3),
        schedule=cosine(steps),
        clip_grad_norm=100.0,
    )
    return {
        "data": f"glyphs: {items:,} capitals, 16x16, upright fonts in two weights",
        "grey levels": _levels(model),
        "batch size": 64,
        "steps": steps,
    }


def _evaluate_gated(model: nn.Module) -> dict[str, float]:
    test = glyphs.load(0, 2000, **glyphs.GLYPHS).test
    return _bits(model, to_levels(test.x, _levels(model)), test.y)


gated_glyphs = Recipe(_train_gated, _evaluate_gated)


# PixelCNN++: digits in colour, and one colour of letters for the ablations


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
    items, levels = 60_000, _levels(model)
    train = glyphs.load(items, 0, **glyphs.COLOUR_DIGITS).train
    what = f"glyphs: {items:,} digits in colour, 16x16, {levels} levels"
    return _train_pp(model, to_levels(train.x, levels), train.y, 9000, what)


def _evaluate_digits_in_colour(model: nn.Module) -> dict[str, float]:
    test = glyphs.load(0, 1000, **glyphs.COLOUR_DIGITS).test
    return _bits(model, to_levels(test.x, _levels(model)), test.y)


pp_digits = Recipe(_train_digits_in_colour, _evaluate_digits_in_colour)


def _train_ablation(model: nn.Module) -> dict[str, Any]:
    items, levels = 60_000, _levels(model)
    x = to_levels(glyphs.load(items, 0, **glyphs.COLOUR_GLYPHS).train.x[:, 1:2], levels)
    what = f"glyphs: {items:,} capitals in the green of random colours, 16x16, {levels} levels"
    return _train_pp(model, x, None, 1000, what)


def _evaluate_ablation(model: nn.Module) -> dict[str, float]:
    green = glyphs.load(0, 1000, **glyphs.COLOUR_GLYPHS).test.x[:, 1:2]
    return _bits(model, to_levels(green, _levels(model)))


pp_full = Recipe(_train_ablation, _evaluate_ablation)
pp_softmax = pp_no_downsampling = pp_no_shortcuts = pp_full  # they differ in the model alone


# WaveNet: spoken digits, told which is spoken, how far the word has come, and who speaks


def _digits(recordings: fsdd.Recordings, levels: int) -> tuple[Tensor, Tensor]:
    """Levels ``(N, SPEECH)`` and series of the voices' recordings."""
    waves, *told = sounds(recordings, VOICES)
    each = zip(*(row.tolist() for row in told), strict=True)
    series = [fsdd.spoken(digit, voice, length / fsdd.RATE) for digit, voice, length in each]
    return mu_law_encode(waves, levels), torch.stack(series)


def _train_digits(model: nn.Module) -> dict[str, Any]:
    steps, batch, rates = 5000, 4, (2e-3, 1e-3)
    data = _digits(fsdd.load().train, _levels(model))
    for rate in rates:  # the second time it starts from where the first one ended
        fit(
            model,
            data,
            steps=steps,
            batch_size=batch,
            optimizer=partial(Adam, lr=rate),
            schedule=cosine(steps),
            clip_grad_norm=2000.0,
        )
    return {
        "data": f"Free Spoken Digit Dataset: {len(data[0]):,} recordings of at most 0.55 s by "
        + " and ".join(VOICES),
        "batch size": batch,
        "steps": len(rates) * steps,
    }


def _said(series: Tensor) -> Tensor:
    """The digit that each of ``(N, features, frames)`` tells."""
    return series[:, : 10 * PHASES].unflatten(1, (10, PHASES)).sum((2, 3)).argmax(1)


def _evaluate_digits(model: nn.Module) -> dict[str, float]:
    """Likelihood, and how often a recogniser that has learned from the recordings of all speakers
    knows the word: in recordings that it has not heard, and in what the model says."""
    net, levels = cast(WaveNet, model), _levels(model)
    splits = fsdd.load()
    (x, y), (seen, told) = _digits(splits.test, levels), _digits(splits.train, levels)

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
    single = torch.bincount(seen.flatten(), minlength=levels) + 1.0
    codes = (levels * seen[:, :-1] + seen[:, 1:]).flatten()
    pairs = (torch.bincount(codes, minlength=levels**2) + 0.1).view(levels, levels)
    after = pairs / pairs.sum(1, keepdim=True)

    waves, digits, *_ = sounds(splits.train, fsdd.SPEAKERS)
    hears = recogniser(mu_law_decode(mu_law_encode(waves, levels), levels), digits)

    @torch.no_grad()
    def recognised(x: Tensor, y: Tensor) -> float:
        heard = hears(bands(mu_law_decode(x, levels))).argmax(1)
        return round(float((heard == _said(y)).float().mean()), 3)

    asked = told
    made = net.sample(len(asked), asked, generator=torch.Generator().manual_seed(0))
    return {
        "test recordings": len(x),
        "test nats per sample": mean(each),
        "its standard error": round(float(each.std() / math.sqrt(len(each))), 4),
        "told the other voice": mean(nats(other_voice)),
        "told the next digit": mean(nats(other_digit)),
        "frequencies of levels": mean(-(single / single.sum()).log()[x]),
        "frequencies of pairs of levels": mean(-after[x[:, :-1], x[:, 1:]].log()),
        "recognised, of test recordings": recognised(x, y),
        "words made": len(made),
        "recognised, of words made": recognised(made, asked),
    }


wavenet_digits = Recipe(_train_digits, _evaluate_digits)
