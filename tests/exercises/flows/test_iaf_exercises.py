"""Each checker of the IAF chapter accepts the solution and names each planted fault."""

import torch
import torch.nn.functional as F

from gdm_lib.exercises.flows import iaf as exercises
from gdm_lib.exercises.testing import assert_checker

# -- gated_step


def gated_step(z, m, s):
    new = torch.sigmoid(s) * z + torch.sigmoid(-s) * m
    return new, F.logsigmoid(s).sum(1)


def test_gated_step():
    def z_as(make):
        """The right log-determinant beside another z."""
        return lambda z, m, s: (make(z, m, s, torch.sigmoid(s)), gated_step(z, m, s)[1])

    def det_as(make):
        """The right z beside another log-determinant."""
        return lambda z, m, s: (gated_step(z, m, s)[0], make(s))

    assert_checker(
        exercises.gated_step,
        gated_step,
        {
            r"return two tensors": lambda *a: gated_step(*a)[0],
            r"upside down": z_as(lambda z, m, s, g: (1 - g) * z + g * m),
            r"added whole": z_as(lambda z, m, s, g: g * z + m),
            r"both terms": z_as(lambda z, m, s, g: g * z + g * m),
            r"exponential scale": z_as(lambda z, m, s, g: s.exp() * z + m),
            r"s itself": z_as(lambda z, m, s, g: s * z + (1 - s) * m),
            r"inverse step": z_as(lambda z, m, s, g: (z - (1 - g) * m) / g),
            r"wrong sign": det_as(lambda s: -F.logsigmoid(s).sum(1)),
            r"this is the determinant": det_as(lambda s: torch.sigmoid(s).prod(1)),
            r"add up the gates": det_as(lambda s: torch.sigmoid(s).sum(1)),
            r"add up s\.": det_as(lambda s: s.sum(1)),
            r"for each variable": det_as(F.logsigmoid),
            r"average over the variables": det_as(lambda s: F.logsigmoid(s).mean(1)),
            r"sum over the batch\.": det_as(lambda s: F.logsigmoid(s).sum(0)),
            r"sum over the batch too": det_as(lambda s: F.logsigmoid(s).sum()),
            r"does not belong": det_as(lambda s: (2 * F.logsigmoid(s) + F.logsigmoid(-s)).sum(1)),
            r"rounded to 0 and m": z_as(lambda z, m, s, g: g * z + (1 - g) * m),
            r"is -inf": det_as(lambda s: torch.sigmoid(s).log().sum(1)),
        },
    )


# -- invert_step


def solve(y, net, rule, count=None):
    z = torch.zeros_like(y)
    for i in range(y.shape[1] if count is None else count):
        m, s = net(z)
        z[:, i] = rule(y[:, i], m[:, i], s[:, i])
    return z


def undo(y, m, s):
    return (y - m) * torch.exp(-s)


def invert_step(y, net):
    return solve(y, net, undo)


def test_invert_step():
    def forward(y, net):
        m, s = net(y)
        return m + s.exp() * y

    assert_checker(
        exercises.invert_step,
        invert_step,
        {
            r"reads y": lambda y, net: undo(y, *net(y)),
            r"step once more": forward,
            r"only the first column": lambda y, net: undo(y, *net(torch.zeros_like(y))),
            r"last column": lambda y, net: solve(y, net, undo, y.shape[1] - 1),
            r"scale is applied once more": lambda y, net: solve(
                y, net, lambda y, m, s: (y - m) * s.exp()
            ),
            r"undo the scale first": lambda y, net: solve(
                y, net, lambda y, m, s: y * (-s).exp() - m
            ),
            r"shift is added": lambda y, net: solve(y, net, lambda y, m, s: (y + m) * (-s).exp()),
            r"by s itself": lambda y, net: solve(y, net, lambda y, m, s: (y - m) / s),
        },
    )


# -- linear_iaf


def linear_iaf(cov):
    root = torch.linalg.cholesky(cov)
    return root / root.diagonal(), root.diagonal()


def test_linear_iaf():
    def low_as(make):
        return lambda cov: (make(torch.linalg.cholesky(cov), cov), linear_iaf(cov)[1])

    def sigma_as(make):
        return lambda cov: (linear_iaf(cov)[0], make(linear_iaf(cov)[1], cov))

    assert_checker(
        exercises.linear_iaf,
        linear_iaf,
        {
            r"return two tensors": lambda cov: linear_iaf(cov)[0],
            r"has the scales": low_as(lambda c, cov: c),
            r"divide the rows": low_as(lambda c, cov: c / c.diagonal()[:, None]),
            r"transposed": low_as(lambda c, cov: (c / c.diagonal()).T),
            r"inverse of L": low_as(lambda c, cov: torch.linalg.inv(c / c.diagonal())),
            r"factor the precision": low_as(
                lambda c, cov: torch.linalg.cholesky(torch.linalg.inv(cov))
            ),
            r"lower half": low_as(lambda c, cov: cov.tril()),
            r"holds variances": sigma_as(lambda s, cov: s.square()),
            r"holds logarithms": sigma_as(lambda s, cov: s.log()),
            r"upside down": sigma_as(lambda s, cov: 1 / s),
            r"not of the noise": sigma_as(lambda s, cov: cov.diagonal().sqrt()),
            r"is a matrix": sigma_as(lambda s, cov: s.diag()),
        },
    )


# -- diagonal_gap


def diagonal_gap(cov):
    precision = torch.linalg.inv(cov)
    return 0.5 * (precision.diagonal().log().sum() + torch.logdet(cov))


def test_diagonal_gap():
    def terms(make):
        return lambda cov: make(torch.linalg.inv(cov).diagonal(), cov.diagonal(), torch.logdet(cov))

    assert_checker(
        exercises.diagonal_gap,
        diagonal_gap,
        {
            r"marginal variances": terms(lambda p, c, d: 0.5 * (c.log().sum() - d)),
            r"sign is flipped": lambda cov: -diagonal_gap(cov),
            r"factor 1/2": lambda cov: 2 * diagonal_gap(cov),
            r"second term has the wrong sign": terms(lambda p, c, d: 0.5 * (p.log().sum() - d)),
            r"not 1 / cov_ii": terms(lambda p, c, d: 0.5 * ((1 / c).log().sum() + d)),
            r"you take the covariance's": terms(lambda p, c, d: 0.5 * (c.log().sum() + d)),
            r"add up the P_ii": terms(lambda p, c, d: 0.5 * (p.sum() + d)),
            r"average over the variables": lambda cov: diagonal_gap(cov) / len(cov),
        },
    )


def test_two_variables_lose_what_their_correlation_says():
    for rho in (0.0, 0.5, 0.99):
        cov = torch.tensor([[2.0, rho * 2**0.5], [rho * 2**0.5, 1.0]], dtype=torch.float64)
        want = -0.5 * torch.log(torch.tensor(1 - rho**2, dtype=torch.float64))
        torch.testing.assert_close(diagonal_gap(cov), want)
