"""Recipes of the VAE chapters."""

from __future__ import annotations

import math
import time
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Adam

from gdm_lib import pretrained
from gdm_lib.autoregressive.gated_pixelcnn import GatedPixelCNN
from gdm_lib.autoregressive.wavenet import WaveNet, mu_law_decode, mu_law_encode
from gdm_lib.data import dcss, fsdd, glyphs, mnist
from gdm_lib.data.fsdd import SPEAKERS, SPEECH
from gdm_lib.metrics import ImageClassifier
from gdm_lib.nn import seeded
from gdm_lib.recipes import Recipe
from gdm_lib.recipes._speech import bands, recogniser, sounds
from gdm_lib.training import cosine, fit
from gdm_lib.vae.vae import VAE
from gdm_lib.vae.vqvae import VQVAE, perplexity
from gdm_lib.vae.vqvae2 import VQVAE2, BottomPrior, TopPrior

__all__ = [
    "glyph_letters",
    "mnist_2d",
    "vqvae2_letters",
    "vqvae2_tiles",
    "vqvae_fine_letters",
    "vqvae_letters",
    "vqvae_speech",
]


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


def _train_prior(
    prior: nn.Module, data: tuple[Tensor, Tensor], steps: int, batch_size: int = 16
) -> None:
    fit(
        prior,
        data,
        steps=steps,
        batch_size=batch_size,
        optimizer=partial(Adam, lr=2e-3),
        schedule=cosine(steps),
        clip_grad_norm=100.0,
    )


def _fit_codes(model: nn.Module, x: Tensor, steps: int) -> None:
    fit(
        model,
        x,
        steps=steps,
        batch_size=32,
        optimizer=partial(Adam, lr=1e-3),
        schedule=cosine(steps),
    )


def _train_letters(model: nn.Module) -> dict[str, Any]:
    vqvae, items, batch, steps, prior_steps = cast(VQVAE, model), 60_000, 32, 6000, 12_000
    train = glyphs.load(items, 0, **glyphs.COLOUR_LARGE_GLYPHS).train
    _fit_codes(vqvae, train.x, steps)
    codes = torch.cat([vqvae.encode(part) for part in train.x.split(500)])
    prior = cast(GatedPixelCNN, vqvae.prior)
    _train_prior(prior, (codes[:, None], train.y), prior_steps, batch)
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


def _speech_examples(model: nn.Module) -> dict[str, str]:
    """The codes of each speaker's first test recording of "five", two hexadecimal digits each. Of
    all words it is the one that the recogniser best understands in another voice."""
    x, y = _spoken(fsdd.load().test)
    found = dict[str, str]()
    for i, speaker in enumerate(SPEAKERS):
        first = int(((y == torch.tensor([5, i])).all(1)).nonzero()[0])
        codes = _codes(cast(VQVAE, model), x[first : first + 1])
        found[speaker] = bytes(codes[0].tolist()).hex()
    return found


vqvae_speech = Recipe(_train_speech, _evaluate_speech, examples=_speech_examples)


# VQ-VAE-2: the same letters in one fine grid, and in two. The autoencoders take the same steps; of
# the priors' steps there are so many that both take about the same time.


_LETTERS = {"data": "glyphs: 60,000 capitals in colour, 32x32, upright fonts in two weights"}


def _train_fine_letters(model: nn.Module) -> dict[str, Any]:
    vqvae, steps, prior_steps = cast(VQVAE, model), 3000, 5000
    train = glyphs.load(60_000, 0, **glyphs.COLOUR_LARGE_GLYPHS).train
    prior = cast(GatedPixelCNN, vqvae.prior)
    vqvae.prior = None
    _fit_codes(vqvae, train.x, steps)
    codes = torch.cat([vqvae.encode(part) for part in train.x.split(500)])
    start = time.perf_counter()
    _train_prior(prior, (codes[:, None], train.y), prior_steps)
    took = round(time.perf_counter() - start, 1)
    return _LETTERS | {
        "steps": steps,
        "steps of the prior": prior_steps,
        "its seconds": took,
    }


