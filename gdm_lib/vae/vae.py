"""The variational autoencoder.

Diederik P. Kingma and Max Welling, *Auto-Encoding Variational Bayes*, 2013,
https://arxiv.org/abs/1312.6114. Equation numbers below are the paper's.

A latent ``z ~ N(0, I)`` explains the data through a decoder ``p(x|z)``; an encoder
``q(z|x)`` stands in for the posterior that nobody can compute. Both are trained on one
quantity, the evidence lower bound (equation 3)::

    log p(x)  >=  E_q(z|x)[log p(x|z)] - KL(q(z|x) || p(z))

Symbols: ``mu`` and ``log_var`` are the mean and the log-variance of ``q(z|x)``, ``eps`` the
noise of the reparameterisation ``z = mu + exp(log_var / 2) * eps``, ``L`` the number of
latent samples per item, ``B`` the batch, ``D`` the latent dimension.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from gdm_lib._inputs import check_some
from gdm_lib.likelihoods import LOG_2PI, Bernoulli, check_items, check_levels
from gdm_lib.nn import (
    check_batch,
    check_count,
    check_module,
    check_sizes,
    context_of,
    evaluates,
    gaussian,
    in_dtype_of,
    mlp,
    through,
    trains,
)
from gdm_lib.protocols import Likelihood

__all__ = [
    "VAE",
    "Decoder",
    "Encoder",
    "Estimator",
    "gaussian_kl",
    "gaussian_log_prob",
    "reparameterise",
    "seen_by",
    "sgvb_a",
    "sgvb_b",
]

ARXIV = "1312.6114"


# Section 2.4: the reparameterisation trick


def reparameterise(mu: Tensor, log_var: Tensor, eps: Tensor) -> Tensor:
    """``z = mu + sigma * eps``, so that gradients reach ``mu`` and ``log_var`` (equation 4).

    Args:
        mu: ``(B, D)``.
        log_var: ``(B, D)``.
        eps: standard normal noise, ``(B, D)`` or ``(L, B, D)``.
    """
    return mu + torch.exp(0.5 * log_var) * eps


def gaussian_log_prob(z: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
    """``log N(z; mu, diag exp(log_var))`` in nats, summed over the last dimension (equation 9)."""
    return -0.5 * (LOG_2PI + log_var + (z - mu).square() * torch.exp(-log_var)).sum(-1)


def gaussian_kl(mu: Tensor, log_var: Tensor) -> Tensor:
    """``KL(N(mu_j, exp(log_var_j)) || N(0, 1))`` of each latent unit, in nats (appendix B).

    Returns:
        The same shape as ``mu``: sum over the last dimension for the KL of an item.
    """
    return 0.5 * (mu.square() + log_var.exp() - log_var - 1)


# Section 2.3: the SGVB estimators of the bound

Estimator = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""``(log_px_z (L, B), z (L, B, D), mu (B, D), log_var (B, D)) -> (B,)``, what to maximise."""


