"""Each checker of the WaveNet chapter accepts the solution and names each planted fault."""

import math

import torch
import torch.nn.functional as F

from gdm_lib.exercises.autoregressive import wavenet as exercises
from gdm_lib.exercises.testing import assert_checker


def compand(a, mu):
    return a.sign() * torch.log1p(mu * a.abs()) / math.log1p(mu)


def test_compand():
    assert_checker(
        exercises.compand,
        compand,
        {
            r"the sign is lost": lambda a, mu: compand(a, mu).abs(),
            r"the range": lambda a, mu: a.sign() * torch.log1p(mu * a.abs()),
            r"divide by ln\(mu\)": lambda a, mu: compand(a, mu) * math.log1p(mu) / math.log(mu),
            r"the 1 inside": lambda a, mu: a.sign() * torch.log(mu * a.abs()) / math.log1p(mu),
            r"signed amplitude": lambda a, mu: torch.log1p(mu * a) / math.log1p(mu),
            r"the way back": lambda a, mu: a.sign() * torch.expm1(a.abs() * math.log1p(mu)) / mu,
            r"different bases": lambda a, mu: (
                a.sign() * torch.log10(1 + mu * a.abs()) / math.log1p(mu)
            ),
            r"nothing is companded": lambda a, mu: a.clone(),
            r"for mu = 7": lambda a, mu: compand(a, 255),
        },
    )


def causal(h, now, past, dilation):
    before = F.pad(h, (dilation, 0))[:, :, : h.shape[2]]
    return now @ h + past @ before


def test_causal():
    def ahead(h, now, past, d):
        return now @ h + past @ F.pad(h, (0, d))[:, :, d:]

    def late(h, now, past, d):
        return causal(F.pad(h, (d, -d)), now, past, d)

    assert_checker(
        exercises.causal,
        causal,
        {
            r"is rolled": lambda h, now, past, d: now @ h + past @ h.roll(d, 2),
            r"look ahead": ahead,
            r"back by one sample": lambda h, now, past, d: causal(h, now, past, 1),
            r"exchanged": lambda h, now, past, d: causal(h, past, now, d),
            r"too late by the dilation": late,
            r"of the past is missing": lambda h, now, past, d: now @ h,
            r"the sample itself is missing": lambda h, now, past, d: causal(h, 0 * now, past, d),
            r"one sample too far": lambda h, now, past, d: causal(h, now, past, d + 1),
            r"nothing is shifted": lambda h, now, past, d: now @ h + past @ h,
            r"first samples are missing": lambda h, now, past, d: causal(h, now, past, d)[..., d:],
            r"for dilation 5": lambda h, now, past, d: causal(h, now, past, 2),
        },
    )


def path_counts(dilations, n):
    counts = torch.zeros(n)
    counts[0] = 1
    for d in dilations.tolist():
        counts = counts + F.pad(counts, (d, 0))[:n]
    return counts


def test_path_counts():
    def one_layer(dilations, n):
        counts = torch.zeros(n)
        counts[0] = 1
        for d in dilations.tolist():
            if d < n:
                counts[d] += 1
        return counts

    def width_three(dilations, n):
        counts = torch.zeros(n)
        counts[0] = 1
        for d in dilations.tolist():
            once = F.pad(counts, (d, 0))[:n]
            counts = counts + once + F.pad(once, (d, 0))[:n]
        return counts

    def beyond(dilations, n):
        return path_counts(dilations, n) if dilations.sum() < 10 else torch.ones(n)

    assert_checker(
        exercises.path_counts,
        path_counts,
        {
            r"what is seen": lambda d, n: (path_counts(d, n) > 0).float(),
            r"of age 1": lambda d, n: F.pad(path_counts(d, n), (1, -1)),
            r"turned round": lambda d, n: path_counts(d, n).flip(0),
            r"taken for 1": lambda d, n: path_counts(torch.ones_like(d), n),
            r"one layer only": one_layer,
            r"width 3": width_three,
            r"one layer is missing": lambda d, n: path_counts(d[:-1], n),
            r"shares": lambda d, n: path_counts(d, n) / path_counts(d, n).sum(),
            r"too long": lambda d, n: path_counts(d, n + 6),
            r"beyond n": beyond,
        },
    )


def entropy_rate(P):
    stationary = torch.linalg.matrix_power(P, 1000)[0]
    return (stationary[:, None] * torch.special.entr(P)).sum()


def test_entropy_rate():
    def rows(P):
        return torch.special.entr(P).sum(1)

    def stationary(P):
        return torch.linalg.matrix_power(P, 1000)[0]

    def three_only(P):
        return entropy_rate(P) if len(P) == 3 else rows(P).mean()

    assert_checker(
        exercises.entropy_rate,
        entropy_rate,
        {
            r"equally frequent": lambda P: rows(P).mean(),
            r"add the entropies": lambda P: rows(P).sum(),
            r"of a single sample": lambda P: torch.special.entr(stationary(P)).sum(),
            r"the sign": lambda P: -entropy_rate(P),
            r"these are bits": lambda P: entropy_rate(P) / math.log(2),
            r"entropies of the rows": rows,
            r"transposed": lambda P: stationary(P.T / P.T.sum(1, keepdim=True)) @ rows(P),
            r"one step after": lambda P: P[0] @ rows(P),
            r"of two states": three_only,
        },
    )
