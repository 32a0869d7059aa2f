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
from gdm_lib.autoregressive.pixelcnn_pp import PixelCNNpp, Softmax
from gdm_lib.data import glyphs
from gdm_lib.nn import ClassEmbedding
from gdm_lib.pretrained import Recipe
from gdm_lib.pretrained.flows import GLYPHS
from gdm_lib.training import cosine, fit

__all__ = [
    "COLOUR_GLYPHS",
    "GLYPH_LEVELS",
    "gated_glyphs",
    "pp_full",
    "pp_glyphs",
    "pp_no_downsampling",
    "pp_no_shortcuts",
    "pp_softmax",
    "to_levels",
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


# PixelCNN++: the same letters in colour, and one colour of them for the ablations

COLOUR_GLYPHS: dict[str, Any] = {**GLYPHS, "colour": True}
"""Arguments of ``glyphs.load`` for the recipes of PixelCNN++, which have all 256 levels."""


def _train_pp(model: nn.Module, channels: slice, steps: int, labels: bool) -> dict[str, Any]:
    items, batch = 60_000, 32
    train = glyphs.load(items, 0, **COLOUR_GLYPHS).train
    x, y = to_levels(train.x[:, channels], 256), train.y
    cast(PixelCNNpp, model).initialise(x[:256], y[:256] if labels else None)
    fit(
        model,
        (x, y) if labels else x,
        steps=steps,
        batch_size=batch,
        optimizer=partial(Adam, lr=2e-3),
        schedule=cosine(steps),
        clip_grad_norm=2000.0,
    )
    what = "in colour" if channels == slice(3) else "in the green of random colours"
    return {
        "data": f"glyphs: {items:,} capitals {what}, 16x16, 256 levels",
        "batch size": batch,
        "steps": steps,
    }


def _evaluate_pp(model: nn.Module, channels: slice, labels: bool) -> dict[str, float]:
    test = glyphs.load(0, 1000, **COLOUR_GLYPHS).test
    return bits(model, to_levels(test.x[:, channels], 256), test.y if labels else None)


pp_glyphs = Recipe(
    lambda: PixelCNNpp(
        (3, 16, 16),
        components=5,
        features=32,
        blocks=1,
        dropout=0.0,
        context_dim=20,
        embed=ClassEmbedding(len(GLYPHS["characters"]), 20),
    ),
    partial(_train_pp, channels=slice(3), steps=6000, labels=True),
    partial(_evaluate_pp, channels=slice(3), labels=True),
)


def _ablation(**changes: Any) -> Recipe:
    """The same in all but what is named."""
    return Recipe(
        lambda: PixelCNNpp(
            (1, 16, 16), components=5, features=18, blocks=1, dropout=0.0, **changes
        ),
        partial(_train_pp, channels=slice(1, 2), steps=2500, labels=False),
        partial(_evaluate_pp, channels=slice(1, 2), labels=False),
    )


pp_full = _ablation()
pp_softmax = _ablation(likelihood=Softmax(256))
pp_no_downsampling = _ablation(strides=(1, 1))
pp_no_shortcuts = _ablation(shortcuts=False)