def sgvb_a(log_px_z: Tensor, z: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
    """Estimator A (equation 6): every term is sampled. Needs only densities, so it works for
    any prior and posterior; the noise of its KL part is the price.

    Args:
        log_px_z: ``log p(x|z)``, ``(L, B)``.
        z: samples of ``q(z|x)``, ``(L, B, D)``.
        mu: ``(B, D)``.
        log_var: ``(B, D)``.

    Returns:
        An unbiased estimate of the ELBO in nats, ``(B,)``.
    """
    log_pz = gaussian_log_prob(z, torch.zeros_like(mu), torch.zeros_like(log_var))
    return (log_px_z + log_pz - gaussian_log_prob(z, mu, log_var)).mean(0)


def sgvb_b(log_px_z: Tensor, z: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
    """Estimator B (equations 7 and 10): the KL in closed form, only log p(x|z) is sampled.

    Takes and returns what ``sgvb_a`` does.
    """
    return log_px_z.mean(0) - gaussian_kl(mu, log_var).sum(-1)


# Appendix C: multilayer perceptrons as encoder and decoder


class Encoder(nn.Module):
    """``q(z|x)``: a diagonal Gaussian whose moments an MLP computes (equations 9 and 12).

    Args:
        data_shape: shape of one item, for example ``(1, 28, 28)``.
        latent_dim: ``D``.
        hidden: widths of the hidden layers; the paper's is one of 500.
        activation: makes the activation between layers; the paper's is tanh.
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        latent_dim: int,
        hidden: Sequence[int] = (500,),
        activation: Callable[[], nn.Module] = nn.Tanh,
    ) -> None:
        super().__init__()
        data_shape, hidden = check_sizes("data_shape", data_shape), check_sizes("hidden", hidden)
        check_count("latent_dim", latent_dim, 1)
        self.net = mlp((math.prod(data_shape), *hidden, 2 * latent_dim), activation)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, *data_shape)`` -> ``mu (B, D)``, ``log_var (B, D)``."""
        mu, log_var = self.net(x.flatten(1)).chunk(2, dim=1)
        return mu, log_var


class Decoder(nn.Module):
    """The parameters of ``p(x|z)`` from an MLP (equations 11 and 12).

    Args:
        latent_dim: ``D``.
        params_shape: what the likelihood asks for one item.
        hidden: widths of the hidden layers.
        activation: makes the activation between layers.
    """

    def __init__(
        self,
        latent_dim: int,
        params_shape: Sequence[int],
        hidden: Sequence[int] = (500,),
        activation: Callable[[], nn.Module] = nn.Tanh,
    ) -> None:
        super().__init__()
        check_count("latent_dim", latent_dim, 1)
        hidden = check_sizes("hidden", hidden)
        self.params_shape = check_sizes("params_shape", params_shape)
        self.net = mlp((latent_dim, *hidden, math.prod(params_shape)), activation)

    def forward(self, z: Tensor) -> Tensor:
        """``(B, D)`` -> ``(B, *params_shape)``."""
        return self.net(z).unflatten(1, self.params_shape)


# Section 3: the variational autoencoder


class VAE(nn.Module):
    """Variational autoencoder with a standard normal prior.

    Args:
        encoder: maps ``x`` to ``(mu, log_var)``, each ``(B, latent_dim)``.
        decoder: maps ``z (B, latent_dim)`` to the likelihood's parameters.
        likelihood: what the decoder's output means. Of levels, such as ``Categorical``, it takes
            int64 levels for ``x``, of which the encoder sees ``-1 + 2 x / (levels - 1)``.
        data_shape: shape of one item.
        latent_dim: ``D``.
        estimator: what training maximises; ``sgvb_b``, the paper's choice for Gaussians,
            ``sgvb_a``, or another objective of the same signature.
        samples: latent samples ``L`` per item in training; 1 as in the paper (section 2.3),
            which finds it enough with minibatches of 100.
    """

    bound = True

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        likelihood: Likelihood,
        *,
        data_shape: Sequence[int],
        latent_dim: int,
        estimator: Estimator = sgvb_b,
        samples: int = 1,
    ) -> None:
        super().__init__()
        check_count("samples", samples, 1)
        check_count("latent_dim", latent_dim, 1)
        self.encoder = encoder
        self.decoder = decoder
        self.likelihood = likelihood
        self.data_shape = check_sizes("data_shape", data_shape)
        self.latent_dim = latent_dim
        self.estimator = estimator
        self.samples = samples

    @classmethod
    def mlp(
        cls,
        data_shape: Sequence[int],
        latent_dim: int,
        *,
        hidden: Sequence[int] = (500,),
        activation: Callable[[], nn.Module] = nn.Tanh,
        likelihood: Likelihood | None = None,
        estimator: Estimator = sgvb_b,
        samples: int = 1,
    ) -> VAE:
        """The paper's own: MLPs of the same hidden widths (the decoder's reversed).

        Args:
            data_shape: shape of one item.
            latent_dim: ``D``.
            hidden: widths of the encoder's hidden layers.
            activation: makes the activation between layers.
            likelihood: ``Bernoulli()`` when left out.
            estimator: what training maximises.
            samples: latent samples per item in training.
        """
        check_module("likelihood", cast(Any, likelihood))
        likelihood = Bernoulli() if likelihood is None else likelihood
        data_shape, hidden = check_sizes("data_shape", data_shape), check_sizes("hidden", hidden)
        params_shape = likelihood.params_shape(data_shape)
        return cls(
            Encoder(data_shape, latent_dim, hidden, activation),
            Decoder(latent_dim, params_shape, tuple(reversed(hidden)), activation),
            likelihood,
            data_shape=data_shape,
            latent_dim=latent_dim,
            estimator=estimator,
            samples=samples,
        )

    @evaluates
    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``q(z|x)``: ``(B, *data_shape)`` -> ``mu (B, D)``, ``log_var (B, D)``.

        Raises:
            TypeError: ``x`` is no tensor.
            ValueError: ``x`` isn't a batch of items of ``data_shape``, or of another dtype than
                the likelihood takes: floating point, or levels as int64.
        """
        check_items("x", x, self.data_shape, self.likelihood)
        mu, log_var = through(self.encoder, seen_by(self.encoder, self.likelihood, x))
        return mu, log_var

    @evaluates
    def decode(self, z: Tensor) -> Tensor:
        """Parameters of ``p(x|z)``: ``(B, D)`` -> ``(B, *params_shape)``.

        Raises:
            ValueError: ``z`` doesn't have the shape ``(B, latent_dim)``.
        """
        check_batch("z", z, (self.latent_dim,))
        params: Tensor = through(self.decoder, z)
        return params

    @evaluates
    def decode_mean(self, z: Tensor) -> Tensor:
        """E[x|z], the picture that is usually shown: ``(B, D)`` -> ``(B, *data_shape)``."""
        return self.likelihood.mean(self.decode(z))

    def _draw(
        self, x: Tensor, samples: int, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``L = samples`` latents per item: ``log_px_z (L, B)``, ``z (L, B, D)``, mu, log_var."""
        check_count("samples", samples, 1)
        mu, log_var = self.encode(x)
        x = x if hasattr(self.likelihood, "levels") else in_dtype_of(self, x)
        eps = gaussian((samples, *mu.shape), mu, generator)
        z = reparameterise(mu, log_var, eps)
        repeated = x.expand(samples, *x.shape).flatten(0, 1)
        log_px_z = self.likelihood.log_prob(self.decode(z.flatten(0, 1)), repeated)
        return log_px_z.unflatten(0, (samples, len(x))), z, mu, log_var

    @evaluates
    def log_prob(
        self,
        x: Tensor,
        y: Tensor | None = None,
        *,
        samples: int = 1,
        estimator: Estimator = sgvb_b,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The ELBO, a lower bound on log p(x), estimated from ``samples`` latents per item.

        The estimate is unbiased for the bound, so one value may lie above log p(x); the mean
        over draws doesn't. It is the ELBO whatever objective the model is trained on.

        Returns:
            Nats, ``(B,)``.
        """
        _refuse_labels(y)
        return estimator(*self._draw(x, samples, generator))

    @trains
    def loss(
        self,
        x: Tensor,
        y: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """The negative of ``estimator`` per item, averaged over the batch (equation 8 without
        its N).

        Returns:
            ``loss``, and beside it ``distortion`` (-log p(x|z)) and ``rate`` (the KL), in nats
            per item. Under both of the paper's estimators loss = distortion + rate in
            expectation; under ``sgvb_b`` they are equal.
        """
        _refuse_labels(y)
        log_px_z, z, mu, log_var = self._draw(x, self.samples, generator)
        check_some("x", x)
        return {
            "loss": -self.estimator(log_px_z, z, mu, log_var).mean(),
            "distortion": -log_px_z.mean().detach(),
            "rate": gaussian_kl(mu, log_var).sum(-1).mean().detach(),
        }

    @torch.no_grad()
    @evaluates
    def importance_log_prob(
        self,
        x: Tensor,
        samples: int = 1000,
        *,
        chunk: int = 100,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """log p(x) by importance sampling from the encoder, for evaluation.

        ``log 1/K sum_k p(x, z_k) / q(z_k|x)``: a lower bound in expectation, tighter with each
        sample, and log p(x) in the limit if the encoder covers the posterior (Burda et al. 2015,
        1509.00519, theorem 1; Rezende et al. 2014, 1401.4082).

        Args:
            x: ``(B, *data_shape)``.
            samples: ``K``.
            chunk: how many of them to hold in memory at a time.
            generator: of the latent noise.

        Returns:
            Nats, ``(B,)``.

        Raises:
            ValueError: ``samples`` or ``chunk`` is below 1.
        """
        check_count("samples", samples, 1)
        check_count("chunk", chunk, 1)
        total = torch.tensor(-math.inf)
        for start in range(0, samples, chunk):
            log_px_z, z, mu, log_var = self._draw(x, min(chunk, samples - start), generator)
            log_pz = gaussian_log_prob(z, torch.zeros_like(mu), torch.zeros_like(log_var))
            log_weights = log_px_z + log_pz - gaussian_log_prob(z, mu, log_var)
            some = log_weights.logsumexp(0)
            total = some if start == 0 else torch.logaddexp(total, some)
        return total - math.log(samples)

    @torch.no_grad()
    @evaluates
    def sample(
        self,
        n: int,
        y: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Ancestral sampling, ``z ~ p(z)`` then ``x ~ p(x|z)``: ``(n, *data_shape)``."""
        _refuse_labels(y)
        check_count("n", n)
        z = gaussian((n, self.latent_dim), next(self.parameters()), generator)
        return self.likelihood.sample(self.decode(z), generator=generator)


def _refuse_labels(y: Tensor | None) -> None:
    context_of(y, 0, 0, None)


def seen_by(encoder: nn.Module, likelihood: Likelihood, x: Tensor) -> Tensor:
    """What an encoder sees of the data: levels scaled to [-1, 1], all else as it is, in the dtype
    of its weights.

    Raises:
        ValueError: the likelihood is of levels, and ``x`` holds others.
    """
    levels = getattr(likelihood, "levels", 0)
    if levels:
        check_levels("x", x, levels)
    x = in_dtype_of(encoder, x)
    return 2 * x / (levels - 1) - 1 if levels else x
