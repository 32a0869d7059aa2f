"""Glow.

Diederik P. Kingma and Prafulla Dhariwal, *Glow: Generative Flow with Invertible 1x1 Convolutions*,
2018, https://arxiv.org/abs/1807.03039. Equation and section numbers below are the paper's.

A step of flow has three parts (table 1): an actnorm, an invertible 1x1 convolution that mixes the
channels, and an affine coupling. The convolution by a matrix ``W (c, c)`` costs ``O(c^3)`` for
its log-determinant (equation 9), or ``O(c)`` with ``W = P L (U + diag(s))`` (equations 10 and 11)::

    log |det dconv(h; W)/dh| = h w log |det W| = h w sum_i log |s_i|

``K`` steps make a scale, ``L`` scales the model; after each scale but the last half of the channels
is done, as in Real NVP.

Symbols: ``c, h, w`` channels, height and width, ``P`` a permutation, ``L, U`` triangular matrices,
``T`` temperature.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gdm_lib.bijections import (
    Affine,
    Chain,
    Dequantise,
    Flow,
    MultiScale,
    Squeeze,
    StandardNormal,
    check_inputs,
    join,
)
from gdm_lib.nn import (
    check_condition,
    check_count,
    check_image,
    evaluates,
    exact,
    moments,
    through,
    without_autocast,
)

__all__ = [
    "ActNorm",
    "ConvNet",
    "Coupling",
    "Glow",
    "InvertibleConv",
    "InvertibleConvLU",
    "SplitPrior",
    "log_exponential",
    "log_sigmoid",
]

ARXIV = "1807.03039"


# Section 3.1: actnorm


class ActNorm(Affine):
    """``z = exp(log_scale) * x + shift``, scale and shift of each channel set so that the first
    batch in training comes out with mean 0 and variance 1; from then on parameters like others.

    In a ``Flow`` it is ``loss`` that trains: whoever asks for a density or a sample before that
    initialises nothing. That it is done is part of the state: a resumed model isn't initialised
    again. Where there are several processes, the batch is that of all together, so that they all
    start from one model.

    Args:
        features: channels, or the features of a vector.
    """

    ready: Tensor

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.register_buffer("ready", torch.tensor(False))

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Set scale and shift so that ``x`` comes out with mean 0 and variance 1.

        Raises:
            ValueError: a channel does not vary.
        """
        mean, var = moments(exact(x))
        if not bool((var > 0).all()):
            raise ValueError(
                "x must vary in every channel of the first batch, which sets the scales, got "
                f"variances {var.tolist()}; take a larger batch, or dequantise"
            )
        self.log_scale.copy_(-0.5 * var.log())
        self.shift.copy_(-mean * exact(self.log_scale).exp())
        self.ready.fill_(True)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``(B, features, ...)`` -> the same shape; the first call in training initialises."""
        check_inputs("x", x, (self.features, *x.shape[2:]), context)
        if self.training and not self.ready:
            self.initialise(x)
        return super().forward(x)


# Section 3.2: invertible 1x1 convolution


class InvertibleConv(nn.Module):
    """A learned mixing of the channels by a full matrix ``W`` (equation 9).

    Args:
        features: ``c``; of a vector, its features.
        generator: of the rotation that it starts as, whose log-determinant is 0.
    """

    def __init__(self, features: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.features = features
        self._start(torch.linalg.qr(torch.randn(features, features, generator=generator))[0])

    def _start(self, rotation: Tensor) -> None:
        self.weight = nn.Parameter(rotation)

    def matrix(self) -> tuple[Tensor, Tensor]:
        """``W`` and ``log |det W|``."""
        weight = exact(self.weight)
        return weight, torch.linalg.slogdet(weight).logabsdet

    def inverse_matrix(self) -> tuple[Tensor, Tensor]:
        """``W^-1`` and ``log |det W|``; ``torch.linalg.LinAlgError`` if ``W`` is singular."""
        weight, logdet = self.matrix()
        return torch.linalg.inv(weight), logdet

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``(B, c, ...)`` -> the same shape."""
        check_inputs("x", x, (self.features, *x.shape[2:]), context)
        with without_autocast(x):
            weight, logdet = self.matrix()
            mixed = _mix(weight, exact(x))
        return mixed, (logdet * math.prod(x.shape[2:])).expand(len(x))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mixes by the inverse matrix, of which one serves all pixels."""
        check_inputs("z", z, (self.features, *z.shape[2:]), context)
        with without_autocast(z):
            weight, logdet = self.inverse_matrix()
            mixed = _mix(weight, exact(z))
        return mixed, (-logdet * math.prod(z.shape[2:])).expand(len(z))


def _mix(weight: Tensor, x: Tensor) -> Tensor:
    return F.linear(x, weight) if x.ndim == 2 else F.conv2d(x, weight[:, :, None, None])


class InvertibleConvLU(InvertibleConv):
    """The same map as ``P L (U + diag(s))`` (equation 10), which cannot become singular.

    ``P`` and the signs of ``s`` stay as they start; ``L`` (unit lower triangular), ``U`` (strictly
    upper) and ``log |s|`` are learned. Takes what ``InvertibleConv`` takes.
    """

    permutation: Tensor
    sign: Tensor

    def _start(self, rotation: Tensor) -> None:
        permutation, lower, upper = torch.linalg.lu(rotation)
        s = upper.diagonal()
        self.register_buffer("permutation", permutation)
        self.register_buffer("sign", s.sign())
        self.lower = nn.Parameter(lower.tril(-1))
        self.upper = nn.Parameter(upper.triu(1))
        self.log_s = nn.Parameter(s.abs().log())

    def _factors(self) -> tuple[Tensor, Tensor]:
        """``L`` without its ones, and ``U + diag(s)``."""
        upper = exact(self.upper).triu(1) + torch.diag(self.sign * exact(self.log_s).exp())
        return exact(self.lower).tril(-1), upper

    def matrix(self) -> tuple[Tensor, Tensor]:
        """``W`` and ``log |det W| = sum_i log |s_i|`` (equation 11)."""
        lower, upper = self._factors()
        weight = exact(self.permutation) @ torch.addmm(upper, lower, upper)
        return weight, exact(self.log_s).sum()

    def inverse_matrix(self) -> tuple[Tensor, Tensor]:
        """``W^-1`` by two triangular solves, and ``log |det W|``."""
        lower, upper = self._factors()
        if torch.compiler.is_exporting():  # ONNX has products of matrices, and no solver
            diagonal = upper.diagonal()
            inverse = _unit_inverse(upper / diagonal) / diagonal[:, None]
            unit = lower + torch.eye(self.features).to(lower)
            return inverse @ _unit_inverse(unit) @ self.permutation.T, self.log_s.sum()
        half = torch.linalg.solve_triangular(
            lower, exact(self.permutation).T, upper=False, unitriangular=True
        )
        return torch.linalg.solve_triangular(upper, half, upper=True), exact(self.log_s).sum()


def _unit_inverse(triangular: Tensor) -> Tensor:
    """The inverse of a triangular matrix ``I - N`` of unit diagonal, by products alone.

    ``N`` to the power ``c`` is zero, so ``(I + N)(I + N^2)(I + N^4)...`` ends. It is less exact
    than a solver where ``c`` is large.
    """
    eye = torch.eye(len(triangular)).to(triangular)
    power = eye - triangular
    inverse = eye + power
    for _ in range(1, (len(triangular) - 1).bit_length()):
        power = power @ power
        inverse = inverse + inverse @ power
    return inverse


# Section 3.3: affine coupling


def log_exponential(raw: Tensor) -> Tensor:
    """``log s`` of ``s = exp(raw)``, as in table 1."""
    return raw


def log_sigmoid(raw: Tensor) -> Tensor:
    """``log s`` of ``s = sigmoid(raw + 2)``, as in the authors' code: bounded, 0.88 at first."""
    return F.logsigmoid(raw + 2)


