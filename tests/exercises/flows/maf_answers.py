"""Right answers to the MAF chapter's exercises in other words, and inputs to compare them on."""

import math

import torch
from torch.distributions import Categorical, MixtureSameFamily, Normal


def path_counts_inputs(d):
    dim, hidden = d.size(1, 5), d.size(1, 7)
    return d.order(dim), d.integers(1, max(1, dim - 1), hidden).float()


def path_counts_1(order, degrees):
    place = torch.empty_like(order)
    place[order] = torch.arange(1, len(order) + 1)
    seen = (degrees[None, :, None] >= place) & (place[:, None, None] > degrees[None, :, None])
    return seen.sum(1).to(degrees.dtype)


def path_counts_2(order, degrees):
    counts = degrees.new_zeros(len(order), len(order))
    rank = {int(v): i for i, v in enumerate(order, 1)}
    for i in range(len(order)):
        for j in range(len(order)):
            counts[i, j] = sum(rank[j] <= k < rank[i] for k in degrees.tolist())
    return counts


def path_counts_3(order, degrees):
    place = torch.argsort(order)
    last = torch.where(degrees <= place[:, None], 1.0, 0.0).type_as(degrees)
    first = torch.where(degrees[:, None] > place, 1.0, 0.0).type_as(degrees)
    return last.mm(first)


def log_density_inputs(d):
    shape = d.size(), d.size()
    scale = d.choose(0.1, 1, 3)
    return d.normal(*shape, scale=scale), d.normal(*shape), d.normal(*shape, scale=scale)


def log_density_1(x, mu, alpha):
    return Normal(mu, alpha.exp()).log_prob(x).sum(1)


def log_density_2(x, mu, alpha):
    u = (x - mu) / torch.exp(alpha)
    base = -0.5 * (u.square().sum(1) + x.shape[1] * math.log(2 * math.pi))
    return base - torch.sum(alpha, 1)


def log_density_3(x, mu, alpha):
    total = torch.zeros_like(x[:, 0])
    for i in range(x.shape[1]):
        u = (x[:, i] - mu[:, i]) * torch.exp(-alpha[:, i])
        total = total - u * u / 2 - alpha[:, i] - math.log(math.sqrt(2 * math.pi))
    return total


def sample_from_noise_inputs(d):
    batch, dim = d.size(), d.size()
    lower = d.normal(dim, dim).tril(-1)
    bias = d.normal(dim)

    def net(x):
        if x.shape != (batch, dim):
            raise ValueError("shape of x")
        h = torch.tanh(x)
        return h @ lower.T + bias, 0.5 * h @ lower.T - bias

    return net, d.normal(batch, dim)


def sample_from_noise_1(net, u):
    x = torch.zeros_like(u)
    for _ in range(u.shape[1]):
        mu, alpha = net(x)
        x = mu + u * alpha.exp()
    return x


def sample_from_noise_2(net, u):
    x = u.clone()
    for i in range(u.size(1)):
        mu, alpha = net(x)
        x[:, i] *= torch.exp(alpha[:, i])
        x[:, i] += mu[:, i]
    return x


def sample_from_noise_3(net, u):
    x = u.new_empty(u.shape).fill_(7)
    for i in range(u.shape[-1]):
        mu, alpha = net(x.clone())
        x = torch.cat([x[:, :i], (u * alpha.exp() + mu)[:, i : i + 1], x[:, i + 1 :]], 1)
    return x


def mixture_log_prob_inputs(d):
    batch, count, dim = d.size(), d.size(), d.size()
    x = d.normal(batch, dim, scale=d.choose(1, 3))
    if d.choose(True, False):  # each variable elsewhere, some far from all components
        x = x + d.normal(batch, dim, scale=500)
    parts = batch, count, dim
    logits = d.normal(*parts) + d.choose(0, 1000) * d.normal(batch, 1, dim)
    return x, logits, d.normal(*parts, scale=2), d.normal(*parts, scale=0.5)


def mixture_log_prob_1(x, logits, mu, alpha):
    parts = [v.transpose(1, 2) for v in (logits, mu, alpha)]
    normal = Normal(parts[1], parts[2].exp())
    return MixtureSameFamily(Categorical(logits=parts[0]), normal).log_prob(x).sum(1)


def mixture_log_prob_2(x, logits, mu, alpha):
    u = (x.unsqueeze(1) - mu) / alpha.exp()
    joint = logits - alpha - (u.square() + math.log(2 * math.pi)) / 2
    return (joint.logsumexp(1) - logits.logsumexp(1)).sum(1)


def mixture_log_prob_3(x, logits, mu, alpha):
    u = (x[:, None, :] - mu) * torch.exp(-alpha)
    joint = torch.log_softmax(logits, 1) - u**2 / 2 - alpha - 0.5 * math.log(2 * math.pi)
    top = joint.amax(dim=1, keepdim=True)
    total = torch.exp(joint - top).sum(dim=1)
    return (top[:, 0] + total.log()).sum(dim=1)


GRADIENTS = {"log_density", "mixture_log_prob"}
