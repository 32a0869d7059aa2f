"""Checkers for the exercises of ``chapters/vae/vae`` (Kingma & Welling 2013, 1312.6114)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from gdm_lib.exercises._check import Wrong
from gdm_lib.exercises.expect import (
    expect_agreement,
    expect_close,
    expect_finite,
    expect_gradient,
    expect_gradients,
    wave,
)

__all__ = [
    "free_bits",
    "gaussian_kl",
    "importance_log_prob",
    "reparameterise",
    "score_function_gradient",
]

# Inputs are fixed and in double precision: known mistakes are then told apart beyond doubt. No two
# sizes are equal, so that a sum over the wrong axis shows.


def _posterior() -> tuple[Tensor, Tensor]:
    """Means and log-variances of four Gaussians in three dimensions.

    One row of log-variances is positive, so that a logarithm or a root of them is not all NaN.
    """
    mu = [[0.5, -1.0, 2.0], [0.1, 0.3, -0.7], [-1.5, 0.0, 0.4], [0.9, 1.1, -0.2]]
    log_var = [[-0.4, 0.6, -1.2], [0.2, 0.8, 0.5], [1.0, -0.3, -2.0], [-0.1, 0.7, 0.3]]
    return torch.tensor(mu, dtype=torch.float64), torch.tensor(log_var, dtype=torch.float64)


def _noise() -> Tensor:
    """Noise for ``_posterior``, of its shape."""
    eps = [[0.3, -1.2, 0.8], [-0.5, 1.9, 0.1], [1.1, -0.6, -1.4], [0.2, 0.7, -2.1]]
    return torch.tensor(eps, dtype=torch.float64)


def gaussian_kl(answer: Callable[..., Tensor]) -> None:
    """Check ``gaussian_kl(mu, log_var)``: KL(N(mu, diag exp(log_var)) || N(0, I)) in nats.

    ``mu`` and ``log_var`` have shape ``(B, D)``, the result has shape ``(B,)``, and a gradient
    flows to both (1312.6114, appendix B).

    Args:
        answer: The reader's function.

    Raises:
        Wrong: The first fault found.
    """
    mu, log_var = _posterior()
    var = log_var.exp()
    prior = Normal(torch.zeros_like(mu), torch.ones_like(mu))
    terms = kl_divergence(Normal(mu, var.sqrt()), prior)
    kl = terms.sum(1)
    as_std = (mu**2 + log_var**2 - (log_var**2).log() - 1).sum(1) / 2
    as_var = (mu**2 + log_var - log_var.log() - 1).sum(1) / 2
    as_log_std = (mu**2 + (2 * log_var).exp() - 2 * log_var - 1).sum(1) / 2
    faults = [
        (2 * kl, "your KL is twice too large: the factor 1/2 is missing."),
        (-kl, "the sign is flipped: you return minus the KL. A KL divergence is never negative."),
        (-2 * kl, "the sign is flipped and the factor 1/2 is missing."),
        (
            terms.mean(1),
            "you take the mean over the latent dimensions. The dimensions are independent, so "
            "their divergences add up: sum over the last axis.",
        ),
        (kl.mean(), "you average over the batch. Return one KL per example, of shape (B,)."),
        (kl.sum(), "you sum over the batch too. Return one KL per example, of shape (B,)."),
        (
            terms.mean(),
            "you average over all entries. Sum over the latent dimensions only, and return one KL "
            "per example, of shape (B,).",
        ),
        (
            terms.sum(0),
            "you sum over the batch axis (dim 0). Sum over the latent dimensions (dim 1), so that "
            "each example has its KL.",
        ),
        (terms, "you return one value per latent dimension. Sum over the last axis."),
        (as_std, "you treat log_var as the standard deviation. The variance is exp(log_var)."),
        (as_var, "you treat log_var as the variance. The variance is exp(log_var)."),
        (
            as_log_std,
            "you treat log_var as the logarithm of the standard deviation: exp(2 log_var) is the "
            "square of the variance, which is exp(log_var).",
        ),
        (
            kl_divergence(prior, Normal(mu, var.sqrt())).sum(1),
            "this is the KL the other way round, from the prior to the posterior. The expectation "
            "is under q.",
        ),
        (
            kl + mu.shape[1] / 2,
            "the constant -1 of each dimension is missing: at mu = 0, log_var = 0 the KL must be "
            "0.",
        ),
        (
            kl - (mu**2).sum(1) / 2,
            "the term in mu is missing: a posterior far from the origin must cost something.",
        ),
        (kl / math.log(2), "the result is in bits. Use the natural logarithm: nats."),
    ]
    expect_close(answer(mu, log_var), kl, "the KL", faults=faults)

    mu, log_var = mu[:1, :2].requires_grad_(), log_var[:1, :2].requires_grad_()
    got = answer(mu, log_var)
    expect_close(got, terms[:1, :2].sum(1), "the KL of a single example in two dimensions")
    gradient = expect_gradient(got, mu, "mu")
    expect_close(gradient, mu, "the gradient of the KL with respect to `mu`")
    gradient = expect_gradient(got, log_var, "log_var")
    expect_close(
        gradient, (log_var.exp() - 1) / 2, "the gradient of the KL with respect to `log_var`"
    )

    def right(mu: Tensor, log_var: Tensor) -> Tensor:
        return (mu.square() + log_var.exp() - log_var - 1).sum(1) / 2

    cases = {
        "of a single number": (wave(1, 1), wave(1, 1, pace=0.9)),
        "of five dimensions": (3 * wave(2, 5), 2 * wave(2, 5, pace=0.9)),
        "of narrow posteriors": (wave(3, 2), wave(3, 2, pace=0.9) - 20),
    }
    expect_agreement(answer, right, "the KL", cases)


def reparameterise(answer: Callable[..., Tensor]) -> None:
    """Check ``reparameterise(mu, log_var, eps)``: a draw from N(mu, diag exp(log_var)).

    All three arguments and the result have shape ``(B, D)``; ``eps`` is standard normal noise. A
    gradient flows to ``mu`` and ``log_var`` (1312.6114, section 2.4).

    Args:
        answer: The reader's function.

    Raises:
        Wrong: The first fault found.
    """
    mu, log_var = _posterior()
    eps = _noise()
    std = (log_var / 2).exp()
    z = mu + std * eps
    got = answer(mu, log_var, eps)
    again = answer(mu, log_var, eps)
    if (
        isinstance(got, Tensor)
        and isinstance(again, Tensor)
        and got.shape == again.shape
        and not torch.allclose(got, again, equal_nan=True)
    ):
        raise Wrong(
            "you draw your own noise: the same `eps` gave two different results. Use the `eps` "
            "that is passed in, so that z is a deterministic function of mu, log_var and eps."
        )
    faults = [
        (
            mu + log_var.exp() * eps,
            "you use exp(log_var) as the standard deviation, but that is the variance: the 1/2 is "
            "missing. The standard deviation is exp(log_var / 2).",
        ),
        (mu, "you ignore eps and return the mean. A draw needs its noise."),
        (
            mu + std,
            "you add the standard deviation itself, without eps: mu + std is one fixed point, "
            "not a draw.",
        ),
        (
            mu + log_var.exp(),
            "you add the variance itself, without eps: mu + exp(log_var) is one fixed point, "
            "not a draw.",
        ),
        (mu + log_var * eps, "you use log_var itself as the standard deviation."),
        (
            mu + log_var / 2 * eps,
            "you use log_var / 2, the logarithm of the standard deviation, without its exp.",
        ),
        (
            mu + log_var.sqrt() * eps,
            "you take the root of log_var. It is already a logarithm: the standard deviation is "
            "exp(log_var / 2).",
        ),
        (mu + eps, "you return mu + eps: the noise is not scaled by the standard deviation."),
        (std * eps, "the noise is scaled but mu is not added: this draw has mean 0."),
        (
            (mu + eps) * std,
            "you scale mu as well. Only the noise is multiplied by the standard deviation.",
        ),
        (
            mu + eps / std,
            "you divide the noise by the standard deviation, or exponentiate -log_var / 2.",
        ),
        (
            mu - std * eps,
            "you subtract the noise. That has the right distribution, but the convention is "
            "z = mu + std * eps.",
        ),
    ]
    expect_close(got, z, "z", faults=faults)

    mu.requires_grad_()
    log_var.requires_grad_()
    got = answer(mu, log_var, eps)
    gradient = expect_gradient(got, mu, "mu")
    expect_close(gradient, torch.ones_like(mu), "the gradient of z with respect to `mu`")
    gradient = expect_gradient(got, log_var, "log_var")
    expect_close(gradient, std * eps / 2, "the gradient of z with respect to `log_var`")
    cases = {
        "of a single number": (wave(1, 1), wave(1, 1, pace=0.9), wave(1, 1, pace=0.5)),
        "of five dimensions": (wave(2, 5), 4 * wave(2, 5, pace=0.9), wave(2, 5, pace=0.5)),
    }
    expect_agreement(answer, lambda mu, log_var, eps: mu + (log_var / 2).exp() * eps, "z", cases)


def importance_log_prob(answer: Callable[..., Tensor]) -> None:
    """Check ``importance_log_prob(log_p_xz, log_q_z)``: an estimate of log p(x) per example.

    Both arguments have shape ``(K, B)``: log p(x, z_k) and log q(z_k | x) in nats for ``K`` draws
    z_k from q(z | x). The result, log (1/K) sum_k p(x, z_k) / q(z_k | x), has shape ``(B,)`` and
    stays finite for log-weights of any size.

    Args:
        answer: The reader's function.

    Raises:
        Wrong: The first fault found.
    """
    p = [[-1.2, -3.1], [-0.4, -2.0], [-2.2, -0.9]]
    q = [[-0.3, -1.4], [-1.1, -0.6], [-0.8, -2.5]]
    log_p, log_q = torch.tensor(p, dtype=torch.float64), torch.tensor(q, dtype=torch.float64)
    k, b = log_p.shape
    log_w = log_p - log_q
    want = log_w.exp().mean(0).log()
    faults = [
        (
            log_w.mean(0),
            "you average the logarithms of the weights: that is the ELBO. Average the weights, "
            "then take the logarithm.",
        ),
        (
            want + math.log(k),
            "the -log K is missing: you sum the K weights, where their mean is asked for.",
        ),
        (
            want + math.log(k) - math.log(b),
            "you subtract log B, the batch size. The mean is over the K draws: subtract log K.",
        ),
        (
            (want + math.log(k)) / k,
            "you divide the logarithm of the sum by K. The 1/K stands inside the logarithm: "
            "subtract log K.",
        ),
        (
            log_w.exp().mean(1).log(),
            "you average over the batch axis (dim 1). The draws lie along dim 0.",
        ),
        (
            log_w.logsumexp(1),
            "you sum over the batch axis (dim 1), and -log K is missing. The draws lie along dim "
            "0.",
        ),
        (
            log_w.logsumexp(1) - math.log(k),
            "you sum over the batch axis (dim 1). The draws lie along dim 0.",
        ),
        (
            (log_p + log_q).exp().mean(0).log(),
            "log_q_z has the wrong sign: a weight is p(x, z) divided by q(z | x).",
        ),
        (
            log_p.exp().mean(0).log(),
            "log_q_z is not used: a weight is p(x, z) divided by q(z | x).",
        ),
        (
            (-log_w).exp().mean(0).log(),
            "the weights are upside down: you average q(z | x) / p(x, z).",
        ),
        (-want, "the sign is flipped: you return -log p(x)."),
        (want.exp(), "you return p(x) itself, without the logarithm."),
        (log_w.amax(0), "you return the largest log-weight alone."),
        (
            want.mean(),
            "you average over the batch too. Return one estimate per example, of shape (B,).",
        ),
        (want.sum(), "you sum over the batch too. Return one estimate per example, of shape (B,)."),
        (log_w, "you return one log-weight per draw. Average the weights over dim 0."),
    ]
    expect_close(answer(log_p, log_q), want, "the estimate", faults=faults)

    single = answer(log_p[:1], log_q[:1])
    expect_close(single, log_w[0], "the estimate from a single draw (K = 1)")

    for shift, fault in (
        (
            -2000,
            "the sum underflows: log-weights near -2000 are ordinary for images, and their "
            "exp is 0.",
        ),
        (
            2000,
            "the sum overflows: the exp of a log-weight near +2000, which a density can give, "
            "is infinite.",
        ),
    ):
        got = answer(log_p + shift, log_q)
        name = f"the estimate with log-weights near {shift}"
        stable = f"{fault} Use `torch.logsumexp`, which takes out the largest first."
        expect_finite(got, want, name, stable)
        expect_close(got, want + shift, name, rtol=1e-6)

    def right(log_p: Tensor, log_q: Tensor) -> Tensor:
        return (log_p - log_q).logsumexp(0) - math.log(len(log_p))

    # Each example has its own largest weight: that of one may be thousands above another's.
    apart = torch.tensor([0.0, 4000, -3000], dtype=torch.float64)
    far_p, far_q = wave(4, 3) + apart, wave(4, 3, pace=0.9)
    expect_finite(
        answer(far_p, far_q),
        apart,
        "the estimate",
        "the estimate is not finite for examples whose log-weights are thousands apart. Take out "
        "the largest weight of each example, over dim 0, and not the largest of all.",
    )
    cases = {
        "of examples that are thousands apart": (far_p, far_q),
        "of draws that are hundreds apart": (500 * wave(5, 2), wave(5, 2, pace=0.9)),
        "of a single example": (3 * wave(5, 1), wave(5, 1, pace=0.9)),
        "of a single weight": (wave(1, 1), wave(1, 1, pace=0.9)),
    }
    expect_agreement(answer, right, "the estimate", cases)
    both = {0: "log_p_xz", 1: "log_q_z"}
    expect_gradients(answer, right, "the estimate", (log_p, log_q), both)


def score_function_gradient(answer: Callable[..., Tensor]) -> None:
    """Check ``score_function_gradient(f, mu, eps)``: REINFORCE for a unit-variance Gaussian.

    ``mu`` has shape ``(D,)``, ``eps`` ``(N, D)``, ``f`` maps ``(N, D)`` to ``(N,)`` and need not be
    differentiable. With z = mu + eps the result, of shape ``(D,)``, is the mean over the draws of
    f(z) times the score, z - mu (1312.6114, section 2.2).

    Args:
        answer: The reader's function.

    Raises:
        Wrong: The first fault found.
    """

    def guard(z: Tensor) -> None:
        if z.ndim != 2 or z.shape[1] != 2:
            raise ValueError(f"f takes a tensor of shape (N, 2), got {tuple(z.shape)}")

    def f(z: Tensor) -> Tensor:
        guard(z)
        return z[:, 0] ** 2 - 3 * z[:, 1] + z[:, 0] * z[:, 1] + 1

    def step(z: Tensor) -> Tensor:
        guard(z)
        return (z[:, 0] + z[:, 1] > 0.5).to(z.dtype)

    mu = torch.tensor([0.7, -0.4], dtype=torch.float64)
    eps = _noise().reshape(-1, 2)[:5]
    n = eps.shape[0]
    z = mu + eps
    values = f(z)[:, None]
    terms = values * eps
    want = terms.mean(0)
    pathwise = torch.stack([2 * z[:, 0] + z[:, 1], z[:, 0] - 3], 1).mean(0)
    faults = [
        (
            pathwise,
            "this is the reparameterised (pathwise) gradient, which differentiates through f. The "
            "score-function estimator only evaluates f, and differentiates log q.",
        ),
        (terms.sum(0), "you sum over the draws. The estimate is their mean."),
        (
            terms.mean(),
            "you average over all entries. Average over the draws (dim 0) only: the gradient has "
            "shape (D,).",
        ),
        (terms.mean(1), "you average over the dimensions (dim 1). Average over the draws (dim 0)."),
        (terms, "you return one term per draw. Average them over dim 0."),
        (eps.mean(0), "f is missing: this is the mean of the score alone, whose expectation is 0."),
        (
            values.mean(0) * eps.mean(0),
            "you average f and the score apart from each other: the estimate is the mean of their "
            "product.",
        ),
        (
            -want,
            "the sign is flipped: the score of N(mu, 1) with respect to mu is z - mu, not mu - z.",
        ),
        (
            (values * z).mean(0),
            "you multiply f by z. The score is z - mu, the derivative of log N(z; mu, 1).",
        ),
        (
            (values * mu).mean(0),
            "you multiply f by mu. The score is z - mu, the derivative of log N(z; mu, 1).",
        ),
        (
            (f(eps)[:, None] * eps).mean(0),
            "you evaluate f at eps. It is to be evaluated at the draw, z = mu + eps.",
        ),
        (
            (f(mu.expand(n, -1))[:, None] * eps).mean(0),
            "you evaluate f at mu for every draw. It is to be evaluated at the draw, z = mu + eps.",
        ),
        (
            (values * -(eps**2) / 2).mean(0),
            "you multiply by the log-density itself. The score is its derivative, z - mu.",
        ),
        (
            ((values - values.mean()) * eps).mean(0),
            "you subtract a baseline, the mean of f. That lowers the variance and is worth doing, "
            "but here the plain estimate is asked for.",
        ),
        (terms.sum(0) / (n - 1), "you divide by N - 1. The estimate is a mean: divide by N."),
    ]
    expect_close(answer(f, mu, eps), want, "the estimate", faults=faults)

    want = (step(z)[:, None] * eps).mean(0)
    expect_close(answer(step, mu, eps), want, "the estimate for a step function f")

    def square(z: Tensor) -> Tensor:
        return (z - 0.3).square().sum(1) + z[:, 0]

    def right(f: Callable[[Tensor], Tensor], mu: Tensor, eps: Tensor) -> Tensor:
        return (f(mu + eps)[:, None] * eps).mean(0)

    cases = {
        "in one dimension": (square, wave(1), wave(6, 1, pace=0.9)),
        "from a single draw": (square, wave(4), wave(1, 4, pace=0.9)),
        "from as many draws as dimensions": (square, wave(3), 2 * wave(3, 3, pace=0.9)),
    }
    expect_agreement(answer, right, "the estimate", cases)


def free_bits(answer: Callable[..., Tensor]) -> None:
    """Check ``free_bits(kl_per_unit, floor)``: the KL term with a floor on each latent unit.

    ``kl_per_unit`` has shape ``(B, D)``, in nats. The result is a scalar: the sum over the units of
    max(floor, mean over the batch), with its gradient: the free bits of Kingma et al. 2016
    (1606.04934).

    Args:
        answer: The reader's function.

    Raises:
        Wrong: The first fault found.
    """
    kl = torch.tensor(
        [[0.1, 1.4, 0.9], [0.2, 0.8, 0.3], [0.9, 2.0, 0.2], [0.2, 0.1, 0.4]], dtype=torch.float64
    )
    floor = 0.7
    units = kl.mean(0)  # 0.35, 1.075, 0.45: two below the floor, one above, the sum below D * floor
    want = units.clamp(min=floor).sum()
    got = answer(kl, floor)
    # Without a floor and with one on the sum, the result is the same unless the floor exceeds the
    # sum; there it is the floor itself.
    high = 2.5
    on_sum = answer(kl, high)
    floor_on_sum = isinstance(on_sum, Tensor) and bool((on_sum == high).all())
    faults = [
        (
            kl.clamp(min=floor).mean(0).sum(),
            "you apply the floor to each example before averaging. The floor is on the batch mean "
            "of each unit: average first.",
        ),
        (
            kl.clamp(min=floor).sum(),
            "you apply the floor to each example and sum over the batch. Average over the batch "
            "first.",
        ),
        (
            units.clamp(max=floor).sum(),
            "you take the smaller of floor and KL: that is a ceiling. Take the larger.",
        ),
        (units.clamp(min=floor).mean(), "you take the mean over the units. Their KLs add up: sum."),
        (
            units.sum(),
            "you apply the floor to the sum over the units. Each unit has its own floor."
            if floor_on_sum
            else "the floor has no effect: a unit whose batch mean is below it counts as the "
            "floor.",
        ),
        (
            units.sum().clamp(min=floor * kl.shape[1]),
            "you apply the floor to the sum over the units, as D times floor. Each unit has its "
            "own floor.",
        ),
        (
            kl.sum(1).clamp(min=floor * kl.shape[1]).mean(),
            "you apply the floor to the KL of each example, summed over the units. Each unit has "
            "its own floor, on its batch mean.",
        ),
        (
            kl.sum(0).clamp(min=floor).sum(),
            "you sum over the batch before the floor. The floor is on the batch mean of each unit.",
        ),
        (
            kl.mean(1).clamp(min=floor).sum(),
            "you average over the units (dim 1). Average over the batch (dim 0).",
        ),
        (units.clamp(min=floor), "you return one value per unit. Sum over the units."),
        (
            kl.clamp(min=floor).sum(1),
            "you return one value per example. Average over the batch first.",
        ),
        ((units + floor).sum(), "you add the floor to each unit. Take the larger of the two."),
        (
            (units - floor).clamp(min=0).sum(),
            "you return only what exceeds the floor. Take the larger of floor and KL, so that a "
            "unit below the floor counts as the floor.",
        ),
    ]
    expect_close(got, want, "the penalty", faults=faults)
    expect_close(on_sum, torch.tensor(3 * high, dtype=kl.dtype), "the penalty under a high floor")

    kl.requires_grad_()
    gradient = expect_gradient(answer(kl, floor), kl, "kl_per_unit")
    slope = (units > floor).to(kl.dtype).expand_as(kl) / kl.shape[0]
    expect_close(gradient, slope, "the gradient of the penalty with respect to `kl_per_unit`")

    def right(kl_per_unit: Tensor, floor: float) -> Tensor:
        return kl_per_unit.mean(0).clamp(min=floor).sum()

    cases = {
        "of a single unit": (wave(6, 1) + 1, 1.2),
        "of a single item": (wave(1, 5) + 1, 0.8),
        "of as many items as units": (wave(3, 3) + 1, 1.0),
        "without a floor": (wave(2, 4) + 1, 0.0),
    }
    expect_agreement(answer, right, "the penalty", cases)
