"""WaveNet.

Aäron van den Oord, Sander Dieleman, Heiga Zen, Karen Simonyan, Oriol Vinyals, Alex Graves, Nal
Kalchbrenner, Andrew Senior and Koray Kavukcuoglu, *WaveNet: A Generative Model for Raw Audio*,
2016, https://arxiv.org/abs/1609.03499. Section and equation numbers below are the paper's.

Sound is drawn sample by sample (equation 1)::

    p(x) = prod_t p(x_t | x_1, ..., x_{t-1})

Each factor is a softmax over the levels of a sample. Convolutions that look back only give all
factors in one pass; their dilations double from layer to layer, so that few layers see far. Each
layer has a gate, and may depend on what the sound shall be (section 2.5)::

    z = tanh(W_f * x + V_f * y) . sigmoid(W_g * x + V_g * y)

Symbols: ``R`` features of the residual stream, ``S`` of the skip connections, ``K`` layers, ``F``
features of the context, ``T`` samples, ``B`` the batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from copy import copy
from typing import Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gdm_lib._inputs import (
    a_tensor,
    batch_of,
    check,
    check_count,
    check_counts,
    levels_of,
    not_finite,
)
from gdm_lib.autoregression import Autoregressive, Place, Queues, Rule
from gdm_lib.likelihoods import Categorical, check_levels
from gdm_lib.nn import check_sizes, evaluates, gate

__all__ = [
    "CausalConv1d",
    "ResidualBlock",
    "Upsample",
    "WaveNet",
    "dilations",
    "mu_law_decode",
    "mu_law_encode",
]

ARXIV = "1609.03499"


# Section 2.1: dilated causal convolutions


def dilations(cycles: int = 3, depth: int = 10) -> tuple[int, ...]:
    """1, 2, 4, ..., ``2 ** (depth - 1)``, and that ``cycles`` times; the paper's depth is 10."""
    return tuple(2**i for i in range(depth)) * cycles


class CausalConv1d(nn.Conv1d):
    """A convolution of width 2: sees its own place and the one that is ``dilation`` before it.

    Args:
        features_in: of the input.
        features_out: of the output.
        dilation: how far back it looks, at least 1.
    """

    def __init__(self, features_in: int, features_out: int, dilation: int) -> None:
        super().__init__(features_in, features_out, 2, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in, T)`` -> ``(B, out, T)``; before the first place stand zeros."""
        past = F.pad(x, (self.dilation[0], 0))
        return F.conv1d(past, self.weight, self.bias, dilation=self.dilation)


# Section 2.2: softmax distributions


def mu_law_encode(x: Tensor, levels: int = 256, *, mu: float = 255.0) -> Tensor:
    """Compand and quantise: ``f(x) = sign(x) ln(1 + mu |x|) / ln(1 + mu)``, in equal steps.

    Args:
        x: amplitudes in [-1, 1], of any shape.
        levels: how many there are, at least 2; level 0 is -1, the last one is 1.
        mu: how much finer the steps are near silence; positive.

    Returns:
        int64 levels, of the shape of ``x``.

    Raises:
        TypeError: ``x`` is no tensor.
        ValueError: ``x`` isn't floating or leaves [-1, 1], or ``levels`` or ``mu`` is too small.
    """
    check("x", x, a_tensor)
    _check_law(levels, mu)
    if not x.is_floating_point():
        cure = _amplitudes(x, "x")
        raise ValueError(
            f"x must hold floating amplitudes in [-1, 1], got {x.dtype}"
            f"{f'; take {cure}' if cure else ''}"
        )
    if where := not_finite(x):
        raise ValueError(f"x must hold amplitudes in [-1, 1], got {where}")
    if not bool((x.abs() <= 1).all()):
        raise ValueError(
            f"x must hold amplitudes in [-1, 1], got {float(x.min()):.4g} to {float(x.max()):.4g}; "
            f"divide it by the largest magnitude, {_amplitudes(x, 'x')}"
        )
    x = x.to(torch.promote_types(x.dtype, torch.float32))  # 16 bits can't tell 65,536 levels
    compressed = x.sign() * torch.log1p(mu * x.abs()) / math.log1p(mu)
    return ((compressed + 1) / 2 * (levels - 1)).round().long()


def mu_law_decode(x: Tensor, levels: int = 256, *, mu: float = 255.0) -> Tensor:
    """The amplitude that a level stands for: int64 levels -> ``[-1, 1]``, the same shape.

    Raises:
        TypeError: ``x`` is no tensor.
        ValueError: ``x`` isn't int64 or holds levels out of range, or ``levels`` or ``mu`` is too
            small.
    """
    _check_law(levels, mu)
    check_levels("x", x, levels)
    compressed = x.to(torch.get_default_dtype()) * (2 / (levels - 1)) - 1
    decoded = compressed.sign() * torch.expm1(compressed.abs() * math.log1p(mu)) / mu
    return decoded.clamp(-1, 1)  # rounding leaves the interval for many mu


def _check_law(levels: int, mu: float) -> None:
    if levels < 2 or not 0 < mu < math.inf:
        raise ValueError(
            f"levels must be at least 2 and mu positive and finite, got levels={levels}, mu={mu}"
        )


FULL_SCALE = {torch.int8: 2**7, torch.int16: 2**15, torch.int32: 2**31}
"""The magnitude that is 1 in files of such samples."""


def _amplitudes(x: Tensor, expression: str) -> str:
    """Samples as sound files hold them, or too loud ones: an expression for their amplitudes."""
    if x.dtype == torch.uint8:
        return f"({expression} / 128 - 1)"
    if x.dtype in FULL_SCALE:
        return f"{expression} / {FULL_SCALE[x.dtype]}"
    if not x.is_floating_point() or x.numel() == 0 or bool((x.abs() <= 1).all()):
        return expression if x.is_floating_point() else ""
    return f"{expression} / {expression}.abs().max()"


def _sound(x: Tensor, expression: str, levels: int) -> str:
    """An expression for the levels of what isn't levels: see ``levels_of``."""
    amplitudes = _amplitudes(x, expression)
    return f"mu_law_encode({amplitudes}, {levels})" if amplitudes else ""


