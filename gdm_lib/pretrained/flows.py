"""Recipes of the chapters on flows."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Adam

from gdm_lib.data import glyphs
from gdm_lib.flows.glow import Glow
from gdm_lib.pretrained import Recipe
from gdm_lib.training import cosine, fit

__all__ = ["GLYPHS", "GLYPH_LEVELS", "glow_glyphs", "quantise"]

GLYPHS: dict[str, Any] = {
    "size": 16,
    "characters": "ABCDEFGHKLNPRSTUVXYZ",
    "fonts": (0, 2, 8, 10, 12, 14),
    "slant": 20.0,
    "rotation": 0.0,
    "scale": (0.65, 1.0),
    "shift": 0.02,
}
"""Arguments of ``glyphs.load`` that ``glow_glyphs`` was trained with: capitals of three upright
families, each in two weights. None is so wide that it leaves the picture."""

GLYPH_LEVELS = 16
"""Grey levels that ``glow_glyphs`` was trained on."""


def quantise(x: Tensor, levels: int = GLYPH_LEVELS) -> Tensor:
    """Grey values in [0, 1] to the nearest of ``levels``, as multiples of ``1 / (levels - 1)``."""
    return (x * (levels - 1)).round() / (levels - 1)


def _train_glow(model: nn.Module) -> dict[str, Any]:
    steps, items = 12_000, 60_000
    fit(
        model,
        quantise(glyphs.load(items, 0, **GLYPHS).train.x),
        steps=steps,
        batch_size=64,
        optimizer=partial(Adam, lr=2e-3),
        schedule=cosine(steps),
        clip_grad_norm=50.0,
    )
    return {
        "data": f"glyphs: {items:,} capitals, 16x16, upright fonts in two weights",
        "grey levels": GLYPH_LEVELS,
        "batch size": 64,
        "steps": steps,
    }


def _evaluate_glow(model: nn.Module) -> dict[str, float]:
    model, x = cast(Glow, model), quantise(glyphs.load(0, 2000, **GLYPHS).test.x)
    with torch.no_grad():
        nats = -model.log_prob(x, generator=torch.Generator().manual_seed(0))
    bits = nats / (x[0].numel() * math.log(2))
    return {
        "test bits per dimension": round(float(bits.mean()), 4),
        "its standard error": round(float(bits.std() / math.sqrt(len(bits))), 4),
    }


glow_glyphs = Recipe(
    lambda: Glow((1, 16, 16), levels=GLYPH_LEVELS, scales=3, steps=6, hidden=80),
    _train_glow,
    _evaluate_glow,
)
