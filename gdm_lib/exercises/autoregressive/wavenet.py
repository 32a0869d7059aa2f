"""Checkers for the exercises of ``chapters/autoregressive/wavenet`` (van den Oord et al. 2016,
1609.03499)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gdm_lib.exercises.expect import expect_agreement, expect_close, expect_gradients, wave

__all__ = ["causal", "compand", "entropy_rate", "path_counts"]

# No two sizes are equal, so that an exchange of axes shows.


def compand(answer: Callable[..., Tensor]) -> None:
    """Check ``compand(a, mu)``: the mu-law, from amplitudes in [-1, 1] to the same range.

    ``a`` has any shape, and so has the result (1609.03499, section 2.2).

    Args:
        answer: The reader's function.

    Raises:
        Wrong: The first fault found.
    """
    a = torch.tensor([[-1.0, -0.4, -0.01], [0.0, 0.03, 0.6]], dtype=torch.float64)
    mu = 255.0
    size = torch.log1p(mu * a.abs())
    want = a.sign() * size / math.log1p(mu)
    faults = [
        (want.abs(), "the sign is lost: a sound swings to both sides."),
        (
            a.sign() * size,
            "the range is not [-1, 1]: divide by ln(1 + mu), so that 1 stays 1.",
        ),
        (
            a.sign() * size / math.log(mu),
            "you divide by ln(mu). At |a| = 1 the numerator is ln(1 + mu).",
        ),
        (
            a.sign() * torch.log(mu * a.abs()) / math.log1p(mu),
            "the 1 inside the logarithm is missing, and silence becomes infinite: ln(1 + mu |a|).",
        ),
        (
            torch.log1p(mu * a) / math.log1p(mu),
            "the logarithm is taken of the signed amplitude, and is not a number for negative "
            "ones. Take it of |a|, and give the result the sign of a.",
        ),
        (
            a.sign() * torch.expm1(a.abs() * math.log1p(mu)) / mu,
            "this is the way back, from companded values to amplitudes.",
        ),
        (
            a.sign() * size / math.log1p(mu) / math.log(10),
            "numerator and denominator have logarithms of different bases.",
        ),
        (a, "nothing is companded."),
    ]
    expect_close(answer(a, mu), want, "the companded amplitudes", faults=faults)
    weak = a.sign() * torch.log1p(7 * a.abs()) / math.log(8)
    expect_close(answer(a, 7.0), weak, "the companded amplitudes for mu = 7")

    def right(a: Tensor, mu: float) -> Tensor:
        return a.sign() * torch.log1p(mu * a.abs()) / math.log1p(mu)

    cases = {
        "of a single sample": (wave(1, 1, 1), 255),
        "of a number": (wave(1)[0], 100.0),
        "of soft sounds": (1e-4 * wave(2, 5), 255.0),
        "of silence": (torch.zeros(3, dtype=torch.float64), 15),
    }
    expect_agreement(answer, right, "the companded value", cases)


def causal(answer: Callable[..., Tensor]) -> None:
    """Check ``causal(h, now, past, dilation)``: a dilated causal convolution of width 2.

    ``h`` is ``(B, R, T)``, ``now`` and ``past`` are ``(O, R)``, the result is ``(B, O, T)``; before
    the first sample stand zeros (1609.03499, section 2.1).

    Args:
        answer: The reader's function.

    Raises:
        Wrong: The first fault found.
    """
    h = wave(2, 3, 7)
    now = torch.arange(12, dtype=torch.float64).view(4, 3).cos()
    past = (0.3 * torch.arange(12, dtype=torch.float64) + 1).view(4, 3).sin()

    def shifted(x: Tensor, by: int) -> Tensor:
        out = torch.zeros_like(x)
        if by > 0:
            out[..., by:] = x[..., :-by]
        else:
            out[..., :by] = x[..., -by:]
        return out

    dilation = 2
    want = now @ h + past @ shifted(h, dilation)
    faults = [
        (
            now @ h + past @ h.roll(dilation, 2),
            "the sound is rolled: its end comes round to the start, so the first samples see the "
            "future. Fill with zeros.",
        ),
        (
            now @ h + past @ shifted(h, -dilation),
            "you look ahead: the second product takes the sample *after*, which is not known yet.",
        ),
        (
            now @ h + past @ shifted(h, 1),
            "you look back by one sample. Look back by the dilation.",
        ),
        (
            past @ h + now @ shifted(h, dilation),
            "the two weights are exchanged: `now` belongs to the sample itself.",
        ),
        (
            now @ shifted(h, dilation) + past @ shifted(h, 2 * dilation),
            "everything comes too late by the dilation: `now` acts on the sample itself.",
        ),
        (now @ h, "the part of the past is missing."),
        (past @ shifted(h, dilation), "the part of the sample itself is missing."),
        (
            now @ h + past @ shifted(h, dilation + 1),
            "you look back one sample too far. The shift by one is done once, at the input.",
        ),
        (now @ h + past @ h, "both products take the same sample: nothing is shifted."),
        (
            want[..., dilation:],
            "the first samples are missing. Put zeros before the sound, so that the length stays.",
        ),
    ]
    expect_close(answer(h, now, past, dilation), want, "the output", faults=faults)
    near = now @ h + past @ shifted(h, 5)
    expect_close(answer(h, now, past, 5), near, "the output for dilation 5")

    def right(h: Tensor, now: Tensor, past: Tensor, dilation: int) -> Tensor:
        before = torch.cat([torch.zeros_like(h[..., :1]).expand(-1, -1, dilation), h], 2)
        return now @ h + past @ before[..., : h.shape[2]]

    cases = {
        "for a dilation longer than the sound": (wave(2, 3, 4), now, past, 6),
        "for a dilation as long as the sound": (wave(1, 3, 4), now, past, 4),
        "for a single sample": (wave(1, 1, 1), wave(1, 1), wave(1, 1, pace=0.9), 1),
        "for a longer sound": (wave(1, 2, 12), wave(3, 2), wave(3, 2, pace=0.9), 3),
    }
    expect_agreement(answer, right, "the output", cases)
    every = {0: "h", 1: "now", 2: "past"}
    expect_gradients(answer, right, "the output", (h, now, past, 2), every)


def path_counts(answer: Callable[..., Tensor]) -> None:
    """Check ``path_counts(dilations, n)``: paths from the output to samples of age 1 to ``n``.

    Convolutions of width 2 over an input shifted by one sample; ``dilations`` is ``(K,)``, int64,
    the result ``(n,)``, floats (1609.03499, section 2.1).

    Args:
        answer: The reader's function.

    Raises:
        Wrong: The first fault found.
    """

    def count(dilations: Sequence[int], n: int, width: int = 2) -> Tensor:
        counts = torch.zeros(n)
        counts[0] = 1
        for d in dilations:
            before = counts.clone()
            for i in range(1, width):
                if i * d < n:
                    counts[i * d :] += before[: n - i * d]
        return counts

    dilations, n = (1, 2, 1, 3), 10
    given = torch.tensor(dilations)
    want = count(dilations, n)
    late = torch.zeros_like(want)
    late[1:] = want[:-1]
    plain = count((1,) * len(dilations), n)
    alone = torch.zeros_like(want)
    alone[0] = 1
    for d in dilations:
        alone[d] += 1
    faults = [
        ((want > 0).float(), "you mark what is seen. Count the paths: several may meet."),
        (late, "entry 0 belongs to the sample of age 1, the newest one that is seen."),
        (want.flip(0), "the order is turned round: the newest sample comes first."),
        (plain, "all dilations are taken for 1."),
        (
            alone,
            "you follow paths that go back in one layer only. Each layer doubles the paths.",
        ),
        (count(dilations, n, 3), "you count for convolutions of width 3."),
        (
            count(dilations[:-1], n),
            "one layer is missing.",
        ),
        (want / want.sum(), "these are shares. Count the paths."),
        (
            count(dilations, n + 6)[: n + 6],
            "the result is too long: paths to samples older than n are left out.",
        ),
    ]
    expect_close(answer(given, n), want, "the numbers of paths", faults=faults)
    short = torch.tensor([1.0, 0, 0])
    expect_close(
        answer(torch.tensor([3, 8]), 3),
        short,
        "the numbers of paths for dilations that lead beyond n",
    )

    def right(dilations: Tensor, n: int) -> Tensor:
        return count(dilations.tolist(), n)

    cases = {
        "to the newest sample alone": (given, 1),
        "of a single layer": (torch.tensor([2]), 5),
        "of a layer that leads just beyond n": (torch.tensor([1, 6]), 5),
        "of three layers": (torch.tensor([2, 1, 1]), 6),
        "of two blocks": (torch.tensor([1, 2, 4, 1, 2, 4]), 20),
    }
    expect_agreement(answer, right, "the numbers of paths", cases)


def entropy_rate(answer: Callable[..., Tensor]) -> None:
    """Check ``entropy_rate(P)``: nats per step of the chain with transitions ``P`` ``(L, L)``.

    Rows sum to one and hold no zeros; the result is a scalar tensor.

    Args:
        answer: The reader's function.

    Raises:
        Wrong: The first fault found.
    """
    P = torch.tensor([[0.8, 0.15, 0.05], [0.3, 0.4, 0.3], [0.6, 0.1, 0.3]], dtype=torch.float64)

    def stationary(P: Tensor) -> Tensor:
        return torch.linalg.matrix_power(P, 200)[0]

    rows = torch.special.entr(P).sum(1)
    pi = stationary(P)
    want = pi @ rows
    faults = [
        (rows.mean(), "you average over the states as if all were equally frequent."),
        (rows.sum(), "you add the entropies of all rows. Weight them by how often each is left."),
        (
            torch.special.entr(pi).sum(),
            "this is the entropy of a single sample, whose past is not known.",
        ),
        (-want, "the sign is wrong: an entropy is positive."),
        (want / math.log(2), "these are bits. Leave natural logarithms."),
        (rows, "these are the entropies of the rows. Average them into one number."),
        (
            stationary(P.T / P.T.sum(1, keepdim=True)) @ rows,
            "the stationary distribution is that of the transposed matrix. Rows are where the "
            "chain comes from.",
        ),
        (P[0] @ rows, "this is one step after state 0. Wait until the start is forgotten."),
    ]
    expect_close(answer(P), want, "the entropy rate", faults=faults)
    two = torch.tensor([[0.5, 0.5], [0.1, 0.9]], dtype=torch.float64)
    expect_close(
        answer(two),
        stationary(two) @ torch.special.entr(two).sum(1),
        "the entropy rate of two states",
    )

    def right(P: Tensor) -> Tensor:
        return stationary(P) @ torch.special.entr(P).sum(1)

    weights = wave(5, 5) + 1.1
    flip = torch.tensor([[0.05, 0.95], [0.9, 0.1]], dtype=torch.float64)
    cases = {
        "of five states": (weights / weights.sum(1, keepdim=True),),
        "of a chain that alternates": (flip,),
        "of equal chances": (torch.full((4, 4), 0.25, dtype=torch.float64),),
    }
    expect_agreement(answer, right, "the entropy rate", cases)
