"""PixelCNN.

Aäron van den Oord, Nal Kalchbrenner and Koray Kavukcuoglu, *Pixel Recurrent Neural Networks*,
2016, https://arxiv.org/abs/1601.06759, sections 2, 3.3 and 3.4; the paper's recurrent layers are in
``pixelrnn``, what later models of images share (section 2) in ``gdm_lib.autoregression``. Equation
numbers below are the paper's.

An image is drawn pixel by pixel, row by row, and within a pixel colour by colour (equations 1 and
2)::

    p(x) = prod_i p(x_i,R | x_<i) p(x_i,G | x_<i, x_i,R) p(x_i,B | x_<i, x_i,R, x_i,G)

Each factor is a softmax over the levels of a pixel. Convolutions whose kernels are masked compute
all factors in one pass.

Symbols: ``h`` half the features of the residual stream, ``C`` colours, ``H`` and ``W`` height and
width, ``B`` the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gdm_lib._inputs import check_count, check_counts
from gdm_lib.autoregression import ConvolutionStep, NetworkStep, PixelModel, PixelStep
from gdm_lib.autoregressive.made import mask
from gdm_lib.nn import check_image

__all__ = ["MaskedConv2d", "PixelCNN", "PixelNetwork", "ResidualBlock", "colours"]

ARXIV = "1601.06759"


# Section 3.4: masked convolutions


def colours(features: int, count: int, parts: int = 1) -> Tensor:
    """The colour that each feature belongs to: equal shares, in order, in each of ``parts`` equal
    parts (those of a gate, say)."""
    each = torch.arange(features // parts) * count // (features // parts)
    return each.repeat(parts)


class MaskedConv2d(nn.Conv2d):
    """A convolution that sees no pixel after its own, and of its own only the colours before.

    Above and to the left of the centre the mask is 1, after it 0. At the centre it is MADE's mask
    with colours as degrees: mask A, ``strict``, lets a colour see those before it, mask B itself as
    well (figure 2 of the paper). Rows below the centre would be all zero; they aren't kept.

    Args:
        inputs: the colour of each input feature (see ``colours``).
        outputs: the colour of each output feature.
        kernel: height and width, odd.
        strict: True for mask A, which a network's first layer has; False for mask B.
    """

    mask: Tensor

    def __init__(
        self, inputs: Tensor, outputs: Tensor, kernel: tuple[int, int], *, strict: bool = False
    ) -> None:
        if not (kernel[0] % 2 and kernel[1] % 2 and min(kernel) > 0):
            raise ValueError(f"kernel must be two odd sizes, got {kernel}")
        self.above, self.left = kernel[0] // 2, kernel[1] // 2
        # With no row above, there is nothing to the right either.
        self.right = self.left if self.above else 0
        super().__init__(len(inputs), len(outputs), (self.above + 1, self.left + 1 + self.right))
        seen = torch.ones_like(self.weight)
        seen[:, :, -1, self.left + 1 :] = 0
        seen[:, :, -1, self.left] = mask(inputs, outputs, strict=strict)
        self.register_buffer("mask", seen, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in, H, W)`` -> ``(B, out, H, W)``."""
        weight = self.weight * self.mask
        if not self.above:
            return F.conv2d(F.pad(x, (self.left, 0)) if self.left else x, weight, self.bias)
        # Padded below as well, since torch pads faster than we do; those rows are cut off.
        padded = F.conv2d(x, weight, self.bias, padding=(self.above, self.left))
        return padded[:, :, : x.shape[2]]

    def step(self, n: int, width: int) -> ConvolutionStep:
        """The same, pixel by pixel."""
        return ConvolutionStep(
            self.weight * self.mask, cast(Tensor, self.bias), self.left, n, width
        )


# Section 3.5 (figure 5, left): residual blocks


class ResidualBlock(nn.Module):
    """``x + up(relu(conv(relu(down(relu(x))))))`` from ``2h`` features through ``h`` and back.

    Args:
        h: half the features.
        count: ``C``.
        kernel: side of the middle convolution's kernel; the paper's is 3.
    """

    def __init__(self, h: int, count: int, kernel: int = 3) -> None:
        super().__init__()
        outer, inner = colours(2 * h, count), colours(h, count)
        self.down = MaskedConv2d(outer, inner, (1, 1))
        self.conv = MaskedConv2d(inner, inner, (kernel, kernel))
        self.up = MaskedConv2d(inner, outer, (1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, 2h, H, W)`` -> the same shape."""
        return x + self.up(F.relu(self.conv(F.relu(self.down(F.relu(x))))))


# Section 3.3 and table 1: the model


class PixelNetwork(PixelModel):
    """The frame of table 1: a convolution with mask A, residual layers, two 1x1 convolutions with
    mask B, each behind a ReLU, and the softmax.

    Args:
        data_shape: ``(C, H, W)``.
        layers: each maps ``2h`` features to ``2h`` and looks no further than mask B does.
        levels: see ``PixelModel``.
        h: half the features of the stream; the paper's is 128 for CIFAR-10, 16 for MNIST.
        head: features between the last two convolutions; the paper's is 1024 for CIFAR-10.
        kernel: side of the first convolution's kernel; the paper's is 7.
        level_features: see ``PixelModel``.
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        layers: Sequence[nn.Module],
        *,
        levels: int = 256,
        h: int = 128,
        head: int = 1024,
        kernel: int = 7,
        level_features: int = 0,
    ) -> None:
        check_counts(h=h, head=head, kernel=kernel)
        super().__init__(data_shape, levels, level_features=level_features)
        count = self.data_shape[0]
        outer, top = colours(2 * h, count), colours(head, count)
        self.net = nn.Sequential(
            MaskedConv2d(colours(self.seen, count), outer, (kernel, kernel), strict=True),
            *layers,
            nn.ReLU(),
            MaskedConv2d(outer, top, (1, 1)),
            nn.ReLU(),
            MaskedConv2d(top, colours(count * levels, count), (1, 1)),
        )

    def features(self, image: Tensor, context: Tensor | None = None) -> Tensor:
        """See ``PixelModel``."""
        return self.net(image)

    def pixel(self, n: int, context: Tensor | None = None) -> PixelStep:
        """See ``PixelModel``."""
        return NetworkStep(self.net, n, self.data_shape[2])


class PixelCNN(PixelNetwork):
    """PixelCNN: the layers are convolutional.

    Args:
        data_shape: ``(C, H, W)``.
        levels: see ``PixelModel``.
        h: see ``PixelNetwork``.
        layers: residual blocks; the paper has 15 for CIFAR-10.
        head: see ``PixelNetwork``.
        kernel: see ``PixelNetwork``.
        level_features: see ``PixelModel``.
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        *,
        levels: int = 256,
        h: int = 128,
        layers: int = 15,
        head: int = 1024,
        kernel: int = 7,
        level_features: int = 0,
    ) -> None:
        count, _, _ = check_image("data_shape", data_shape)
        check_counts(h=h)
        check_count("layers", layers)
        blocks = [ResidualBlock(h, count) for _ in range(layers)]
        super().__init__(
            data_shape,
            blocks,
            levels=levels,
            h=h,
            head=head,
            kernel=kernel,
            level_features=level_features,
        )
