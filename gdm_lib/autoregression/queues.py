"""Dilated causal convolutions sample by sample: one queue for each layer.

Paine et al. 2016, *Fast Wavenet Generation Algorithm*, https://arxiv.org/abs/1611.09482. A layer
looks at its input now and some steps ago. Kept in a queue, the past need not be computed again.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

__all__ = ["DilatedNetwork", "Queues"]


class DilatedNetwork(Protocol):
    """What ``Queues`` needs to know of a network, which is WaveNet's."""

    input: nn.Embedding
    """Of the levels."""
    blocks: nn.ModuleList
    """Layers, each with ``conv`` of width 2, ``residual`` and, where there is a context,
    ``from_context``."""
    skip: nn.Conv1d
    """From what all gates let through, side by side."""
    head: nn.Sequential
    """1x1 convolutions, each behind a ReLU."""
    dilations: tuple[int, ...]
    """Of each layer."""


class Queues:
    """The network at one sample of ``n`` items, then the next.

    A layer sees its input now and ``dilation`` samples ago, so it keeps that many. All queues lie
    in one tensor, ``(sum of dilations, n, R)``; sample ``t`` of a layer has slot ``t % dilation``
    of its part. What the past says to all layers' gates is then one batched product.

    As ``sigmoid(b) = (1 + tanh(b / 2)) / 2``, a gate takes one ``tanh`` over both halves of the
    features, and yields ``2 z``; the factors 1/2 are put into the weights.
    """

    CHUNK = 256  # samples whose contexts are prepared at once

    def __init__(self, net: DilatedNetwork, n: int, context: Tensor | None) -> None:
        blocks: list[Any] = list(net.blocks)
        table = net.input.weight.detach()
        count, features = len(blocks), table.shape[1]
        halved = table.new_ones(2 * features)
        halved[features:] = 0.5
        conv = torch.stack([b.conv.weight.detach() for b in blocks]) * halved[:, None, None]
        past, now = conv.transpose(1, 2).unbind(-1)  # each (K, R, 2R)
        self.past, self.table = past.contiguous(), table
        bias = torch.stack([cast(Tensor, b.conv.bias).detach() for b in blocks]) * halved
        self.bias, self.context = bias[:, None].expand(-1, n, -1).contiguous(), context
        if context is not None:
            v = torch.stack([b.from_context.weight.detach()[:, :, 0] for b in blocks])
            self.v = v * halved[:, None]
        last = [m for m in (net.skip, *net.head) if isinstance(m, nn.Conv1d)]
        top = [(cast(Tensor, m.bias).detach(), m.weight.detach()[:, :, 0].T) for m in last]
        (self.skip_bias, skip), *self.head = top
        self.skip = skip / 2

        self.dilations = torch.tensor(net.dilations, device=table.device)
        self.first_slot = self.dilations.cumsum(0) - self.dilations
        self.queue = table.new_zeros(sum(net.dilations), n, features)
        self.seen = table.new_zeros(count, n, features)
        self.inputs = table.new_zeros(count, n, features)
        self.gates = table.new_zeros(count, n, 2 * features)
        self.z = table.new_zeros(n, count * features)
        # Views, made once: with few features what costs is the number of small operations.
        self.layers = [
            (gates, *gates.chunk(2, 1), w, z)
            for gates, w, z in zip(
                self.gates, now.contiguous(), self.z.chunk(count, 1), strict=True
            )
        ]
        self.first, *following = self.inputs
        self.residuals = [
            (cast(nn.Conv1d, b.residual).weight.detach()[:, :, 0].T.contiguous() / 2, x)
            for b, x in zip(blocks[:-1], following, strict=True)
        ]
        self.t = 0

    def prepare(self) -> None:
        """Slots and the context's part of the gates for the samples to come."""
        t = torch.arange(self.t, self.t + self.CHUNK, device=self.dilations.device)
        self.slots = (self.first_slot + t[:, None] % self.dilations).unbind()
        if self.context is None:
            self.shifts = [self.bias] * self.CHUNK
            return
        here = self.context
        if here.shape[2] > 1:
            here = here[:, :, self.t : self.t + self.CHUNK]
        shifts = (torch.einsum("kof,nft->tkno", self.v, here) + self.bias).contiguous().unbind()
        self.shifts = list(shifts) * (self.CHUNK if len(shifts) == 1 else 1)

    def __call__(self, before: Tensor | None) -> Tensor:
        """The sample before, ``(n,)`` (None if there is none), -> logits ``(n, levels)``."""
        i = self.t % self.CHUNK
        if i == 0:
            self.prepare()
        slots = self.slots[i]
        torch.index_select(self.queue, 0, slots, out=self.seen)
        torch.baddbmm(self.shifts[i], self.seen, self.past, out=self.gates)
        x = self.first
        if before is not None:
            torch.index_select(self.table, 0, before, out=x)
        for (gates, f, g, now, z), onwards in zip_longest(self.layers, self.residuals):
            gates.addmm_(x, now).tanh_()
            torch.addcmul(f, f, g, out=z)
            if onwards is not None:
                residual, following = onwards
                x = torch.addmm(x, z, residual, out=following)
        self.queue.index_copy_(0, slots, self.inputs)
        self.t += 1
        h = torch.addmm(self.skip_bias, self.z, self.skip)
        for bias, weight in self.head:
            h = torch.addmm(bias, h.relu_(), weight)
        return h
