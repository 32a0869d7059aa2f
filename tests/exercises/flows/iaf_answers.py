"""Right answers to the IAF chapter's exercises in other words, and inputs to compare them on."""

import torch
import torch.nn.functional as F
from torch.distributions import MultivariateNormal, kl_divergence


def gated_step_inputs(d):
    shape = d.size(), d.size()
    s = d.normal(*shape, scale=d.choose(0.5, 2))
    m = d.normal(*shape)
    if d.choose(True, False):
        s = torch.where(s < 0, s * 300, s * 10).clamp(-800, 40)
        m = torch.where(s > 10, m * (s.exp() + 1), m)
    return d.normal(*shape), m, s


def gated_step_1(z, m, s):
    gate = s.sigmoid()
    return gate * z + m / (1 + s.exp()), -F.softplus(-s).sum(dim=-1)


def gated_step_2(z, m, s):
    log_gate = F.logsigmoid(s)
    return log_gate.exp() * z + (log_gate - s).exp() * m, log_gate.sum(1)


def gated_step_3(z, m, s):
    keep, drop = torch.sigmoid(torch.stack([s, -s]))
    new = keep * z
    new += drop * m
    return [new, torch.logaddexp(-s, torch.zeros_like(s)).sum(1).neg()]


def invert_step_inputs(d):
    batch, dim = d.size(), d.size()
    lower = d.normal(dim, dim).tril(-1)

    def net(v):
        if v.shape != (batch, dim):
            raise ValueError("shape of v")
        h = v @ lower.T
        return torch.sin(h + 0.5) + h, 0.6 * torch.cos(h) - 0.2

    return d.normal(batch, dim), net


def invert_step_1(y, net):
    z = torch.zeros_like(y)
    for _ in range(y.shape[1]):
        m, s = net(z)
        z = (y - m) * torch.exp(-s)
    return z


def invert_step_2(y, net):
    columns = []
    for i in range(y.size(1)):
        rest = y.new_zeros(len(y), y.size(1) - i)
        m, s = net(torch.cat([*columns, rest], 1))
        columns.append(((y - m) / s.exp())[:, i : i + 1])
    return torch.cat(columns, 1)


def invert_step_3(y, net):
    z = y.clone()
    for _ in range(y.shape[1] + 3):
        m, s = net(z)
        z = (y - m) / torch.exp(s)
    return z


def linear_iaf_inputs(d):
    dim = d.size()
    root = d.normal(dim, dim + 2)
    return (root @ root.T + 0.1 * torch.eye(dim),)


def linear_iaf_1(cov):
    root = torch.linalg.cholesky(cov)
    sigma = torch.diagonal(root)
    return root @ torch.diag(1 / sigma), sigma


def linear_iaf_2(cov):
    root = torch.linalg.cholesky(cov)
    return root / root.diag()[None, :], root.diag().clone()


def linear_iaf_3(cov):
    dim = len(cov)
    low, var = torch.eye(dim, dtype=cov.dtype), torch.zeros_like(cov[0])
    for j in range(dim):
        var[j] = cov[j, j] - (low[j, :j] ** 2 * var[:j]).sum()
        for i in range(j + 1, dim):
            low[i, j] = (cov[i, j] - (low[i, :j] * low[j, :j] * var[:j]).sum()) / var[j]
    return low, var.sqrt()


def diagonal_gap_inputs(d):
    return linear_iaf_inputs(d)


def diagonal_gap_1(cov):
    diagonal = 1 / torch.linalg.inv(cov).diagonal()
    zero = torch.zeros_like(diagonal)
    return kl_divergence(
        MultivariateNormal(zero, torch.diag(diagonal)), MultivariateNormal(zero, cov)
    )


def diagonal_gap_2(cov):
    precision = torch.inverse(cov)
    return (precision.diag().log().sum() - torch.linalg.slogdet(precision).logabsdet) / 2


def diagonal_gap_3(cov):
    root = torch.linalg.cholesky(cov)
    precision = torch.cholesky_inverse(root)
    return 0.5 * torch.log(torch.diagonal(precision)).sum() + root.diagonal().log().sum()


GRADIENTS = {"gated_step"}
