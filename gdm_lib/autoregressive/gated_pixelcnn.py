"""Gated PixelCNN.

Aäron van den Oord, Nal Kalchbrenner, Oriol Vinyals, Lasse Espeholt, Alex Graves and Koray
Kavukcuoglu, *Conditional Image Generation with PixelCNN Decoders*, 2016,
https://arxiv.org/abs/1606.05328. Equation numbers below are the paper's.

The stacked masks of a PixelCNN leave a blind spot above and to the right of each pixel. Two stacks
have none: one reads the rows above, one the row to the left, and only the second hears of the
first. A gate replaces the ReLU, and may depend on what the image shall show (equation 4)::

    y = tanh(W_f * x + V_f h) . sigmoid(W_g * x + V_g h)

Symbols: ``v`` and ``h`` features of the vertical and the horizontal stack, ``p`` features, ``C``
colours, ``H`` and ``W`` height and width, ``B`` the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gdm_lib._inputs import check_count, check_counts
from gdm_lib.autoregression import PixelModel, PixelStep
from gdm_lib.autoregressive.pixelcnn import MaskedConv2d, colours
from gdm_lib.nn import gate

__all__ = ["GatedLayer", "GatedPixelCNN", "VerticalConv2d"]

ARXIV = "1606.05328"


# Section 2.1: gated convolutional layers


# Section 2.2: two stacks, so that nothing is blind


class VerticalConv2d(nn.Conv2d):
    """A convolution over the rows up to a pixel's own, or, ``strict``, over those above it.

    All the colours of a row above are known, so no mask is needed: the kernel is cut to the rows
    that it may see.

    Args:
        features_in: of the input.
        features_out: of the output.
        kernel: side of the kernel whose lower part is cut off, odd.
        strict: True in a network's first layer, whose input is the image. What it puts out at row
            ``i`` depends on the rows above ``i`` only, and so do all further layers.
    """

    def __init__(
        self, features_in: int, features_out: int, kernel: int, *, strict: bool = False
    ) -> None:
        check_counts(kernel=kernel)
        if kernel % 2 == 0 or (strict and kernel == 1):
            raise ValueError(f"kernel must be odd, and 3 or more if strict, got {kernel}")
        self.above, self.side = kernel // 2, kernel // 2
        self.strict = strict
        super().__init__(features_in, features_out, (self.above + (not strict), kernel))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in, H, W)`` -> ``(B, out, H, W)``."""
        # Strict: the last row of the input is seen by no row of the output.
        return self.row(F.pad(x, (0, 0, self.above, -1 if self.strict else 0)))

    def row(self, x: Tensor) -> Tensor:
        """The same with the rows above given instead of zeros: one row of output for the first
        ``above`` rows and its own (without its own if ``strict``)."""
        return F.conv2d(F.pad(x, (self.side, self.side)), self.weight, self.bias)


