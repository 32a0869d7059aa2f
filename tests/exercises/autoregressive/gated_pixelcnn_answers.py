"""Right answers to the Gated PixelCNN chapter's exercises in other words, and inputs for them."""

import math

import torch
import torch.nn.functional as F


def gated_unit_inputs(d):
    scale = d.choose(0.3, 1, 4)
    return (d.normal(d.size(1, 3), 2 * d.size(1, 3), d.size(1, 4), d.size(1, 4), scale=scale),)


def gated_unit_1(x):
    half = x.shape[1] // 2
    return x[:, :half].tanh() * x[:, half:].sigmoid()


def gated_unit_2(x):
    return F.glu(torch.cat([x[:, : x.size(1) // 2].tanh(), x[:, x.size(1) // 2 :]], 1), 1)


def gated_unit_3(x):
    a, b = x.unflatten(1, (2, -1)).unbind(1)
    return (2 * torch.sigmoid(2 * a) - 1) / (1 + torch.exp(-b))


def rows_above_inputs(d):
    k, channels = d.size(1, 3), d.size(1, 3)
    x = d.normal(d.size(1, 3), channels, d.size(1, 5), d.size(1, 5))
    return x, d.normal(d.size(1, 3), channels, k, 2 * k + 1)


def rows_above_1(x, weight):
    k = weight.shape[2]
    padded = F.pad(x, (k, k, k, 0))[:, :, :-1]
    return F.conv2d(padded, weight)


def rows_above_2(x, weight):
    k = weight.shape[2]
    return F.conv2d(x, weight, padding=(k, k))[:, :, : x.shape[2]]


def rows_above_3(x, weight):
    k = weight.size(2)
    out = F.conv2d(F.pad(x, (k, k, k - 1, 0)), weight)
    return torch.cat([torch.zeros_like(out[:, :, :1]), out[:, :, :-1]], 2)


def rows_above_4(x, weight):
    batch, _, height, width = x.shape
    filters, _, k, _ = weight.shape
    out = x.new_zeros(batch, filters, height, width)
    for i in range(height):
        for row in range(k):
            above = i - k + row
            if above >= 0:
                strip = F.pad(x[:, :, above], (k, k))
                out[:, :, i] += F.conv1d(strip, weight[:, :, row])
    return out


def conditioned_gate_inputs(d):
    p, size = d.size(1, 3), d.size(1, 4)
    x = d.normal(d.size(1, 3), 2 * p, d.size(1, 4), d.size(1, 4))
    return x, d.normal(x.shape[0], size), d.normal(2 * p, size)


def conditioned_gate_1(x, h, V):
    shift = torch.einsum("bf,pf->bp", h, V)
    a, b = torch.chunk(x + shift[..., None, None], 2, 1)
    return torch.tanh(a) * torch.sigmoid(b)


def conditioned_gate_2(x, h, V):
    p = V.shape[0] // 2
    f, g = h @ V[:p].T, h @ V[p:].T
    a, b = x[:, :p], x[:, p:]
    return (a + f[:, :, None, None]).tanh() * (b + g[:, :, None, None]).sigmoid()


def conditioned_gate_3(x, h, V):
    shift = F.linear(h, V).view(len(x), -1, 1, 1).expand_as(x)
    a, b = (x + shift).split(x.size(1) // 2, 1)
    return torch.tanh(a).mul(torch.sigmoid(b))


def conditional_gain_inputs(d):
    batch, classes = d.size(), d.size(1, 5)
    log_p = d.normal(batch, classes, scale=d.choose(1, 4)) - d.choose(0, 700, 3000)
    if d.choose(True, False):
        log_p = log_p + 2000 * d.normal(batch, 1)
    return log_p, d.integers(0, classes - 1, batch)


def conditional_gain_1(log_p, y):
    posterior = torch.log_softmax(log_p, 1).gather(1, y[:, None])[:, 0]
    return posterior / math.log(2) + math.log2(log_p.shape[1])


def conditional_gain_2(log_p, y):
    nats = math.log(log_p.size(1)) - F.cross_entropy(log_p, y, reduction="none")
    return nats / math.log(2)


def conditional_gain_3(log_p, y):
    own = log_p[range(len(y)), y]
    gap = log_p - own[:, None]
    return (math.log(len(log_p[0])) - torch.logsumexp(gap, -1)) / math.log(2)


def conditional_gain_4(log_p, y):
    top = log_p.amax(dim=1, keepdim=True)
    log_mean = top[:, 0] + torch.exp(log_p - top).mean(dim=1).log()
    own = log_p[torch.arange(len(y)), y]
    return (own - log_mean) / math.log(2)


GRADIENTS = {"gated_unit", "rows_above", "conditioned_gate"}
