"""Real NVP.

Laurent Dinh, Jascha Sohl-Dickstein and Samy Bengio, *Density estimation using Real NVP*, 2016,
https://arxiv.org/abs/1605.08803. Equation numbers below are the paper's.

An affine coupling keeps one part of the dimensions and rescales and shifts the other by what
networks say of the first (equations 4 and 5)::

    y_1:d = x_1:d,    y_d+1:D = x_d+1:D * exp(s(x_1:d)) + t(x_1:d)

Its Jacobian is triangular, its log-determinant ``sum_j s_j`` (equation 6), and its inverse needs no
inverse of ``s`` or ``t`` (equation 8).

The multi-scale architecture (section 3.6) and batch normalisation as a bijection (section 3.7),
which later papers share, are ``MultiScale`` and ``BatchNorm`` of ``gdm_lib.bijections``.

Symbols: ``s`` log-scale, ``t`` translation, ``b`` a binary mask, 1 where the input is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from gdm_lib.bijections import (
    BatchNorm,
    Chain,
    Dequantise,
    Flatten,
    Flow,
    Logit,
    MultiScale,
    Squeeze,
    StandardNormal,
    check_inputs,
    join,
)
from gdm_lib.nn import check_condition, check_count, check_image, check_sizes, exact, mlp, through

__all__ = [
    "AffineCoupling",
    "CheckerboardCoupling",
    "RealNVP",
    "ResNet",
    "checkerboard",
]

ARXIV = "1605.08803"


# Sections 3.2 to 3.4: coupling layers


class AffineCoupling(nn.Module):
    """Equations 4 to 8 on two parts of dimension 1: a vector's features or an image's channels
    (the channel-wise mask of figure 3).

    ``s`` is a tanh times a learned scale, ``t`` has no such limit (section 4.1). The scale starts
    at 1 rather than 0, so that the network behind it learns from the first step.

    Args:
        features: size of dimension 1.
        net: from ``kept + context_dim`` features to twice those that change, first the raw ``s``,
            then ``t``. The first ``ceil(features / 2)`` are kept, or the rest if ``second``.
        second: whether the second part is the one that is kept; layers alternate.
        context_dim: features of the context, further inputs of the network; 0 for none.
    """

    def __init__(
        self, features: int, net: nn.Module, *, second: bool = False, context_dim: int = 0
    ) -> None:
        super().__init__()
        if features < 2:
            raise ValueError(f"features must be at least 2, to have two parts, got {features}")
        self.features, self.net, self.second = features, net, second
        self.context_dim = context_dim
        first = features - features // 2
        self.sizes = (first, features - first)
        self.scale = nn.Parameter(torch.ones(self.sizes[not second]))

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What is kept, and what changes."""
        one, two = x.split(self.sizes, dim=1)
        return (two, one) if self.second else (one, two)

    def _merge(self, kept: Tensor, changed: Tensor) -> Tensor:
        return torch.cat([changed, kept] if self.second else [kept, changed], 1)

    def _scale_shift(self, kept: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """``s`` and ``t``."""
        raw, t = through(self.net, join(kept, context)).chunk(2, dim=1)
        return exact(self.scale).view(-1, *[1] * (kept.ndim - 2)) * torch.tanh(raw), t

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``(B, features, ...)`` -> the same shape (equation 7)."""
        check_inputs("x", x, (self.features, *x.shape[2:]), context, self.context_dim)
        kept, changed = self._split(x)
        s, t = self._scale_shift(kept, context)
        return self._merge(kept, changed * s.exp() + t), s.flatten(1).sum(1)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``x = (y - t) exp(-s)`` on what changes (equation 8)."""
        check_inputs("z", z, (self.features, *z.shape[2:]), context, self.context_dim)
        kept, changed = self._split(z)
        s, t = self._scale_shift(kept, context)
        return self._merge(kept, (changed - t) * (-s).exp()), -s.flatten(1).sum(1)


def checkerboard(height: int, width: int) -> Tensor:
    """The mask of figure 3: 1 where the sum of the coordinates is odd, ``(1, H, W)``."""
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    return ((rows + columns) % 2).float()[None]


class CheckerboardCoupling(nn.Module):
    """``y = b x + (1 - b) (x exp(s(b x)) + t(b x))`` (equation 9), with a checkerboard for ``b``.

    Args:
        shape: ``(C, H, W)`` of an image.
        net: from ``C + context_dim`` to ``2 C`` channels.
        second: whether the mask is turned over; layers alternate.
        context_dim: features of the context; 0 for none.
    """

    mask: Tensor

    def __init__(
        self,
        shape: Sequence[int],
        net: nn.Module,
        *,
        second: bool = False,
        context_dim: int = 0,
    ) -> None:
        super().__init__()
        self.shape, self.net, self.context_dim = tuple(shape), net, context_dim
        mask = checkerboard(*self.shape[1:])
        self.register_buffer("mask", 1 - mask if second else mask)
        self.scale = nn.Parameter(torch.ones(self.shape[0], 1, 1))

    def _scale_shift(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        raw, t = through(self.net, join(self.mask * x, context)).chunk(2, dim=1)
        free = 1 - self.mask
        return free * exact(self.scale) * torch.tanh(raw), free * t

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``(B, C, H, W)`` -> the same shape; ``s`` and ``t`` are 0 where ``b`` is 1."""
        check_inputs("x", x, self.shape, context, self.context_dim)
        s, t = self._scale_shift(x, context)
        return x * s.exp() + t, s.flatten(1).sum(1)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Equation 8 under the mask."""
        check_inputs("z", z, self.shape, context, self.context_dim)
        s, t = self._scale_shift(z, context)
        return (z - t) * (-s).exp(), -s.flatten(1).sum(1)


class ResNet(nn.Module):
    """The network of ``s`` and ``t``: residual blocks of 3x3 convolutions (section 4.1).

    The paper adds weight and batch normalisation inside; with the few blocks of this book the
    ``BatchNorm`` bijections between the couplings do.
    """

    def __init__(self, channels_in: int, hidden: int, channels_out: int, blocks: int = 2) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels_in, hidden, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.ReLU(),
                nn.Conv2d(hidden, hidden, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(hidden, hidden, 3, padding=1),
            )
            for _ in range(blocks)
        )
        self.last = nn.Conv2d(hidden, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, channels_in, H, W)`` -> ``(B, channels_out, H, W)``."""
        h = self.first(x)
        for block in self.blocks:
            h = h + block(h)
        out: Tensor = self.last(torch.relu(h))
        return out


# Section 4: the models


class RealNVP(Flow):
    """Real NVP for vectors, ``RealNVP.vector``, and for images, ``RealNVP.image``.

    As it stands it takes what ``Flow`` takes.
    """

    @classmethod
    def vector(
        cls,
        dim: int,
        *,
        couplings: int = 6,
        hidden: Sequence[int] = (64, 64),
        activation: Callable[[], nn.Module] = nn.ReLU,
        batch_norm: bool = True,
        context_dim: int = 0,
        embed: nn.Module | None = None,
    ) -> RealNVP:
        """Couplings that keep the first and the second half in turn, batch norm between them.

        Args:
            dim: ``D``, at least 2.
            couplings: how many.
            hidden: widths of the hidden layers of each network, which puts out ``s`` and ``t``.
            activation: makes the activation between layers.
            batch_norm: whether a ``BatchNorm`` follows each coupling.
            context_dim: features of the context, see ``Flow``.
            embed: makes the context of ``y``, see ``Flow``.
        """
        check_count("dim", dim, 2)
        check_condition(context_dim, embed)
        check_count("couplings", couplings)
        hidden = check_sizes("hidden", hidden)
        layers: list[nn.Module] = [Flatten((dim,))]  # refuses what isn't a vector
        for i in range(couplings):
            second = i % 2 == 1
            kept = dim // 2 if second else dim - dim // 2
            net = mlp((kept + context_dim, *hidden, 2 * (dim - kept)), activation)
            layers.append(AffineCoupling(dim, net, second=second, context_dim=context_dim))
            layers += [BatchNorm(dim)] if batch_norm else []
        return cls(Chain(*layers), StandardNormal((dim,)), embed=embed, data_shape=(dim,))

    @classmethod
    def image(
        cls,
        shape: Sequence[int],
        *,
        levels: int = 256,
        scales: int = 2,
        hidden: int = 32,
        blocks: int = 2,
        alpha: float = 0.05,
        batch_norm: bool = True,
        context_dim: int = 0,
        embed: nn.Module | None = None,
    ) -> RealNVP:
        """The multi-scale model of section 3.6 on dequantised logits of grey levels.

        Each scale has three couplings with checkerboards, a squeeze, and three with channel-wise
        masks; the last has four with checkerboards.

        Args:
            shape: ``(C, H, W)``; height and width are multiples of ``2 ** (scales - 1)``, and the
                last scale still has 2x2 pixels for its checkerboards.
            levels: grey levels of the data, see ``Dequantise``.
            scales: how many.
            hidden: channels of each residual network; the paper has 32, and 64 for CIFAR-10.
            blocks: residual blocks of each network; the paper has 8 for CIFAR-10.
            alpha: see ``Logit``.
            batch_norm: whether a ``BatchNorm`` follows each coupling.
            context_dim: features of the context, see ``Flow``.
            embed: makes the context of ``y``, see ``Flow``.
        """
        check_condition(context_dim, embed)
        check_count("scales", scales, 1)
        check_count("hidden", hidden, 1)
        check_count("blocks", blocks)
        step = 2 ** (scales - 1)
        c, h, w = shape = check_image("shape", shape, step, f"{scales} scales")
        if min(h, w) < 2 * step:
            raise ValueError(
                f"shape must have height and width of at least {2 * step} for {scales} scales, got "
                f"{shape}; pad the images, or take fewer scales"
            )
        parts, shapes = [], []
        for scale in range(scales):
            last = scale == scales - 1
            steps: list[nn.Module] = []
            for j in range(4 if last else 3):
                net = ResNet(c + context_dim, hidden, 2 * c, blocks)
                steps.append(
                    CheckerboardCoupling((c, h, w), net, second=j % 2 == 1, context_dim=context_dim)
                )
                steps += [BatchNorm(c)] if batch_norm else []
            if not last:
                steps.append(Squeeze())
                c, h, w = 4 * c, h // 2, w // 2
                for j in range(3):
                    net = ResNet(c // 2 + context_dim, hidden, c, blocks)
                    second = j % 2 == 1
                    steps.append(AffineCoupling(c, net, second=second, context_dim=context_dim))
                    steps += [BatchNorm(c)] if batch_norm else []
            parts.append(Chain(*steps))
            shapes.append((c, h, w))
            c //= 2
        return cls(
            Chain(Logit(alpha), MultiScale(parts, shapes)),
            StandardNormal((math.prod(shape),)),
            dequantise=Dequantise(levels),
            embed=embed,
            data_shape=shape,
        )
