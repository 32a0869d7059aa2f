"""PixelCNN.

Aäron van den Oord, Nal Kalchbrenner and Koray Kavukcuoglu, *Pixel Recurrent Neural Networks*,
2016, https://arxiv.org/abs/1601.06759, sections 2, 3.3 and 3.4; the paper's recurrent layers are in
``pixelrnn``. Equation numbers below are the paper's.

An image is drawn pixel by pixel, row by row, and within a pixel colour by colour (equations 1 and
2)::

    p(x) = prod_i p(x_i,R | x_<i) p(x_i,G | x_<i, x_i,R) p(x_i,B | x_<i, x_i,R, x_i,G)

Each factor is a softmax over the levels of a pixel. Convolutions whose kernels are masked compute
all factors in one pass.

Symbols: ``h`` half the features of the residual stream, ``C`` colours, ``H`` and ``W`` height and
width, ``P`` parameters of a conditional, ``B`` the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from itertools import product
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gdm_lib.autoregressive.made import mask
from gdm_lib.likelihoods import Categorical, check_levels
from gdm_lib.protocols import Likelihood

__all__ = [
    "Autoregressive",
    "ConvolutionStep",
    "MaskedConv2d",
    "NetworkStep",
    "PixelCNN",
    "PixelModel",
    "PixelNetwork",
    "PixelStep",
    "Place",
    "ResidualBlock",
    "Rule",
    "colours",
    "evaluating",
    "one_pixel",
]

YEAR = 2016
ARXIV = "1601.06759"


# Section 2: a product of conditionals

Place = tuple[int, ...]
"""Where a conditional stands: it is that of ``x[..., *place]``."""

Rule = Callable[[Tensor, Place], Tensor]
"""``(parameters (n, P) of one conditional, its place) -> values for that place``, of the shape of
``x[..., *place]``: draws them, or knows them."""


class Autoregressive(nn.Module):
    """A product of conditionals, in a fixed order of places: what the models of this family share.

    A subclass has ``forward``, ``places`` and ``generate``.

    Args:
        data_shape: shape of one item; ``x`` holds int64 levels.
        likelihood: of all conditionals; its parameters are what ``forward`` returns.
        levels: values that an entry of ``x`` can take.
        context_dim: features of the context that conditions all places; 0 for none.
        embed: makes the context of ``y``; without it ``y`` is the context.
    """

    bound = False

    def __init__(
        self,
        data_shape: Sequence[int],
        likelihood: Likelihood,
        levels: int,
        *,
        context_dim: int = 0,
        embed: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.data_shape, self.levels = tuple(data_shape), levels
        self.likelihood, self.context_dim, self.embed = likelihood, context_dim, embed

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Parameters of every conditional: levels ``(B, *data_shape)`` -> ``(B, P, *places)``."""
        raise NotImplementedError

    def places(self, shape: Sequence[int]) -> Iterator[Place]:
        """All places of an item of that shape, in order."""
        raise NotImplementedError

    def generate(self, rule: Rule, n: int, y: Tensor | None = None) -> Tensor:
        """Fill ``n`` items place by place with what ``rule`` makes of each conditional.

        What one place has in common with those before it is computed once. Returns int64 levels,
        ``(n, *data_shape)``.
        """
        raise NotImplementedError

    @torch.no_grad()
    def generate_naive(self, rule: Rule, n: int, y: Tensor | None = None) -> Tensor:
        """What ``generate`` computes, by a whole pass for each place."""
        x = self.blank(n)
        for place in self.places(self.data_shape):
            at: Any = (..., *place)
            x[at] = rule(self(x, y)[at], place)
        return x

    def log_prob(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """log p(x) in nats, exact: levels ``(B, *data_shape)`` -> ``(B,)``."""
        return self.likelihood.log_prob(self(x, y), x)

    def loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """Negative log-likelihood: ``loss`` in nats per item, beside it bits per dimension."""
        nats = -self.log_prob(x, y).mean()
        bits = nats.detach() / (x[0].numel() * math.log(2))
        return {"loss": nats, "bits_per_dim": bits}

    @torch.no_grad()
    def sample(
        self, n: int, y: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Ancestral sampling: int64 levels, ``(n, *data_shape)``."""

        def draw(params: Tensor, _: Place) -> Tensor:
            return self.likelihood.sample(params, generator=generator)

        with evaluating(self):
            return self.generate(draw, n, y)

    @torch.no_grad()
    def complete(
        self,
        x: Tensor,
        known: Tensor,
        y: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Keep ``x`` where ``known`` and draw the rest: ``(B, *data_shape)``.

        A drawn place sees what stands before it only, so this is a draw given the known places if
        they come before all others (as the upper half of an image does), and else an approximation.

        Args:
            x: levels; those at unknown places don't matter, but must be in range.
            known: bool, of a shape that broadcasts to that of ``x``.
            y: as in ``sample``.
            generator: as in ``sample``.
        """
        self.check(x)
        known = known.expand(x.shape)

        def draw(params: Tensor, place: Place) -> Tensor:
            drawn = self.likelihood.sample(params, generator=generator)
            at: Any = (..., *place)
            return torch.where(known[at], x[at], drawn)

        with evaluating(self):
            return self.generate(draw, len(x), y)

    def blank(self, n: int) -> Tensor:
        """``n`` items of zeros."""
        device = next(self.parameters()).device
        return torch.zeros(n, *self.data_shape, dtype=torch.int64, device=device)

    def scaled(self, x: Tensor) -> Tensor:
        """Levels to ``[-1, 1]``, which the networks take in, in the dtype of the weights."""
        dtype = next(self.parameters()).dtype
        return x.to(dtype) * (2 / (self.levels - 1)) - 1

    def check(self, x: Tensor) -> None:
        """Refuse what isn't a batch of items.

        Raises:
            ValueError: another shape, another dtype than int64, or levels out of range.
        """
        if x.shape[1:] != self.data_shape or not len(self.data_shape) < x.ndim:
            raise ValueError(
                f"x must be a batch of shape (B, {', '.join(map(str, self.data_shape))}), got "
                f"{tuple(x.shape)}; a single item needs x[None]"
            )
        check_levels("x", x, self.levels)

    def context(self, y: Tensor | None, n: int) -> Tensor | None:
        """What conditions ``n`` items: features ``(n, context_dim, ...)``, or None.

        Raises:
            ValueError: ``y`` came to a model without context or is missing for one that has it, or
                is not one for each item, or does not give ``context_dim`` features.
        """
        if not self.context_dim:
            if y is not None:
                raise ValueError(
                    f"y must be None, got {tuple(y.shape)}; this model has no context, make it "
                    "with context_dim"
                )
            return None
        if y is None or len(y) != n:
            got = "None" if y is None else f"{len(y)}"
            raise ValueError(
                f"y must have one row for each of {n} items, got {got}; this model was made with "
                f"context_dim={self.context_dim}"
            )
        context = y if self.embed is None else self.embed(y)
        if context.ndim < 2 or context.shape[1] != self.context_dim:
            raise ValueError(
                f"y must give a context of {self.context_dim} features, (B, {self.context_dim}), "
                f"got {tuple(context.shape)}"
            )
        return context


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """In eval mode within, and as before after it."""
    was = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was)


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
        if not (kernel[0] % 2 and kernel[1] % 2):
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

    def step(self, n: int, width: int) -> PixelStep:
        """The same, pixel by pixel."""
        return ConvolutionStep(self, n, width)


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


class PixelModel(Autoregressive):
    """Images whose conditionals are a softmax for each colour of each pixel.

    A subclass has ``features`` and ``pixel``.

    Args:
        data_shape: ``(C, H, W)``.
        levels: 256 as in the paper, or fewer.
        context_dim: see ``Autoregressive``.
        embed: see ``Autoregressive``.
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        levels: int = 256,
        *,
        context_dim: int = 0,
        embed: nn.Module | None = None,
    ) -> None:
        likelihood = Categorical(levels)
        super().__init__(data_shape, likelihood, levels, context_dim=context_dim, embed=embed)
        if len(self.data_shape) != 3:
            raise ValueError(f"data_shape must be (C, H, W), got {self.data_shape}")

    def features(self, image: Tensor, context: Tensor | None = None) -> Tensor:
        """The network: an image in [-1, 1], ``(B, C, H, W)``, to logits ``(B, C * levels, H, W)``.

        ``context`` is as the method ``context`` returns it.
        """
        raise NotImplementedError

    def pixel(self, n: int, context: Tensor | None = None) -> PixelStep:
        """The network for one pixel of ``n`` images at a time."""
        raise NotImplementedError

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Logits: levels ``(B, C, H, W)`` -> ``(B, levels, C, H, W)``."""
        self.check(x)
        logits = self.features(self.scaled(x), self.context(y, len(x)))
        return logits.unflatten(1, (self.data_shape[0], self.levels)).transpose(1, 2)

    def places(self, shape: Sequence[int]) -> Iterator[Place]:
        """Row by row, pixel by pixel, colour by colour: ``(c, i, j)``."""
        count, height, width = shape
        return ((c, i, j) for i, j, c in product(range(height), range(width), range(count)))

    @torch.no_grad()
    def generate(self, rule: Rule, n: int, y: Tensor | None = None) -> Tensor:
        """See ``Autoregressive``. Each layer keeps the features of the rows that it looks at."""
        count, height, width = self.data_shape
        x, step = self.blank(n), self.pixel(n, self.context(y, n))
        scaled = self.scaled(torch.arange(self.levels, device=x.device))
        nothing = scaled[x[:, :, 0, 0]]
        for i in range(height):
            step.next_row()
            for j in range(width):
                step.at(j)
                pixel = nothing
                for c in range(count):
                    logits = step(pixel).view(n, count, self.levels)
                    x[:, c, i, j] = rule(logits[:, c], (c, i, j))
                    pixel = scaled[x[:, :, i, j]]
                step.put(pixel)
        return x


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
    ) -> None:
        super().__init__(data_shape, levels)
        count = self.data_shape[0]
        outer, top = colours(2 * h, count), colours(head, count)
        self.net = nn.Sequential(
            MaskedConv2d(colours(count, count), outer, (kernel, kernel), strict=True),
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
    ) -> None:
        blocks = [ResidualBlock(h, data_shape[0]) for _ in range(layers)]
        super().__init__(data_shape, blocks, levels=levels, h=h, head=head, kernel=kernel)


# Section 2.1: sampling goes pixel by pixel


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
    ``(W, n, out)``; the rest is one matrix product a pixel."""

    def __init__(self, conv: MaskedConv2d, n: int, width: int) -> None:
        super().__init__()
        weight = (conv.weight * conv.mask).detach()
        self.left, self.right, self.bias = conv.left, conv.right, cast(Tensor, conv.bias).detach()
        self.weight_above = weight[:, :, :-1]
        self.weight = weight[:, :, -1, : conv.left + 1].permute(2, 1, 0).flatten(0, 1).contiguous()
        self.rows = weight.new_zeros(n, weight.shape[1], conv.above, width)
        # A pixel's features lie beside its neighbours', so that what it sees is one slice.
        self.row = weight.new_zeros(n, conv.left + width, weight.shape[1])
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
    ``MaskedConv2d``) is replaced by what that returns. All others must act on features alone, so
    that they run on ``(n, features)`` as on ``(n, features, H, W)``. The first has a ``step``."""

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
