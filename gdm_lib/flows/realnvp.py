"""Real NVP.

Laurent Dinh, Jascha Sohl-Dickstein and Samy Bengio, *Density estimation using Real NVP*, 2016,
https://arxiv.org/abs/1605.08803. Equation numbers below are the paper's.

An affine coupling keeps one part of the dimensions and rescales and shifts the other by what
networks say of the first (equations 4 and 5)::

    y_1:d = x_1:d,    y_d+1:D = x_d+1:D * exp(s(x_1:d)) + t(x_1:d)

Its Jacobian is triangular, its log-determinant ``sum_j s_j`` (equation 6), and its inverse needs no
inverse of ``s`` or ``t`` (equation 8).

Symbols: ``s`` log-scale, ``t`` translation, ``b`` a binary mask, 1 where the input is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from gdm_lib.bijections import (
    Chain,
    Dequantise,
    Flatten,
    Flow,
    Logit,
    Squeeze,
    StandardNormal,
    check_inputs,
    join,
)
from gdm_lib.nn import mlp

__all__ = [
    "AffineCoupling",
    "BatchNorm",
    "CheckerboardCoupling",
    "MultiScale",
    "RealNVP",
    "ResNet",
    "checkerboard",
]

YEAR = 2016
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
        raw, t = self.net(join(kept, context)).chunk(2, dim=1)
        return self.scale.view(-1, *[1] * (kept.ndim - 2)) * torch.tanh(raw), t

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
        raw, t = self.net(join(self.mask * x, context)).chunk(2, dim=1)
        free = 1 - self.mask
        return free * self.scale * torch.tanh(raw), free * t

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


# Section 3.6: multi-scale architecture


class MultiScale(nn.Module):
    """``z_i, h_i = f_i(h_i-1)``: after each scale half of the channels is done (equation 14).

    Args:
        scales: bijections of images, one for each scale.
        shapes: what each of them puts out; the first half of its channels goes on.
        priors: for each scale but the last a bijection of the half that is done, whose context is
            the half that goes on; none in Real NVP.
    """

    def __init__(
        self,
        scales: Sequence[nn.Module],
        shapes: Sequence[Sequence[int]],
        priors: Sequence[nn.Module] = (),
    ) -> None:
        super().__init__()
        if len(scales) != len(shapes) or len(priors) not in (0, len(scales) - 1):
            raise ValueError(
                f"shapes must be one for each of {len(scales)} scales and priors none or one "
                f"less, got {len(shapes)} and {len(priors)}"
            )
        self.scales, self.priors = nn.ModuleList(scales), nn.ModuleList(priors)
        self.context_dim: int = max(getattr(scale, "context_dim", 0) for scale in scales)
        halves = [(shape[0] - shape[0] // 2, *shape[1:]) for shape in shapes[:-1]]
        self.done = [(shape[0] // 2, *shape[1:]) for shape in shapes[:-1]] + [tuple(shapes[-1])]
        self.going = halves
        self.sizes = [math.prod(shape) for shape in self.done]

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``(B, C, H, W)`` -> all latents in one vector ``(B, C H W)``, finest scale first."""
        check_inputs("x", x, (-1, -1, -1), context, self.context_dim)
        total, latents = x.new_zeros(len(x)), []
        for i, scale in enumerate(self.scales):
            x, logdet = scale(x, context if getattr(scale, "context_dim", 0) else None)
            total = total + logdet
            if i < len(self.going):
                x, z = x.split((self.going[i][0], self.done[i][0]), dim=1)
                if self.priors:
                    z, logdet = self.priors[i](z, x)
                    total = total + logdet
                latents.append(z.flatten(1))
        return torch.cat([*latents, x.flatten(1)], 1), total

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``(B, C H W)`` -> ``(B, C, H, W)``, coarsest scale first."""
        check_inputs("z", z, (sum(self.sizes),), context, self.context_dim)
        total = z.new_zeros(len(z))
        latents = [
            part.unflatten(1, shape)
            for part, shape in zip(z.split(self.sizes, dim=1), self.done, strict=True)
        ]
        x = latents.pop()
        for i in reversed(range(len(self.scales))):
            if i < len(self.going):
                done = latents.pop()
                if self.priors:
                    done, logdet = cast(Any, self.priors[i]).inverse(done, x)
                    total = total + logdet
                x = torch.cat([x, done], 1)
            scale = cast(Any, self.scales[i])
            x, logdet = scale.inverse(x, context if getattr(scale, "context_dim", 0) else None)
            total = total + logdet
        return x, total


# Section 3.7: batch normalisation


class BatchNorm(nn.Module):
    """``z = (x - mean) / sqrt(var + eps)``, a bijection once its statistics stand (section 3.7).

    In training they are the batch's, and gradients flow through them; a running average is kept
    for evaluation and for ``inverse``, which has no data to take statistics of. (Appendix E
    normalises by a running average in training too; this is its ``rho = 0``, and MAF's choice.)

    Args:
        features: size of dimension 1.
        momentum: weight of a new batch in the running average.
        eps: added to the variance.
        affine: whether a learned scale and shift follow, as in 1705.07057 (appendix B).
    """

    mean: Tensor
    var: Tensor

    def __init__(
        self, features: int, *, momentum: float = 0.1, eps: float = 1e-5, affine: bool = False
    ) -> None:
        super().__init__()
        self.features, self.momentum, self.eps = features, momentum, eps
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("var", torch.ones(features))
        self.log_gain = nn.Parameter(torch.zeros(features)) if affine else None
        self.shift = nn.Parameter(torch.zeros(features)) if affine else None

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if not self.training:
            return self.mean, self.var
        if x.numel() == self.features:
            raise ValueError("x must have more than one item in training: one has no variance")
        over = [0, *range(2, x.ndim)]
        var, mean = torch.var_mean(x, over, correction=0)
        with torch.no_grad():
            self.mean.lerp_(mean, self.momentum)
            self.var.lerp_(var, self.momentum)
        return mean, var

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``(B, features, ...)`` -> the same shape."""
        check_inputs("x", x, (self.features, *x.shape[2:]), context)
        mean, var = self._statistics(x)
        log_scale, logdet = self._log_scale(var, x)
        wide = (-1, *[1] * (x.ndim - 2))
        z = (x - mean.view(wide)) * log_scale.exp().view(wide)
        return z if self.shift is None else z + self.shift.view(wide), logdet

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Undoes ``forward`` as it is in evaluation."""
        check_inputs("z", z, (self.features, *z.shape[2:]), context)
        log_scale, logdet = self._log_scale(self.var, z)
        wide = (-1, *[1] * (z.ndim - 2))
        z = z if self.shift is None else z - self.shift.view(wide)
        return z * (-log_scale).exp().view(wide) + self.mean.view(wide), -logdet

    def _log_scale(self, var: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        log_scale = -0.5 * torch.log(var + self.eps)
        log_scale = log_scale if self.log_gain is None else log_scale + self.log_gain
        return log_scale, (log_scale.sum() * math.prod(x.shape[2:])).expand(len(x))


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
        layers: list[nn.Module] = [Flatten((dim,))]  # refuses what isn't a vector
        for i in range(couplings):
            second = i % 2 == 1
            kept = dim // 2 if second else dim - dim // 2
            net = mlp((kept + context_dim, *hidden, 2 * (dim - kept)), activation)
            layers.append(AffineCoupling(dim, net, second=second, context_dim=context_dim))
            layers += [BatchNorm(dim)] if batch_norm else []
        return cls(Chain(*layers), StandardNormal((dim,)), embed=embed)

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
            hidden: channels of each residual network; the paper has 64 for 32x32 images.
            blocks: residual blocks of each network; the paper has 8 for CIFAR-10.
            alpha: see ``Logit``.
            batch_norm: whether a ``BatchNorm`` follows each coupling.
            context_dim: features of the context, see ``Flow``.
            embed: makes the context of ``y``, see ``Flow``.
        """
        c, h, w = shape
        step = 2 ** (scales - 1)
        if h % step or w % step or min(h, w) < 2 * step:
            raise ValueError(
                f"shape must have height and width that are multiples of {step}, at least "
                f"{2 * step}, for {scales} scales, got {(h, w)}; pad them, or take fewer scales"
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
        )
