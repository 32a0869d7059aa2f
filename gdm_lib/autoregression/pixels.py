"""Images pixel by pixel: the models whose conditionals are a softmax for each colour, and layers
that run at one pixel, then the next.

A layer that looks at the rows above and to the left has computed almost all that it needs for a
pixel when it was at those before. Its step keeps the features of the rows that it looks at, so
that an image costs about what one pass costs, and not a pass for each pixel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gdm_lib._inputs import check_count
from gdm_lib.autoregression.base import Autoregressive, Place, Rule
from gdm_lib.likelihoods import Categorical
from gdm_lib.nn import check_image, evaluates

__all__ = ["ConvolutionStep", "NetworkStep", "PixelModel", "PixelStep", "one_pixel"]


# The model


class PixelModel(Autoregressive):
    """Images whose conditionals are a softmax for each colour of each pixel.

    A subclass has ``features`` and ``pixel``.

    Args:
        data_shape: ``(C, H, W)``.
        levels: 256 as in the paper, or fewer.
        level_features: features that the network learns for each level of each colour, for levels
            that are categories, such as codes; 0: it sees each level as a number in [-1, 1].
        context_dim: see ``Autoregressive``.
        embed: see ``Autoregressive``.
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        levels: int = 256,
        *,
        level_features: int = 0,
        context_dim: int = 0,
        embed: nn.Module | None = None,
    ) -> None:
        shape, likelihood = check_image("data_shape", data_shape), Categorical(levels)
        check_count("level_features", level_features)
        super().__init__(shape, likelihood, levels, context_dim=context_dim, embed=embed)
        self.embedding = nn.Embedding(shape[0] * levels, level_features) if level_features else None

    @property
    def seen(self) -> int:
        """``C'``: features of a pixel that the network sees, those of a colour together."""
        each = 1 if self.embedding is None else self.embedding.embedding_dim
        return self.data_shape[0] * each

    def seen_levels(self) -> Tensor:
        """How the network sees each level of each colour: ``(C, levels, C' / C)``."""
        if self.embedding is None:
            device = next(self.parameters()).device
            scaled = self.scaled(torch.arange(self.levels, device=device))
            return scaled[:, None].expand(self.data_shape[0], -1, 1)
        return self.embedding.weight.view(self.data_shape[0], self.levels, -1)

    def image(self, x: Tensor) -> Tensor:
        """What the network sees of levels: ``(B, C, H, W)`` -> ``(B, C', H, W)``."""
        if self.embedding is None:
            return self.scaled(x)
        first = torch.arange(0, len(self.embedding.weight), self.levels, device=x.device)
        return self.embedding(x + first[:, None, None]).movedim(-1, 2).flatten(1, 2)

    def features(self, image: Tensor, context: Tensor | None = None) -> Tensor:
        """The network: what it sees of an image, ``(B, C', H, W)``, to logits
        ``(B, C * levels, H, W)``.

        ``context`` is as the method ``context`` returns it.
        """
        raise NotImplementedError

    def pixel(self, n: int, context: Tensor | None = None) -> PixelStep:
        """The network for one pixel of ``n`` images at a time."""
        raise NotImplementedError

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Logits: levels ``(B, C, H, W)`` -> ``(B, levels, C, H, W)``."""
        self.check(x)
        logits = self.features(self.image(x), self.context(y, len(x)))
        return logits.unflatten(1, (self.data_shape[0], self.levels)).transpose(1, 2)

    def places(self, shape: Sequence[int]) -> Iterator[Place]:
        """Row by row, pixel by pixel, colour by colour: ``(c, i, j)``."""
        count, height, width = shape
        return ((c, i, j) for i, j, c in product(range(height), range(width), range(count)))

    @torch.no_grad()
    @evaluates
    def generate(self, rule: Rule, n: int, y: Tensor | None = None) -> Tensor:
        """See ``Autoregressive``. Each layer keeps the features of the rows that it looks at."""
        count, height, width = self.data_shape
        x, step = self.blank(n), self.pixel(n, self.context(y, n))
        table = self.seen_levels().flatten(0, 1)
        first = torch.arange(0, len(table), self.levels, device=x.device)
        nothing = table[x[:, :, 0, 0] + first].flatten(1)
        for i in range(height):
            step.next_row()
            for j in range(width):
                step.at(j)
                pixel = nothing
                for c in range(count):
                    logits = step(pixel).view(n, count, self.levels)
                    x[:, c, i, j] = rule(logits[:, c], (c, i, j))
                    pixel = table[x[:, :, i, j] + first].flatten(1)
                step.put(pixel)
        return x


# Its layers, one pixel at a time


class PixelStep(nn.Module):
    """A layer at one pixel of a row: takes its features, and remembers those of pixels before it.

    ``next_row`` begins a row, ``at`` goes to a column. A pixel may be visited several times; what
    ``put`` says of it last is what pixels after it see.
    """

    column: int = 0

    def next_row(self) -> None:
        """Make ready for the next row, or the first; what finished rows contribute is final."""

    def at(self, column: int) -> None:
        """Go to that pixel of the row."""
        self.column = column

    def put(self, features: Tensor) -> None:
        """Let the pixel have these features, ``(n, in)``."""
        raise NotImplementedError

    def forward(self, features: Tensor) -> Tensor:
        """``put``, and the layer's output there: ``(n, in)`` -> ``(n, out)``."""
        raise NotImplementedError


