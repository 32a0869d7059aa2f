"""Each checker of the VAE chapter accepts the solution and names each planted fault."""

import math

import torch

from gdm_lib.exercises import check
from gdm_lib.exercises.testing import assert_checker
from gdm_lib.exercises.vae import vae as exercises


def gradient_only(x):
    """Zero, with the gradient of x's sum: what leaves a value right and its gradient wrong."""
    return x.sum() - x.sum().detach()


# -- gaussian_kl


def gaussian_kl(mu, log_var):
    return 0.5 * (mu**2 + log_var.exp() - 1 - log_var).sum(1)


def kl_of(mu, var):
    return 0.5 * (mu**2 + var - 1 - torch.log(var)).sum(1)


def test_gaussian_kl():
    def no_gradient(mu, log_var):
        return gaussian_kl(mu, log_var).detach()

    def no_gradient_to_log_var(mu, log_var):
        return gaussian_kl(mu, log_var.detach())

    def three_dimensions_only(mu, log_var):
        terms = 0.5 * (mu**2 + log_var.exp() - 1 - log_var)
        return terms.mean(1) * 3

    def reverse(mu, log_var):
        return 0.5 * ((1 + mu**2) / log_var.exp() - 1 + log_var).sum(1)

    assert_checker(
        exercises.gaussian_kl,
        gaussian_kl,
        {
            r"too large: the factor 1/2 is missing": lambda m, v: 2 * gaussian_kl(m, v),
            r"you return minus the KL": lambda m, v: -gaussian_kl(m, v),
            r"flipped and the factor": lambda m, v: (1 + v - m**2 - v.exp()).sum(1),
            r"mean over the latent dim": lambda m, v: 0.5 * (m**2 + v.exp() - 1 - v).mean(1),
            r"average over the batch": lambda m, v: gaussian_kl(m, v).mean(),
            r"sum over the batch too": lambda m, v: gaussian_kl(m, v).sum(),
            r"average over all entries": lambda m, v: 0.5 * (m**2 + v.exp() - 1 - v).mean(),
            r"sum over the batch axis": lambda m, v: 0.5 * (m**2 + v.exp() - 1 - v).sum(0),
            r"one value per latent dimension": lambda m, v: 0.5 * (m**2 + v.exp() - 1 - v),
            r"log_var as the standard deviation": lambda m, v: kl_of(m, v**2),
            r"log_var as the variance": lambda m, v: kl_of(m, v),
            r"as the logarithm of the standard dev": lambda m, v: kl_of(m, (2 * v).exp()),
            r"the other way round": reverse,
            r"constant -1": lambda m, v: 0.5 * (m**2 + v.exp() - v).sum(1),
            r"term in mu is missing": lambda m, v: 0.5 * (v.exp() - 1 - v).sum(1),
            r"in bits": lambda m, v: gaussian_kl(m, v) / math.log(2),
            r"no gradient reaches `mu`": no_gradient,
            r"with respect to `mu`": lambda m, v: gaussian_kl(m, v) + gradient_only(m),
            r"with respect to `log_var`": lambda m, v: gaussian_kl(m, v) + gradient_only(v),
            r"no gradient reaches `log_var`": no_gradient_to_log_var,
            r"single example in two dimensions is wrong": three_dimensions_only,
        },
    )


# -- reparameterise


def reparameterise(mu, log_var, eps):
    return mu + torch.exp(0.5 * log_var) * eps


