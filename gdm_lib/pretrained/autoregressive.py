"""Recipes of the chapters on autoregressive models."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Adam

from gdm_lib.autoregressive.gated_pixelcnn import GatedPixelCNN
from gdm_lib.autoregressive.pixelcnn import Autoregressive
from gdm_lib.data import glyphs
from gdm_lib.nn import ClassEmbedding
from gdm_lib.pretrained import Recipe
from gdm_lib.pretrained.flows import GLYPHS
from gdm_lib.training import cosine, fit

__all__ = ["GLYPH_LEVELS", "gated_glyphs", "to_levels"]

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
