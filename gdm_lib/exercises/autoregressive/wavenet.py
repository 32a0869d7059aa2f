"""Checkers for the exercises of ``chapters/autoregressive/wavenet`` (van den Oord et al. 2016,
1609.03499)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from gdm_lib.exercises.expect import expect_close, expect_gradient

__all__ = ["causal", "compand", "entropy_rate", "path_counts"]

# Inputs are fixed and in double precision. No two sizes are equal, so that a wrong axis shows.


def compand(answer: Callable[..., Tensor]) -> None:
    """Check ``compand(a, mu)``: the mu-law of amplitudes of any shape, not rounded.

    Args:
        answer: The reader's function.

    Raises:
        Wrong: The first fault found.
    """
    a = torch.tensor([[-1.0, -0.5, -0.01], [0.0, 0.003, 0.7]], dtype=torch.float64)
    mu = 100.0
    size = a.abs()
    want = a.sign() * torch.log1p(mu * size) / math.log1p(mu)
    faults = [
        (want.abs(), "the sign is lost: f(-a) is -f(a)."),
        (
            a.sign() * torch.log1p(mu * size),
            "the division by log(1 + mu) is missing, so that f(1) isn't 1.",
        ),
        (
            a.sign() * torch.log1p(mu * size) / math.log(mu),
            "you divide by log(mu). It is log(1 + mu), so that f(1) is 1.",
        ),
        (
            torch.log1p(mu * a) / math.log1p(mu),
            "the logarithm is taken of 1 + mu * a, which has none for negative a: use |a|.",
        ),
        (
            a.sign() * torch.log1p(255 * size) / math.log1p(255),
            "you use mu = 255 whatever `mu` is.",
        ),
        (
            a.sign() * torch.log1p(size) / math.log1p(mu),
            "mu is missing in the upper logarithm: log(1 + mu * |a|).",
        ),
        (
            a.sign() * torch.log(mu * size) / math.log1p(mu),
            "the 1 is missing in the upper logarithm, so that silence is lost.",
        ),
        (
            a.sign() * torch.expm1(size * math.log1p(mu)) / mu,
            "this is the inverse: it expands. Companding takes logarithms.",
        ),
        (
            ((want + 1) / 2 * 255).round(),
            "these are levels already. Return f itself, before it is rounded.",
        ),
    ]
    expect_close(answer(a, mu), want, "f", faults=faults)
    a = torch.tensor([0.5, -0.25], dtype=torch.float64, requires_grad=True)
    want = a.sign() * torch.log1p(255 * a.abs()) / math.log1p(255)
    result = answer(a, 255.0)
    expect_close(result, want, "f of two amplitudes, mu = 255,")
    expect_gradient(result, a, "a")


def causal(answer: Callable[..., Tensor]) -> None:
    """Check ``causal(h, now, past, dilation)``: a causal convolution of width two.

    ``h`` has shape ``(B, R, T)``, ``now`` and ``past`` ``(O, R)``; the result ``(B, O, T)``, with
    zeros before the first sample (1609.03499, section 2.1).

    Args:
        answer: The reader's function.

    Raises:
        Wrong: The first fault found.
    """
    batch, features, length, out = 2, 3, 7, 4
    h = (torch.arange(batch * features * length, dtype=torch.float64) * 1.7).sin()
    h = h.view(batch, features, length)
    now = (torch.arange(out * features, dtype=torch.float64) * 0.9).cos().view(out, features)
    past = (torch.arange(out * features, dtype=torch.float64) * 2.3).sin().view(out, features) + 0.2

    def shifted(by: int) -> Tensor:
        return F.pad(h, (by, -by))

    for dilation in (3, 1):
        want = now @ h + past @ shifted(dilation)
        faults = [
            (
                now @ h + past @ h.roll(dilation, 2),
                "the first samples see the end of the sound, which `roll` brings round. Fill "
                "with zeros.",
            ),
            (
                now @ h + past @ shifted(-dilation),
                "the shift goes the wrong way: you look into the future.",
            ),
            (
                past @ h + now @ shifted(dilation),
                "the weights are exchanged: `now` belongs to the sample itself, `past` to that "
                "before it.",
            ),
            (
                now @ h + past @ h,
                "nothing is shifted: both weights see the same sample.",
            ),
            (
                now @ h + past @ shifted(dilation + 1),
                "you look back one sample too far.",
            ),
            (now @ h, "the past is missing."),
            (past @ shifted(dilation), "the present sample is missing: `now`."),
            (
                (now @ h + past @ shifted(dilation))[:, :, dilation:],
                "the first samples are missing: before them stand zeros, so each has a result.",
            ),
            (
                F.pad(now @ h, (0, dilation)) + past @ F.pad(h, (dilation, 0)),
                "the result is longer than the sound: cut what comes after its end.",
            ),
            (
                (now @ h + past @ shifted(dilation)).mT,
                "features and time are exchanged: the result is (B, O, T).",
            ),
        ]
        if dilation > 1:
            faults.append((now @ h + past @ shifted(1), "the dilation is not used."))
        expect_close(answer(h, now, past, dilation), want, "the result", faults=faults)
    brief = h[:, :, :2]
    expect_close(
        answer(brief, now, past, 5),
        now @ brief,
        "for a sound shorter than the dilation, where all of the past is zero, the result",
    )
    h.requires_grad_()
    expect_gradient(answer(h, now, past, 2), h, "h")


def path_counts(answer: Callable[..., Tensor]) -> None:
    """Check ``path_counts(dilations, n)``: paths from an output to the ``n`` samples before it.

    ``dilations`` is an int64 tensor ``(K,)``. Entry ``j`` of the result, a float tensor ``(n,)``,
    belongs to the sample of age ``j + 1``.

    Args:
        answer: The reader's function.

    Raises:
        Wrong: The first fault found.
    """

    def count(dilations: tuple[int, ...], n: int, start: int = 0) -> Tensor:
        ages = torch.zeros(n + 1)
        ages[start] = 1
        for d in dilations:
            ages = ages + F.pad(ages, (d, 0))[: n + 1]
        return ages[:n]

    for steps, n in (((1, 2, 4, 1, 2, 4), 17), ((1, 3, 9), 12)):
        want = count(steps, n)
        around = torch.zeros(n)
        around[0] = 1
        for d in steps:
            around = around + around.roll(d)
        chosen = torch.zeros(n)
        chosen[0] = 1
        for d in steps:
            chosen = F.pad(chosen, (d, 0))[:n]
        faults = [
            (
                (want > 0).float(),
                "you mark what is seen. Count the paths to each sample.",
            ),
            (
                count(steps, n, start=1),
                "the ages are one too high: entry 0 is the sample just before, of age 1.",
            ),
            (
                count(steps, n + 1)[1:],
                "the ages are one too low: entry 0 is the sample just before, which the shift at "
                "the input reaches.",
            ),
            (want.flip(0), "the order is turned round: the newest sample comes first."),
            (
                around,
                "paths that lead further back than n come round to the newest samples.",
            ),
            (
                chosen,
                "each layer looks back only. It also passes on its own time: two ways a layer.",
            ),
            (want / want.sum(), "these are shares. Return the numbers of paths."),
            (
                count(tuple(dict.fromkeys(steps)), n),
                "each dilation is used once. A repeated one doubles the paths again.",
            ),
            (
                sum((F.pad(torch.ones(1), (d, n))[:n] for d in steps), torch.ones(n)),
                "you count layers that look back so far. Paths go through all layers.",
            ),
        ]
        expect_close(answer(torch.tensor(steps), n), want, "the counts", faults=faults)
    expect_close(
        answer(torch.tensor([5]), 3),
        torch.tensor([1.0, 0, 0]),
        "for n below the dilation, the count",
    )


def entropy_rate(answer: Callable[..., Tensor]) -> None:
    """Check ``entropy_rate(P)``: of a Markov chain with transition matrix ``P``, in nats.

    Rows of ``P``, ``(L, L)``, sum to one and have no zeros; the result is a scalar tensor.

    Args:
        answer: The reader's function.

    Raises:
        Wrong: The first fault found.
    """
    chain = torch.tensor([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4], [0.05, 0.15, 0.8]], dtype=torch.float64)

    def long_run(matrix: Tensor) -> Tensor:
        return torch.linalg.matrix_power(matrix, 1000)[0]

    often = long_run(chain)
    each = torch.special.entr(chain).sum(1)
    want = (often * each).sum()
    faults = [
        (-want, "the sign is wrong: an entropy of levels isn't negative."),
        (want / math.log(2), "this is in bits. Use the natural logarithm."),
        (
            each.mean(),
            "all states have the same weight. Weigh each row by how often the chain is there.",
        ),
        (
            torch.special.entr(often).sum(),
            "this is the entropy of a single sample. Given the state before it there is less.",
        ),
        (each, "these are the entropies of the rows. Average them over the states."),
        (each.sum(), "you add the entropies of the rows. Average them over the states."),
        (
            (often * torch.special.entr(chain).sum(0)).sum(),
            "you sum over the wrong axis: the next state is the column.",
        ),
        (often * each, "these are the terms for each state. Add them."),
        (
            2 * torch.special.entr(often).sum() - torch.special.entr(often[:, None] * chain).sum(),
            "the entropy of a single sample comes twice: the rate is that of pairs less that of "
            "one.",
        ),
        (
            torch.special.entr(often[:, None] * chain).sum(),
            "this is the entropy of two samples together. Take that of the first away.",
        ),
    ]
    expect_close(answer(chain), want, "the entropy rate", faults=faults)
    kept = torch.tensor([[0.9, 0.1], [0.1, 0.9]], dtype=torch.float64)
    want = torch.special.entr(kept[0]).sum()
    expect_close(answer(kept), want, "the rate of two states that are kept with probability 0.9")
