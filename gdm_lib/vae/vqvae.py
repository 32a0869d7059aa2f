"""The VQ-VAE: an autoencoder whose latents are codes, entries of a learned codebook.

Aäron van den Oord, Oriol Vinyals and Koray Kavukcuoglu, *Neural Discrete Representation Learning*,
2017, https://arxiv.org/abs/1711.00937. Equation numbers below are the paper's.

An encoder maps the data to vectors, each is replaced by the nearest entry of the codebook, and the
decoder sees the entries alone. Three terms train it (equation 3)::

    L = -log p(x | z_q(x)) + ||sg[z_e(x)] - e||^2 + beta ||z_e(x) - sg[e]||^2

The first reaches the encoder too, since the gradient of what it put out is taken to be that of the
entry in its place. The second moves the entries to the vectors that chose them, unless a moving
average does (appendix A.1); the third keeps the encoder near its choice. Afterwards a second model
learns the distribution of the codes: the prior.

The decoder of a sound is a WaveNet that hears what it has said and is told the codes and who speaks
(section 4.3), so that the codes needn't carry the voice, and the voice can be exchanged.

Symbols: ``K`` entries of ``D`` features each, ``z_e`` the encoder's output, ``z_q`` the entries in
its place, ``sg`` the stop of the gradient, ``B`` the batch; ``grid`` is the shape of one item's
codes, such as ``(8, 8)``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from gdm_lib._inputs import a_tensor, batch_of, check, check_some, levels_of
from gdm_lib.autoregression import Autoregressive
from gdm_lib.autoregressive.wavenet import WaveNet
from gdm_lib.likelihoods import IsotropicGaussian, check_items
from gdm_lib.nn import (
    ClassEmbedding,
    check_condition,
    check_count,
    check_image,
    check_sizes,
    context_of,
    evaluates,
    exact,
    in_dtype_of,
    several_processes,
    through,
    trains,
    uniform,
)
from gdm_lib.protocols import Likelihood
from gdm_lib.vae.vae import seen_by

__all__ = [
    "VQVAE",
    "AutoregressiveLikelihood",
    "LabelEmbedding",
    "ResidualBlock",
    "VectorQuantiser",
    "perplexity",
    "straight_through",
]

ARXIV = "1711.00937"

PART = 1024
"""Vectors that are compared with all entries at a time."""


# Section 3.1: discrete latent variables


def straight_through(z_e: Tensor, entries: Tensor) -> Tensor:
    """``z_q``: the entries, with a gradient that goes to ``z_e`` as it comes (section 3.2)."""
    return entries.detach() + (z_e - z_e.detach())


def perplexity(codes: Tensor, count: int) -> Tensor:
    """exp of the entropy of the codes' frequencies: ``count`` if all are used alike, 1 if one is.

    Args:
        codes: int64, 0 to ``count - 1``, of any shape.
        count: ``K``.
    """
    return _perplexity(torch.bincount(codes.flatten(), minlength=count))


def _perplexity(chosen: Tensor) -> Tensor:
    share = chosen / chosen.sum().clamp(min=1)
    return torch.special.entr(share).sum().exp()


class VectorQuantiser(nn.Module):
    """The codebook, ``K`` entries of ``D`` features (equations 1 and 2).

    Without ``decay`` the entries are parameters, and the second term of the loss trains them. With
    it they are the means of the vectors that chose them, over an exponential window, which is
    k-means as the data come along (appendix A.1, equations 6 to 8).

    Args:
        count: ``K``.
        dim: ``D``.
        decay: ``gamma``, from 0 to below 1; the paper found 0.99 to work well.
        restart: an entry that no vector has chosen for so many batches moves to a vector of the
            batch, drawn at random; 0: it stays. (Not in the paper.)
    """

    codebook: Tensor
    sizes: Tensor
    sums: Tensor
    idle: Tensor

    def __init__(
        self, count: int, dim: int, *, decay: float | None = None, restart: int = 0
    ) -> None:
        super().__init__()
        check_count("count", count, 1)
        check_count("dim", dim, 1)
        check_count("restart", restart)
        if decay is not None and not (isinstance(decay, int | float) and 0 <= decay < 1):
            raise ValueError(f"decay must be from 0 to below 1, or None, got {decay!r}")
        self.count, self.dim, self.decay, self.restart = count, dim, decay, restart
        start = torch.empty(count, dim).uniform_(-1 / count, 1 / count)
        if decay is None:
            self.codebook = nn.Parameter(start)
        else:
            self.register_buffer("codebook", start)
            self.register_buffer("sizes", torch.zeros(count))
            self.register_buffer("sums", torch.zeros(count, dim))
        if restart:
            self.register_buffer("idle", torch.zeros(count, dtype=torch.int64))

    def nearest(self, vectors: Tensor) -> Tensor:
        """The nearest entry of each vector, the first of those that are equally near:
        ``(N, D)`` -> int64 ``(N,)``. A vector that isn't finite has no nearest one, and gets any.
        """
        # |z - e|^2 = |z|^2 - 2 (z.e - |e|^2 / 2): the nearest has the largest bracket. What all
        # have in common is taken away first, so that its square doesn't use up the digits.
        entries = exact(self.codebook.detach())
        centre = entries.mean(0)
        entries = entries - centre
        offset = -0.5 * entries.square().sum(1)
        # Part by part: what lies in the cache needn't be fetched again, and memory stays small.
        parts = (exact(vectors) - centre).split(PART)
        return torch.cat([torch.addmm(offset, part, entries.T).max(1).indices for part in parts])

    def embed(self, codes: Tensor) -> Tensor:
        """The entries of codes: ``(B, *grid)`` -> ``(B, D, *grid)``."""
        return F.embedding(codes, self.codebook).movedim(-1, 1)

    def forward(self, z: Tensor) -> Tensor:
        """Codes of what the encoder put out, ``(B, D, *grid)`` -> ``(B, *grid)``. In training the
        moving averages follow, and what has long been idle restarts, unless a vector isn't finite.
        """
        vectors = z.detach().movedim(1, -1)
        flat = vectors.flatten(0, -2)
        codes = self.nearest(flat)
        if self.training and (self.decay is not None or self.restart) and len(codes):
            with torch.no_grad():
                self._follow(exact(flat), codes)
        return codes.view(vectors.shape[:-1])

    def _follow(self, vectors: Tensor, codes: Tensor) -> None:
        broken = (~vectors.isfinite()).sum()
        _summed(broken)
        if broken:
            return
        chosen = torch.bincount(codes, minlength=self.count).to(vectors.dtype)
        if self.decay is None:
            _summed(chosen)
        else:
            sums = torch.zeros_like(self.sums).index_add_(0, codes, vectors.to(self.sums.dtype))
            _summed(chosen, sums)
            self.sizes.lerp_(chosen.to(self.sizes.dtype), 1 - self.decay)
            self.sums.lerp_(sums, 1 - self.decay)
            known = self.sizes > torch.finfo(self.sizes.dtype).tiny  # else 0 / 0: it stays
            means = self.sums / self.sizes.clamp(min=torch.finfo(self.sizes.dtype).tiny)[:, None]
            self.codebook.copy_(torch.where(known[:, None], means, self.codebook))
        if self.restart:
            self.idle.add_(1).masked_fill_(chosen > 0, 0)
            self._move(self.idle >= self.restart, vectors)

    def _move(self, moving: Tensor, vectors: Tensor) -> None:
        """Entries to vectors of the batch; where several processes share it, to the first one's."""
        number = int(moving.sum())
        if not number:
            return
        places = torch.randint(len(vectors), (number,), device=vectors.device)
        to = vectors[places].to(self.codebook.dtype)
        if several_processes():
            dist.broadcast(to, 0)
        self.codebook.data[moving] = to
        self.idle[moving] = 0
        if self.decay is not None:
            # As if it had been chosen once in each batch.
            self.sizes[moving], self.sums[moving] = 1.0, to


