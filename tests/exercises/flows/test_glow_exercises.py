"""Each checker of the Glow chapter accepts the solution and names each planted fault."""

import math

import torch

from gdm_lib.exercises.flows import glow as exercises
from gdm_lib.exercises.testing import assert_checker

# -- first_look


def first_look(x):
    mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
    return -0.5 * var.log(), -mean / var.sqrt()


def test_first_look():
    def scale_as(make):
        return lambda x: (make(x), first_look(x)[1])

    def shift_as(make):
        """The right scale beside a shift made of mean and variance."""
        return lambda x: (
            first_look(x)[0],
            make(x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)),
        )

    assert_checker(
        exercises.first_look,
        first_look,
        {
            r"return two tensors": lambda x: first_look(x)[0],
            r"scale itself": scale_as(lambda x: first_look(x)[0].exp()),
            r"sign is flipped": scale_as(lambda x: -first_look(x)[0]),
            r"this is the deviation": scale_as(lambda x: x.std((0, 2, 3), correction=0)),
            r"this is the variance": scale_as(lambda x: x.var((0, 2, 3), correction=0)),
            r"divide by the variance\. The scale": scale_as(lambda x: 2 * first_look(x)[0]),
            r"correction=0": scale_as(lambda x: -0.5 * x.var((0, 2, 3)).log()),
            r"batch alone": scale_as(lambda x: -x.std(0, correction=0).log()),
            r"all channels together": scale_as(
                lambda x: -x.std(correction=0).log().expand(x.shape[1])
            ),
            r"before you square": scale_as(lambda x: -0.5 * x.square().mean((0, 2, 3)).log()),
            r"the mean is scaled too": shift_as(lambda m, v: -m),
            r"shift has the wrong sign": shift_as(lambda m, v: m / v.sqrt()),
            r"takes the scaled mean away": shift_as(lambda m, v: m),
            r"divide the mean by the variance": shift_as(lambda m, v: -m / v),
            r"multiply by the deviation": shift_as(lambda m, v: -m * v.sqrt()),
            r"multiply the mean by log s": shift_as(lambda m, v: 0.5 * m * v.log()),
        },
    )


# -- mix


def mix(x, P, L, U, s):
    w = P @ L @ (U + torch.diag(s))
    y = torch.einsum("ij,bjhw->bihw", w, x)
    return y, x.shape[2] * x.shape[3] * s.abs().log().sum()


def test_mix():
    def matrix_as(make):
        def wrong(x, P, L, U, s):
            return torch.einsum("ij,bjhw->bihw", make(P, L, U, s), x), mix(x, P, L, U, s)[1]

        return wrong

    def det_as(make):
        return lambda x, P, L, U, s: (mix(x, P, L, U, s)[0], make(x, s))

    def weight(P, L, U, s):
        return P @ L @ (U + torch.diag(s))

    def log_sum(s):
        return s.abs().log().sum()

    assert_checker(
        exercises.mix,
        mix,
        {
            r"return two tensors": lambda *a: mix(*a)[0],
            r"transpose: output": matrix_as(lambda *a: weight(*a).T),
            r"diagonal of s is missing": matrix_as(lambda P, L, U, s: P @ L @ U),
            r"every row of U": matrix_as(lambda P, L, U, s: P @ L @ (U + s)),
            r"permutation P is missing": matrix_as(lambda P, L, U, s: L @ (U + torch.diag(s))),
            r"transpose of P": matrix_as(lambda P, L, U, s: weight(P.T, L, U, s)),
            r"P comes first": matrix_as(lambda P, L, U, s: L @ (U + torch.diag(s)) @ P),
            r"L comes before": matrix_as(lambda P, L, U, s: P @ (U + torch.diag(s)) @ L),
            r"keeps its signs": matrix_as(lambda P, L, U, s: weight(P, L, U, s.abs())),
            r"this is the inverse": matrix_as(lambda *a: torch.linalg.inv(weight(*a))),
            r"of one pixel": det_as(lambda x, s: log_sum(s)),
            r"not a number": det_as(lambda x, s: 10 * s.log().sum()),
            r"wrong sign": det_as(lambda x, s: -10 * log_sum(s)),
            r"whole batch": det_as(lambda x, s: 20 * log_sum(s)),
            r"rows only": det_as(lambda x, s: x.shape[2] * log_sum(s)),
            r"columns only": det_as(lambda x, s: x.shape[3] * log_sum(s)),
            r"channels too": det_as(lambda x, s: x[0].numel() * log_sum(s)),
            r"add up \|s\|": det_as(lambda x, s: 10 * s.abs().sum()),
            r"determinant itself": det_as(lambda x, s: 10 * s.prod().abs()),
            r"one number for each picture": det_as(lambda x, s: (10 * log_sum(s)).expand(len(x))),
        },
    )


# -- direction


def direction(z, y):
    return z[y == 1].mean(0) - z[y == 0].mean(0)


def test_direction():
    assert_checker(
        exercises.direction,
        direction,
        {
            r"sign is flipped": lambda z, y: -direction(z, y),
            r"subtract sums": lambda z, y: z[y == 1].sum(0) - z[y == 0].sum(0),
            r"both sums by N": lambda z, y: (z * (2 * y - 1)[:, None]).mean(0),
            r"mean with the attribute": lambda z, y: z[y == 1].mean(0),
            r"mean of all": lambda z, y: z[y == 1].mean(0) - z.mean(0),
            r"length one": lambda z, y: direction(z, y) / direction(z, y).norm(),
            r"halved": lambda z, y: 0.5 * direction(z, y),
            r"over the dimensions too": lambda z, y: z[y == 1].mean() - z[y == 0].mean(),
            r"medians": lambda z, y: z[y == 1].median(0).values - z[y == 0].median(0).values,
        },
    )


# -- cooled


def cooled(log_p, log_det, dim, T):
    half_square = log_det - log_p - 0.5 * dim * math.log(2 * math.pi)
    log_base = -half_square / T**2 - 0.5 * dim * math.log(2 * math.pi * T**2)
    return log_base + log_det


def test_cooled():
    def half_square(log_p, log_det, dim):
        return log_det - log_p - 0.5 * dim * math.log(2 * math.pi)

    def variance(log_p, log_det, dim, T):
        constant = 0.5 * dim * math.log(2 * math.pi * T)
        return -half_square(log_p, log_det, dim) / T - constant + log_det

    def linear(log_p, log_det, dim, T):
        constant = 0.5 * dim * math.log(2 * math.pi * T**2)
        return -half_square(log_p, log_det, dim) / T - constant + log_det

    assert_checker(
        exercises.cooled,
        cooled,
        {
            r"upside down, as in": lambda p, d, n, T: cooled(p, d, n, 1 / T),
            r"upside down, and": lambda p, d, n, T: p * T**2,
            r"power of p isn't normalised": lambda p, d, n, T: p / T**2,
            r"has T \*\* D": lambda p, d, n, T: cooled(p, d, n, T) + n * math.log(T),
            r"log T once": lambda p, d, n, T: cooled(p, d, n, T) + (n - 1) * math.log(T),
            r"D log T has the wrong sign": lambda p, d, n, T: (
                cooled(p, d, n, T) + 2 * n * math.log(T)
            ),
            r"divided by T\.": linear,
            r"not a variance": variance,
            r"log-determinant is missing": lambda p, d, n, T: cooled(p, d, n, T) - d,
            r"log-determinant has the wrong sign": lambda p, d, n, T: cooled(p, d, n, T) - 2 * d,
            r"T is not used": lambda p, d, n, T: p,
        },
    )