class GatedLayer(nn.Module):
    """One layer of both stacks (figure 2).

    Args:
        inputs: the colour of each input feature.
        p: features of each stack.
        count: ``C``.
        kernel: ``n``; the vertical stack's is n x n, the horizontal one's 1 x n, before the cut.
        context_dim: features of the context; 0 for none.
        first: whether this is the first layer, whose input is the image: it sees nothing of the
            pixel itself (mask A), and has no residual connection.
    """

    def __init__(
        self,
        inputs: Tensor,
        p: int,
        count: int,
        kernel: int,
        *,
        context_dim: int = 0,
        first: bool = False,
    ) -> None:
        super().__init__()
        gates, outputs = colours(2 * p, count, parts=2), colours(p, count)
        self.first = first
        self.vertical = VerticalConv2d(len(inputs), 2 * p, kernel, strict=first)
        self.across = nn.Conv2d(2 * p, 2 * p, 1)
        self.horizontal = MaskedConv2d(inputs, gates, (1, kernel), strict=first)
        self.out = MaskedConv2d(outputs, outputs, (1, 1))
        if context_dim:
            self.from_context = nn.Conv2d(context_dim, 4 * p, 1, bias=False)

    def shifts(self, context: Tensor | None) -> tuple[Tensor, Tensor] | tuple[float, float]:
        """``V h`` for the gates of each stack (equations 4 and 5): ``(B, 2p, 1 or H, 1 or W)``."""
        if context is None:
            return 0.0, 0.0
        vertical, horizontal = self.from_context(context).chunk(2, 1)
        return vertical, horizontal

    def down(self, gates: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """The vertical stack behind its convolution: its next features ``(B, p, H, W)``, and what
        it adds to the horizontal one's gates, ``(B, 2p, H, W)``."""
        for_v, for_h = self.shifts(context)
        return gate(gates + for_v), self.across(gates) + for_h

    def right(self, h: Tensor, gates: Tensor) -> Tensor:
        """The horizontal stack, from its features and all that adds to its gates."""
        out = self.out(gate(gates))
        return out if self.first else h + out

    def forward(self, v: Tensor, h: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Next ``v`` and ``h``, each ``(B, p, H, W)``."""
        v, from_v = self.down(self.vertical(v), context)
        return v, self.right(h, self.horizontal(h) + from_v)


class GatedPixelCNN(PixelModel):
    """Gated PixelCNN, conditional if it has a context.

    ``GatedPixelCNN(..., context_dim=F, embed=ClassEmbedding(10, F))`` is conditioned on a class
    (equation 4). With an encoder as ``embed`` and the image itself as ``y`` it is the decoder of an
    autoencoder (section 2.4). A context of shape ``(B, F, H, W)`` speaks to each place (equation
    5).

    Args:
        data_shape: ``(C, H, W)``.
        levels: 256 as in the paper, or fewer.
        p: features of each stack; the paper's is 384 for ImageNet.
        layers: gated layers after the first; the paper has 20 in all for ImageNet.
        kernel: ``n``, odd; the paper's is 5 for ImageNet.
        first_kernel: that of the first layer, 7 as in PixelCNN.
        head: features between the last two 1x1 convolutions; ``2 p`` if left out.
        level_features: see ``PixelModel``.
        context_dim: features of the context, see ``Autoregressive``.
        embed: makes the context of ``y``, see ``Autoregressive``.
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        *,
        levels: int = 256,
        p: int = 128,
        layers: int = 15,
        kernel: int = 3,
        first_kernel: int = 7,
        head: int | None = None,
        level_features: int = 0,
        context_dim: int = 0,
        embed: nn.Module | None = None,
    ) -> None:
        check_counts(p=p, kernel=kernel)
        check_count("first_kernel", first_kernel, 3)
        if first_kernel % 2 == 0:
            raise ValueError(f"first_kernel must be odd, got {first_kernel}")
        check_count("layers", layers)
        if head is not None:
            check_counts(head=head)
        super().__init__(
            data_shape,
            levels,
            level_features=level_features,
            context_dim=context_dim,
            embed=embed,
        )
        count = self.data_shape[0]
        image, features = colours(self.seen, count), colours(p, count)
        top = colours(2 * p if head is None else head, count)
        first = GatedLayer(image, p, count, first_kernel, context_dim=context_dim, first=True)
        rest = (
            GatedLayer(features, p, count, kernel, context_dim=context_dim) for _ in range(layers)
        )
        self.layers = nn.ModuleList([first, *rest])
        self.head = nn.Sequential(
            nn.ReLU(),
            MaskedConv2d(features, top, (1, 1)),
            nn.ReLU(),
            MaskedConv2d(top, colours(count * levels, count), (1, 1)),
        )

    def context(self, y: Tensor | None, n: int) -> Tensor | None:
        """See ``Autoregressive``; ``(n, F, 1, 1)`` or ``(n, F, H, W)``."""
        context = super().context(y, n)
        if context is None:
            return None
        if context.ndim == 2:
            context = context[:, :, None, None]
        if context.shape[2:] not in ((1, 1), self.data_shape[1:]):
            raise ValueError(
                f"y must give a context of shape (B, {self.context_dim}) or (B, "
                f"{self.context_dim}, {self.data_shape[1]}, {self.data_shape[2]}), got "
                f"{tuple(context.shape)}"
            )
        return context

    def features(self, image: Tensor, context: Tensor | None = None) -> Tensor:
        """See ``PixelModel``."""
        v = h = image
        for layer in self.layers:
            v, h = layer(v, h, context)
        return self.head(h)

    def pixel(self, n: int, context: Tensor | None = None) -> PixelStep:
        """See ``PixelModel``."""
        return _GatedStep(self, n, context)


class _GatedStep(PixelStep):
    """When a row begins, all that the vertical stack will say of it is known: one pass over the
    few rows that each layer sees. Within the row only the horizontal stack runs, at one pixel.

    All layers but the first have the same shape, so what the pixels to the left say to their gates
    is one batched product. As ``sigmoid(b) = (1 + tanh(b / 2)) / 2``, a gate takes one ``tanh``
    over both halves of the features, and yields ``2 z``; the factors 1/2 are put into the weights.
    """

    def __init__(self, model: GatedPixelCNN, n: int, context: Tensor | None) -> None:
        super().__init__()
        self.layers, self.context = cast(list[GatedLayer], list(model.layers)), context
        width, p = model.data_shape[2], self.layers[0].out.out_channels
        # What each vertical convolution sees of the rows above.
        self.kept = [
            layer.vertical.weight.new_zeros(
                n, layer.vertical.in_channels, layer.vertical.above, width
            )
            for layer in self.layers
        ]
        self.index = -1
        self.halved = half = self.kept[0].new_ones(2 * p)
        half[p:] = 0.5
        self.first, *rest = (layer.horizontal.step(n, width) for layer in self.layers)
        self.biases = [self.first.bias, *(step.bias for step in rest)]
        self.first.weight *= half
        self.reach = rest[0].left if rest else 0
        weights = [(step.weight * half).split([self.reach * p, p]) for step in rest]
        self.past = torch.stack([past for past, _ in weights]) if rest else None
        # The last column of z is 1, and meets the bias.
        outs = [layer.out.step(n, width) for layer in self.layers]
        outwards = [torch.cat([out.weight / 2, out.bias[None]]) for out in outs]
        self.z = half.new_ones(n, p + 1)
        self.doubled = self.z[:, :p]
        # Columns first, so that what all layers have at a pixel lies together. To the left of the
        # image stand zeros.
        self.row = half.new_zeros(self.reach + width, len(rest) + 1, n, p)
        self.from_above = half.new_zeros(width, len(rest), n, 2 * p)
        self.gates = half.new_zeros(len(rest), n, 2 * p)
        self.first_out = outwards[0]
        self.rest = [
            (gates, *gates.chunk(2, 1), now, out)
            for gates, (_, now), out in zip(self.gates, weights, outwards[1:], strict=True)
        ]
        head = [m.step(n, 1) for m in model.head if isinstance(m, MaskedConv2d)]
        self.head = [(step.bias, step.weight) for step in head]

    def next_row(self) -> None:
        if self.index >= 0:
            self.kept[0] = torch.cat([self.kept[0][:, :, 1:], self.first.finished()], 2)
        self.index += 1
        context = self.context
        if context is not None and context.shape[2] > 1:
            context = context[:, :, self.index : self.index + 1]
        v = self.kept[0]
        for i, layer in enumerate(self.layers):
            if i:
                v = torch.cat([self.kept[i], v], 2)
                self.kept[i] = v[:, :, 1:]
            v, from_v = layer.down(layer.vertical.row(v), context)
            above = (from_v[:, :, 0].permute(2, 0, 1) + self.biases[i]) * self.halved
            if i:
                self.from_above[:, i - 1] = above
            else:
                self.first.from_above = above

    def at(self, column: int) -> None:
        self.column = self.first.column = column

    def put(self, features: Tensor) -> None:
        self.first.put(features)

    def forward(self, features: Tensor) -> Tensor:
        h, *following = self.row[self.column + self.reach].unbind()
        f, g = self.first.forward(features).tanh_().chunk(2, 1)
        torch.addcmul(f, f, g, out=self.doubled)
        torch.mm(self.z, self.first_out, out=h)
        if self.past is not None:
            left = self.row[self.column : self.column + self.reach, :-1]
            left = left.permute(1, 2, 0, 3).flatten(2)
            torch.baddbmm(self.from_above[self.column], left, self.past, out=self.gates)
        for (gates, f, g, now, out), after in zip(self.rest, following, strict=True):
            gates.addmm_(h, now).tanh_()
            torch.addcmul(f, f, g, out=self.doubled)
            h = torch.addmm(h, self.z, out, out=after)
        for bias, weight in self.head:
            h = torch.addmm(bias, h.relu(), weight)
        return h