class ConvolutionStep(PixelStep):
    """A masked convolution: the rows above add to all pixels of a row at once, ``from_above``
    ``(W, n, out)``; the rest is one matrix product a pixel.

    Args:
        weight: masked, ``(out, in, rows, columns)``; the last row is the pixel's own.
        bias: ``(out,)``.
        left: columns before the pixel's own; in its own row nothing lies after it.
        n: images.
        width: ``W``.
    """

    def __init__(self, weight: Tensor, bias: Tensor, left: int, n: int, width: int) -> None:
        super().__init__()
        weight, self.bias, self.left = weight.detach(), bias.detach(), left
        self.right = weight.shape[3] - left - 1
        self.weight_above = weight[:, :, :-1]
        self.weight = weight[:, :, -1, : left + 1].permute(2, 1, 0).flatten(0, 1).contiguous()
        self.rows = weight.new_zeros(n, weight.shape[1], weight.shape[2] - 1, width)
        # A pixel's features lie beside its neighbours', so that what it sees is one slice.
        self.row = weight.new_zeros(n, left + width, weight.shape[1])
        self.from_above = self.bias.expand(width, n, -1)
        self.begun = False

    def finished(self) -> Tensor:
        """The row as it stands, ``(n, in, 1, W)``."""
        return self.row[:, self.left :].transpose(1, 2)[:, :, None]

    def next_row(self) -> None:
        if self.begun and self.rows.shape[2]:
            self.rows = torch.cat([self.rows[:, :, 1:], self.finished()], 2)
            padded = F.pad(self.rows, (self.left, self.right))
            above = F.conv2d(padded, self.weight_above, self.bias)
            self.from_above = above[:, :, 0].permute(2, 0, 1).contiguous()
        self.begun = True

    def put(self, features: Tensor) -> None:
        self.row[:, self.column + self.left] = features

    def forward(self, features: Tensor) -> Tensor:
        if self.left:
            self.put(features)
            features = self.row[:, self.column : self.column + self.left + 1].flatten(1)
        return torch.addmm(self.from_above[self.column], features, self.weight)


class NetworkStep(PixelStep):
    """A network at one pixel: the same modules, but what has a method ``step`` (such as
    PixelCNN's masked convolution) is replaced by what that returns. All others must act on features
    alone, so that they run on ``(n, features)`` as on ``(n, features, H, W)``. The first has a
    ``step``."""

    def __init__(self, net: nn.Module, n: int, width: int) -> None:
        super().__init__()
        self.steps = list[PixelStep]()
        self.net = one_pixel(net, n, width, self.steps)

    def next_row(self) -> None:
        for step in self.steps:
            step.next_row()

    def at(self, column: int) -> None:
        for step in self.steps:
            step.at(column)

    def put(self, features: Tensor) -> None:
        self.steps[0].put(features)

    def forward(self, features: Tensor) -> Tensor:
        return self.net(features)


def one_pixel(module: nn.Module, n: int, width: int, steps: list[PixelStep]) -> nn.Module:
    """The twin of a module that ``NetworkStep`` speaks of; its steps are added to ``steps``."""
    if callable(make := getattr(module, "step", None)):
        steps.append(make(n, width))
        return steps[-1]
    twin = copy(module)
    twin._modules = {
        name: child if child is None else one_pixel(child, n, width, steps)
        for name, child in module._modules.items()
    }
    return twin
