"""Right answers to the VQ-VAE-2 chapter's exercises in other words, and inputs to compare them
on."""

import math

import torch
import torch.nn.functional as F


def drop_bottom_inputs(d):
    items = d.size()
    bottom = d.normal(items, d.size(1, 4), d.size(1, 3), d.size(1, 3))
    p = d.choose(0.0, 0.25, 1.0, d.number(0, 1))
    u = d.uniform(items)
    return bottom, d.choose(u, (4 * u).floor() / 4), p  # quarters, of which some equal p


def drop_bottom_1(bottom, u, p):
    return torch.where((u < p)[:, None, None, None], 0, bottom)


def drop_bottom_2(bottom, u, p):
    result = bottom.clone()
    result[u < p] = 0
    return result


def drop_bottom_3(bottom, u, p):
    items = [x if number >= p else torch.zeros_like(x) for x, number in zip(bottom, u, strict=True)]
    return torch.stack(items)


def drop_bottom_4(bottom, u, p):
    return torch.einsum("bdhw,b->bdhw", bottom, (u >= p).to(bottom.dtype))


def drop_bottom_5(bottom, u, p):
    lost = (u < p).view(-1, *[1] * (bottom.ndim - 1))
    return bottom.masked_fill(lost, 0.0)


def spread_inputs(d):
    count = d.size(1, 7)
    codes = d.integers(0, count - 1, d.size(1, 3), d.size(1, 4), d.size(1, 4))
    return codes, d.normal(count, d.size()), d.size(1, 4)


def spread_1(codes, table, factor):
    vectors = table[codes].permute(0, 3, 1, 2)
    return F.interpolate(vectors, scale_factor=factor, mode="nearest")


def spread_2(codes, table, factor):
    one_hot = F.one_hot(codes, len(table)).to(table.dtype)
    block = torch.ones(factor, factor, dtype=table.dtype)
    spread = torch.einsum("bijk,kf,uv->bfiujv", one_hot, table, block)
    return spread.flatten(4).flatten(2, 3)


def spread_3(codes, table, factor):
    rows = torch.arange(codes.shape[1] * factor) // factor
    columns = torch.arange(codes.shape[2] * factor) // factor
    return F.embedding(codes[:, rows][:, :, columns], table).movedim(-1, 1)


def spread_4(codes, table, factor):
    block = torch.ones(factor, factor, dtype=table.dtype)
    return torch.kron(table[codes].movedim(3, 1).contiguous(), block)


def spread_5(codes, table, factor):
    features = table.shape[1]
    kernel = torch.ones(features, 1, factor, factor, dtype=table.dtype)
    vectors = table[codes].movedim(3, 1)
    return F.conv_transpose2d(vectors, kernel, stride=factor, groups=features)


def spread_6(codes, table, factor):
    items, height, width = codes.shape
    result = table.new_zeros(items, table.shape[1], factor * height, factor * width)
    for i in range(factor * height):
        for j in range(factor * width):
            result[:, :, i, j] = table[codes[:, i // factor, j // factor]]
    return result


def spread_7(codes, table, factor):
    grid = F.interpolate(codes[:, None].double(), scale_factor=factor, mode="nearest")
    return table[grid[:, 0].long()].permute(0, 3, 1, 2)


def attend_before_inputs(d):
    shape = d.size(1, 3), d.size(1, 5), d.size(1, 4)
    scale = d.choose(0.1, 1, 3, 30)
    return d.normal(*shape, scale=scale), d.normal(*shape, scale=scale), d.normal(*shape)


def attend_before_1(q, k, v):
    k, v = F.pad(k, (0, 0, 1, -1)), F.pad(v, (0, 0, 1, -1))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def attend_before_2(q, k, v):
    places = q.shape[1]
    seen = torch.ones(places, places + 1, dtype=torch.bool).tril()
    k, v = (torch.cat([torch.zeros_like(x[:, :1]), x], 1) for x in (k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen)


def attend_before_3(q, k, v):
    rows = [torch.zeros_like(v[:, 0])]
    for i in range(1, q.shape[1]):
        logits = torch.einsum("bd,bjd->bj", q[:, i], k[:, :i]) / math.sqrt(q.shape[2])
        weights = F.pad(logits, (0, 1)).softmax(1)[:, :i]
        rows.append(torch.einsum("bj,bjd->bd", weights, v[:, :i]))
    return torch.stack(rows, 1)


def attend_before_4(q, k, v):
    """The zero as a share of the softmax that the sigmoid of the log-sum-exp leaves."""
    logits = torch.einsum("bid,bjd->bij", q, k) * q.shape[2] ** -0.5
    later = torch.ones_like(logits[0]).triu().bool()
    logits = logits.masked_fill(later, -1e30)
    seen = torch.sigmoid(logits.logsumexp(2, keepdim=True))
    return seen * (logits.softmax(2) @ v)


def attend_before_5(q, k, v):
    logits = q @ k.transpose(1, 2) / math.sqrt(q.shape[2])
    before = torch.ones_like(logits[0]).tril(-1)
    logits = logits.masked_fill(before == 0, -math.inf)
    top = logits.amax(2, keepdim=True).clamp(min=0)
    seen = torch.exp(logits - top)
    return seen @ v / (seen.sum(2, keepdim=True) + torch.exp(-top))


def best_of_each_inputs(d):
    items = d.size(1, 12)
    scores = d.choose(d.uniform(items), d.normal(items, scale=20), d.normal(items) - 50)
    y = d.integers(0, d.size(0, 4), items)
    return scores, y, d.choose(1.0, d.number(0.02, 1), d.number(0.02, 1))


def best_of_each_1(scores, y, keep):
    kept = []
    for label in set(y.tolist()):
        mine = [i for i in range(len(y)) if y[i] == label]
        mine.sort(key=lambda i: -float(scores[i]))
        kept += mine[: max(1, round(keep * len(mine)))]
    return torch.tensor(sorted(kept))


def best_of_each_2(scores, y, keep):
    better = (y[:, None] == y) & (scores > scores[:, None])
    rank = better.sum(1)
    count = (y[:, None] == y).sum(1)
    return (rank < (keep * count).round().clamp(min=1)).nonzero().squeeze(1)


def best_of_each_3(scores, y, keep):
    kept = torch.zeros(len(y), dtype=torch.bool)
    for label in y.unique():
        ranked = torch.where(y == label, scores, -math.inf).argsort(descending=True)
        count = max(1, round(keep * int((y == label).sum())))
        kept[ranked[:count]] = True
    return torch.where(kept)[0]


def best_of_each_4(scores, y, keep):
    ranked = scores.argsort(descending=True)
    _, counts = y.unique(return_counts=True)
    by_label = ranked[y[ranked].argsort(stable=True)]
    kept = [group[: max(1, round(keep * len(group)))] for group in by_label.split(counts.tolist())]
    return torch.cat(kept).sort().values


GRADIENTS = {"attend_before", "drop_bottom", "spread"}
