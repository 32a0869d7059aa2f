"""Recipes of the VAE chapters."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Adam

from gdm_lib import pretrained
from gdm_lib.autoregressive.gated_pixelcnn import GatedPixelCNN
from gdm_lib.data import glyphs, mnist
from gdm_lib.metrics import ImageClassifier
from gdm_lib.recipes import Recipe
from gdm_lib.training import cosine, fit
from gdm_lib.vae.vae import VAE
from gdm_lib.vae.vqvae import VQVAE, perplexity

__all__ = ["glyph_letters", "mnist_2d", "vqvae_letters"]


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


# VQ-VAE: letters in colour, and the prior over their codes, which is told the letter


def _train_letters(model: nn.Module) -> dict[str, Any]:
    vqvae, items, batch, steps, prior_steps = cast(VQVAE, model), 60_000, 32, 6000, 12_000
    train = glyphs.load(items, 0, **glyphs.COLOUR_LARGE_GLYPHS).train
    fit(
        vqvae,
        train.x,
        steps=steps,
        batch_size=batch,
        optimizer=partial(Adam, lr=1e-3),
        schedule=cosine(steps),
    )
    codes = torch.cat([vqvae.encode(part) for part in train.x.split(500)])
    prior = cast(GatedPixelCNN, vqvae.prior)
    fit(
        prior,
        (codes[:, None], train.y),
        steps=prior_steps,
        batch_size=batch,
        optimizer=partial(Adam, lr=2e-3),
        schedule=cosine(prior_steps),
        clip_grad_norm=100.0,
    )
    return {
        "data": f"glyphs: {items:,} capitals in colour, 32x32, upright fonts in two weights",
        "batch size": batch,
        "steps": steps,
        "steps of the prior": prior_steps,
    }


@torch.no_grad()
def _evaluate_letters(model: nn.Module) -> dict[str, float]:
    vqvae, judge = cast(VQVAE, model), cast(ImageClassifier, pretrained.load("metrics/letters"))
    test = glyphs.load(0, 2000, **glyphs.COLOUR_LARGE_GLYPHS).test
    codes = torch.cat([vqvae.encode(part) for part in test.x.split(500)])
    count = vqvae.quantiser.count
    rebuilt = torch.cat([vqvae.decode_mean(part) for part in codes.split(500)])
    nats = torch.cat(
        [
            -vqvae.code_log_prob(z, y)
            for z, y in zip(codes.split(500), test.y.split(500), strict=True)
        ]
    )
    asked = torch.arange(judge.classes).repeat(25)
    drawn = vqvae.sample_codes(len(asked), asked, generator=torch.Generator().manual_seed(0))
    made = judge.read(vqvae.decode_mean(drawn))

    def share(p: Tensor, y: Tensor) -> float:
        return round(float((p.argmax(1) == y).float().mean()), 4)

    return {
        "mean squared error, test": round(float((rebuilt - test.x).square().mean()), 5),
        "read, of reconstructions": share(judge.read(rebuilt), test.y),
        "perplexity, of 256": round(float(perplexity(codes, count)), 1),
        "bits a code, prior": round(float(nats.mean()) / (codes[0].numel() * math.log(2)), 3),
        "samples": len(asked),
        "read as asked, of samples": share(made, asked),
        "mean confidence, samples": round(float(made.max(1).values.mean()), 4),
    }


vqvae_letters = Recipe(_train_letters, _evaluate_letters)
