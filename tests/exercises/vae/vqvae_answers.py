"""Right answers to the VQ-VAE chapter's exercises in other words, and inputs to compare them on."""

import math

import torch
import torch.nn.functional as F


def nearest_inputs(d):
    n, k, dim = d.size(1, 7), d.size(1, 6), d.size(1, 4)
    if d.choose(True, False):  # integers, of which some are equally near
        return d.integers(-2, 2, n, dim).double(), d.integers(-2, 2, k, dim).double()
    scale = d.choose(0.1, 1, 100)
    return d.normal(n, dim, scale=scale), d.normal(k, dim, scale=scale)


def nearest_1(z, codebook):
    return torch.cdist(z, codebook).argmin(1)


def nearest_2(z, codebook):
    bracket = z @ codebook.T - codebook.square().sum(1) / 2
    return bracket.max(dim=1).indices


def nearest_3(z, codebook):
    best = torch.full_like(z[:, 0], math.inf)
    codes = torch.zeros(len(z), dtype=torch.int64)
    for k, entry in enumerate(codebook):
        distance = ((z - entry) ** 2).sum(1)
        closer = distance < best
        best = torch.where(closer, distance, best)
        codes = torch.where(closer, k, codes)
    return codes


def nearest_4(z, codebook):
    parts = [(part[:, None] - codebook).pow(2).sum(2).argmin(1) for part in z.split(512)]
    return torch.cat(parts)


def straight_through_inputs(d):
    shape = [d.size(1, 3) for _ in range(d.size(1, 4))]
    return d.normal(*shape), d.normal(*shape)


def straight_through_1(z_e, z_q):
    return z_q.detach() + (z_e - z_e.detach())


def straight_through_2(z_e, z_q):
    with torch.no_grad():
        gap = z_q - z_e
    return z_e + gap


def straight_through_3(z_e, z_q):
    class Pass(torch.autograd.Function):
        @staticmethod
        def forward(ctx, a, b):
            return b.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient, None

    return Pass.apply(z_e, z_q)


def vq_loss_inputs(d):
    shape = d.size(1, 3), d.size(1, 4), d.size(1, 3), d.size(1, 3)
    nats = d.normal(1, scale=100)[0]
    return nats, d.normal(*shape, scale=3), d.normal(*shape), d.choose(0.0, 0.25, d.number(0, 2))


def vq_loss_1(nats, z_e, z_q, beta):
    features = z_e.shape[1]
    codebook = features * F.mse_loss(z_q, z_e.detach())
    commitment = features * F.mse_loss(z_e, z_q.detach())
    return nats + codebook + beta * commitment


def vq_loss_2(nats, z_e, z_q, beta):
    cells = z_e[:, 0].numel()
    codebook = torch.sum((z_q - z_e.detach()) ** 2) / cells
    commitment = torch.sum((z_e - z_q.detach()) ** 2) / cells
    return torch.stack([nats, codebook, beta * commitment]).sum()


def vq_loss_3(nats, z_e, z_q, beta):
    e, q = z_e.movedim(1, -1).flatten(0, 2), z_q.movedim(1, -1).flatten(0, 2)
    with torch.no_grad():
        to_e, to_q = e.clone(), q.clone()
    pulls = (to_e - q).pow(2) + beta * (e - to_q).pow(2)
    return nats + pulls.sum(1).mean()


def ema_update_inputs(d):
    k, dim, n = d.size(1, 5), d.size(1, 4), d.size(1, 7)
    sizes, sums = d.uniform(k, low=0.5, high=4), d.normal(k, dim, scale=2)
    return sizes, sums, d.normal(n, dim), d.integers(0, k - 1, n), d.number(0.1, 0.95)


def ema_update_1(sizes, sums, vectors, codes, decay):
    chose = F.one_hot(codes, len(sizes)).to(vectors.dtype)
    sizes = decay * sizes + (1 - decay) * chose.sum(0)
    sums = decay * sums + (1 - decay) * chose.T @ vectors
    return sizes, sums, sums / sizes.unsqueeze(1)


def ema_update_2(sizes, sums, vectors, codes, decay):
    counts = torch.zeros_like(sizes).index_add_(0, codes, torch.ones_like(vectors[:, 0]))
    totals = torch.zeros_like(sums).index_add_(0, codes, vectors)
    sizes = torch.lerp(sizes, counts, 1 - decay)
    sums = torch.lerp(sums, totals, 1 - decay)
    return sizes, sums, (sums.T / sizes).T


def ema_update_3(sizes, sums, vectors, codes, decay):
    sizes, sums = decay * sizes, decay * sums
    for vector, code in zip(vectors, codes.tolist(), strict=True):
        sizes[code] += 1 - decay
        sums[code] += (1 - decay) * vector
    return [sizes, sums, sums / sizes[:, None]]


def perplexity_inputs(d):
    count = d.size(1, 9)
    shape = [d.size() for _ in range(d.size(1, 3))]
    top = d.choose(count - 1, d.size(0, count - 1))
    return d.integers(0, top, *shape), count


def perplexity_1(codes, count):
    share = F.one_hot(codes.flatten(), count).float().mean(0)
    return torch.exp(-torch.xlogy(share, share).sum())


def perplexity_2(codes, count):
    _, chosen = torch.unique(codes, return_counts=True)
    share = chosen / codes.numel()
    return 2 ** -(share * share.log2()).sum()


def perplexity_3(codes, count):
    chosen = torch.stack([(codes == k).sum() for k in range(count)])
    share = chosen[chosen > 0] / chosen.sum()
    return torch.prod(share**-share)


def bound_in_bits_inputs(d):
    batch = d.size()
    pixels = d.choose(1, 64, 784, 3072)
    return d.normal(batch, scale=300), d.normal(batch, scale=100) - 200, pixels


def bound_in_bits_1(log_p_x, log_p_z, pixels):
    bits = -(log_p_x + log_p_z) / math.log(2)
    return bits / pixels


def bound_in_bits_2(log_p_x, log_p_z, pixels):
    return -log_p_x / (pixels * math.log(2)) - log_p_z / (pixels * math.log(2))


def bound_in_bits_3(log_p_x, log_p_z, pixels):
    return torch.stack([log_p_x, log_p_z]).sum(0) * math.log2(math.e) / -pixels


GRADIENTS = {"straight_through", "vq_loss"}
