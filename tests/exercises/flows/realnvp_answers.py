"""Right answers to the Real NVP chapter's exercises in other words, and inputs to compare on."""

import math

import torch
import torch.nn.functional as F


def masked_coupling_inputs(d):
    batch, dim = d.size(), d.size(1, 6)
    b = d.integers(0, 1, dim).double()
    row, other = d.normal(dim), d.normal(dim)

    def s(v):
        if v.shape != (batch, dim):
            raise ValueError("shape of v")
        return torch.sin(v.sum(1, keepdim=True) + 2 * row)

    def t(v):
        return v.square().sum(1, keepdim=True) * other + 0.5

    return d.normal(batch, dim), b, s, t


def masked_coupling_1(x, b, s, t):
    kept = b * x
    y = kept + (1 - b) * (x * torch.exp(s(kept)) + t(kept))
    return y, ((1 - b) * s(kept)).sum(1)


def masked_coupling_2(x, b, s, t):
    keep = b.bool()
    log_scale = s(x * b).masked_fill(keep, 0)
    y = torch.where(keep, x, x * log_scale.exp() + t(x * b))
    return [y, log_scale.sum(-1)]


def masked_coupling_3(x, b, s, t):
    free = b == 0
    y = x.clone()
    scale, shift = s(x * b)[:, free], t(x * b)[:, free]
    y[:, free] = x[:, free] * scale.exp() + shift
    return y, scale.sum(dim=1)


def masked_inverse_inputs(d):
    return masked_coupling_inputs(d)


def masked_inverse_1(y, b, s, t):
    kept = b * y
    return kept + (1 - b) * (y - t(kept)) * torch.exp(-s(kept))


def masked_inverse_2(y, b, s, t):
    keep = b > 0.5
    return torch.where(keep, y, (y - t(y * b)) / s(y * b).exp())


def masked_inverse_3(y, b, s, t):
    x = y.clone()
    x -= (1 - b) * t(b * y)
    x /= torch.exp((1 - b) * s(b * y))
    return x


def squeeze_inputs(d):
    return (d.normal(d.size(1, 3), d.size(1, 3), 2 * d.size(1, 3), 2 * d.size(1, 3)),)


def squeeze_1(x):
    parts = [x[:, :, i::2, j::2] for i in range(2) for j in range(2)]
    return torch.stack(parts, 2).flatten(1, 2)


def squeeze_2(x):
    b, c, h, w = x.shape
    out = x.new_empty(b, 4 * c, h // 2, w // 2)
    for k in range(c):
        for i in (0, 1):
            for j in (0, 1):
                out[:, 4 * k + 2 * i + j] = x[:, k, i::2, j::2]
    return out


def squeeze_3(x):
    b, c, h, w = x.shape
    return F.unfold(x, 2, stride=2).view(b, 4 * c, h // 2, w // 2)


def bits_per_dim_inputs(d):
    batch, dim = d.size(), d.size(1, 6)
    v = d.uniform(batch, dim, low=0.01, high=0.99)
    return d.normal(batch, scale=5), v, d.size(2, 300), d.choose(0.05, 0.001, d.number(0, 0.3))


def bits_per_dim_1(log_density, v, levels, alpha):
    r = alpha + (1 - 2 * alpha) * v
    slope = (1 - 2 * alpha) / (r * (1 - r))
    nats = log_density + torch.log(slope).sum(1)
    return math.log2(levels) - nats / (v.size(1) * math.log(2))


def bits_per_dim_2(log_density, v, levels, alpha):
    r = alpha + (1 - 2 * alpha) * v
    logit = torch.logit(r)
    log_slope = math.log1p(-2 * alpha) - F.logsigmoid(logit) - F.logsigmoid(-logit)
    log_p = log_density + (log_slope - math.log(levels)).sum(1)
    return -log_p / math.log(2) / v[0].numel()


GRADIENTS = {"masked_coupling"}