def test_reparameterise():
    def own_noise(mu, log_var, eps):
        return reparameterise(mu, log_var, torch.randn_like(mu))

    def normal(mu, log_var, eps):
        return torch.normal(mu, (log_var / 2).exp())

    def detached_mean(mu, log_var, eps):
        return reparameterise(mu.detach(), log_var, eps)

    def detached_scale(mu, log_var, eps):
        with torch.no_grad():
            std = (log_var / 2).exp()
        return mu + std * eps

    assert "own noise" in check(exercises.reparameterise, normal).message
    detached = check(exercises.reparameterise, lambda m, v, e: reparameterise(m, v, e).detach())
    assert "no gradient reaches `mu`" in detached.message
    assert_checker(
        exercises.reparameterise,
        reparameterise,
        {
            r"exp\(log_var\) as the standard": lambda m, v, e: m + v.exp() * e,
            r"ignore eps": lambda m, v, e: m.clone(),
            r"mu \+ std is one fixed point": lambda m, v, e: m + (v / 2).exp(),
            r"mu \+ exp\(log_var\) is one fixed": lambda m, v, e: m + v.exp(),
            r"log_var itself": lambda m, v, e: m + v * e,
            r"without its exp": lambda m, v, e: m + v / 2 * e,
            r"root of log_var": lambda m, v, e: m + v.sqrt() * e,
            r"you return mu \+ eps": lambda m, v, e: m + e,
            r"mu is not added": lambda m, v, e: (v / 2).exp() * e,
            r"scale mu as well": lambda m, v, e: (m + e) * (v / 2).exp(),
            r"divide the noise": lambda m, v, e: m + (-v / 2).exp() * e,
            r"subtract the noise": lambda m, v, e: m - (v / 2).exp() * e,
            r"draw your own noise": own_noise,
            r"no gradient reaches `mu`": detached_mean,
            r"with respect to `mu`": lambda m, v, e: reparameterise(m, v, e) + gradient_only(m),
            r"with respect to `log_var`": lambda m, v, e: (
                reparameterise(m, v, e) + gradient_only(v)
            ),
            r"no gradient reaches `log_var`": detached_scale,
        },
    )


# -- importance_log_prob


def importance_log_prob(log_p_xz, log_q_z):
    log_w = log_p_xz - log_q_z
    return torch.logsumexp(log_w, 0) - math.log(log_w.shape[0])


def test_importance_log_prob():
    def naive(log_p, log_q):
        return (log_p - log_q).exp().mean(0).log()

    def naive_with_floor(log_p, log_q):
        return ((log_p - log_q).exp().mean(0) + 1e-12).log()

    def shifted_by_the_smallest(log_p, log_q):  # safe at -2000, not at +2000
        log_w = log_p - log_q
        shift = log_w.amin().clamp(max=0)
        return (log_w - shift).exp().mean(0).log() + shift

    def three_draws_only(log_p, log_q):
        return torch.logsumexp(log_p - log_q, 0) - math.log(3)

    def over_the_batch(log_p, log_q):
        return importance_log_prob(log_p.T, log_q.T)

    def negative_log_k(log_p, log_q):
        return torch.logsumexp(log_p - log_q, 0) / log_p.shape[0]

    assert_checker(
        exercises.importance_log_prob,
        importance_log_prob,
        {
            r"that is the ELBO": lambda p, q: (p - q).mean(0),
            r"the -log K is missing: you sum the": lambda p, q: torch.logsumexp(p - q, 0),
            r"log B, the batch size": lambda p, q: torch.logsumexp(p - q, 0) - math.log(p.shape[1]),
            r"divide the logarithm of the sum": negative_log_k,
            r"average over the batch axis": over_the_batch,
            r"sum over the batch axis \(dim 1\)\.": lambda p, q: (
                torch.logsumexp(p - q, 1) - math.log(p.shape[0])
            ),
            r"\(dim 1\), and -log K": lambda p, q: torch.logsumexp(p - q, 1),
            r"log_q_z has the wrong sign": lambda p, q: importance_log_prob(p, -q),
            r"log_q_z is not used": lambda p, q: importance_log_prob(p, torch.zeros_like(q)),
            r"upside down": lambda p, q: importance_log_prob(q, p),
            r"-log p\(x\)": lambda p, q: -importance_log_prob(p, q),
            r"p\(x\) itself": lambda p, q: importance_log_prob(p, q).exp(),
            r"largest log-weight": lambda p, q: (p - q).amax(0),
            r"average over the batch too": lambda p, q: importance_log_prob(p, q).mean(),
            r"sum over the batch too": lambda p, q: importance_log_prob(p, q).sum(),
            r"one log-weight per draw": lambda p, q: p - q,
            r"the sum underflows": naive,
            r"the sum overflows": shifted_by_the_smallest,
            r"estimate with log-weights near -2000": naive_with_floor,
            r"single draw \(K = 1\)": three_draws_only,
        },
    )


# -- score_function_gradient


def score_function_gradient(f, mu, eps):
    z = mu + eps
    return (f(z)[:, None] * (z - mu)).mean(0)


