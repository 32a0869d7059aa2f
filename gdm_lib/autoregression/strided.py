"""Convolutions with strides one row or one pixel at a time, each at its own resolution.

Ramachandran et al. 2017, *Fast Generation for Convolutional Autoregressive Models*,
https://arxiv.org/abs/1704.06001. A layer that runs row by row, or pixel by pixel, counts where it
is. At a coarse resolution there is something to compute only in every second row and column.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["PixelConv", "PixelGrow", "RowConv", "RowGrow"]


class RowConv(nn.Module):
    """A convolution row by row: ``(n, in, 1, W)`` -> ``(n, out, 1, W / stride)``, or None for a row
    that the stride leaves out.

    Args:
        conv: the last row of its kernel is the row that comes.
        right: columns of its kernel that lie after the pixel's own.
        n: images.
        width: ``W``.
    """

    def __init__(self, conv: nn.Conv2d, right: int, n: int, width: int) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight.detach(), cast(Tensor, conv.bias).detach()
        self.sides = (conv.kernel_size[1] - 1 - right, right)
        self.stride = conv.stride[0]
        above = conv.kernel_size[0] - 1
        self.rows = self.weight.new_zeros(n, conv.in_channels, above + 1, width)
        self.i = 0

    def forward(self, row: Tensor) -> Tensor | None:
        self.rows = torch.cat([self.rows[:, :, 1:], row], 2)
        self.i += 1
        if (self.i - 1) % self.stride:
            return None
        return F.conv2d(F.pad(self.rows, self.sides), self.weight, self.bias, (1, self.stride))


class RowGrow(nn.Module):
    """A transposed convolution row by row: takes a coarse row, or None in the rows between.

    Args:
        conv: what it spreads begins in the coarse row's first fine one.
        right: columns of its kernel that are cut off on the left, see ``RowConv``.
        n: images.
        width: of a fine row.
    """

    def __init__(self, conv: nn.ConvTranspose2d, right: int, n: int, width: int) -> None:
        super().__init__()
        self.weight, self.stride, self.first = conv.weight.detach(), conv.stride[0], right
        self.bias = cast(Tensor, conv.bias).detach()[:, None, None]
        self.sums = self.bias.expand(n, -1, conv.kernel_size[0], width)

    def forward(self, row: Tensor | None, size: Sequence[int]) -> Tensor:
        if row is not None:
            spread = F.conv_transpose2d(row, self.weight, stride=self.stride)
            self.sums = self.sums + spread[..., self.first : self.first + self.sums.shape[3]]
        now, later = self.sums[:, :, :1], self.sums[:, :, 1:]
        self.sums = torch.cat([later, self.bias.expand_as(now)], 2)
        return now


class PixelConv(nn.Module):
    """A convolution that looks at nothing to the right, pixel by pixel: ``(n, in)`` ->
    ``(n, out)``, or None for a pixel that the stride leaves out.

    Rows above add to all pixels of a row at once; the rest is one matrix product a pixel.

    Args:
        conv: the last entry of its kernel is the pixel that comes.
        n: images.
        width: ``W``.
    """

    def __init__(self, conv: nn.Conv2d, n: int, width: int) -> None:
        super().__init__()
        weight, self.bias = conv.weight.detach(), cast(Tensor, conv.bias).detach()
        self.left, self.stride, self.width = conv.kernel_size[1] - 1, conv.stride[0], width
        self.above = weight[:, :, :-1]
        self.weight = weight[:, :, -1].permute(2, 1, 0).flatten(0, 1).contiguous()
        self.row = weight.new_zeros(n, self.left + width, conv.in_channels)
        self.from_above = self.bias.expand(width, n, -1)
        self.place = [0, 0]  # a list, since to set an attribute of a module is slow

    def forward(self, x: Tensor) -> Tensor | None:
        (i, j), stride = self.place, self.stride
        self.place[:] = (i, j + 1) if j + 1 < self.width else (i + 1, 0)
        if j == 0 and i and i % stride == 0 and self.above.shape[2]:
            row = self.row.transpose(1, 2)[:, :, None]
            above = F.conv2d(row, self.above, self.bias, (1, stride))
            self.from_above = above[:, :, 0].permute(2, 0, 1).contiguous()
        self.row[:, self.left + j] = x
        if i % stride or j % stride:
            return None
        seen = self.row[:, j : j + self.left + 1].flatten(1) if self.left else x
        return torch.addmm(self.from_above[j // stride], seen, self.weight)


class PixelGrow(nn.Module):
    """A transposed convolution pixel by pixel: takes a coarse pixel, or None between them.

    Args:
        conv: what it spreads begins at the coarse pixel's first fine one.
        n: images.
        width: of a fine row.
    """

    def __init__(self, conv: nn.ConvTranspose2d, n: int, width: int) -> None:
        super().__init__()
        self.kernel, self.width = conv.kernel_size, width
        self.weight = conv.weight.detach().permute(0, 2, 3, 1).flatten(1).contiguous()
        self.bias = cast(Tensor, conv.bias).detach()
        height, beyond = self.kernel[0], self.kernel[1] - 1
        self.sums = self.bias.repeat(n, height, width + beyond, 1)
        self.j = 0

    def forward(self, x: Tensor | None, size: Sequence[int]) -> Tensor:
        j = self.j
        if x is not None:
            spread = (x @ self.weight).view(len(x), *self.kernel, self.sums.shape[3])
            self.sums[:, :, j : j + self.kernel[1]] += spread
        now = self.sums[:, 0, j]
        self.j = (j + 1) % self.width
        if self.j == 0:
            later = self.sums[:, 1:]
            self.sums = torch.cat([later, self.bias.expand_as(self.sums[:, :1])], 1)
        return now
