"""Recipes of the classifiers that judge what models draw."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from gdm_lib.data import glyphs
from gdm_lib.data.glyphs import COLOUR_LARGE_GLYPHS, LARGE_GLYPHS
from gdm_lib.metrics import ImageClassifier
from gdm_lib.recipes import Recipe
from gdm_lib.training import cosine, fit

__all__ = ["letters"]


def _noisy(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each image with noise of a strength of its own, so that no faint trace decides."""
    strength = 0.15 * torch.rand(len(x), 1, 1, 1, generator=generator)
    return (x + strength * torch.randn(x.shape, generator=generator)).clamp(0, 1)


def _train_letters(model: nn.Module) -> dict[str, Any]:
    steps, items = 3000, 30_000
    parts = [glyphs.load(items, 0, **p).train for p in (LARGE_GLYPHS, COLOUR_LARGE_GLYPHS)]
    fit(
        model,
        (torch.cat([p.x.expand(-1, 3, -1, -1) for p in parts]), torch.cat([p.y for p in parts])),
        steps=steps,
        batch_size=64,
        optimizer=partial(AdamW, lr=2e-3, weight_decay=1e-2),
        schedule=cosine(steps),
        transform=_noisy,
    )
    return {
        "data": f"glyphs: {items:,} capitals in grey and as many in colour, 32x32, upright fonts",
        "batch size": 64,
        "steps": steps,
    }


def _evaluate_letters(model: nn.Module) -> dict[str, float]:
    judge, metrics = cast(ImageClassifier, model), {}
    for name, preset in (("grey", LARGE_GLYPHS), ("colour", COLOUR_LARGE_GLYPHS)):
        test = glyphs.load(0, 2000, **preset).test
        p = judge.read(test.x)
        metrics[f"read, of test letters in {name}"] = float((p.argmax(1) == test.y).float().mean())
        metrics[f"mean confidence, {name}"] = round(float(p.max(1).values.mean()), 4)
    return metrics


letters = Recipe(_train_letters, _evaluate_letters)