def test_score_function_gradient():
    def pathwise(f, mu, eps):
        mu = mu.clone().requires_grad_()
        f(mu + eps).mean().backward()
        return mu.grad

    def surrogate(f, mu, eps):
        """The same estimate by autograd, from the log-density: as right as the formula."""
        location = mu.clone().requires_grad_()
        z = (location + eps).detach()
        log_q = -0.5 * ((z - location) ** 2).sum(1)
        return torch.autograd.grad((f(z) * log_q).mean(), location)[0]

    def half_pathwise(f, mu, eps):  # right where f is differentiable only
        z = (mu + eps).requires_grad_()
        torch.autograd.grad(f(z).sum(), z)
        return score_function_gradient(f, mu, eps)

    def rows_alone(f, mu, eps):
        return torch.stack([f(mu + e) * e for e in eps]).mean(0)

    assert check(exercises.score_function_gradient, surrogate).passed is True
    assert_checker(
        exercises.score_function_gradient,
        score_function_gradient,
        {
            r"reparameterised \(pathwise\)": pathwise,
            r"sum over the draws": lambda f, m, e: (f(m + e)[:, None] * e).sum(0),
            r"average over all entries": lambda f, m, e: (f(m + e)[:, None] * e).mean(),
            r"average over the dimensions": lambda f, m, e: (f(m + e)[:, None] * e).mean(1),
            r"one term per draw": lambda f, m, e: f(m + e)[:, None] * e,
            r"f is missing": lambda f, m, e: e.mean(0),
            r"apart from each other": lambda f, m, e: f(m + e).mean() * e.mean(0),
            r"sign is flipped": lambda f, m, e: -score_function_gradient(f, m, e),
            r"multiply f by z": lambda f, m, e: (f(m + e)[:, None] * (m + e)).mean(0),
            r"multiply f by mu": lambda f, m, e: f(m + e).mean() * m,
            r"evaluate f at eps": lambda f, m, e: (f(e)[:, None] * e).mean(0),
            r"evaluate f at mu": lambda f, m, e: f(m[None]) * e.mean(0),
            r"log-density itself": lambda f, m, e: (f(m + e)[:, None] * e**2).mean(0) / -2,
            r"baseline": lambda f, m, e: score_function_gradient(
                lambda z: f(z) - f(z).mean(), m, e
            ),
            r"divide by N - 1": lambda f, m, e: (f(m + e)[:, None] * e).sum(0) / (len(e) - 1),
            r"does not require grad": half_pathwise,
            r"f takes a tensor of shape \(N, 2\), got \(2,\)": rows_alone,
        },
    )


# -- free_bits


def free_bits(kl_per_unit, floor):
    return kl_per_unit.mean(0).clamp(min=floor).sum()


def test_free_bits():
    def ungated(kl, floor):  # the right value, but every unit keeps its gradient
        return free_bits(kl.detach(), floor) + gradient_only(kl.mean(0))

    assert_checker(
        exercises.free_bits,
        free_bits,
        {
            r"each example before averaging": lambda kl, t: kl.clamp(min=t).mean(0).sum(),
            r"each example and sum over": lambda kl, t: kl.clamp(min=t).sum(),
            r"smaller of floor and KL": lambda kl, t: kl.mean(0).clamp(max=t).sum(),
            r"mean over the units": lambda kl, t: kl.mean(0).clamp(min=t).mean(),
            r"sum over the units\. Each": lambda kl, t: kl.mean(0).sum().clamp(min=t),
            r"no effect": lambda kl, t: kl.mean(0).sum(),
            r"D times floor": lambda kl, t: kl.mean(0).sum().clamp(min=t * kl.shape[1]),
            r"KL of each example, summed": lambda kl, t: (
                kl.sum(1).clamp(min=t * kl.shape[1]).mean()
            ),
            r"sum over the batch before": lambda kl, t: kl.sum(0).clamp(min=t).sum(),
            r"average over the units \(dim 1\)": lambda kl, t: kl.mean(1).clamp(min=t).sum(),
            r"one value per unit": lambda kl, t: kl.mean(0).clamp(min=t),
            r"one value per example": lambda kl, t: kl.clamp(min=t).sum(1),
            r"add the floor": lambda kl, t: (kl.mean(0) + t).sum(),
            r"only what exceeds": lambda kl, t: (kl.mean(0) - t).clamp(min=0).sum(),
            r"penalty under a high floor": lambda kl, t: free_bits(kl, min(t, 1.0)),
            r"no gradient reaches `kl_per_unit`": lambda kl, t: free_bits(kl.detach(), t),
            r"gradient of the penalty .* is wrong": ungated,
        },
    )