def _zero_conv(channels_in: int, channels_out: int) -> nn.Conv2d:
    """What it is the last part of starts as the identity (section 3.3)."""
    conv = nn.Conv2d(channels_in, channels_out, 3, padding=1)
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(cast(Tensor, conv.bias))
    return conv


class ConvNet(nn.Sequential):
    """``NN()`` of table 1: convolutions 3x3, 1x1 and 3x3 (section 5), the last of zeros."""

    def __init__(self, channels_in: int, hidden: int, channels_out: int) -> None:
        super().__init__(
            nn.Conv2d(channels_in, hidden, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 1),
            nn.ReLU(),
            _zero_conv(hidden, channels_out),
        )


class Coupling(nn.Module):
    """``y_a = s * x_a + t, y_b = x_b, (log s, t) = NN(x_b)`` (table 1).

    Args:
        features: channels, even.
        net: ``NN``, from ``features / 2 + context_dim`` to ``features`` channels.
        log_scale: makes ``log s`` of the network's output, ``log_sigmoid`` or ``log_exponential``;
            ``torch.zeros_like`` makes the coupling additive.
        context_dim: features of the context; 0 for none.
    """

    def __init__(
        self,
        features: int,
        net: nn.Module,
        *,
        log_scale: Callable[[Tensor], Tensor] = log_sigmoid,
        context_dim: int = 0,
    ) -> None:
        super().__init__()
        if features % 2:
            raise ValueError(f"features must be even, to have two halves, got {features}")
        self.features, self.net, self.log_scale = features, net, log_scale
        self.context_dim = context_dim

    def _parts(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        a, b = x.chunk(2, dim=1)
        raw, t = through(self.net, join(b, context)).chunk(2, dim=1)
        return a, b, self.log_scale(raw), t

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``(B, features, ...)`` -> the same shape."""
        check_inputs("x", x, (self.features, *x.shape[2:]), context, self.context_dim)
        a, b, log_s, t = self._parts(x, context)
        return torch.cat([log_s.exp() * a + t, b], 1), log_s.flatten(1).sum(1)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``x_a = (y_a - t) / s``."""
        check_inputs("z", z, (self.features, *z.shape[2:]), context, self.context_dim)
        a, b, log_s, t = self._parts(z, context)
        return torch.cat([(a - t) * (-log_s).exp(), b], 1), -log_s.flatten(1).sum(1)


# Section 3: the multi-scale model


class SplitPrior(nn.Module):
    """What is factored out is Gaussian given what goes on, with mean and scale from a convolution
    (the authors' code). As a bijection: it is standardised, so the base stays N(0, I).

    Args:
        done: channels that are factored out.
        going: channels that go on; as an image they are the context of this bijection.
    """

    def __init__(self, done: int, going: int) -> None:
        super().__init__()
        self.conv = _zero_conv(going, 2 * done)

    def forward(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, done, H, W)`` given ``(B, going, H, W)`` -> standardised."""
        mean, log_sd = through(self.conv, context).chunk(2, dim=1)
        return (x - mean) * (-log_sd).exp(), -log_sd.flatten(1).sum(1)

    def inverse(self, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """With mean and scale again."""
        mean, log_sd = through(self.conv, context).chunk(2, dim=1)
        return z * log_sd.exp() + mean, log_sd.flatten(1).sum(1)


class Glow(Flow):
    """Glow on dequantised grey levels (figure 2b).

    Args:
        shape: ``(C, H, W)``; height and width are multiples of ``2 ** scales``.
        levels: grey levels of the data, see ``Dequantise``.
        scales: the paper's ``L``, 3 for 32x32.
        steps: the paper's ``K``, steps of flow in each scale; it has 32, a laptop less patience.
        hidden: channels of each coupling's network; the paper's 512.
        mixing: makes what mixes ``c`` channels: ``InvertibleConvLU``, ``InvertibleConv``, or, for
            the ablation of figure 3, ``Permute.reverse`` or ``Permute.shuffle``.
        log_scale: see ``Coupling``.
        context_dim: features of the context, see ``Flow``.
        embed: makes the context of ``y``, see ``Flow``.
    """

    def __init__(
        self,
        shape: Sequence[int],
        *,
        levels: int = 256,
        scales: int = 2,
        steps: int = 8,
        hidden: int = 64,
        mixing: Callable[[int], nn.Module] = InvertibleConvLU,
        log_scale: Callable[[Tensor], Tensor] = log_sigmoid,
        context_dim: int = 0,
        embed: nn.Module | None = None,
    ) -> None:
        check_condition(context_dim, embed)
        for name, count in {"scales": scales, "steps": steps, "hidden": hidden}.items():
            check_count(name, count, 1)
        c, h, w = shape = check_image("shape", shape, 2**scales, f"{scales} scales")
        parts, shapes = [], []
        for _ in range(scales):
            c, h, w = 4 * c, h // 2, w // 2
            flow: list[nn.Module] = [Squeeze()]
            for _ in range(steps):
                net = ConvNet(c // 2 + context_dim, hidden, c)
                coupling = Coupling(c, net, log_scale=log_scale, context_dim=context_dim)
                flow += [ActNorm(c), mixing(c), coupling]
            parts.append(Chain(*flow))
            shapes.append((c, h, w))
            c //= 2
        priors = [SplitPrior(c // 2, c // 2) for c, _, _ in shapes[:-1]]
        super().__init__(
            MultiScale(parts, shapes, priors),
            StandardNormal((math.prod(shape),)),
            dequantise=Dequantise(levels),
            embed=embed,
            data_shape=shape,
        )

    @torch.no_grad()
    @evaluates
    def sample(
        self,
        n: int,
        y: Tensor | None = None,
        *,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Samples at a temperature ``T``: latents have ``T`` times their standard deviation.

        With additive couplings that is sampling from ``p(x) ** (1 / T**2)``, normalised. (The
        paper writes the exponent ``T**2``; a Gaussian of deviation ``T`` has ``1 / T**2``.)
        """
        check_count("n", n)
        if not isinstance(temperature, Real) or not 0 <= temperature < math.inf:
            raise ValueError(f"temperature must be a number of at least 0, got {temperature!r}")
        _, base_context = self._contexts(y, n)
        z = cast(Any, self.base).sample(n, base_context, generator=generator)
        return self.decode(temperature * z, y)
