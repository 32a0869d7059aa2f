"""Planar and radial flows.

Danilo Jimenez Rezende and Shakir Mohamed, *Variational Inference with Normalizing Flows*, 2015,
https://arxiv.org/abs/1505.05770. Equation numbers below are the paper's.

A simple density ``q_0`` is pushed through invertible steps; each changes the volume by the
determinant of its Jacobian, and for these steps that costs O(D) (equations 12 and 13)::

    z_K = f_K o ... o f_1(z_0),    log q_K(z_K) = log q_0(z_0) - sum_k log |det df_k/dz_{k-1}|

Here ``forward`` is the paper's ``f``, from noise to target, the direction that variational
inference needs: ``Flow(Inverse(Chain(*steps)), StandardNormal((D,)))`` is ``q_K``, and its ``draw``
gives samples with their density. ``inverse`` exists because the appendix's constraints hold.

Symbols: ``w, u (D,)`` and ``b`` are a planar step's parameters, ``z0 (D,)``, ``alpha > 0`` and
``beta`` a radial step's. With a context, a linear layer makes them for each item: amortisation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gdm_lib._inputs import check_some
from gdm_lib.bijections import Flow, check_inputs
from gdm_lib.likelihoods import check_items
from gdm_lib.nn import (
    check_batch,
    check_count,
    check_sizes,
    context_of,
    evaluates,
    exact,
    gaussian,
    in_dtype_of,
    mlp,
    through,
    trains,
)
from gdm_lib.protocols import Likelihood
from gdm_lib.vae.vae import gaussian_log_prob, reparameterise, seen_by

__all__ = [
    "FlowEncoder",
    "FlowVAE",
    "Planar",
    "Radial",
    "Step",
    "annealing",
    "free_energy",
    "monotone_root",
]

ARXIV = "1505.05770"


class Step(nn.Module):
    """Parameters of a step: its own, or those that a context asks for."""

    def __init__(self, dim: int, sizes: Sequence[int], context_dim: int) -> None:
        super().__init__()
        check_count("dim", dim, 1)
        self.dim, self.sizes, self.context_dim = dim, tuple(sizes), context_dim
        # Small, so that a step starts smooth; random, so that steps of a chain differ.
        self.raw = nn.Parameter(torch.randn(1, sum(sizes)) / math.sqrt(dim))
        if context_dim:
            self.amortise = nn.Linear(context_dim, sum(sizes), bias=False)
            nn.init.normal_(self.amortise.weight, std=0.1 / math.sqrt(context_dim))

    def _params(self, name: str, z: Tensor, context: Tensor | None) -> tuple[Tensor, ...]:
        check_inputs(name, z, (self.dim,), context, self.context_dim)
        raw = exact(self.raw)
        raw = raw if context is None else raw + through(self.amortise, context)
        return raw.split(self.sizes, dim=1)


# Section 4.1: planar flows


def monotone_root(slope: Tensor, r: Tensor) -> Tensor:
    """The ``v`` with ``v + (slope - 1) tanh(v) = r``; for ``slope > 0`` the left side rises.

    Newton's method, held inside a bracket that shrinks with every step: it converges however
    large ``r`` and ``slope`` are, and however flat the curve where ``slope`` is near 0. The
    derivatives are those of the root, by the implicit function theorem.
    """
    slope, r = torch.broadcast_tensors(slope, r)
    with torch.no_grad():
        c = slope - 1
        low, high = r - c.abs(), r + c.abs()  # since |tanh| < 1
        v = r / slope.clamp_min(1)
        for _ in range(100):
            t = torch.tanh(v)
            gap = v + c * t - r
            low, high = torch.where(gap < 0, v, low), torch.where(gap > 0, v, high)
            if bool((gap.abs() <= 2 * torch.finfo(v.dtype).eps * (v.abs() + r.abs())).all()):
                break
            newton = v - gap / (t * t + slope * (1 - t * t))
            inside = (low <= newton) & (newton <= high)
            v = torch.where(inside, newton, 0.5 * (low + high))
        t = torch.tanh(v)
        rise = t * t + slope * (1 - t * t)
    gap = slope * t - r
    return v - (gap - gap.detach()) / rise


class Planar(Step):
    """``f(z) = z + u tanh(w'z + b)`` (equation 10): expands or contracts along one plane's normal.

    Args:
        dim: ``D``.
        context_dim: features of the context that makes the parameters; 0 for none.
    """

    def __init__(self, dim: int, context_dim: int = 0) -> None:
        super().__init__(dim, (dim, dim, 1), context_dim)

    def _constrained(
        self, name: str, z: Tensor, context: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``w``, ``b``, ``u_hat`` and ``slope = 1 + w'u_hat > 0`` (appendix A.1)."""
        w, u, b = self._params(name, z, context)
        wu, ww = (w * u).sum(1, keepdim=True), w.square().sum(1, keepdim=True)
        # w'u_hat = m(w'u) = softplus(w'u) - 1. With w = 0 there is no plane to bend.
        some = ww > torch.finfo(w.dtype).tiny
        slope = torch.where(some, F.softplus(wu), 1).clamp_min(torch.finfo(w.dtype).tiny)
        move = torch.where(some, (slope - 1 - wu) / torch.where(some, ww, 1), 0)
        return w, b, u + move * w, slope

    @staticmethod
    def _logdet(v: Tensor, slope: Tensor) -> Tensor:
        """``log(1 + u'psi(z))`` (equations 11 and 12) at ``v = w'z + b``.

        ``1 + w'u tanh'(v)`` cancels where the constraint is nearly met; written as
        ``tanh(v)^2 + slope (1 - tanh(v)^2)`` it is a sum of positive terms.
        """
        square = torch.tanh(v).square()
        return torch.log(square + slope * (1 - square)).squeeze(1)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The paper's ``f``: ``(B, D)`` -> ``(B, D)``, ``(B,)``."""
        w, b, u, slope = self._constrained("x", x, context)
        v = (w * x).sum(1, keepdim=True) + b
        return x + u * torch.tanh(v), self._logdet(v, slope)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Its inverse: the part of ``z`` along ``w`` solves one scalar equation (appendix A.1)."""
        w, b, u, slope = self._constrained("z", z, context)
        v = monotone_root(slope, (w * z).sum(1, keepdim=True) + b)
        return z - u * torch.tanh(v), -self._logdet(v, slope)


# Section 4.1: radial flows


class Radial(Step):
    """``f(z) = z + beta h(alpha, r) (z - z0)``, ``h = 1 / (alpha + r)``, ``r = |z - z0|``
    (equation 14): expands or contracts around a point.

    Takes what ``Planar`` takes.
    """

    def __init__(self, dim: int, context_dim: int = 0) -> None:
        super().__init__(dim, (dim, 1, 1), context_dim)

    def _constrained(
        self, name: str, z: Tensor, context: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """``z0``, ``alpha > 0`` and ``total = alpha + beta_hat = softplus(beta) > 0`` (A.2)."""
        z0, alpha, beta = self._params(name, z, context)
        tiny = torch.finfo(z.dtype).tiny
        return z0, F.softplus(alpha).clamp_min(tiny), F.softplus(beta).clamp_min(tiny)

    def _stretch(self, r: Tensor, alpha: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
        """``1 + beta h``, by which distances grow, and the log-determinant ``(D - 1)
        log(1 + beta h) + log(1 + beta h + beta h' r)`` (equation 14), both arguments over the
        common denominator, where nothing cancels."""
        below = alpha + r
        stretch, far = (total + r) / below, r / below
        along = far * (2 - far) + (1 - far) * (total / below)
        return stretch, ((self.dim - 1) * stretch.log() + along.log()).squeeze(1)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The paper's ``f``: ``(B, D)`` -> ``(B, D)``, ``(B,)``."""
        z0, alpha, total = self._constrained("x", x, context)
        away = x - z0
        r = torch.linalg.vector_norm(away, dim=1, keepdim=True)
        stretch, logdet = self._stretch(r, alpha, total)
        return z0 + away * stretch, logdet

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Its inverse, in closed form: appendix A.2 asks for the ``r`` whose image lies at distance
        ``rho``, ``r (total + r) / (alpha + r) = rho``, which is a quadratic equation."""
        z0, alpha, total = self._constrained("z", z, context)
        away = z - z0
        rho = torch.linalg.vector_norm(away, dim=1, keepdim=True)
        half = 0.5 * (total - rho)
        # sqrt(half^2 + alpha rho) without overflow; the inner maximum keeps its gradient finite.
        root = torch.hypot(half, torch.sqrt((alpha * rho).clamp_min(torch.finfo(z.dtype).tiny)))
        # Of the two forms of the positive root, the one that adds numbers of one sign.
        r = torch.where(half > 0, alpha * rho / (root + half.abs()), root - half)
        stretch, logdet = self._stretch(r, alpha, total)
        return z0 + away / stretch, -logdet


# Sections 3.2 and 6: fitting a flow to a density known up to a constant


def annealing(step: int) -> float:
    """The inverse temperature of section 6.1, ``min(1, 0.01 + step / 10000)``."""
    return min(1.0, 0.01 + step / 10_000)


def free_energy(
    flow: Flow,
    log_target: Callable[[Tensor], Tensor],
    n: int,
    *,
    beta: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``E_q[log q_K(z_K) - beta log p(z_K)]`` (equations 15 and 20) from ``n`` draws, in nats.

    With a normalised target and ``beta = 1`` it is ``KL(q_K || p)``.

    Args:
        flow: ``q_K``; ``draw`` must be its fast direction.
        log_target: ``(n, D)`` -> ``(n,)``, up to a constant.
        n: draws.
        beta: inverse temperature; below 1 early in training (``annealing``).
        generator: of the draws.
    """
    check_count("n", n, 1)
    z, log_q = flow.draw(n, generator=generator)
    return (log_q - beta * log_target(z)).mean()


# Section 4.2: flows as the posterior of a deep latent Gaussian model


class FlowEncoder(nn.Module):
    """An MLP from ``x`` to the moments of ``q_0`` and the context of the flow (figure 2).

    Args:
        data_shape: shape of one item.
        latent_dim: ``D``.
        context_dim: features of the context.
        hidden: widths of the hidden layers.
        activation: makes the activation between layers.
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        latent_dim: int,
        context_dim: int,
        hidden: Sequence[int] = (500,),
        activation: Callable[[], nn.Module] = nn.Tanh,
    ) -> None:
        super().__init__()
        check_count("latent_dim", latent_dim, 1)
        check_count("context_dim", context_dim)
        self.data_shape, hidden = (
            check_sizes("data_shape", data_shape),
            check_sizes("hidden", hidden),
        )
        self.sizes = (latent_dim, latent_dim, context_dim)
        self.net = mlp((math.prod(self.data_shape), *hidden, sum(self.sizes)), activation)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``mu (B, D)``, ``log_var (B, D)``, ``context (B, context_dim)``."""
        check_batch("x", x, self.data_shape)
        mu, log_var, context = self.net(x.flatten(1)).split(self.sizes, dim=1)
        return mu, log_var, context


class FlowVAE(nn.Module):
    """A VAE whose posterior is a flow: ``z_0 ~ q_0(.|x)``, ``z_K = f(z_0; context(x))``.

    Args:
        encoder: maps ``x`` to ``(mu, log_var, context)``.
        flow: a bijection whose ``forward`` makes ``z_K`` of ``z_0``, with the encoder's context.
        decoder: maps ``z (B, latent_dim)`` to the likelihood's parameters.
        likelihood: what the decoder's output means, see ``VAE``.
        latent_dim: ``D``.
        data_shape: shape of one item; the encoder's ``data_shape`` if left out.
    """

    bound = True

    def __init__(
        self,
        encoder: nn.Module,
        flow: nn.Module,
        decoder: nn.Module,
        likelihood: Likelihood,
        *,
        latent_dim: int,
        data_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        check_count("latent_dim", latent_dim, 1)
        self.encoder, self.flow = encoder, flow
        self.decoder, self.likelihood = decoder, likelihood
        self.latent_dim = latent_dim
        shape = getattr(encoder, "data_shape", None) if data_shape is None else data_shape
        self.data_shape = None if shape is None else check_sizes("data_shape", shape)

    @evaluates
    def posterior(
        self, x: Tensor, samples: int = 1, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """``z_K (L, B, D)`` and ``log q_K(z_K|x) (L, B)`` (equation 13), ``L = samples``."""
        any_shape = x.shape[1:] if isinstance(x, Tensor) else ()
        shape = any_shape if self.data_shape is None else self.data_shape
        check_items("x", x, shape, self.likelihood)
        check_count("samples", samples, 1)
        seen = seen_by(self.encoder, self.likelihood, x)
        mu, log_var, context = through(self.encoder, seen)
        eps = gaussian((samples, *mu.shape), mu, generator)
        z0 = reparameterise(mu, log_var, eps)
        repeated = context.repeat(samples, 1) if context.shape[1] else None
        z, logdet = self.flow(z0.flatten(0, 1), repeated)
        log_q0 = gaussian_log_prob(z0, mu, log_var)
        return z.view_as(z0), log_q0 - logdet.view_as(log_q0)

    def _terms(
        self, x: Tensor, y: Tensor | None, samples: int, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """``log p(x|z_K)``, ``log p(z_K)`` and ``log q_K(z_K|x)``, each ``(L, B)``."""
        context_of(y, 0, 0, None)
        z, log_q = self.posterior(x, samples, generator=generator)
        x = x if hasattr(self.likelihood, "levels") else in_dtype_of(self, x)
        params = through(self.decoder, z.flatten(0, 1))
        log_px_z = self.likelihood.log_prob(params, x.repeat(samples, *[1] * (x.ndim - 1)))
        log_pz = gaussian_log_prob(z, z.new_zeros(()), z.new_zeros(()))
        return log_px_z.view_as(log_q), log_pz, log_q

    @evaluates
    def log_prob(
        self,
        x: Tensor,
        y: Tensor | None = None,
        *,
        samples: int = 1,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The ELBO (equation 15, negated), from ``samples`` draws per item: nats, ``(B,)``."""
        log_px_z, log_pz, log_q = self._terms(x, y, samples, generator)
        return (log_px_z + log_pz - log_q).mean(0)

    @trains
    def loss(
        self,
        x: Tensor,
        y: Tensor | None = None,
        *,
        beta: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """The free energy of equation 20, ``E[log q_K - beta log p(x, z_K)]``; 15 at ``beta = 1``.

        Returns:
            ``loss``; ``distortion`` (-log p(x|z)) and ``rate`` (log q - log p(z)), in nats per
            item, whose sum is the loss at ``beta = 1``.
        """
        log_px_z, log_pz, log_q = (term.mean() for term in self._terms(x, y, 1, generator))
        check_some("x", x)
        return {
            "loss": log_q - beta * (log_px_z + log_pz),
            "distortion": -log_px_z.detach(),
            "rate": (log_q - log_pz).detach(),
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
        """log p(x) by importance sampling from the flow (section 6.2), nats, ``(B,)``."""
        check_count("samples", samples, 1)
        check_count("chunk", chunk, 1)
        total = torch.tensor(-math.inf)
        for start in range(0, samples, chunk):
            log_px_z, log_pz, log_q = self._terms(x, None, min(chunk, samples - start), generator)
            some = (log_px_z + log_pz - log_q).logsumexp(0)
            total = some if start == 0 else torch.logaddexp(total, some)
        return total - math.log(samples)

    @torch.no_grad()
    @evaluates
    def sample(
        self, n: int, y: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """``z ~ p(z)``, then ``x ~ p(x|z)``: ``(n, *data_shape)``. The flow has no part in it."""
        context_of(y, 0, 0, None)
        check_count("n", n)
        z = gaussian((n, self.latent_dim), next(self.decoder.parameters()), generator)
        return self.likelihood.sample(through(self.decoder, z), generator=generator)
