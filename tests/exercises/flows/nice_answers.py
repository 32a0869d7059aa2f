"""Right answers to the NICE chapter's exercises in other words, and inputs to compare them on."""

import math

import torch
import torch.nn.functional as F


def coupling_inverse_inputs(d):
    batch, half = d.size(), d.size(1, 4)
    mixing, shift = d.normal(half, half), d.normal(half)

    def net(x):
        if x.ndim != 2 or x.shape[1] != half:
            raise ValueError("shape of x")
        return (x @ mixing).sin() + x.square() + shift

    return d.normal(batch, 2 * half), net


def coupling_inverse_1(y, net):
    x = y.clone()
    x[:, 1::2] -= net(y[:, ::2])
    return x


def coupling_inverse_2(y, net):
    x = torch.empty_like(y)
    x[:, 0::2] = y[:, 0::2]
    x[:, 1::2] = y[:, 1::2] - net(y[:, 0::2])
    return x


def coupling_inverse_3(y, net):
    pairs = y.view(len(y), -1, 2)
    kept = pairs[..., 0]
    return torch.stack((kept, pairs[..., 1] - net(kept)), -1).reshape(y.shape)


def logistic_log_prob_inputs(d):
    return (d.normal(d.size(), d.size(), scale=d.choose(0.1, 1, 5, 300, 5000)),)


def logistic_log_prob_1(h):
    return (F.logsigmoid(h) + F.logsigmoid(-h)).sum(-1)


def logistic_log_prob_2(h):
    return (-h - 2 * F.softplus(-h)).sum(1)


def logistic_log_prob_3(h):
    size = h.abs()
    return -(size + 2 * torch.log1p(torch.exp(-size))).sum(1)


def logistic_log_prob_4(h):
    zero = torch.zeros_like(h)
    return -torch.logaddexp(zero, h).sum(1) - torch.logaddexp(zero, -h).sum(1)


def inpaint_step_inputs(d):
    shape = d.size(), d.size()
    x = d.uniform(*shape, low=-0.2, high=1.2)
    observed = d.integers(0, 1, *shape).double()
    return x, d.normal(*shape, scale=2), d.normal(*shape), observed, d.number(0.01, 1)


def inpaint_step_1(x, slope, noise, observed, rate):
    moved = torch.clamp(x + rate * slope + rate * noise, min=0, max=1)
    return observed * x + (1 - observed) * moved


def inpaint_step_2(x, slope, noise, observed, rate):
    new = x.clone()
    free = observed < 0.5
    new[free] = (x + rate * (slope + noise))[free].clip(0.0, 1.0)
    return new


def inpaint_step_3(x, slope, noise, observed, rate):
    new = x + rate * (slope + noise)
    new = new.clamp_(0, 1)
    return torch.where(observed.bool(), x, new)


def volume_floor_inputs(d):
    n = d.size(1, 7)
    p = d.uniform(n, low=0.01, high=d.choose(0.5, 2))
    if d.choose(True, False):
        p = (p * 4).round() / 4 + 0.25  # with ties
    return p, d.number(0.1, 3)


def volume_floor_1(density, cell):
    falling, _ = torch.sort(density, descending=True)
    area = torch.full_like(falling, cell).cumsum(0)
    return 1 + torch.log(torch.sum(falling * cell * area))


def volume_floor_2(density, cell):
    rising = density.sort().values
    rank = torch.arange(len(density), 0, -1)
    return 1 + (rising @ rank.to(rising)).log() + 2 * math.log(cell)


def volume_floor_3(density, cell):
    order = density.argsort(descending=True)
    rank = torch.empty_like(density)
    rank[order] = torch.arange(1, len(density) + 1, dtype=density.dtype)
    return 1 + (density * cell * rank * cell).sum().log()


GRADIENTS = {"logistic_log_prob"}
