"""Right answers to the Glow chapter's exercises in other words, and inputs to compare them on."""

import math

import torch
import torch.nn.functional as F


def first_look_inputs(d):
    channels = d.size()
    x = d.normal(d.size(1, 3), channels, d.size(2, 4), d.size(1, 4))
    return (x * d.uniform(channels, 1, 1, low=0.3, high=3) + d.normal(channels, 1, 1, scale=2),)


def first_look_1(x):
    flat = x.transpose(0, 1).flatten(1)
    mean = flat.mean(1)
    scale = flat.std(1, correction=0).reciprocal()
    return scale.log(), -mean * scale


def first_look_2(x):
    mean = x.mean(dim=(0, 2, 3), keepdim=True)
    var = ((x - mean) ** 2).mean(dim=(0, 2, 3))
    return -torch.log(torch.sqrt(var)), -mean.flatten() * var**-0.5


def first_look_3(x):
    var, mean = torch.var_mean(x, dim=[0, 2, 3], unbiased=False)
    log_scale = -var.log() / 2
    return [log_scale, -torch.exp(log_scale) * mean]


def mix_inputs(d):
    c = d.size(1, 4)
    p = torch.eye(c, dtype=torch.float64)[d.order(c)]
    low = d.normal(c, c).tril(-1) + torch.eye(c)
    s = d.uniform(c, low=0.2, high=3) * d.integers(0, 1, c).mul(2).sub(1)
    x = d.normal(d.size(1, 3), c, d.size(1, 4), d.size(1, 4))
    return x, p, low, d.normal(c, c).triu(1), s


def mix_1(x, P, L, U, s):
    W = P @ L @ (U + s.diag())
    y = F.conv2d(x, W[:, :, None, None])
    pixels = x.shape[2] * x.shape[3]
    return y, pixels * torch.linalg.slogdet(W)[1]


def mix_2(x, P, L, U, s):
    b, c, h, w = x.shape
    y = U @ x.reshape(b, c, h * w) + s[:, None] * x.reshape(b, c, h * w)
    y = (P @ (L @ y)).view(b, c, h, w)
    return y, h * w * torch.log(torch.abs(s)).sum()


def mix_3(x, P, L, U, s):
    W = P.matmul(L).matmul(U + torch.diag_embed(s))
    y = (x.permute(0, 2, 3, 1) @ W.T).permute(0, 3, 1, 2)
    return y, x[0, 0].numel() * s.abs().log().sum()


def direction_inputs(d):
    n, dim = d.size(2, 7), d.size()
    y = d.integers(0, 1, n)
    y[0], y[1] = 0, 1
    return d.normal(n, dim), y


def direction_1(z, y):
    y = y.to(z)[:, None]
    return (y * z).sum(0) / y.sum() - ((1 - y) * z).sum(0) / (1 - y).sum()


def direction_2(z, y):
    weight = y / y.sum() - (1 - y) / (1 - y).sum()
    return weight.to(z) @ z


def direction_3(z, y):
    with_it, without = z[y.bool()], z[~y.bool()]
    return torch.mean(with_it, 0).sub(torch.mean(without, 0))


def cooled_inputs(d):
    dim, batch = d.size(1, 6), d.size()
    return d.normal(batch, scale=3) - 4, d.normal(), dim, d.choose(1.0, d.number(0.3, 2))


def cooled_1(log_p, log_det, dim, T):
    square = -2 * (log_p - log_det) - dim * math.log(2 * math.pi)
    base = torch.distributions.Normal(0, T).log_prob(torch.zeros(1, dtype=log_p.dtype))
    return dim * base - square / (2 * T * T) + log_det


def cooled_2(log_p, log_det, dim, T):
    log_z = dim / 2 * math.log(2 * math.pi)
    return (log_p - log_det + log_z) / T**2 - log_z - dim * math.log(T) + log_det


GRADIENTS = {"mix"}
