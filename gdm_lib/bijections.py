"""Bijections that two or more papers share, and the density model that they make.

A bijection ``f`` carries data to a latent whose density is known. The change of variables gives
the data's::

    log p(x) = log p_base(f(x)) + log |det df/dx|

``Flow`` is that line. Each bijection keeps the contract of ``protocols.Bijection``: ``forward``
from data to latent, ``inverse`` back, each with the log-determinant of its own direction, ``(B,)``.

Dequantisation and logit are bijections too, so a ``Flow`` over pixels reports nats of the pixels
themselves, and ``metrics.bits_per_dim`` of its ``log_prob`` needs no correction.

A bijection says in ``context_dim`` how many features its context has; 0, and no such attribute,
mean that it takes none and refuses one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gdm_lib._inputs import check_some, grey_levels, not_finite
from gdm_lib.likelihoods import LOG_2PI
from gdm_lib.nn import (
    check_batch,
    check_condition,
    check_count,
    check_labels,
    check_sizes,
    context_of,
    evaluates,
    evaluating,
    exact,
    gaussian,
    in_dtype_of,
    moments,
    several_processes,
    trains,
    uniform,
)

__all__ = [
    "Affine",
    "BatchNorm",
    "Chain",
    "Dequantise",
    "Flatten",
    "Flow",
    "Inverse",
    "Logit",
    "MultiScale",
    "OneHot",
    "Permute",
    "Squeeze",
    "StandardNormal",
    "check_inputs",
    "join",
    "settle",
]


# What every bijection checks


def check_inputs(
    name: str,
    value: Tensor,
    shape: Sequence[int],
    context: Tensor | None = None,
    context_dim: int = 0,
) -> None:
    """Refuse a batch of items, or a context, of another shape than the bijection has.

    Args:
        name: what the caller calls the batch, ``"x"`` or ``"z"``.
        value: the batch.
        shape: one item's; -1 where any size will do.
        context: what came as context.
        context_dim: how many features it must have; 0 for none.

    Raises:
        TypeError: the batch is no tensor.
        ValueError: names the argument, what was expected, what came and what to do.
    """
    check_batch(name, value, shape)
    if context is None and context_dim:
        raise ValueError(
            f"context must have shape ({len(value)}, {context_dim}), got None; this bijection was "
            f"made with context_dim={context_dim}"
        )
    if context is not None and not context_dim:
        raise ValueError(
            f"context must be None, got {tuple(context.shape)}; this bijection takes no context, "
            "make it with context_dim"
        )
    if context is not None and context.shape != (len(value), context_dim):
        raise ValueError(
            f"context must have shape ({len(value)}, {context_dim}), got {tuple(context.shape)}; "
            "give one row for each item"
        )


def join(x: Tensor, context: Tensor | None) -> Tensor:
    """``x`` with the context as further features: a vector's, or constant maps of an image."""
    if context is None:
        return x
    maps = context.reshape(*context.shape, *[1] * (x.ndim - 2))
    return torch.cat([x, maps.expand(*context.shape, *x.shape[2:])], 1)


def _constant(value: Tensor | float, x: Tensor) -> Tensor:
    """One log-determinant for the whole batch, ``(B,)``."""
    return exact(x.new_tensor(value)).expand(len(x))


# Composition


class Chain(nn.Module):
    """``f_K o ... o f_1``: its log-determinant is the sum of theirs.

    Parts that take a context must agree on its size; the others never see it.

    Args:
        parts: bijections, applied from first to last by ``forward``.
    """

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        dims = {dim for dim in (getattr(part, "context_dim", 0) for part in parts) if dim}
        if len(dims) > 1:
            raise ValueError(f"parts must agree on context_dim, got {sorted(dims)}")
        self.parts = nn.ModuleList(parts)
        self.context_dim: int = max(dims, default=0)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """From data to latent: ``(z, log |det dz/dx|)``."""
        check_inputs("x", x, x.shape[1:], context, self.context_dim)
        total = x.new_zeros(len(x))
        for part in self.parts:
            x, logdet = part(x, context if getattr(part, "context_dim", 0) else None)
            total = total + logdet
        return x, total

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """From latent to data: ``(x, log |det dx/dz|)``."""
        check_inputs("z", z, z.shape[1:], context, self.context_dim)
        total = z.new_zeros(len(z))
        for part in reversed(self.parts):
            own = context if getattr(part, "context_dim", 0) else None
            z, logdet = cast(Any, part).inverse(z, own)
            total = total + logdet
        return z, total