def _train_two_levels(model: nn.Module) -> dict[str, Any]:
    vqvae, steps, prior_steps = cast(VQVAE2, model), 3000, (4000, 3000)
    train = glyphs.load(60_000, 0, **glyphs.COLOUR_LARGE_GLYPHS).train
    priors, vqvae.priors = cast(nn.ModuleList, vqvae.priors), None
    _fit_codes(vqvae, train.x, steps)
    vqvae.priors = priors
    top, bottom = cast(TopPrior, priors[0]), cast(BottomPrior, priors[1])
    coarse, fine = _all_codes(vqvae, train.x)
    start = time.perf_counter()
    _train_prior(top, (coarse[:, None], train.y), prior_steps[0])
    _train_prior(bottom, (fine[:, None], bottom.given([coarse], train.y)), prior_steps[1])
    took = round(time.perf_counter() - start, 1)
    return _LETTERS | {
        "steps": steps,
        "steps of the priors, top and bottom": list(prior_steps),
        "their seconds": took,
    }


@torch.no_grad()
def _evaluate_both(model: nn.Module) -> dict[str, float]:
    """Of a model of letters with one grid, or with two: what the codes keep and cost, and what a
    judge reads in samples."""
    vqvae, judge = cast(Any, model), cast(ImageClassifier, pretrained.load("metrics/letters"))
    test = glyphs.load(0, 2000, **glyphs.COLOUR_LARGE_GLYPHS).test

    def read(x: Tensor, y: Tensor) -> float:
        return round(float((judge.read(x).argmax(1) == y).float().mean()), 4)

    squares, right, bits = list[Tensor](), list[float](), list[Tensor]()
    for x, y in zip(test.x.split(500), test.y.split(500), strict=True):
        codes = vqvae.encode(x)
        rebuilt = vqvae.decode_mean(codes)
        squares.append((rebuilt - x).square().mean())
        right.append(read(rebuilt, y))
        bits.append(-vqvae.code_log_prob(codes, y).mean() / math.log(2))
    asked = torch.arange(judge.classes).repeat(50)
    drawn = vqvae.decode_mean(vqvae.sample_codes(len(asked), asked, generator=seeded(0)))
    return {
        "mean squared error, test": round(float(torch.stack(squares).mean()), 5),
        "read, of reconstructions": round(sum(right) / len(right), 4),
        "bits an image, priors": round(float(torch.stack(bits).mean()), 1),
        "samples": len(asked),
        "read as asked, of samples": read(drawn, asked),
        "mean confidence, samples": round(float(judge.read(drawn).max(1).values.mean()), 4),
    }


vqvae_fine_letters = Recipe(_train_fine_letters, _evaluate_both)
vqvae2_letters = Recipe(_train_two_levels, _evaluate_both)


# VQ-VAE-2: tiles of a game, and the priors over their codes, which are told the category


def _mirror(x: Tensor, generator: torch.Generator) -> Tensor:
    """Every other tile turned left to right."""
    turned = torch.rand(len(x), 1, 1, 1, generator=generator) < 0.5
    return torch.where(turned, x.flip(3), x)


def _moved(x: Tensor) -> Tensor:
    """Each tile and its mirror image, and both moved by two pixels, or not, along each axis; what
    comes in at an edge repeats it. ``(N, ...)`` -> ``(18 N, ...)``, move by move."""
    side, by = x.shape[2], 2
    wide = nn.functional.pad(x, [by] * 4, mode="replicate")
    starts = range(0, 2 * by + 1, by)
    all_ = [wide[:, :, i : i + side, j : j + side] for i in starts for j in starts]
    return torch.cat([part for one in all_ for part in (one, one.flip(3))])


