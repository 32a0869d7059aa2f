"""Recipes of the VAE chapters."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Adam

from gdm_lib.data import glyphs, mnist
from gdm_lib.recipes import Recipe
from gdm_lib.training import cosine, fit
from gdm_lib.vae.vae import VAE

__all__ = ["glyph_letters", "mnist_2d"]


def _binarise(x: Tensor, generator: torch.Generator) -> Tensor:
    return torch.bernoulli(x, generator=generator)


def _train(model: nn.Module, x: Tensor, data: str, steps: int) -> dict[str, Any]:
    fit(
        model,
        x,
        steps=steps,
        batch_size=100,
        optimizer=partial(Adam, lr=1e-3),
        schedule=cosine(steps),
        transform=_binarise,
    )
    return {"data": data, "binarisation": "sampled anew for every batch", "steps": steps}


def _evaluate(model: nn.Module, x: Tensor) -> dict[str, float]:
    model, generator = cast(VAE, model), torch.Generator().manual_seed(0)
    x = _binarise(x, generator)
    with torch.no_grad():
        elbo = torch.cat([model.log_prob(part, generator=generator) for part in x.split(1000)])
    first = x[:1000]
    iw = model.importance_log_prob(first, 500, chunk=20, generator=generator)
    return {
        "test ELBO (nats)": round(float(elbo.mean()), 2),
        "test log p(x), K = 500, first 1,000 images (nats)": round(float(iw.mean()), 2),
    }


mnist_2d = Recipe(
    lambda model: _train(model, mnist.load().train.x, "MNIST, 60,000 training images", 60_000),
    lambda model: _evaluate(model, mnist.load().test.x),
)

glyph_letters = Recipe(
    lambda model: _train(
        model,
        glyphs.load(60_000, 0, **glyphs.LETTERS).train.x,
        "glyphs: 60,000 capital letters in all fonts",
        40_000,
    ),
    lambda model: _evaluate(model, glyphs.load(0, 2000, **glyphs.LETTERS).test.x),
)
