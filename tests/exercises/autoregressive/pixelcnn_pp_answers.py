"""Right answers to the PixelCNN++ chapter's exercises in other words, and inputs for them."""

import torch
import torch.nn.functional as F


def concat_elu_inputs(d):
    shape = [d.size(1, 3) for _ in range(d.choose(2, 3, 4))]
    return (d.normal(*shape, scale=d.choose(0.5, 2, 20)),)


def concat_elu_1(x):
    return torch.cat((F.elu(x), F.elu(-x)), 1)


def concat_elu_2(x):
    both = torch.stack([x, -x], 1).flatten(1, 2)
    return torch.where(both > 0, both, torch.expm1(both.clamp(max=0)))


def concat_elu_3(x):
    out = torch.cat([x, -x], dim=1)
    return F.elu_(out)


def log_mass_of_level_inputs(d):
    count, n = d.size(2, 12), d.size(1, 9)
    x = d.integers(0, count - 1, n)
    mean = d.normal(n, scale=d.choose(0.5, 1, 30))
    return x, mean, d.uniform(n, low=-4, high=1), count


def log_mass_of_level_1(x, mean, log_scale, count):
    half = 1 / (count - 1)
    level = x.to(mean) * 2 / (count - 1) - 1
    high = (level + half - mean) / log_scale.exp()
    low = (level - half - mean) / log_scale.exp()
    inner = F.logsigmoid(high) + F.logsigmoid(-low) + torch.log1p(-torch.exp(low - high))
    inner = torch.where(x == 0, F.logsigmoid(high), inner)
    return torch.where(x == count - 1, F.logsigmoid(-low), inner)


def log_mass_of_level_2(x, mean, log_scale, count):
    step = 2 / (count - 1)
    a = (x * step - 1 - mean - step / 2) * torch.exp(-log_scale)
    b = (x * step - 1 - mean + step / 2) * torch.exp(-log_scale)
    out = -F.softplus(-b) - F.softplus(a) + torch.log(-torch.expm1(a - b))
    first, last = x == 0, x == count - 1
    out = out.clone()
    out[first] = -F.softplus(-b)[first]
    out[last] = -F.softplus(a)[last]
    return out


def colour_means_inputs(d):
    batch, count = d.size(), d.size()
    return (
        d.normal(batch, 3, count),
        d.normal(batch, 3, count, scale=d.choose(0.5, 2)),
        d.uniform(batch, 3, low=-1, high=1),
    )


def colour_means_1(means, coefficients, x):
    c = coefficients.tanh()
    out = means.clone()
    out[:, 1] += c[:, 0] * x[:, :1]
    out[:, 2] += c[:, 1] * x[:, :1] + c[:, 2] * x[:, 1:2]
    return out


def colour_means_2(means, coefficients, x):
    alpha, beta, gamma = coefficients.tanh().unbind(1)
    red, green, _ = x.unsqueeze(-1).unbind(1)
    shift = [torch.zeros_like(alpha), alpha * red, beta * red + gamma * green]
    return means + torch.stack(shift, 1)


def data_init_inputs(d):
    rows, columns, n = d.size(), d.size(), d.size(2, 7)
    return d.normal(rows, columns), d.normal(n, columns) + d.normal(columns), d.number(0.1, 3)


def data_init_1(v, x, gain):
    t = x @ (v / v.norm(dim=1, keepdim=True)).T
    std, mean = torch.std_mean(t, 0, correction=0)
    return torch.stack((gain / std, -gain * mean / std))


def data_init_2(v, x, gain):
    t = torch.einsum("ni,oi->on", x, v) / v.square().sum(1).sqrt()[:, None]
    mean = t.mean(1)
    g = gain * ((t - mean[:, None]) ** 2).mean(1) ** -0.5
    return torch.cat([g[None], -(g * mean)[None]])


def data_init_3(v, x, gain):
    unit = F.normalize(v, dim=1)
    mean = unit @ x.mean(0)
    centred = x - x.mean(0)
    cov = centred.T @ centred / len(x)
    g = gain / torch.sqrt(torch.diagonal(unit @ cov @ unit.T))
    return torch.stack([g, -g * mean], dim=0)


GRADIENTS = {"concat_elu", "log_mass_of_level", "colour_means"}
