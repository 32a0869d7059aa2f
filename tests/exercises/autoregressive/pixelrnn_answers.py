"""Right answers to the PixelRNN chapter's exercises in other words, and inputs for them."""

import math

import numpy as np
import torch
import torch.nn.functional as F


def conv_mask_inputs(d):
    inputs, outputs = d.integers(0, 2, d.size(1, 5)), d.integers(0, 2, d.size(1, 5))
    return inputs, outputs, d.choose(1, 3, 5, 7), d.choose(True, False)


def conv_mask_1(inputs, outputs, size, strict):
    row = torch.arange(size)[:, None]
    column = torch.arange(size)
    before = (row < size // 2) | ((row == size // 2) & (column < size // 2))
    centre = (row == size // 2) & (column == size // 2)
    ordered = inputs < outputs[:, None] if strict else inputs <= outputs[:, None]
    return (before | (centre & ordered[:, :, None, None])).float()


def conv_mask_2(inputs, outputs, size, strict):
    flat = torch.zeros(len(outputs), len(inputs), size * size)
    flat[:, :, : size * size // 2] = 1
    for o in range(len(outputs)):
        for i in range(len(inputs)):
            gap = outputs[o] - inputs[i]
            flat[o, i, size * size // 2] = gap > 0 if strict else gap >= 0
    return flat.view(len(outputs), len(inputs), size, size)


def conv_mask_3(inputs, outputs, size, strict):
    mask = torch.ones(outputs.numel(), inputs.numel(), size, size)
    mask[:, :, size // 2, size // 2] = (outputs[:, None] - int(strict) >= inputs).to(mask)
    mask[:, :, size // 2, size // 2 + 1 :] = 0
    mask[:, :, size // 2 + 1 :] = 0
    return mask


def skew_inputs(d):
    return (d.normal(d.size(1, 3), d.size(1, 5), d.size(1, 5)),)


def skew_1(x):
    height = x.shape[1]
    rows = [F.pad(x[:, i], (i, height - 1 - i)) for i in range(height)]
    return torch.stack(rows, 1)


def skew_2(x):
    batch, height, width = x.shape
    wide = F.pad(x, (0, height)).reshape(batch, -1)
    return wide[:, : height * (height + width - 1)].view(batch, height, height + width - 1)


def skew_3(x):
    height, width = x.shape[1:]
    column = torch.arange(height + width - 1) - torch.arange(height)[:, None]
    inside = (column >= 0) & (column < width)
    index = column.clamp(0, width - 1).expand(len(x), -1, -1)
    return torch.where(inside, x.gather(2, index), 0)


def add_maps_inputs(d):
    shape = [d.size(1, 4) for _ in range(4)]
    return d.normal(*shape), d.normal(*shape)


def add_maps_1(left, right):
    out = left.clone()
    out[:, :, 1:] += right[:, :, :-1]
    return out


def add_maps_2(left, right):
    moved = torch.cat([torch.zeros_like(right[:, :, :1]), right[:, :, :-1]], 2)
    return left + moved


def add_maps_3(left, right):
    moved = right.roll(1, 2)
    moved[:, :, 0] = 0
    return left.add(moved)


def bits_per_dim_inputs(d):
    return -d.normal(d.size(), scale=d.choose(1, 1000)).abs(), tuple(d.size() for _ in range(3))


def bits_per_dim_1(log_prob, shape):
    c, h, w = shape
    return -log_prob / math.log(2) / c / h / w


def bits_per_dim_2(log_prob, shape):
    return -log_prob * math.log2(math.e) / int(np.prod(shape))


def bits_per_dim_3(log_prob, shape):
    return log_prob.neg() / torch.Size(shape).numel() / np.log(2)


GRADIENTS = {"skew", "add_maps"}
