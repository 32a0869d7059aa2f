"""Right answers to the VAE chapter's exercises in other words, and inputs to compare answers on."""

import math

import torch
from torch.distributions import Independent, Normal, kl_divergence


def _gaussian(d):
    batch, dim = d.size(), d.size()
    scale = d.choose(0.1, 1, 4)
    return d.normal(batch, dim, scale=scale), d.normal(batch, dim, scale=scale)


def gaussian_kl_inputs(d):
    return _gaussian(d)


def gaussian_kl_1(mu, log_var):
    posterior = Independent(Normal(mu, torch.exp(log_var / 2)), 1)
    prior = Independent(Normal(torch.zeros_like(mu), torch.ones_like(mu)), 1)
    return kl_divergence(posterior, prior)


def gaussian_kl_2(mu, log_var):
    total = torch.zeros_like(mu[:, 0])
    for i in range(mu.shape[1]):
        total += 0.5 * (mu[:, i].pow(2) + torch.expm1(log_var[:, i]) - log_var[:, i])
    return total


def gaussian_kl_3(mu, log_var):
    std = torch.exp(0.5 * log_var)
    return torch.sum((mu.square() + std.square()) / 2 - 0.5 - torch.log(std), dim=-1)


def reparameterise_inputs(d):
    mu, log_var = _gaussian(d)
    return mu, log_var, d.normal(*mu.shape)


def reparameterise_1(mu, log_var, eps):
    return torch.addcmul(mu, log_var.exp().sqrt(), eps)


def reparameterise_2(mu, log_var, eps):
    z = eps.clone()
    z *= torch.exp(log_var / 2)
    z += mu
    return z


def score_function_gradient_inputs(d):
    n, dim = d.size(1, 6), d.size()
    a, b = d.normal(dim, dim), d.normal(dim)

    def f(z):
        if z.ndim != 2 or z.shape[1] != dim:
            raise ValueError("shape of z")
        return (z @ a * z).sum(1) + z @ b + 0.5

    return f, d.normal(dim), d.normal(n, dim)


def score_function_gradient_1(f, mu, eps):
    z = mu + eps
    return f(z) @ (z - mu) / len(eps)


def score_function_gradient_2(f, mu, eps):
    value = f(mu.detach() + eps).detach()
    mu = mu.detach().clone().requires_grad_()
    log_q = -0.5 * ((mu.detach() + eps - mu) ** 2).sum(1)
    (gradient,) = torch.autograd.grad((value * log_q).mean(), mu)
    return gradient


def score_function_gradient_3(f, mu, eps):
    total = torch.zeros_like(mu)
    for e in eps:
        total = total + f((mu + e)[None])[0] * e
    return total / eps.size(0)


def importance_log_prob_inputs(d):
    k, batch = d.size(), d.size()
    offset = d.choose(0, 1, 1000, 5000)
    p = d.normal(k, batch, scale=d.choose(0.1, 1, 3)) + offset * d.normal(1, batch)
    return p, d.normal(k, batch)


def importance_log_prob_1(log_p_xz, log_q_z):
    log_w = log_p_xz - log_q_z
    top = log_w.amax(dim=0)
    return top + (log_w - top).exp().mean(dim=0).log()


def importance_log_prob_2(log_p_xz, log_q_z):
    log_w = log_p_xz - log_q_z
    top, _ = log_w.max(dim=0, keepdim=True)
    total = torch.exp(log_w - top).sum(dim=0)
    return top[0] + torch.log(total / log_w.shape[0])


def importance_log_prob_3(log_p_xz, log_q_z):
    total = log_p_xz[0] - log_q_z[0]
    for p, q in zip(log_p_xz[1:], log_q_z[1:], strict=True):
        total = torch.logaddexp(total, p - q)
    return total - math.log(log_q_z.size(0))


def free_bits_inputs(d):
    batch, dim = d.size(), d.size()
    kl = d.uniform(batch, dim, high=d.choose(0.2, 1, 5))
    return kl, d.choose(0.0, 0.1, 0.5, d.number(0, 2), 10.0)


def free_bits_1(kl_per_unit, floor):
    return torch.relu(kl_per_unit.mean(0) - floor).sum() + floor * kl_per_unit.shape[1]


def free_bits_2(kl_per_unit, floor):
    units = kl_per_unit.sum(0) / len(kl_per_unit)
    return torch.where(units > floor, units, floor).sum()


def free_bits_3(kl_per_unit, floor):
    total = 0
    for unit in kl_per_unit.T:
        total = total + torch.maximum(unit.mean(), torch.full_like(unit[0], floor))
    return total


GRADIENTS = {"gaussian_kl", "reparameterise", "free_bits", "importance_log_prob"}
