"""Right answers to the WaveNet chapter's exercises in other words, and inputs for them."""

import math

import numpy as np
import torch
import torch.nn.functional as F


def compand_inputs(d):
    shape = [d.size(1, 3) for _ in range(d.size(0, 3))]
    a = d.uniform(*shape, low=-1, high=1) * d.choose(1, 0.01)
    return a.round(decimals=d.choose(0, 2, 9)), d.choose(255.0, 255, d.number(1, 500))


def compand_1(a, mu):
    return torch.sign(a) * torch.log(1 + mu * a.abs()) / math.log(1 + mu)


def compand_2(a, mu):
    size = torch.log2(1 + mu * a.abs()) / math.log2(1 + mu)
    return torch.where(a < 0, -size, size)


def compand_3(a, mu):
    return torch.copysign(torch.log1p(mu * a.abs()) / np.log1p(mu), a)


def causal_inputs(d):
    batch, width, time = d.size(1, 3), d.size(1, 4), d.size(1, 7)
    out = d.size(1, 4)
    return d.normal(batch, width, time), d.normal(out, width), d.normal(out, width), d.size(1, 5)


def causal_1(h, now, past, dilation):
    weight = torch.stack([past, now], 2)
    return F.conv1d(F.pad(h, (dilation, 0)), weight, dilation=dilation)


def causal_2(h, now, past, dilation):
    out = torch.einsum("or,brt->bot", now, h)
    if dilation < h.shape[2]:
        out[:, :, dilation:] += torch.einsum("or,brt->bot", past, h[:, :, :-dilation])
    return out


def causal_3(h, now, past, dilation):
    wide = F.conv1d(h, torch.stack([past, now], 2), padding=dilation, dilation=dilation)
    return wide[:, :, : h.size(2)]


def path_counts_inputs(d):
    return d.integers(1, 6, d.size(1, 5)), d.size(1, 12)


def path_counts_1(dilations, n):
    counts = torch.zeros(n)
    for choice in range(2 ** len(dilations)):
        age = sum(int(d) for i, d in enumerate(dilations) if choice >> i & 1)
        if age < n:
            counts[age] += 1
    return counts


def path_counts_2(dilations, n):
    counts = F.one_hot(torch.tensor(0), n).float()
    for d in dilations:
        shifted = torch.zeros_like(counts)
        shifted[d:] = counts[: max(n - d, 0)]
        counts = counts + shifted
    return counts


def path_counts_3(dilations, n):
    total = np.array([1.0])
    for d in dilations.tolist():
        total = np.convolve(total, [1.0] + [0.0] * (d - 1) + [1.0])
    out = torch.zeros(n)
    out[: len(total)] = torch.tensor(total[:n], dtype=torch.float32)
    return out


def entropy_rate_inputs(d):
    n = d.size(2, 5)
    P = d.uniform(n, n, low=0.02, high=1) ** d.choose(1, 2)
    return (P / P.sum(1, keepdim=True),)


def entropy_rate_1(P):
    values, vectors = torch.linalg.eig(P.T)
    pi = vectors[:, values.real.argmax()].real
    pi = pi / pi.sum()
    return -(pi @ (P * P.log()).sum(1))


def entropy_rate_2(P):
    pi = torch.full_like(P[0], 1 / len(P))
    for _ in range(2000):
        pi = pi @ P
    return (pi * torch.distributions.Categorical(P).entropy()).sum()


def entropy_rate_3(P):
    n = len(P)
    system = torch.cat([P.T - torch.eye(n), torch.ones(1, n)])
    right = torch.zeros(n + 1)
    right[n] = 1
    pi = torch.linalg.lstsq(system, right.to(P)[:, None]).solution[:, 0]
    return -(pi[:, None] * P * torch.log(P)).sum()


def entropy_rate_4(P):
    pi = torch.ones(len(P)) / len(P)
    for _ in range(1000):
        pi = pi @ P.float()
    return pi.to(P) @ torch.special.entr(P).sum(1)


GRADIENTS = {"causal"}
