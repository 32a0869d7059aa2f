"""Sounds and sequences whose answers are known: tones at 8 kHz, and a process of known entropy.

``load`` makes tones of four timbres with the factors that made each. A tone of frequency f is a sum
of the partials h f below half the rate, so nothing is aliased:

    x(t) = amplitude / peak * sum_h w_h exp(-h t / decay) sin(h (2 pi f t + phase)),

with the timbre's weights w_h, and ``peak`` that of the undamped wave. Only plucked tones die away.

``AutoregressiveProcess`` is a stationary process on a few levels whose conditional is written down.
Its entropy rate is what the best model of it reaches, so a model's nats per sample can be compared
with the truth, and with the best that a model with a shorter sight can do.

The data card is ``data/tones.md``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gdm_lib.data.splits import Labelled, Splits, drawn
from gdm_lib.likelihoods import check_levels

__all__ = [
    "NOTES",
    "RATE",
    "TIMBRES",
    "AutoregressiveProcess",
    "Factors",
    "Tones",
    "load",
    "sample_factors",
    "synthesise",
]

RATE = 8000
"""Samples per second."""

TIMBRES = ("sine", "square", "sawtooth", "pluck")
"""The classes. With brightness b, w_h is b^(h-1) / h for every h; a square wave has only the odd
ones, a sine only the first, and a pluck is a sawtooth that dies away."""

NOTES = range(45, 82)
"""The notes chosen from by default, as MIDI counts them: A2 to A5, 110 to 880 Hz."""

PEAK_GRID = 1024  # points on half a period
MAX_LEVELS = 256
SETTLED = 1e-13  # the most that one step may still move the stationary distribution
MAX_STEPS = 20_000


# -- tones


@dataclass(frozen=True, eq=False)
class Factors:
    """All that a tone was made from, one entry for each tone.

    Attributes:
        timbre: int64 index into ``TIMBRES``, ``(N,)``.
        note: int64, semitones as MIDI counts them, 69 for 440 Hz, ``(N,)``.
        amplitude: the undamped wave's largest value, in (0, 1], ``(N,)``.
        brightness: b of the weights, in [0, 1); a sine makes no use of it, ``(N,)``.
        decay: seconds in which the first partial falls to 1/e, and the partial h in an h-th of it;
            only a pluck makes use of it, ``(N,)``.
        phase: of the first partial at the first sample, in turns, ``(N,)``.
    """

    timbre: Tensor
    note: Tensor
    amplitude: Tensor
    brightness: Tensor
    decay: Tensor
    phase: Tensor

    def __len__(self) -> int:
        return len(self.timbre)

    @property
    def frequency(self) -> Tensor:
        """The fundamental in Hz, float64, ``(N,)``: equal temperament."""
        return 440 * 2 ** ((self.note.double() - 69) / 12)


@dataclass(frozen=True, eq=False)
class Tones(Labelled):
    """Sounds with their classes and factors.

    Attributes:
        x: float32 in [-1, 1], ``RATE`` samples per second, ``(N, length)``.
        y: int64, the timbre, ``(N,)``; the same as ``factors.timbre``.
        factors: what each was made from.
    """

    factors: Factors


def load(
    n_train: int = 2_000,
    n_test: int = 200,
    *,
    length: int = 2048,
    notes: Sequence[int] = NOTES,
    seed: int = 0,
) -> Splits[Tones]:
    """Make tones.

    The first items don't depend on how many are asked for, nor the first samples on the length.

    Args:
        n_train: tones to train on.
        n_test: tones to test on.
        length: samples of each.
        notes: MIDI notes to choose from, with equal chances.
        seed: of both streams. The parts of one seed share no item, nor does the test part of
            one with the training part of another.

    Raises:
        ValueError: an argument is out of range.
    """

    def part(n: int, generator: torch.Generator) -> Tones:
        factors = sample_factors(n, notes=notes, generator=generator)
        return Tones(synthesise(factors, length), factors.timbre, factors)

    return drawn(part, n_train, n_test, seed)


def sample_factors(
    n: int, *, notes: Sequence[int] = NOTES, generator: torch.Generator | None = None
) -> Factors:
    """Draw the factors of ``n`` tones, all independent.

    Timbre and note are even over their choices, amplitude over [0.2, 0.9], brightness over
    [0.3, 0.9], decay over [0.03, 0.15] seconds, phase over a turn.

    Raises:
        ValueError: there are no notes, or one isn't below half the rate.
    """
    if not len(notes) or not all(0 <= note <= 107 for note in notes):
        raise ValueError(
            "notes must be at least one MIDI note from 0 to 107, the last below half of "
            f"{RATE} Hz, got {[*notes]}"
        )
    # Row by row in one call, so that an item doesn't depend on how many follow.
    u = torch.rand(n, 6, generator=generator, dtype=torch.float64)
    return Factors(
        timbre=(u[:, 0] * len(TIMBRES)).long(),
        note=torch.tensor([*notes])[(u[:, 1] * len(notes)).long()],
        amplitude=(0.2 + 0.7 * u[:, 2]).float(),
        brightness=(0.3 + 0.6 * u[:, 3]).float(),
        decay=(0.03 + 0.12 * u[:, 4]).float(),
        phase=u[:, 5].float(),
    )


def synthesise(factors: Factors, length: int = 2048) -> Tensor:
    """The sounds of given factors, float32 in [-1, 1], ``(N, length)``.

    Args:
        factors: as ``sample_factors`` gives them, or changed at will with
            ``dataclasses.replace``: to vary one factor and hold the others is to walk along a true
            axis of variation.
        length: samples of each.

    Raises:
        ValueError: ``length`` is below 1, or a factor is out of range.
    """
    if length < 1:
        raise ValueError(f"length must be at least 1 sample, got {length}")
    _check_factors(factors)
    weights = _weights(factors)
    h = torch.arange(1, weights.shape[1] + 1, dtype=torch.float64)
    half_turn = math.pi * torch.arange(PEAK_GRID, dtype=torch.float64) / PEAK_GRID
    # Sums of sines are odd, so that half a period shows the peak; damping can only lower it, as it
    # averages the wave over its phase (with Poisson's kernel).
    peak = (weights @ torch.sin(h[:, None] * half_turn)).abs().amax(1)
    weights = (factors.amplitude.double() / peak)[:, None] * weights
    plucked = factors.timbre == TIMBRES.index("pluck")
    damping = torch.where(plucked, 1 / factors.decay.double(), 0.0)
    time = torch.arange(length, dtype=torch.float64) / RATE
    x = torch.zeros(len(factors), length)
    for block in torch.arange(len(factors)).split(128):  # bounds the memory, and stays in cache
        turns = factors.frequency[block, None] * time + factors.phase[block, None].double()
        turns = turns.remainder(1).float()  # before the cast: late samples keep their digits
        fading = torch.exp(-damping[block, None] * time).float()
        for k in range(weights.shape[1]):
            rows = weights[block, k].nonzero()[:, 0]
            if not len(rows):
                continue
            wave = torch.sin(2 * math.pi * (k + 1) * turns[rows]) * fading[rows] ** (k + 1)
            x[block[rows]] += weights[block[rows], k : k + 1].float() * wave
    return x


def _check_factors(factors: Factors) -> None:
    """Refuse factors that would alias, grow or leave [-1, 1]."""
    check_levels("factors.timbre", factors.timbre, len(TIMBRES))
    bounds = (
        ("frequency", factors.frequency > 0, factors.frequency < RATE / 2, f"(0, {RATE / 2:g})"),
        ("amplitude", factors.amplitude > 0, factors.amplitude <= 1, "(0, 1]"),
        ("brightness", factors.brightness >= 0, factors.brightness < 1, "[0, 1)"),
        ("decay", factors.decay > 0, factors.decay < math.inf, "(0, inf)"),
    )
    for name, above, below, interval in bounds:
        if not bool((above & below).all()):
            values = getattr(factors, name)
            raise ValueError(
                f"factors.{name} must be in {interval}, got {float(values.min()):g} to "
                f"{float(values.max()):g}"
            )


def _weights(factors: Factors) -> Tensor:
    """w_h for h = 1, 2, ..., zero from half the rate on: ``(N, H)``."""
    frequency = factors.frequency[:, None]
    most = int(RATE / 2 / frequency.min()) if len(factors) else 1
    h = torch.arange(1, most + 1)
    weights = factors.brightness.double()[:, None] ** (h - 1) / h
    timbre = factors.timbre[:, None]
    silent = h * frequency >= RATE / 2
    silent |= (timbre == TIMBRES.index("sine")) & (h > 1)
    silent |= (timbre == TIMBRES.index("square")) & (h % 2 == 0)
    return weights.masked_fill(silent, 0.0)


# -- a process of known entropy


class AutoregressiveProcess:
    """A stationary process on the levels 0..L-1 whose every probability is known.

    p(x_t = k | past) = exp(-(k - m_t)^2 / (2 s^2)) / sum_j exp(-(j - m_t)^2 / (2 s^2)),
    m_t = c + a_1 (x_(t-d) - c) + a_2 (x_(t-2d) - c), held to [0, L-1], c = (L-1) / 2,

    with the coefficients a, the scale s and the lag d: a linear autoregressive process whose noise
    is a Gaussian cut and rounded to the levels. The first 2d samples come from the stationary
    distribution, so that every stretch of a sequence is like every other.

    With a lag of d the process is d independent copies of itself at lag 1, a sample from each in
    turn. Its entropy rate is that of lag 1, whatever d; but a model that looks back on fewer than
    d samples sees nothing of the copy that it predicts.

    Args:
        levels: L, from 2 to 256.
        coefficients: a_1, or a_1 and a_2. The default swings with a period of about 13.6 d samples.
        scale: s, in levels.
        lag: d, in samples.

    Raises:
        ValueError: an argument is out of range, the linear process with these coefficients isn't
            stationary, or the chain forgets its start too slowly for its stationary distribution
            to be found.
    """

    def __init__(
        self,
        levels: int = 16,
        coefficients: Sequence[float] = (1.6, -0.8),
        scale: float = 0.8,
        lag: int = 1,
    ) -> None:
        if not 2 <= levels <= MAX_LEVELS:
            raise ValueError(f"levels must be from 2 to {MAX_LEVELS}, got {levels}")
        if len(coefficients) not in (1, 2) or not all(map(math.isfinite, coefficients)):
            raise ValueError(f"coefficients must be one or two numbers, got {coefficients}")
        radius = max(abs(np.roots([1.0, *(-a for a in coefficients)])), default=0.0)
        if radius >= 1:
            raise ValueError(
                "coefficients must have the roots of z^2 - a_1 z - a_2 inside the unit circle, "
                f"got {tuple(coefficients)} with one at {radius:.3f} from the origin; make them "
                "smaller"
            )
        if not 0 < scale < math.inf:
            raise ValueError(f"scale must be positive and finite, got {scale}")
        if lag < 1:
            raise ValueError(f"lag must be at least 1 sample, got {lag}")
        self.levels = levels
        self.coefficients = tuple(float(a) for a in coefficients)
        self.scale = scale
        self.lag = lag
        a1, a2 = (*self.coefficients, 0.0)[:2]
        level = torch.arange(levels, dtype=torch.float64)
        centred = level - (levels - 1) / 2
        mean = (levels - 1) / 2 + a2 * centred[:, None] + a1 * centred
        away = level - mean.clamp(0, levels - 1)[:, :, None]
        # Indices x_(t-2d), x_(t-d), x_t.
        self._log_next = torch.log_softmax(-0.5 * (away / scale) ** 2, 2)
        self._pair = self._stationary(self._log_next.exp())
        marginal = self._pair.sum(0)
        # What follows an impossible level is never asked for; even, so that no nan comes of it.
        second = torch.where(marginal[:, None] > 0, self._pair / marginal[:, None], 1 / levels)
        self._log_first = marginal.log()
        self._log_second = second.log()

    def _stationary(self, following: Tensor) -> Tensor:
        """P(x_(t-2d), x_(t-d)) in the long run, by power iteration from the even distribution."""
        pair = torch.full((self.levels, self.levels), self.levels**-2.0, dtype=torch.float64)
        for _ in range(MAX_STEPS):
            moved = torch.einsum("ij,ijk->jk", pair, following)
            moved = moved / moved.sum()
            change = float((moved - pair).abs().sum())
            pair = moved
            if change < SETTLED:
                return pair
        raise ValueError(
            "scale must let the chain move between its levels, got "
            f"{self.scale}, with which it hasn't settled after {MAX_STEPS:,} steps; take a larger "
            "scale or smaller coefficients"
        )

    @property
    def entropy_rate(self) -> float:
        """H(x_t | the whole past) in nats per sample: the mean entropy of the conditional."""
        each = torch.special.entr(self._log_next.exp()).sum(2)
        return float((self._pair * each).sum())

    @property
    def marginal_entropy(self) -> float:
        """H(x_t) in nats per sample: the best that a model can do that sees no past."""
        return float(torch.special.entr(self._pair.sum(0)).sum())

    def conditional_entropy(self, context: int) -> float:
        """H(x_t | x_(t-1), ..., x_(t-context)): the least nats per sample with so short a sight.

        Args:
            context: how many samples back a model sees. The marginal entropy below the lag, the
                entropy rate from twice the lag on.

        Raises:
            ValueError: ``context`` is negative.
        """
        if context < 0:
            raise ValueError(f"context must be 0 samples or more, got {context}")
        seen = context // self.lag
        if seen == 0:
            return self.marginal_entropy
        if seen == 1:
            return float(torch.special.entr(self._pair).sum()) - self.marginal_entropy
        return self.entropy_rate

    def sample(self, n: int, length: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw ``n`` sequences, int64 levels, ``(n, length)``, stationary from the first sample.

        Raises:
            ValueError: ``n`` or ``length`` is negative.
        """
        if n < 0 or length < 0:
            raise ValueError(f"n and length must be 0 or more, got {n} and {length}")
        first, second, later = (
            # The last edge is left out: rounding could put it below a uniform draw.
            table.exp().cumsum(-1)[..., :-1].contiguous()
            for table in (self._log_first, self._log_second, self._log_next)
        )
        u = torch.rand(n, length, 1, generator=generator, dtype=torch.float64)
        x = torch.empty(n, length, dtype=torch.int64)
        for start in range(0, length, self.lag):  # the copies move together
            end = min(start + self.lag, length)
            one = x[:, start - self.lag : end - self.lag] if start else None
            two = x[:, start - 2 * self.lag : end - 2 * self.lag] if start > self.lag else None
            edges = first if one is None else second[one] if two is None else later[two, one]
            x[:, start:end] = (u[:, start:end] >= edges).sum(2)
        return x

    def conditional(self, x: Tensor) -> Tensor:
        """log p(x_t = k | the true past) in nats, float64.

        Args:
            x: int64 levels, ``(n, length)``.

        Returns:
            ``(n, L, length)``; at the start, given as much of the past as there is.

        Raises:
            ValueError: ``x`` isn't int64 levels of shape (n, length).
        """
        return torch.cat(self._given(x), 1).transpose(1, 2)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) in nats, float64: int64 levels ``(n, length)`` -> ``(n,)``.

        Raises:
            ValueError: ``x`` isn't int64 levels of shape (n, length).
        """
        return self.conditional(x).gather(1, x[:, None]).sum((1, 2))

    def _given(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows of the tables for the first d samples, the next d, and the others."""
        if x.ndim != 2:
            raise ValueError(
                f"x must have shape (n, length), a sequence in each row, got {tuple(x.shape)}"
            )
        check_levels("x", x, self.levels)
        d, length = self.lag, x.shape[1]
        start = self._log_first.to(x.device).expand(len(x), min(d, length), -1)
        second = self._log_second.to(x.device)[x[:, : max(length - d, 0)][:, :d]]
        one, two = x[:, d : max(length - d, d)], x[:, : max(length - 2 * d, 0)]
        return start, second, self._log_next.to(x.device)[two, one]