@torch.no_grad()
def _all_codes(model: VQVAE2, x: Tensor) -> tuple[Tensor, ...]:
    parts = [model.encode(part) for part in x.split(500)]
    return tuple(torch.cat(level) for level in zip(*parts, strict=True))


def _train_tiles(model: nn.Module) -> dict[str, Any]:
    vqvae, batch, steps, prior_steps = cast(VQVAE2, model), 32, 6000, (8000, 6000)
    train = dcss.load().train
    priors, vqvae.priors = cast(nn.ModuleList, vqvae.priors), None
    fit(
        vqvae,
        train.x,
        steps=steps,
        batch_size=batch,
        optimizer=partial(Adam, lr=1e-3),
        schedule=cosine(steps),
        transform=_mirror,
    )
    vqvae.priors = priors
    top, bottom = cast(TopPrior, priors[0]), cast(BottomPrior, priors[1])
    seen = _moved(train.x)
    (coarse, fine), y = _all_codes(vqvae, seen), train.y.repeat(len(seen) // len(train.y))
    data = ((coarse[:, None], y), (fine[:, None], bottom.given([coarse], y)))
    for prior, its_data, its_steps in zip((top, bottom), data, prior_steps, strict=True):
        _train_prior(prior, its_data, its_steps, batch)
    return {
        "data": f"Dungeon Crawl tiles: {len(train.x):,} of 32x32, and their mirror images",
        "batch size": batch,
        "steps": steps,
        "steps of the priors, top and bottom": list(prior_steps),
    }


@torch.no_grad()
def _evaluate_tiles(model: nn.Module) -> dict[str, float]:
    """What is lost, level by level; whether a tile can still be told from all others; and what the
    codes cost."""
    vqvae, splits = cast(VQVAE2, model), dcss.load()
    x, y = splits.test.x, splits.test.y
    codes = _all_codes(vqvae, x)
    result: dict[str, float] = {"test tiles": len(x)}
    for what, keep in (
        ("both levels", (True, True)),
        ("the top alone", (True, False)),
        ("the bottom alone", (False, True)),
    ):
        made = vqvae.decode_mean(codes, keep)
        nearest = torch.cdist(made.flatten(1), x.flatten(1)).argmin(1)
        found = (nearest == torch.arange(len(x))).float().mean()
        result[f"mean squared error, {what}"] = round(float((made - x).square().mean()), 5)
        result[f"nearest to their own tile, {what}"] = round(float(found), 4)
    top, bottom = cast(TopPrior, vqvae.priors[0]), cast(BottomPrior, vqvae.priors[1])  # type: ignore[index]
    few = splits.train.x[: len(x)]
    for part, (coarse, fine), of in (
        ("test", codes, y),
        ("training", _all_codes(vqvae, few), splits.train.y[: len(x)]),
    ):
        for name, bits in (
            ("top", -top.log_prob(coarse[:, None], of) / coarse[0].numel()),
            (
                "bottom",
                -bottom.log_prob(fine[:, None], bottom.given([coarse], of)) / fine[0].numel(),
            ),
        ):
            result[f"bits a code, {name}, {part}"] = round(float(bits.mean()) / math.log(2), 3)
    for name, mine, level in zip(("top", "bottom"), codes, vqvae.hierarchy, strict=True):
        count = cast(Any, level).quantiser.count
        result[f"perplexity, of {count}, {name}"] = round(float(perplexity(mine, count)), 1)
    return result


def _tile_examples(model: nn.Module) -> dict[str, str]:
    """The codes of the first test tiles, top before bottom, two hexadecimal digits each."""
    test = dcss.load().test
    levels = _all_codes(cast(VQVAE2, model), test.x[:40])
    flat = torch.cat([codes.flatten(1) for codes in levels], 1)
    return {
        name: bytes(codes.tolist()).hex() for name, codes in zip(test.names, flat, strict=False)
    }


vqvae2_tiles = Recipe(_train_tiles, _evaluate_tiles, examples=_tile_examples)
