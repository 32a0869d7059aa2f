"""Right answers to the exercises on planar and radial flows, and inputs to compare them on."""

import torch
import torch.nn.functional as F


def constrained_u_inputs(d):
    dim = d.size()
    scale = d.choose(0.3, 1, 3, 30)
    return d.normal(dim), d.normal(dim, scale=scale)


def constrained_u_1(w, u):
    a = torch.dot(w, u)
    m = torch.logaddexp(torch.zeros_like(a), a) - 1
    return u + (m - a) * w / w.norm() ** 2


def constrained_u_2(w, u):
    wu = (w * u).sum()
    across = u - wu * w / w.square().sum()
    return across + (F.softplus(wu) - 1) * w / w.square().sum()


def constrained_u_3(w, u):
    wu = w @ u
    unit = w / w.norm()
    return u + (F.softplus(-wu) - 1) / w.norm() * unit


def planar_logdet_inputs(d):
    batch, dim = d.size(), d.size()
    w, u = d.normal(dim), d.normal(dim)
    wu = w @ u
    u = u + (F.softplus(wu) - 0.99 - wu) * w / (w @ w)
    return d.normal(batch, dim, scale=d.choose(0.3, 1, 3)), w, u, d.number(-1, 1)


def planar_logdet_1(z, w, u, b):
    psi = (1 - torch.tanh(z @ w + b)[:, None] ** 2) * w
    return torch.log(torch.abs(1 + psi @ u))


def planar_logdet_2(z, w, u, b):
    slope = torch.cosh((z * w).sum(1) + b) ** -2
    return torch.log1p(torch.dot(u, w) * slope)


def planar_logdet_3(z, w, u, b):
    slope = 1 - torch.tanh(z @ w + b).square()
    jacobian = torch.eye(len(w), dtype=z.dtype) + slope[:, None, None] * torch.outer(u, w)
    return torch.linalg.slogdet(jacobian)[1]


def radial_inverse_inputs(d):
    batch, dim = d.size(), d.size()
    alpha = d.number(0.1, 3)
    c = d.normal(dim)
    y = c + d.normal(batch, dim, scale=d.choose(0.1, 1, 10))
    if d.choose(True, False):
        y[0] = c
    return y, c, alpha, -alpha + d.number(0.05, 4)


def radial_inverse_1(y, c, alpha, beta):
    gap = y - c
    rho = torch.linalg.vector_norm(gap, dim=1, keepdim=True)
    p = alpha + beta - rho
    r = (-p + (p * p + 4 * rho * alpha).sqrt()) / 2
    return c + gap * (alpha + r) / (alpha + r + beta)


def radial_inverse_2(y, c, alpha, beta):
    rho = (y - c).square().sum(1).sqrt()
    low, high = torch.zeros_like(rho), rho + abs(beta) + 10 * alpha
    for _ in range(80):
        r = (low + high) / 2
        big = r * (1 + beta / (alpha + r)) > rho
        low, high = torch.where(big, low, r), torch.where(big, r, high)
    return c + (y - c) / (1 + beta / (alpha + low))[:, None]


def free_energy_inputs(d):
    batch, count = d.size(), d.size(0, 4)
    return d.normal(batch), d.normal(count, batch), d.normal(batch, scale=2), d.number(0.01, 2)


def free_energy_1(log_q0, logdets, log_p, heat):
    return torch.mean(log_q0) - logdets.sum() / len(log_p) - heat * torch.mean(log_p)


def free_energy_2(log_q0, logdets, log_p, heat):
    log_q = log_q0
    for logdet in logdets:
        log_q = log_q - logdet
    return (log_q - heat * log_p).sum() / log_q.shape[0]


GRADIENTS = {"constrained_u", "planar_logdet", "free_energy"}