# Sections 2.3 and 2.4: gated units and residual connections


class ResidualBlock(nn.Module):
    """One layer of figure 4, without its skip connection, which ``WaveNet`` has.

    Args:
        residual: ``R``.
        dilation: of its convolution.
        context_dim: ``F``; 0 for none.
        last: whether no layer follows, so that the residual connection would lead nowhere.
    """

    def __init__(
        self, residual: int, dilation: int, *, context_dim: int = 0, last: bool = False
    ) -> None:
        super().__init__()
        self.conv = CausalConv1d(residual, 2 * residual, dilation)
        # No bias: the gates of all further layers have their own.
        self.residual = None if last else nn.Conv1d(residual, residual, 1, bias=False)
        if context_dim:
            self.from_context = nn.Conv1d(context_dim, 2 * residual, 1, bias=False)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``x`` ``(B, R, T)`` and a context ``(B, F, 1 or T)`` -> the next ``x``, and what
        the gate lets through, ``z`` ``(B, R, T)``."""
        gates = self.conv(x)
        if context is not None:
            gates = gates + self.from_context(context)
        z = gate(gates)  # equation 2
        return (x if self.residual is None else x + self.residual(z)), z


# Section 2.5: conditional WaveNets


class Upsample(nn.ConvTranspose1d):
    """Learned upsampling of a slow series (a melody, phonemes) to one value a sample.

    ``WaveNet(..., context_dim=F, embed=Upsample(in, F, 80))`` is conditioned on a series ``y`` of
    one value for every 80 samples.

    Args:
        features_in: of the series.
        features_out: of the result.
        factor: samples for each of its values.
    """

    def __init__(self, features_in: int, features_out: int, factor: int) -> None:
        super().__init__(features_in, features_out, factor, stride=factor)

    def forward(self, y: Tensor, output_size: list[int] | None = None) -> Tensor:
        """``(B, in, T / factor)`` -> ``(B, out, T)``.

        Raises:
            ValueError: ``y`` isn't a batch of such series.
        """
        if y.ndim != 3 or y.shape[1] != self.in_channels:
            raise ValueError(
                f"y must be a batch of series (B, {self.in_channels}, T / {self.stride[0]}), got "
                f"{tuple(y.shape)}"
            )
        return super().forward(y, output_size)


class WaveNet(Autoregressive):
    """WaveNet.

    A context ``(B, F)`` or ``(B, F, 1)`` speaks to all samples (global conditioning),
    one of shape ``(B, F, T)`` to each (local conditioning, section 2.5). ``context_dim=F`` with
    ``embed=ClassEmbedding(classes, F)`` is conditioned on a class.

    Args:
        data_shape: ``(T,)``, the length of what is sampled unless another is asked for. Any length
            has a likelihood.
        levels: 256 as in the paper, or fewer.
        residual: ``R``; the paper doesn't tell its size.
        skip: ``S``; the paper doesn't tell its size.
        dilations: of each layer; three cycles of 1, 2, ..., 512 if left out.
        context_dim: ``F``, see ``Autoregressive``.
        embed: makes the context of ``y``, see ``Autoregressive``.
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        *,
        levels: int = 256,
        residual: int = 32,
        skip: int = 64,
        dilations: Sequence[int] = dilations(),
        context_dim: int = 0,
        embed: nn.Module | None = None,
    ) -> None:
        likelihood = Categorical(levels)
        super().__init__(data_shape, likelihood, levels, context_dim=context_dim, embed=embed)
        if len(self.data_shape) != 1:
            raise ValueError(f"data_shape must be (T,), got {self.data_shape}")
        check_counts(residual=residual, skip=skip)
        if isinstance(dilations, Sequence) and min(dilations, default=0) < 1:
            raise ValueError(f"dilations must be one or more steps back, got {tuple(dilations)}")
        self.dilations = check_sizes("dilations", dilations)
        last = len(self.dilations) - 1
        self.input = nn.Embedding(levels, residual)
        self.blocks = nn.ModuleList(
            ResidualBlock(residual, d, context_dim=context_dim, last=i == last)
            for i, d in enumerate(self.dilations)
        )
        # A 1x1 convolution for each layer, and their sum: one of all layers' features together.
        self.skip = nn.Conv1d(len(self.dilations) * residual, skip, 1)
        self.head = nn.Sequential(
            nn.ReLU(), nn.Conv1d(skip, skip, 1), nn.ReLU(), nn.Conv1d(skip, levels, 1)
        )

    @property
    def receptive_field(self) -> int:
        """How many samples before it an output sees: 1 by the input layer, and each convolution
        adds its dilation."""
        return 1 + sum(self.dilations)

    def check(self, x: Tensor) -> None:
        """See ``Autoregressive``; of any length."""
        check(
            "x",
            x,
            a_tensor,
            batch_of((-1,), "(B, T), T at least 1"),
            levels_of(self.levels, _sound),
        )

    def context(self, y: Tensor | None, n: int, length: int | None = None) -> Tensor | None:
        """See ``Autoregressive``; ``(n, F, 1)`` or ``(n, F, length)``."""
        context, length = super().context(y, n), length or self.data_shape[0]
        if context is None:
            return None
        if context.ndim == 2:
            context = context[:, :, None]
        if context.ndim != 3 or context.shape[2] not in (1, length):
            raise ValueError(
                f"y must give a context of shape (B, {self.context_dim}), the same for all samples,"
                f" or (B, {self.context_dim}, {length}), one for each, got {tuple(context.shape)}"
            )
        return context

    def features(self, embedded: Tensor, context: Tensor | None = None) -> Tensor:
        """The network: embedded samples ``(B, R, T)`` to logits ``(B, levels, T)``.

        ``context`` is as the method ``context`` returns it. Output ``t`` sees what is before ``t``.
        """
        x, total = F.pad(embedded, (1, -1)), cast(Tensor, self.skip.bias)[:, None]
        # Layer by layer, since putting all features side by side would copy them.
        for block, skip in zip(self.blocks, self.skip.weight.split(x.shape[1], 1), strict=True):
            x, z = block(x, context)
            total = total + F.conv1d(z, skip)
        return self.head(total)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Logits: levels ``(B, T)`` -> ``(B, levels, T)``."""
        self.check(x)
        context = self.context(y, *x.shape)
        # One-hot samples under a convolution of width 1 are rows of a table.
        return self.features(self.input(x).transpose(1, 2), context)

    def places(self, shape: Sequence[int]) -> Iterator[Place]:
        """One sample after the other: ``(t,)``."""
        return ((t,) for t in range(shape[0]))

    def of_length(self, length: int | None) -> Self:
        """The same model, weights shared, that samples items of that length."""
        if length is None:
            return self
        length = check_count("length", length, 1)
        twin = copy(self)
        twin.data_shape = (length,)
        return twin

    @torch.no_grad()
    @evaluates
    def generate(
        self, rule: Rule, n: int, y: Tensor | None = None, length: int | None = None
    ) -> Tensor:
        """See ``Autoregressive``. Each layer keeps a queue of what it will look back at (Paine et
        al. 2016, 1611.09482)."""
        if length is not None:
            return self.of_length(length).generate(rule, n, y)
        x, before = self.blank(n), None
        step = Queues(self, n, self.context(y, n))
        for t in range(x.shape[1]):
            before = x.select(1, t).copy_(rule(step(before), (t,)))
        return x

    def generate_naive(
        self, rule: Rule, n: int, y: Tensor | None = None, length: int | None = None
    ) -> Tensor:
        """See ``Autoregressive``."""
        return Autoregressive.generate_naive(self.of_length(length), rule, n, y)

    def sample(
        self,
        n: int,
        y: Tensor | None = None,
        *,
        length: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Ancestral sampling: int64 levels, ``(n, T)``, or ``(n, length)``."""
        return Autoregressive.sample(self.of_length(length), n, y, generator=generator)

    def complete(
        self,
        x: Tensor,
        known: Tensor,
        y: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """See ``Autoregressive``; ``x`` ``(B, T)`` of any length."""
        self.check(x)
        whole = self.of_length(x.shape[1])
        return Autoregressive.complete(whole, x, known, y, generator=generator)
