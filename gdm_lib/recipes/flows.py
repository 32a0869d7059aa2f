"""Recipes of the chapters on flows."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import torch
from torch import nn
from torch.optim import Adam

from gdm_lib.bijections import BatchNorm, Dequantise, Flow
from gdm_lib.data import glyphs
from gdm_lib.data.levels import quantise
from gdm_lib.recipes import Recipe
from gdm_lib.recipes._measure import bits
from gdm_lib.training import cosine, fit

__all__ = ["glow_glyphs", "realnvp_glyphs"]


def _levels(model: nn.Module) -> int:
    return cast(Dequantise, cast(Flow, model).dequantise).levels


def _train_letters(model: nn.Module) -> dict[str, Any]:
    steps, items = 12_000, 60_000
    levels = _levels(model)
    fit(
        model,
        quantise(glyphs.load(items, 0, **glyphs.GLYPHS).train.x, levels),
        steps=steps,
        batch_size=64,
        optimizer=partial(Adam, lr=2e-3),
        schedule=cosine(steps),
        clip_grad_norm=50.0,
        settle=any(isinstance(part, BatchNorm) for part in model.modules()),
    )
    return {
        "data": f"glyphs: {items:,} capitals, 16x16, upright fonts in two weights",
        "grey levels": levels,
        "batch size": 64,
        "steps": steps,
    }


def _evaluate_letters(model: nn.Module) -> dict[str, float]:
    x = quantise(glyphs.load(0, 2000, **glyphs.GLYPHS).test.x, _levels(model))
    with torch.no_grad():
        nats = -cast(Flow, model).log_prob(x, generator=torch.Generator().manual_seed(0))
    return bits(nats, x)


glow_glyphs = Recipe(_train_letters, _evaluate_letters)
realnvp_glyphs = glow_glyphs  # they differ in the model alone