def _summed(*values: Tensor) -> None:
    """In place, over the processes that share a batch."""
    if several_processes():
        for value in values:
            dist.all_reduce(value)


# Section 4.1: the networks for images


class ResidualBlock(nn.Module):
    """ReLU, 3x3 convolution, ReLU, 1x1 convolution, added to what comes in.

    Args:
        width: features of the stream.
        inner: features between the convolutions.
    """

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(width, inner, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(inner, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(B, width, H, W)`` -> the same shape."""
        return x + self.net(x)


def _image_encoder(channels: int, width: int, dim: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, 4, 2, 1),
        nn.ReLU(),
        nn.Conv2d(width, width, 4, 2, 1),
        ResidualBlock(width, width),
        ResidualBlock(width, width),
        nn.ReLU(),
        nn.Conv2d(width, dim, 1),
    )


def _image_decoder(dim: int, width: int, params: Sequence[int]) -> nn.Sequential:
    # Parameters of the likelihood, (P, C, H, W) or (C, H, W), leave as P C features of a pixel.
    features = math.prod(params[:-2])
    return nn.Sequential(
        nn.Conv2d(dim, width, 3, padding=1),
        ResidualBlock(width, width),
        ResidualBlock(width, width),
        nn.ReLU(),
        nn.ConvTranspose2d(width, width, 4, 2, 1),
        nn.ReLU(),
        nn.ConvTranspose2d(width, features, 4, 2, 1),
        nn.Unflatten(1, tuple(params[:-2])) if len(params) > 3 else nn.Identity(),
    )


# Section 4.3: a WaveNet for decoder, which is told who speaks


class AutoregressiveLikelihood(nn.Module):
    """``p(x|z) = prod_i p(x_i | x_1, ..., x_{i-1}, z)``: what the decoder puts out is the context
    of an autoregressive model, which is trained with it. ``x`` holds int64 levels.

    Parameters: ``(B, F, *places)``, a vector for each sample of a WaveNet, for each pixel of a
    Gated PixelCNN.

    Args:
        model: with ``context_dim`` ``F``, and without ``embed``. If it sees far back it can do
            without the codes, and may learn to.

    Raises:
        ValueError: another model.
    """

    def __init__(self, model: Autoregressive) -> None:
        super().__init__()
        if not model.context_dim or model.embed is not None:
            got = "one with embed" if model.context_dim else "context_dim=0"
            raise ValueError(
                "model must take what the decoder puts out for its context, with context_dim as "
                f"many features and no embed, got {got}"
            )
        self.model, self.levels = model, model.levels

    def params_shape(self, data_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of one item's parameters, ``(F, T)`` for ``(T,)``, ``(F, H, W)`` for ``(C, H, W)``.

        Raises:
            ValueError: the model's items have another shape.
        """
        if tuple(data_shape) != self.model.data_shape:
            raise ValueError(
                f"data_shape must be that of the likelihood's model, {self.model.data_shape}, got "
                f"{tuple(data_shape)}"
            )
        # The colours of a pixel share its context.
        places = data_shape[1:] if len(data_shape) == 3 else data_shape
        return (self.model.context_dim, *places)

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        """log p(x|z) in nats: ``(B, F, *places)`` and levels ``(B, *data_shape)`` -> ``(B,)``."""
        return self.model.log_prob(x, params)

    def sample(self, params: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw place by place: int64 levels, ``(B, *data_shape)``."""
        return self.model.sample(len(params), params, generator=generator)

    def mean(self, params: Tensor) -> Tensor:
        """It has none in closed form.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "likelihood must have a mean in closed form, and an autoregressive one has none: draw "
            "from it, likelihood.sample(params), with params = model.decode(codes)"
        )


class LabelEmbedding(nn.Module):
    """The sum of a learned vector for each of an item's labels, such as a digit and a speaker.

    ``LabelEmbedding((10, 6), F)`` is told both, ``LabelEmbedding((0, 6), F)`` the speaker alone.

    Args:
        classes: how many there are of each label; 0: this one isn't told.
        features: length of a vector.
    """

    def __init__(self, classes: Sequence[int], features: int) -> None:
        super().__init__()
        told = {str(i): count for i, count in enumerate(classes) if count}
        if not told:
            raise ValueError(f"classes must name at least one label that is told, got {classes}")
        self.labels = len(classes)
        self.tables = nn.ModuleDict({i: ClassEmbedding(k, features) for i, k in told.items()})

    def forward(self, y: Tensor) -> Tensor:
        """Integer labels ``(B, len(classes))`` -> ``(B, features)``.

        Raises:
            ValueError: another shape, no integers, or a label out of range.
        """
        check("y", y, a_tensor, batch_of((self.labels,)))
        told = [table(y[:, int(i)]) for i, table in self.tables.items()]
        return torch.stack(told).sum(0)


def _sound_encoder(strides: Sequence[int], width: int, dim: int) -> nn.Sequential:
    net = nn.Sequential(nn.Unflatten(1, (1, -1)))
    features = 1
    for stride in strides:
        # The paper's window of 4 for a stride of 2: twice as wide, so that windows overlap.
        window = 2 * stride + stride % 2
        net.append(nn.Conv1d(features, width, window, stride, (window - stride) // 2))
        net.append(nn.ReLU())
        features = width
    return _of_one_size(net.append(nn.Conv1d(width, dim, 3, padding=1)))


def _sound_decoder(dim: int, width: int, features: int, factor: int) -> nn.Sequential:
    net = nn.Sequential(
        nn.Conv1d(dim, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv1d(width, features, 3, padding=1),
        nn.Upsample(scale_factor=factor, mode="linear"),
    )
    return _of_one_size(net)


def _of_one_size(net: nn.Sequential) -> nn.Sequential:
    """With weights that keep what passes through as large as it is (He et al. 2015, 1502.01852).
    With torch's own it would shrink to a hundredth, and the WaveNet learn to do without it."""
    layers = [layer for layer in net if isinstance(layer, nn.Conv1d)]
    for layer in layers[:-1]:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.kaiming_normal_(layers[-1].weight, nonlinearity="linear")  # no ReLU behind it
    for layer in layers:
        nn.init.zeros_(cast(Tensor, layer.bias))
    return net


# Section 3: the model


class VQVAE(nn.Module):
    """Encoder, codebook and decoder; and, once it is trained, a prior over the codes.

    ``fit(model, x)`` trains all but the prior. Then ``prior = GatedPixelCNN((1, *model.grid),
    levels=K, level_features=...)`` and ``fit(prior, model.encode(x)[:, None])``, and
    ``model.prior = prior``. As the paper trains with the uniform prior, so ``log_prob`` and
    ``sample`` take it as long as there is no other.

    ``log_prob`` is a lower bound: ``p(x) = sum_z p(z) p(x|z)`` is at least the one term
    of the codes that the encoder chooses (section 3.2).

    With ``context_dim`` the decoder is told something of the item too, so that the codes needn't
    say it: who speaks, say. In every method ``y`` is then what the caller has, one row for each
    item, and a prior that is conditional gets it as well. The encoder is never told, so that
    ``decode(encode(x), other_y)`` exchanges what ``y`` says and keeps the rest.

    Args:
        encoder: ``(B, *data_shape)`` -> ``(B, D, *grid)``.
        decoder: ``(B, D + F, *grid)`` -> ``(B, *params_shape)``, parameters of the likelihood;
            the last ``F`` features, if any, are the context.
        quantiser: the codebook.
        likelihood: ``p(x|z)``. Of levels, such as ``AutoregressiveLikelihood``, it takes int64
            levels for ``x``, of which the encoder sees ``-1 + 2 x / (levels - 1)``.
        data_shape: shape of one item.
        grid: shape of one item's codes.
        beta: weight of the third term; the paper's is 0.25.
        prior: a model of levels 0 to ``K - 1`` whose ``data_shape`` holds as many as the grid.
        context_dim: ``F``, features of the context that the decoder is told; 0 for none.
        embed: makes the context of ``y``, ``(B, F)`` or, if it depends on the place,
            ``(B, F, *grid)``; without it ``y`` is the context.
    """

    bound = True

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        quantiser: VectorQuantiser,
        likelihood: Likelihood,
        *,
        data_shape: Sequence[int],
        grid: Sequence[int],
        beta: float = 0.25,
        prior: Autoregressive | None = None,
        context_dim: int = 0,
        embed: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_condition(context_dim, embed)
        if not (isinstance(beta, int | float) and 0 <= beta < math.inf):
            raise ValueError(f"beta must be a finite number from 0, got {beta!r}")
        self.data_shape = check_sizes("data_shape", data_shape)
        self.grid = check_sizes("grid", grid)
        self.encoder, self.decoder, self.quantiser = encoder, decoder, quantiser
        self.likelihood, self.beta, self.prior = likelihood, beta, prior
        self.context_dim, self.embed = context_dim, embed

    @classmethod
    def image(
        cls,
        data_shape: Sequence[int],
        *,
        count: int = 512,
        dim: int = 64,
        width: int = 256,
        likelihood: Likelihood | None = None,
        beta: float = 0.25,
        decay: float | None = None,
        restart: int = 0,
    ) -> VQVAE:
        """The paper's networks for images: two convolutions of stride 2, two residual blocks, and
        the same backwards, so that a code stands for 4x4 pixels.

        Args:
            data_shape: ``(C, H, W)``, height and width multiples of 4.
            count: ``K``.
            dim: ``D``. The paper has 1 of 512 for ImageNet.
            width: features of all layers between.
            likelihood: ``IsotropicGaussian()`` if left out.
            beta: see the class.
            decay: see ``VectorQuantiser``.
            restart: see ``VectorQuantiser``.
        """
        check_count("width", width, 1)
        shape = check_image("data_shape", data_shape, 4, "two strides of 2")
        likelihood = IsotropicGaussian() if likelihood is None else likelihood
        params = likelihood.params_shape(shape)
        return cls(
            _image_encoder(shape[0], width, dim),
            _image_decoder(dim, width, params),
            VectorQuantiser(count, dim, decay=decay, restart=restart),
            likelihood,
            data_shape=shape,
            grid=(shape[1] // 4, shape[2] // 4),
            beta=beta,
        )

    @classmethod
    def sound(
        cls,
        wavenet: WaveNet,
        *,
        strides: Sequence[int] = (2, 2, 2, 2, 2, 2),
        count: int = 512,
        dim: int = 64,
        width: int = 128,
        beta: float = 0.25,
        decay: float | None = None,
        restart: int = 0,
        context_dim: int = 0,
        embed: nn.Module | None = None,
    ) -> VQVAE:
        """The paper's networks for sound: strided convolutions, of which six halve the rate, so
        that a code stands for 64 samples; and a WaveNet, which is told the codes.

        Args:
            wavenet: of ``(T,)`` levels, ``T`` a multiple of the product of the strides; with
                ``context_dim`` and without ``embed``, see ``AutoregressiveLikelihood``.
            strides: of the encoder's convolutions.
            count: ``K``.
            dim: ``D``; the paper doesn't tell its size.
            width: features of all layers between; the paper doesn't tell its size.
            beta: see the class.
            decay: see ``VectorQuantiser``.
            restart: see ``VectorQuantiser``.
            context_dim: see the class.
            embed: see the class.

        Raises:
            ValueError: the strides don't divide ``T``.
        """
        check_count("width", width, 1)
        check_condition(context_dim, embed)
        factor = math.prod(check_sizes("strides", strides))
        (length,) = wavenet.data_shape
        if length % factor:
            raise ValueError(
                f"strides must divide the {length} samples of wavenet, got {tuple(strides)}, whose "
                f"product is {factor}"
            )
        likelihood = AutoregressiveLikelihood(wavenet)
        return cls(
            _sound_encoder(strides, width, dim),
            _sound_decoder(dim + context_dim, width, wavenet.context_dim, factor),
            VectorQuantiser(count, dim, decay=decay, restart=restart),
            likelihood,
            data_shape=wavenet.data_shape,
            grid=(length // factor,),
            beta=beta,
            context_dim=context_dim,
            embed=embed,
        )

    def _encoded(self, x: Tensor) -> Tensor:
        if isinstance(self.likelihood, AutoregressiveLikelihood):
            self.likelihood.model.check(x)  # which knows how sound becomes levels
        check_items("x", x, self.data_shape, self.likelihood)
        z: Tensor = through(self.encoder, seen_by(self.encoder, self.likelihood, x))
        if z.shape[1:] != (self.quantiser.dim, *self.grid):
            raise ValueError(
                f"encoder must give (B, {self.quantiser.dim}, *grid) with grid {self.grid}, got "
                f"{tuple(z.shape)}"
            )
        return z

    @evaluates
    def encode(self, x: Tensor) -> Tensor:
        """Codes (equation 1): ``(B, *data_shape)`` -> int64 ``(B, *grid)``.

        Raises:
            ValueError: the encoder makes something of ``x`` that isn't finite and has no code.
        """
        z = self._encoded(x)
        if not bool(z.isfinite().all()):
            raise ValueError("x must be encoded as finite vectors, got nan or infinite ones")
        codes: Tensor = self.quantiser(z)
        return codes

    @evaluates
    def decode(self, codes: Tensor, y: Tensor | None = None) -> Tensor:
        """Parameters of ``p(x|z)``: codes ``(B, *grid)`` -> ``(B, *params_shape)``.

        Raises:
            ValueError: ``codes`` has another shape, another dtype than int64, or holds others
                than 0 to ``K - 1``; or ``y`` doesn't fit.
        """
        check("codes", codes, a_tensor, batch_of(self.grid), levels_of(self.quantiser.count))
        return self._decoded(self.quantiser.embed(codes), y)

    def _decoded(self, z_q: Tensor, y: Tensor | None) -> Tensor:
        context = self._context(y, len(z_q))
        if context is not None:
            z_q = torch.cat([z_q, context.to(z_q.dtype)], 1)
        params: Tensor = through(self.decoder, z_q)
        return params

    @evaluates
    def decode_mean(self, codes: Tensor, y: Tensor | None = None) -> Tensor:
        """E[x|z], the picture that is usually shown: ``(B, *grid)`` -> ``(B, *data_shape)``.

        Raises:
            ValueError: the likelihood is autoregressive and has no mean in closed form.
        """
        return self.likelihood.mean(self.decode(codes, y))

    @trains
    def loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """Equation 3. The first term is in nats per item; the others are squared distances,
        averaged over codes (the paper's footnote to several latents) and items.

        Args:
            x: ``(B, *data_shape)``.
            y: what the decoder is told. What the prior alone is conditioned on doesn't reach the
                loss, which no prior enters.

        Returns:
            ``loss``, and beside it ``nats``, ``codebook``, ``commitment`` and ``perplexity``, that
            of the batch's codes, over all processes.
        """
        z = self._encoded(x)
        check_some("x", x)
        self._context(y, len(x))  # refused before anything moves the codebook
        codes = self.quantiser(z)
        entries = exact(self.quantiser.embed(codes))
        params = self._decoded(straight_through(z, entries), y)
        nats = -self.likelihood.log_prob(params, self._data(x)).mean()
        codebook = (z.detach() - entries).square().sum(1).mean()
        commitment = (z - entries.detach()).square().sum(1).mean()
        loss = nats + self.beta * commitment
        chosen = torch.bincount(codes.flatten(), minlength=self.quantiser.count).to(z.dtype)
        _summed(chosen)
        return {
            "loss": loss if self.quantiser.decay is not None else loss + codebook,
            "nats": nats.detach(),
            "codebook": codebook.detach(),
            "commitment": commitment.detach(),
            "perplexity": _perplexity(chosen),
        }

    @evaluates
    def log_prob(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """A lower bound on log p(x), in nats, ``(B,)``: that of the codes under the prior, and of
        the data given them."""
        z = self._encoded(x)
        codes = self.quantiser(z)
        given = self.likelihood.log_prob(self.decode(codes, y), self._data(x))
        # nan where the encoder puts out nan, which no code can say.
        return given + self.code_log_prob(codes, y) + 0 * z.detach().flatten(1).sum(1)

    @evaluates
    def code_log_prob(self, codes: Tensor, y: Tensor | None = None) -> Tensor:
        """log p(z) in nats: codes ``(B, *grid)`` -> ``(B,)``. Without a prior each code has
        ``1 / K``."""
        self._context(y, len(codes))
        if self.prior is None:
            nats = -math.prod(self.grid) * math.log(self.quantiser.count)
            return torch.full((len(codes),), nats, device=codes.device)
        codes = codes.view(-1, *self.prior.data_shape)
        return self.prior.log_prob(codes, y if self._prior_is_told else None)

    @torch.no_grad()
    @evaluates
    def sample(
        self, n: int, y: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Codes from the prior, data from the codes: ``(n, *data_shape)``."""
        codes = self.sample_codes(n, y, generator=generator)
        return self.likelihood.sample(self.decode(codes, y), generator=generator)

    @torch.no_grad()
    @evaluates
    def sample_codes(
        self, n: int, y: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Codes from the prior: int64 ``(n, *grid)``. Without one, each is as likely as another."""
        check_count("n", n)
        self._context(y, n)
        if self.prior is None:
            like = self.quantiser.codebook
            unit = uniform((n, *self.grid), like, generator)
            return (unit * self.quantiser.count).long().clamp(max=self.quantiser.count - 1)
        told = y if self._prior_is_told else None
        return self.prior.sample(n, told, generator=generator).view(n, *self.grid)

    def _data(self, x: Tensor) -> Tensor:
        return x if hasattr(self.likelihood, "levels") else in_dtype_of(self, x)

    @property
    def _prior_is_told(self) -> bool:
        return self.prior is not None and self.prior.context_dim > 0

    def _context(self, y: Tensor | None, n: int) -> Tensor | None:
        """What the decoder is told of ``n`` items, ``(n, F, *grid)``, or None."""
        if not self.context_dim and self._prior_is_told:
            return None  # y is the prior's, which looks at it itself
        context = context_of(y, n, self.context_dim, self.embed, maps=True)
        if context is None:
            return None
        if context.ndim == 2:
            context = context.view(*context.shape, *[1] * len(self.grid))
            return context.expand(n, self.context_dim, *self.grid)
        if context.shape[2:] != self.grid:
            raise ValueError(
                f"y must give a context of shape (B, {self.context_dim}) or (B, "
                f"{self.context_dim}, *grid) with grid {self.grid}, got {tuple(context.shape)}"
            )
        return context
