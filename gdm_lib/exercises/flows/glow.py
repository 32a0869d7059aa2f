"""Checkers for the exercises of ``chapters/flows/glow`` (Kingma and Dhariwal 2018, 1807.03039)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gdm_lib.exercises.expect import (
    expect_agreement,
    expect_close,
    expect_gradients,
    expect_pair,
    wave,
)

__all__ = ["cooled", "direction", "first_look", "mix"]

# Inputs are fixed and in double precision: known mistakes are then told apart beyond doubt.


def first_look(answer: Callable[..., Any]) -> None:
    """Check ``first_look(x)``: actnorm's log-scale and shift from the first batch.

    ``x`` is ``(B, C, H, W)``; both results are ``(C,)`` (1807.03039, section 3.1).

    Args:
        answer: The reader's function.

    Raises:
        Wrong: The first fault found.
    """
    x = torch.arange(2 * 3 * 2 * 5, dtype=torch.float64).mul(1.7).sin().view(2, 3, 2, 5)
    spread = torch.tensor([0.5, 2.0, 3.0], dtype=torch.float64).view(3, 1, 1)
    offset = torch.tensor([1.0, -2.0, 0.3], dtype=torch.float64).view(3, 1, 1)
    x = x * spread + offset
    over = (0, 2, 3)
    mean, var = x.mean(over), x.var(over, correction=0)
    want, shift = -0.5 * var.log(), -mean / var.sqrt()
    log_scale, got = expect_pair(answer(x), "`log_scale` and `shift`")
    one = torch.ones(3, dtype=x.dtype)
    faults = [
        (var.rsqrt(), "this is the scale itself. Return its logarithm."),
        (-want, "the sign is flipped: a wide channel must be made narrow, s = v ** -0.5."),
        (var.sqrt(), "this is the deviation. The scale divides by it: return -log of it."),
        (var, "this is the variance. Return -log(v) / 2."),
        (-var.log(), "you divide by the variance. The scale is one over its root."),
        (
            -0.5 * x.var(over).log(),
            "your variance divides by the count less one. Use correction=0: then the batch's own "
            "variance comes out as one.",
        ),
        (
            -0.5 * x.var(0, correction=0).log(),
            "the statistics are over the batch alone. A channel has one scale for all pixels.",
        ),
        (
            -0.5 * x.var((0, 1, 2, 3), correction=0).log() * one,
            "the statistics are over all channels together. Each has its own.",
        ),
        (
            -0.5 * x.var((0, 1, 2, 3), correction=0).log(),
            "the statistics are over all channels together. Each has its own.",
        ),
        (-0.5 * x.square().mean(over).log(), "take the mean away before you square."),
    ]
    expect_close(log_scale, want, "log_scale", faults=faults)
    faults = [
        (-mean, "the shift comes after the scale, so the mean is scaled too: b = -m / sqrt(v)."),
        (mean / var.sqrt(), "the shift has the wrong sign: it takes the mean away."),
        (mean, "the shift takes the scaled mean away: b = -m / sqrt(v)."),
        (-mean / var, "you divide the mean by the variance. Multiply it by s = v ** -0.5."),
        (-mean * var.sqrt(), "you multiply by the deviation. Multiply the mean by s = v ** -0.5."),
        (-mean * want, "you multiply the mean by log s. Multiply it by s."),
    ]
    expect_close(got, shift, "shift", faults=faults)

    def right(x: Tensor) -> tuple[Tensor, Tensor]:
        mean, var = x.mean(over), x.var(over, correction=0)
        return -0.5 * var.log(), -mean / var.sqrt()

    cases = {
        "of a single channel": (3 * wave(4, 1, 2, 1) + 1,),
        "of a single picture": (0.1 * wave(1, 4, 3, 3) - 2,),
        "of pictures of one pixel": (wave(6, 2, 1, 1),),
    }
    expect_agreement(answer, right, ("log_scale", "shift"), cases)


def mix(answer: Callable[..., Any]) -> None:
    """Check ``mix(x, P, L, U, s)``: a 1x1 convolution by ``P L (U + diag(s))``.

    ``x`` is ``(B, C, H, W)``; the results are the mixed pictures and the log-determinant of one
    picture, a scalar (1807.03039, equations 9 to 11).

    Args:
        answer: The reader's function.

    Raises:
        Wrong: The first fault found.
    """
    x = torch.arange(2 * 3 * 2 * 5, dtype=torch.float64).mul(0.9).cos().view(2, 3, 2, 5)
    p = torch.tensor([[0, 1, 0], [0, 0, 1], [1, 0, 0]], dtype=x.dtype)
    low = torch.tensor([[1, 0, 0], [0.4, 1, 0], [-0.7, 0.2, 1]], dtype=x.dtype)
    u = torch.tensor([[0, 0.5, -0.3], [0, 0, 0.8], [0, 0, 0]], dtype=x.dtype)
    s = torch.tensor([-0.6, 1.7, 0.4], dtype=x.dtype)

    def by(w: Tensor) -> Tensor:
        return torch.einsum("ij,bjhw->bihw", w, x)

    whole = u + torch.diag(s)
    w = p @ low @ whole
    y, got = expect_pair(answer(x, p, low, u, s), "the mixed pictures and the log-determinant")
    faults = [
        (by(w.T), "you mix by the transpose: output channel i is the sum over j of W[i, j] x[j]."),
        (by(p @ low @ u), "the diagonal of s is missing: U is strictly upper triangular."),
        (by(p @ low @ (u + s)), "you add s to every row of U. Add diag(s)."),
        (by(low @ whole), "the permutation P is missing."),
        (by(p.T @ low @ whole), "you permute by the transpose of P, which undoes it."),
        (by(low @ whole @ p), "P comes first in the product, W = P L (U + diag(s))."),
        (by(p @ whole @ low), "L comes before U + diag(s) in the product."),
        (by(p @ low @ (u + torch.diag(s.abs()))), "s keeps its signs in W."),
        (by(torch.linalg.inv(w)), "this is the inverse. Forward mixes by W."),
    ]
    expect_close(y, by(w), "the mixed picture", faults=faults)
    one = s.abs().log().sum()
    want = 10 * one
    faults = [
        (one, "this is log |det W|, of one pixel. Every pixel is mixed: times h w."),
        (s.log().sum(), "the logarithm of a negative s is not a number. Take |s|."),
        (10 * s.log().sum(), "the logarithm of a negative s is not a number. Take |s|."),
        (-want, "the wrong sign: this is the log-determinant of the inverse."),
        (20 * one, "you count the pixels of the whole batch. Each picture has its own h w."),
        (2 * one, "you count the rows only: times h w."),
        (5 * one, "you count the columns only: times h w."),
        (30 * one, "you count the channels too. They are in det W already: times h w."),
        (10 * s.abs().sum(), "you add up |s|. The determinant is a product: add up log |s|."),
        (10 * s.prod().abs(), "the determinant itself is asked for its logarithm."),
        (want.expand(2), "you return one number for each picture. All have the same: a scalar."),
    ]
    expect_close(got, want, "the log-determinant", faults=faults)

    def right(x: Tensor, p: Tensor, low: Tensor, u: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        w = p @ low @ (u + torch.diag(s))
        pixels = x.shape[2] * x.shape[3]
        return torch.einsum("ij,bjhw->bihw", w, x), pixels * s.abs().log().sum()

    one_by_one = torch.ones(1, 1, dtype=x.dtype)
    names = ("the mixed picture", "the log-determinant")
    cases = {
        "of one channel": (wave(3, 1, 1, 2), one_by_one, one_by_one, 0 * one_by_one, -2 * s[:1]),
        "of one pixel": (wave(1, 3, 1, 1), p, low, u, s),
        "of other sizes": (wave(4, 3, 3, 2), p.T, low, u, s.flip(0)),
    }
    expect_agreement(answer, right, names, cases)
    expect_gradients(answer, right, names, (x, p, low, u, s), {0: "x", 4: "s"})


def direction(answer: Callable[..., Tensor]) -> None:
    """Check ``direction(z, y)``: the difference of two groups' mean latents.

    ``z`` is ``(N, D)``, ``y`` ``(N,)`` is 1 with the attribute and 0 without; the result is
    ``(D,)`` (1807.03039, section 6).

    Args:
        answer: The reader's function.

    Raises:
        Wrong: The first fault found.
    """
    z = torch.arange(7 * 3, dtype=torch.float64).mul(1.3).sin().view(7, 3)
    y = torch.tensor([1, 0, 0, 1, 0, 0, 0])
    a, b = z[y == 1], z[y == 0]
    want = a.mean(0) - b.mean(0)
    faults = [
        (-want, "the sign is flipped: with the attribute, less without."),
        (a.sum(0) - b.sum(0), "you subtract sums. The groups differ in size: subtract means."),
        ((a.sum(0) - b.sum(0)) / 7, "you divide both sums by N. Divide each by its group's size."),
        (a.mean(0), "this is the mean with the attribute. Subtract the mean without."),
        (a.mean(0) - z.mean(0), "you subtract the mean of all. Subtract that of those without."),
        (want / want.norm(), "you made it of length one. Its length is the groups' difference."),
        (0.5 * want, "you halved it."),
        (a.mean() - b.mean(), "you average over the dimensions too. Average over the items."),
        (a.median(0).values - b.median(0).values, "these are medians. Take means."),
    ]
    expect_close(answer(z, y), want, "the direction", faults=faults)

    def right(z: Tensor, y: Tensor) -> Tensor:
        return z[y == 1].mean(0) - z[y == 0].mean(0)

    cases = {
        "of one dimension": (wave(4, 1), torch.tensor([0, 1, 1, 1])),
        "of two items": (wave(2, 5), torch.tensor([1, 0])),
        "of as many items as dimensions": (wave(3, 3), torch.tensor([1, 1, 0])),
    }
    expect_agreement(answer, right, "the direction", cases)


def cooled(answer: Callable[..., Tensor]) -> None:
    """Check ``cooled(log_p, log_det, dim, T)``: the log-density at a temperature.

    Of a flow of constant determinant; ``log_p`` is ``(B,)`` and so is the result, which is
    normalised (1807.03039, section 6, with the exponent put right).

    Args:
        answer: The reader's function.

    Raises:
        Wrong: The first fault found.
    """
    dim, t = 3, 0.7
    log_det = torch.tensor(0.9, dtype=torch.float64)
    squares = torch.tensor([0.4, 2.9, 5.1, 11.0], dtype=torch.float64)
    log_2pi = math.log(2 * math.pi)
    log_p = -0.5 * squares - 0.5 * dim * log_2pi + log_det

    def of(exponent: float, deviation: float, det: Tensor = log_det) -> Tensor:
        base = -0.5 * squares * exponent - 0.5 * dim * (log_2pi + 2 * math.log(deviation))
        return base + det

    want = of(t**-2, t)
    faults = [
        (of(t**2, 1 / t), "the exponent is upside down, as in the paper's text: p ** (1 / T**2)."),
        (log_p * t**2, "the exponent is upside down, and the result isn't normalised."),
        (log_p / t**2, "a power of p isn't normalised: its integral is not one."),
        (of(t**-2, 1.0), "the normalising constant of N(0, T^2 I) has T ** D: subtract D log T."),
        (
            of(t**-2, 1.0) - math.log(t),
            "you subtract log T once. Each of the D dimensions has its own.",
        ),
        (of(t**-2, 1 / t), "D log T has the wrong sign: a narrower Gaussian is higher."),
        (of(1 / t, t), "the square is divided by T. N(0, T^2 I) divides it by T ** 2."),
        (of(1 / t, math.sqrt(t)), "T is a deviation, not a variance: write T ** 2 for it."),
        (of(t**-2, t, torch.zeros_like(log_det)), "the log-determinant is missing."),
        (of(t**-2, t, -log_det), "the log-determinant has the wrong sign."),
        (log_p, "nothing changed: T is not used."),
    ]
    expect_close(answer(log_p, log_det, dim, t), want, "log p_T", faults=faults)

    def right(log_p: Tensor, log_det: Tensor, dim: int, t: float) -> Tensor:
        log_base = log_p - log_det
        constant = 0.5 * dim * log_2pi
        return (log_base + constant) / t**2 - constant - dim * math.log(t) + log_det

    cases = {
        "of one item": (wave(1) - 3, wave(1)[0], 2, 0.5),
        "at T = 1": (wave(3) - 9, -2 * log_det, 7, 1.0),
        "of a warm sample": (4 * wave(5) - 20, 3 * log_det, 16, 1.4),
    }
    expect_agreement(answer, right, "log p_T", cases)