class Inverse(nn.Module):
    """A bijection with its two directions exchanged."""

    def __init__(self, bijection: nn.Module) -> None:
        super().__init__()
        self.bijection = bijection
        self.context_dim: int = getattr(bijection, "context_dim", 0)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What the wrapped bijection calls ``inverse``."""
        return cast("tuple[Tensor, Tensor]", cast(Any, self.bijection).inverse(x, context))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What the wrapped bijection calls ``forward``."""
        return cast("tuple[Tensor, Tensor]", self.bijection(z, context))


class MultiScale(nn.Module):
    """``z_i, h_i = f_i(h_i-1)``: after each scale half of the channels is done (1605.08803, section
    3.6, equation 14).

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


# Moving dimensions around


class Permute(nn.Module):
    """Reorder the features of a vector or the channels of an image; volume preserving.

    Args:
        order: a permutation of ``0..D-1``: feature ``i`` of ``z`` is feature ``order[i]`` of ``x``.
    """

    order: Tensor
    back: Tensor

    def __init__(self, order: Tensor | Sequence[int]) -> None:
        super().__init__()
        order = torch.as_tensor(order)
        if order.ndim != 1 or not torch.equal(order.sort().values.cpu(), torch.arange(len(order))):
            raise ValueError(
                f"order must be a permutation of 0..{max(order.numel() - 1, 0)}, "
                f"got {order.tolist()}"
            )
        self.register_buffer("order", order)
        self.register_buffer("back", order.argsort())

    @classmethod
    def reverse(cls, features: int) -> Permute:
        """Last first."""
        return cls(torch.arange(features - 1, -1, -1))

    @classmethod
    def shuffle(cls, features: int, generator: torch.Generator | None = None) -> Permute:
        """A fixed random permutation."""
        return cls(torch.randperm(features, generator=generator))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``(B, D, ...)`` -> the same shape, log-determinant 0."""
        check_inputs("x", x, (len(self.order), *x.shape[2:]), context)
        return x[:, self.order], x.new_zeros(len(x))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The permutation undone."""
        check_inputs("z", z, (len(self.order), *z.shape[2:]), context)
        return z[:, self.back], z.new_zeros(len(z))


class Flatten(nn.Module):
    """``(B, *shape)`` -> ``(B, D)``, for flows on vectors whose data are images."""

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``(B, *shape)`` -> ``(B, D)``."""
        check_inputs("x", x, self.shape, context)
        return x.flatten(1), x.new_zeros(len(x))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``(B, D)`` -> ``(B, *shape)``."""
        check_inputs("z", z, (math.prod(self.shape),), context)
        return z.unflatten(1, self.shape), z.new_zeros(len(z))


class Squeeze(nn.Module):
    """Trade space for channels, ``(C, H, W)`` -> ``(4C, H/2, W/2)`` (1605.08803, section 3.6).

    Each 2x2 block of a channel becomes four channels, rows first: a half split of the channels
    of a grey image then takes the even rows, where a checkerboard took diagonals.
    """

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``(B, C, H, W)`` -> ``(B, 4C, H/2, W/2)``."""
        check_inputs("x", x, (-1, -1, -1), context)
        if x.shape[2] % 2 or x.shape[3] % 2:
            raise ValueError(
                f"x must have even height and width, got {tuple(x.shape[2:])}; pad the images, "
                "or take fewer scales"
            )
        n, c, h, w = x.shape
        if not n:  # torch would keep the shape
            return x.reshape(0, 4 * c, h // 2, w // 2), x.new_zeros(0)
        return F.pixel_unshuffle(x, 2), x.new_zeros(n)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``(B, 4C, H, W)`` -> ``(B, C, 2H, 2W)``."""
        check_inputs("z", z, (-1, -1, -1), context)
        if z.shape[1] % 4:
            raise ValueError(f"z must have a multiple of 4 channels, got {z.shape[1]}")
        c, h, w = z.shape[1:]
        x = F.pixel_shuffle(z, 2) if len(z) else z.reshape(0, c // 4, 2 * h, 2 * w)
        return x, z.new_zeros(len(z))


# Elementwise


class Affine(nn.Module):
    """``z = exp(log_scale) * x + shift``, one scale and shift for each feature or channel.

    Args:
        features: size of dimension 1.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        check_count("features", features, 1)
        self.features = features
        self.log_scale = nn.Parameter(torch.zeros(features))
        self.shift = nn.Parameter(torch.zeros(features))

    def _view(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``log_scale`` and ``shift`` to broadcast over ``x``, and the log-determinant."""
        shape, log_scale = (1, self.features, *[1] * (x.ndim - 2)), exact(self.log_scale)
        logdet = log_scale.sum() * math.prod(x.shape[2:])
        return log_scale.view(shape), self.shift.view(shape), logdet.expand(len(x))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``(B, features, ...)`` -> the same shape."""
        check_inputs("x", x, (self.features, *x.shape[2:]), context)
        log_scale, shift, logdet = self._view(x)
        return log_scale.exp() * x + shift, logdet

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``x = (z - shift) exp(-log_scale)``."""
        check_inputs("z", z, (self.features, *z.shape[2:]), context)
        log_scale, shift, logdet = self._view(z)
        return (z - shift) * (-log_scale).exp(), -logdet


class BatchNorm(nn.Module):
    """``z = (x - mean) / sqrt(var + eps)``, a bijection once its statistics stand
    (1605.08803, section 3.7).

    In training they are the batch's, and gradients flow through them; a running average is kept
    for evaluation. (Appendix E normalises by a running average in training too; this is its
    ``rho = 0``, and MAF's choice.) Where several processes share a batch, its statistics are those
    of the whole, and each has the same average. ``inverse`` has no batch to take statistics of, and
    is refused in train mode, where it would undo something else than ``forward`` does.

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
        check_count("features", features, 1)
        self.features, self.momentum, self.eps = features, momentum, eps
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("var", torch.ones(features))
        self.log_gain = nn.Parameter(torch.zeros(features)) if affine else None
        self.shift = nn.Parameter(torch.zeros(features)) if affine else None

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """``half()`` and the like leave the statistics in 32 bits: a running average of 16 stands
        still when a batch adds less than a step of its last digit."""
        before = {name: getattr(self, name) for name in ("mean", "var")}
        super()._apply(fn, recurse)
        for name, value in before.items():
            now = getattr(self, name)
            setattr(self, name, now if exact(now) is now else value.float().to(now.device))
        return self

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if not self.training:
            return self.mean, self.var
        if several_processes():
            mean, var = moments(exact(x))
        elif x.numel() == self.features:
            raise ValueError("x must have more than one item in training: one has no variance")
        else:
            over = [0, *range(2, x.ndim)]
            var, mean = torch.var_mean(exact(x), over, correction=0)
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
        """Undoes ``forward`` as it is in evaluation.

        Raises:
            RuntimeError: in train mode.
        """
        if self.training:
            raise RuntimeError(
                "BatchNorm has no inverse in train mode, where forward normalises by the "
                "statistics of its batch: call eval() of the model first, or sample and decode "
                "with a Flow, which does"
            )
        check_inputs("z", z, (self.features, *z.shape[2:]), context)
        log_scale, logdet = self._log_scale(self.var, z)
        wide = (-1, *[1] * (z.ndim - 2))
        z = z if self.shift is None else z - self.shift.view(wide)
        return z * (-log_scale).exp().view(wide) + self.mean.view(wide), -logdet

    def _log_scale(self, var: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        log_scale = -0.5 * torch.log(var + self.eps)
        log_scale = log_scale if self.log_gain is None else log_scale + exact(self.log_gain)
        return log_scale, (log_scale.sum() * math.prod(x.shape[2:])).expand(len(x))


class Logit(nn.Module):
    """``z = logit(alpha + (1 - 2 alpha) x)``: from [0, 1] to the line (1705.07057, section 4.3).

    1605.08803 (section 4.1) writes ``alpha + (1 - alpha) x``, which would send ``x = 1`` to
    infinity; with the factor 2, as in its code, both ends keep the same distance.

    Args:
        alpha: how far the ends are kept from 0 and 1; Real NVP's 0.05. MAF takes 1e-6 for
            MNIST. At 0 the ends themselves are refused.
    """

    def __init__(self, alpha: float = 0.05) -> None:
        super().__init__()
        if not 0 <= alpha < 0.5:
            raise ValueError(f"alpha must lie in [0, 0.5), got {alpha}")
        self.alpha = alpha

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``(B, ...)`` in [0, 1] -> the same shape.

        Raises:
            ValueError: a value without a logit.
        """
        check_inputs("x", x, x.shape[1:], context)
        x = exact(x)
        p = self.alpha + (1 - 2 * self.alpha) * x
        if not bool(((p > 0) & (p < 1)).all()):
            if where := not_finite(x):
                raise ValueError(f"x must lie in [0, 1], got {where}")
            raise ValueError(
                f"x must lie in [0, 1] (without the ends if alpha is 0), got {float(x.min()):.6g} "
                f"to {float(x.max()):.6g}; scale the data, or take a larger alpha"
            )
        up, down = p.log(), torch.log1p(-p)
        slope = math.log1p(-2 * self.alpha) - up - down
        return up - down, slope.flatten(1).sum(1)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """From the line to (0, 1), and up to ``alpha / (1 - 2 alpha)`` beyond."""
        check_inputs("z", z, z.shape[1:], context)
        z = exact(z)
        slope = F.logsigmoid(z) + F.logsigmoid(-z) - math.log1p(-2 * self.alpha)
        return (torch.sigmoid(z) - self.alpha) / (1 - 2 * self.alpha), slope.flatten(1).sum(1)


class Dequantise(nn.Module):
    """Spread each grey level over its bin: ``z = (level + u) / levels``, ``u`` uniform in [0, 1).

    The density of ``z`` times the volume of a bin, averaged over ``u``, is the probability of the
    level; the log inside the average makes it a lower bound (Theis et al. 2015, 1511.01844,
    section 3.1). The log-determinant ``-D log levels`` is that volume, so bits per dimension come
    out for the discrete data.

    Args:
        levels: how many grey levels the data have, held as ``level / (levels - 1)`` in [0, 1]:
            256 for bytes divided by 255, 17 for ``digits``.
    """

    def __init__(self, levels: int = 256) -> None:
        super().__init__()
        check_count("levels", levels, 2)
        self.levels = levels

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """``(B, ...)``, multiples of ``1 / (levels - 1)`` -> the same shape, in (0, 1).

        Raises:
            ValueError: a value that is no level.
        """
        check_inputs("x", x, x.shape[1:], context)
        # Grey values of 16 bits lie beside their levels, by up to a quarter of their last step.
        tolerance = max(0.01, 0.26 * self.levels * torch.finfo(x.dtype).eps)
        x = exact(x)
        level = (x * (self.levels - 1)).round()
        if not len(x):
            return x, x.new_zeros(0)
        off = (x * (self.levels - 1) - level).abs().max()
        if not (off < tolerance and level.min() >= 0 and level.max() < self.levels):
            raise ValueError(self._not_levels(x, float(off)))
        # In float32, 200 + u rounds to 201 for one u in 10^5, and an image has thousands of pixels.
        edge = 4 * self.levels * torch.finfo(x.dtype).eps
        u = uniform(x.shape, x, generator)
        z = (level + u.clamp(edge, 1 - edge)) / self.levels
        return z, _constant(-math.log(self.levels) * math.prod(x.shape[1:]), x)

    def _not_levels(self, x: Tensor, off: float) -> str:
        said = f"x must hold multiples of 1/{self.levels - 1} in [0, 1], got"
        if where := not_finite(x):
            return f"{said} {where}"
        cure = grey_levels(x, "x", self.levels)
        return (
            f"{said} values from {float(x.min()):.6g} to {float(x.max()):.6g} that are up to "
            f"{off:.2g} levels away from one; set levels to what they have, or quantise the data"
            f"{f'; take {cure}' if cure else ', in [0, 1]'}"
        )

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The level of the bin, as a grey value in [0, 1]; beyond the range, the nearest level."""
        check_inputs("z", z, z.shape[1:], context)
        z = exact(z)
        level = (z * self.levels).floor().clamp(0, self.levels - 1)
        return level / (self.levels - 1), _constant(
            math.log(self.levels) * math.prod(z.shape[1:]), z
        )


# The density model


class StandardNormal(nn.Module):
    """N(0, I) on items of a given shape: the usual base of a flow."""

    bound = False
    anchor: Tensor

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = check_sizes("shape", shape)
        # Knows the device and the dtype to sample on; has no place in a checkpoint.
        self.register_buffer("anchor", torch.zeros(()), persistent=False)

    def log_prob(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Nats, ``(B, *shape)`` -> ``(B,)``."""
        check_inputs("x", x, self.shape, y)
        x = exact(x)
        return -0.5 * (x.square() + LOG_2PI).flatten(1).sum(1)

    def sample(
        self, n: int, y: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """``(n, *shape)``."""
        check_count("n", n)
        return gaussian((n, *self.shape), self.anchor, generator)


class OneHot(nn.Module):
    """Class labels ``(B,)`` -> ``(B, classes)``, to give a ``Flow`` labels for context."""

    anchor: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        check_count("classes", classes, 1)
        self.classes = classes
        self.register_buffer("anchor", torch.zeros(()), persistent=False)

    def forward(self, y: Tensor) -> Tensor:
        """Raises ``ValueError`` for what isn't a vector of integer labels below ``classes``."""
        y = check_labels("y", y, self.classes)
        return F.one_hot(y, self.classes).to(self.anchor.dtype)


class Flow(nn.Module):
    """A density by change of variables: ``log p(x) = log p_base(f(x)) + log |det df/dx|``.

    ``x`` of any floating dtype is taken in that of the weights. In every method ``y`` is what a
    caller has, one row for each item: labels where there is an ``embed`` for them, else the context
    itself. For ``k`` samples of each of ``m`` conditions take ``sample(k * m,
    y.repeat_interleave(k, 0))``.

    ``loss`` alone trains: in train mode, batch norms take the statistics of its batch. All other
    methods do what eval mode does in any mode.

    Args:
        bijection: from data to the base's space.
        base: a density with ``log_prob`` and ``sample``, conditional if it has ``context_dim``.
        dequantise: for grey levels. ``log_prob`` is then a lower bound on the log-probability of
            the levels, ``bound`` is True, and samples are levels.
        embed: makes the context ``(B, context_dim)`` of ``y``, ``OneHot`` for labels; without
            it ``y`` is the context.
        data_shape: shape of one item, to be checked before all else; any if left out.
    """

    def __init__(
        self,
        bijection: nn.Module,
        base: nn.Module,
        *,
        dequantise: Dequantise | None = None,
        embed: nn.Module | None = None,
        data_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.bijection = bijection
        self.base = base
        self.dequantise = dequantise
        self.embed = embed
        self.bound = dequantise is not None
        self.context_dim: int = max(getattr(m, "context_dim", 0) for m in (bijection, base))
        check_condition(self.context_dim, embed)
        self.data_shape = None if data_shape is None else check_sizes("data_shape", data_shape)

    def _contexts(self, y: Tensor | None, n: int) -> tuple[Tensor | None, Tensor | None]:
        """What the bijection gets, and what the base gets."""
        context = context_of(y, n, self.context_dim, self.embed)
        context = context if context is None else in_dtype_of(self, context)
        first, second = (
            context if getattr(m, "context_dim", 0) else None for m in (self.bijection, self.base)
        )
        return first, second

    def _check(self, x: Tensor) -> None:
        """Refuse what isn't a batch of items."""
        any_shape = x.shape[1:] if isinstance(x, Tensor) else ()
        shape = any_shape if self.data_shape is None else self.data_shape
        levels = None if self.dequantise is None else self.dequantise.levels
        check_batch("x", x, shape, levels=levels)

    def _latent(
        self, x: Tensor, y: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """``z``, the log-determinant ``(B,)``, and what the base gets of ``y``."""
        self._check(x)
        context, base_context = self._contexts(y, len(x))
        volume: Tensor | float = 0.0
        if self.dequantise is not None:
            # What was stored in 16 bits is known by its dtype to lie beside its level.
            x = x if x.element_size() < 4 else in_dtype_of(self, x)
            x, volume = self.dequantise(x, generator=generator)
        z, logdet = self.bijection(exact(in_dtype_of(self, x)), context)
        return z, logdet + volume, base_context

    def _terms(
        self, x: Tensor, y: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """``log p_base(z)`` and the log-determinant, each ``(B,)``."""
        z, logdet, base_context = self._latent(x, y, generator)
        return cast(Any, self.base).log_prob(z, base_context), logdet

    @evaluates
    def log_prob(
        self, x: Tensor, y: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Nats, ``(B, *data_shape)`` -> ``(B,)``. The generator is for dequantisation.

        ``-inf`` where the latent overflows: exponential scales do that far from the data, where
        the density is zero to any precision. NaN where the data, the condition or the weights are
        no numbers, and in ``loss`` for an overflow too, so that training stops.
        """
        log_base, logdet = self._terms(x, y, generator)
        log_prob = log_base + logdet
        overflow = log_prob.isnan() & x.flatten(1).isfinite().all(1)
        if y is not None and y.is_floating_point():
            overflow = overflow & y[:, None].flatten(1).isfinite().all(1)
        # Weights are looked at only where it matters, or by a compiler, which can't branch here.
        if torch.compiler.is_compiling() or bool(overflow.any()):
            overflow = overflow & self._finite()
        return log_prob.masked_fill(overflow, -math.inf)

    def _finite(self) -> Tensor:
        """Whether all weights and statistics are."""
        state = [t for t in (*self.parameters(), *self.buffers()) if t.is_floating_point()]
        each = [t.isfinite().all() for t in state]
        return torch.stack(each).all() if each else torch.tensor(True)

    @trains
    def loss(
        self, x: Tensor, y: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Negative log-likelihood in nats per item, averaged over the batch.

        Returns:
            ``loss``; ``log_base`` and ``log_det``, whose sum is its negative; and
            ``bits_per_dim`` if the data are grey levels.
        """
        self._check(x)
        check_some("x", x)
        log_base, logdet = (term.mean() for term in self._terms(x, y, generator))
        terms = {
            "loss": -(log_base + logdet),
            "log_base": log_base.detach(),
            "log_det": logdet.detach(),
        }
        if self.dequantise is not None:
            terms["bits_per_dim"] = terms["loss"].detach() / (math.prod(x.shape[1:]) * math.log(2))
        return terms

    @evaluates
    def draw(
        self, n: int, y: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Samples that carry a gradient, with their log-density: what a free energy is made of.

        Returns:
            ``x (n, *data_shape)``, not quantised, and ``log p(x)``, ``(n,)``.
        """
        check_count("n", n)
        context, base_context = self._contexts(y, n)
        base = cast(Any, self.base)
        z = base.sample(n, base_context, generator=generator)
        x, logdet = cast(Any, self.bijection).inverse(z, context)
        return x, base.log_prob(z, base_context) - logdet

    @torch.no_grad()
    @evaluates
    def sample(
        self, n: int, y: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """A draw from the base, carried back: ``(n, *data_shape)``."""
        check_count("n", n)
        _, base_context = self._contexts(y, n)
        return self.decode(cast(Any, self.base).sample(n, base_context, generator=generator), y)

    @evaluates
    def encode(
        self, x: Tensor, y: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Data's latent; for grey levels that of a draw from their bins."""
        return self._latent(x, y, generator)[0]

    @evaluates
    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """A latent's data; grey levels if the flow dequantises."""
        check_batch("z", z, z.shape[1:] if isinstance(z, Tensor) else ())
        z = exact(in_dtype_of(self, z))
        context, _ = self._contexts(y, len(z))
        x: Tensor = cast(Any, self.bijection).inverse(z, context)[0]
        return x if self.dequantise is None else self.dequantise.inverse(x)[0]


# After training


class _Reached(Exception):
    """A batch has come to the layer that it was sent to."""


@torch.no_grad()
def settle(
    model: nn.Module,
    data: Tensor | tuple[Tensor, Tensor],
    *,
    y: Tensor | None = None,
    batch_size: int = 1000,
    generator: torch.Generator | None = None,
) -> None:
    """Give each ``BatchNorm`` the statistics of a whole data set, in place of a running average.

    What MAF's authors evaluate with (1705.07057, appendix B): the running average knows the last
    batches, and weights that were still moving. Layer by layer, in the order that data pass them,
    since what one layer is given depends on the statistics of those before it: a model of ``K``
    such layers makes about ``K / 2`` passes over the data. Weights and modes stay as they are, and
    settling again changes nothing, unless grey levels are spread anew.

    Args:
        model: a ``Flow``, or another model whose ``log_prob`` passes data through ``BatchNorm``.
        data: the training set, ``x (N, *data_shape)``, or ``(x, y)``.
        y: what a conditional model is given with it, ``(N, ...)``.
        batch_size: items that pass at a time. The result doesn't depend on it.
        generator: of what spreads grey levels, once for all layers.

    Raises:
        ValueError: no ``BatchNorm`` on the way of data, no data, or statistics that are not finite.
    """
    x, y = data if isinstance(data, tuple | list) else (data, y)
    if len(x) == 0 or (y is not None and len(y) != len(x)):
        rows = "none" if y is None else f"{len(y)}"
        raise ValueError(
            f"data must have at least one item, and y one row for each, got {len(x)} and {rows}"
        )
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    norms = [part for part in model.modules() if isinstance(part, BatchNorm)]
    density: Any = model
    if isinstance(model, Flow) and model.dequantise is not None:
        x, _ = model.dequantise(x, generator=generator)
        density = Flow(model.bijection, model.base, embed=model.embed)
    device = norms[0].mean.device if norms else x.device
    ends = [*range(0, len(x), batch_size), len(x)]

    def passes(rows: Iterable[tuple[int, int]]) -> None:
        """All items through the density, and the same noise, where there is some, each time."""
        with torch.random.fork_rng([device] if device.type == "cuda" else []), evaluating(model):
            torch.manual_seed(0)
            for start, end in rows:
                given = () if y is None else (y[start:end].to(device),)
                with suppress(_Reached):
                    density.log_prob(x[start:end].to(device), *given)

    order: list[BatchNorm] = []
    hooks = [norm.register_forward_pre_hook(lambda norm, _: order.append(norm)) for norm in norms]
    try:
        passes([(0, 1)])
    finally:
        for hook in hooks:
            hook.remove()
    if not order:
        raise ValueError(
            f"model must have a BatchNorm that data pass on their way, {type(model).__name__} has "
            "none: there is nothing to settle"
        )
    for norm in dict.fromkeys(order):
        moments = _Moments(norm.features)
        hook = norm.register_forward_pre_hook(moments.add)
        try:
            passes(pairwise(ends))
        finally:
            hook.remove()
        var = moments.squares / moments.count
        if not bool((moments.mean + var).isfinite().all()):
            raise ValueError(
                "data must be finite, and stay so on the way to each BatchNorm, got a mean or a "
                "variance that is not"
            )
        norm.mean.copy_(moments.mean)
        norm.var.copy_(var)


class _Moments:
    """Mean, and sum of squared distances from it, of batches that come one after the other (Chan,
    Golub and LeVeque 1979), in double precision."""

    def __init__(self, features: int) -> None:
        self.count = 0
        self.mean = torch.zeros(features, dtype=torch.float64)
        self.squares = torch.zeros(features, dtype=torch.float64)

    def add(self, _: nn.Module, args: tuple[Any, ...]) -> None:
        """The input of a layer, which goes no further."""
        x = args[0].transpose(0, 1).flatten(1).double().cpu()
        more = x.shape[1]
        var, mean = torch.var_mean(x, 1, correction=0)
        gap, total = mean - self.mean, self.count + more
        self.squares += more * var + gap.square() * (self.count * more / total)
        self.mean += gap * (more / total)
        self.count = total
        raise _Reached
