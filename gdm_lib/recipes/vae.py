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
from gdm_lib.autoregressive.wavenet import WaveNet, mu_law_decode, mu_law_encode
from gdm_lib.data import fsdd, glyphs, mnist
from gdm_lib.data.fsdd import SPEAKERS, SPEECH
from gdm_lib.metrics import ImageClassifier
from gdm_lib.recipes import Recipe
from gdm_lib.recipes._speech import bands, recogniser, sounds
from gdm_lib.training import cosine, fit
from gdm_lib.vae.vae import VAE
from gdm_lib.vae.vqvae import VQVAE, perplexity

__all__ = ["glyph_letters", "mnist_2d", "vqvae_letters", "vqvae_speech"]


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


# VQ-VAE: spoken digits, whose decoder is told who speaks, and whose prior is told all


def _spoken(recordings: fsdd.Recordings) -> tuple[Tensor, Tensor]:
    """Levels ``(N, SPEECH)`` of all speakers' short recordings; digits and speakers ``(N, 2)``."""
    waves, digits, speakers, _ = sounds(recordings, SPEAKERS)
    return mu_law_encode(waves), torch.stack([digits, speakers], 1)


@torch.no_grad()
def _codes(model: VQVAE, x: Tensor) -> Tensor:
    return torch.cat([model.encode(part) for part in x.split(50)])


def _train_speech(model: nn.Module) -> dict[str, Any]:
    model, steps, batch = cast(VQVAE, model), 6000, 4
    x, y = _spoken(fsdd.load().train)
    prior, model.prior = model.prior, None
    fit(
        model,
        (x, y),
        steps=steps,
        batch_size=batch,
        optimizer=partial(Adam, lr=2e-3),
        schedule=cosine(steps),
        clip_grad_norm=5000.0,
    )
    model.prior = prior
    # Each recording a little later too: what it says is the same, and most of its codes are not.
    later = range(0, 80, 16)
    codes = torch.cat([_codes(model, x.roll(by, 1)) for by in later])
    prior_steps, prior_batch = 1000, 32
    fit(
        cast(WaveNet, prior),
        (codes, y.repeat(len(later), 1)),
        steps=prior_steps,
        batch_size=prior_batch,
        optimizer=partial(Adam, lr=2e-3),
        schedule=cosine(prior_steps),
        clip_grad_norm=100.0,
    )
    return {
        "data": f"Free Spoken Digit Dataset: {len(x):,} recordings of at most 0.55 s by "
        f"{len(SPEAKERS)} speakers",
        "batch size": batch,
        "steps": steps,
        "batch size of the prior": prior_batch,
        "steps of the prior": prior_steps,
    }


def _evaluate_speech(model: nn.Module) -> dict[str, float]:
    """Likelihood, and what two recognisers hear that have learned from the recordings: the digit,
    and who speaks."""
    model = cast(VQVAE, model)
    splits = fsdd.load()
    (x, y), (seen, told) = _spoken(splits.test), _spoken(splits.train)
    codes = _codes(model, x)
    other = torch.stack([y[:, 0], (y[:, 1] + 1) % len(SPEAKERS)], 1)
    places = math.prod(model.grid)

    @torch.no_grad()
    def nats(codes: Tensor, y: Tensor) -> Tensor:
        """-log p(x|z) of each sample, given some codes."""
        parts = zip(x.split(25), codes.split(25), y.split(25), strict=True)
        each = [-model.likelihood.log_prob(model.decode(z, of), part) for part, z, of in parts]
        return torch.cat(each) / SPEECH

    with torch.no_grad():
        code_bits = -model.code_log_prob(codes, y) / (places * math.log(2))
        next_digit = torch.stack([(y[:, 0] + 1) % 10, y[:, 1]], 1)
        other_bits = -model.code_log_prob(codes, next_digit) / (places * math.log(2))

    waves = mu_law_decode(seen)
    hears = [recogniser(waves, told[:, 0]), recogniser(waves, told[:, 1], len(SPEAKERS))]

    @torch.no_grad()
    def heard(x: Tensor, y: Tensor) -> list[float]:
        found = bands(mu_law_decode(x))
        right = [net(found).argmax(1) == y[:, i] for i, net in enumerate(hears)]
        return [round(float(each.float().mean()), 3) for each in right]

    @torch.no_grad()
    def said(codes: Tensor, y: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return model.likelihood.sample(model.decode(codes, y), generator=generator)

    def mean(each: Tensor) -> float:
        return round(float(each.mean()), 4)

    each, again, converted = nats(codes, y), said(codes, y), said(codes, other)
    made = model.sample(len(y), y, generator=torch.Generator().manual_seed(0))
    result = {
        "test recordings": len(x),
        "test nats per sample, given the codes": mean(each),
        "its standard error": round(float(each.std() / math.sqrt(len(each))), 4),
        "told another speaker": mean(nats(codes, other)),
        "told another recording's codes": mean(nats(codes.roll(1, 0), y)),
        "bits per code, each as likely": math.log2(model.quantiser.count),
        "bits per code, under the prior": mean(code_bits),
        "told the next digit": mean(other_bits),
        "perplexity of the codes": round(float(perplexity(codes, model.quantiser.count)), 1),
    }
    for what, sound, of in (
        ("test recordings", x, y),
        ("reconstructions", again, y),
        ("recordings re-spoken by another", converted, other),
        ("samples of the prior", made, y),
    ):
        digit, speaker = heard(sound, of)
        result[f"digit recognised, of {what}"] = digit
        result[f"speaker recognised, of {what}"] = speaker
    result["original speaker recognised, of recordings re-spoken"] = heard(converted, y)[1]
    return result


vqvae_speech = Recipe(_train_speech, _evaluate_speech)
