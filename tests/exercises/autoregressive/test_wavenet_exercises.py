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
            r"sign is lost": lambda a, mu: compand(a, mu).abs(),
            r"division by log": lambda a, mu: compand(a, mu) * math.log1p(mu),
            r"divide by log\(mu\)": lambda a, mu: compand(a, mu) * math.log1p(mu) / math.log(mu),
            r"none for negative": lambda a, mu: torch.log1p(mu * a) / math.log1p(mu),
            r"whatever `mu` is": lambda a, mu: compand(a, 255.0),
            r"mu is missing": lambda a, mu: a.sign() * torch.log1p(a.abs()) / math.log1p(mu),
            r"silence is lost": lambda a, mu: a.sign() * torch.log(mu * a.abs()) / math.log1p(mu),
            r"the inverse": lambda a, mu: a.sign() * ((1 + mu) ** a.abs() - 1) / mu,
            r"levels already": lambda a, mu: ((compand(a, mu) + 1) / 2 * 255).round(),
            r"of two amplitudes": lambda a, mu: compand(a, 100.0),
            r"no gradient reaches": lambda a, mu: compand(a, mu).detach(),
        },
    )


def causal(h, now, past, dilation):
    before = F.pad(h, (dilation, 0))[:, :, : h.shape[2]]
    return now @ h + past @ before


def test_causal():
    def no_cut(h, now, past, dilation):
        return F.pad(now @ h, (0, dilation)) + past @ F.pad(h, (dilation, 0))

    def long_only(h, now, past, dilation):
        return causal(h, now, past, min(dilation, 3)) + (dilation > 3)

    assert_checker(
        exercises.causal,
        causal,
        {
            r"brings round": lambda h, a, b, d: a @ h + b @ h.roll(d, 2),
            r"into the future": lambda h, a, b, d: a @ h + b @ F.pad(h, (0, d))[:, :, d:],
            r"are exchanged: `now`": lambda h, a, b, d: causal(h, b, a, d),
            r"nothing is shifted": lambda h, a, b, d: a @ h + b @ h,
            r"one sample too far": lambda h, a, b, d: causal(h, a, b, d + 1),
            r"the past is missing": lambda h, a, b, d: a @ h,
            r"the present sample": lambda h, a, b, d: causal(h, 0 * a, b, d),
            r"first samples are missing": lambda h, a, b, d: causal(h, a, b, d)[:, :, d:],
            r"longer than the sound": no_cut,
            r"features and time": lambda h, a, b, d: causal(h, a, b, d).mT,
            r"dilation is not used": lambda h, a, b, d: causal(h, a, b, 1),
            r"shorter than the dilation": long_only,
            r"no gradient reaches": lambda h, a, b, d: causal(h.detach(), a, b, d),
        },
    )


def path_counts(dilations, n):
    counts = torch.zeros(n)
    counts[0] = 1
    for d in dilations.tolist():
        counts = counts + F.pad(counts, (d, 0))[:n]
    return counts


def test_path_counts():
    def around(dilations, n):
        counts = torch.zeros(n)
        counts[0] = 1
        for d in dilations.tolist():
            counts = counts + counts.roll(d)
        return counts

    def back_only(dilations, n):
        counts = torch.zeros(n)
        total = int(dilations.sum())
        counts[min(total, n - 1)] = float(total < n)
        return counts

    def layers(dilations, n):
        counts = torch.ones(n)
        for d in dilations.tolist():
            if d < n:
                counts[d] += 1
        return counts

    def some(dilations, n):
        return path_counts(dilations, n) if len(dilations) > 1 else torch.ones(n)

    def shares(dilations, n):
        counts = path_counts(dilations, n)
        return counts / counts.sum()

    assert_checker(
        exercises.path_counts,
        path_counts,
        {
            r"you mark what is seen": lambda d, n: (path_counts(d, n) > 0).float(),
            r"one too high": lambda d, n: F.pad(path_counts(d, n), (1, -1)),
            r"one too low": lambda d, n: path_counts(d, n + 1)[1:],
            r"turned round": lambda d, n: path_counts(d, n).flip(0),
            r"come round": around,
            r"looks back only": back_only,
            r"these are shares": shares,
            r"used once": lambda d, n: path_counts(torch.tensor([*dict.fromkeys(d.tolist())]), n),
            r"you count layers": layers,
            r"below the dilation": some,
        },
    )


def entropy_rate(P):
    stationary = torch.linalg.matrix_power(P, 1000)[0]
    return (stationary[:, None] * torch.special.entr(P)).sum()


def test_entropy_rate():
    def often(P):
        return torch.linalg.matrix_power(P, 1000)[0]

    def rows(P):
        return torch.special.entr(P).sum(1)

    def pairs(P):
        return torch.special.entr(often(P)[:, None] * P).sum()

    def single(P):
        return torch.special.entr(often(P)).sum()

    assert_checker(
        exercises.entropy_rate,
        entropy_rate,
        {
            r"the sign": lambda P: -entropy_rate(P),
            r"in bits": lambda P: entropy_rate(P) / math.log(2),
            r"the same weight": lambda P: rows(P).mean(),
            r"entropy of a single sample\. Given": single,
            r"are the entropies of the rows": rows,
            r"you add the entropies": lambda P: rows(P).sum(),
            r"wrong axis": lambda P: (often(P) * torch.special.entr(P).sum(0)).sum(),
            r"terms for each state": lambda P: often(P) * rows(P),
            r"comes twice": lambda P: 2 * single(P) - pairs(P),
            r"two samples together": pairs,
            r"of two states": lambda P: entropy_rate(P) if len(P) > 2 else rows(P).sum(),
        },
    )
