"""Checkers for the exercises of ``chapters/flows/iaf`` (Kingma et al. 2016, 1606.04934)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gdm_lib.exercises.expect import (
    expect_agreement,
    expect_close,
    expect_gradients,
    expect_pair,
    expect_shape,
    expect_tensor,
    wave,
)

__all__ = ["diagonal_gap", "gated_step", "invert_step", "linear_iaf"]

# Inputs are fixed and in double precision: known mistakes are then told apart beyond doubt.


def gated_step(answer: Callable[..., Any]) -> None:
    """Check ``gated_step(z, m, s)``: the paper's gate (equations 13 and 14).

    All arguments are ``(B, D)``. The result is ``sigmoid(s) z + (1 - sigmoid(s)) m``, ``(B, D)``,
    and the log-determinant, ``(B,)``.

    Args:
        answer: The reader's function.

    Raises:
        Wrong: The first fault found.
    """
    z = torch.tensor([[0.5, -1.2, 2.0], [1.5, 0.3, -0.7]], dtype=torch.float64)
    m = torch.tensor([[-0.4, 0.8, 1.1], [0.6, -2.0, 0.9]], dtype=torch.float64)
    s = torch.tensor([[0.3, -0.9, 1.7], [-0.5, 2.1, 0.4]], dtype=torch.float64)
    gate = torch.sigmoid(s)
    want, logdet = gate * z + (1 - gate) * m, F.logsigmoid(s).sum(1)
    new, got = expect_pair(answer(z.clone(), m.clone(), s.clone()), "`z` and the log-determinant")
    faults = [
        ((1 - gate) * z + gate * m, "the gate is upside down: sigmoid(s) multiplies the old z."),
        (gate * z + m, "m is added whole. A gate takes 1 - sigmoid(s) of it."),
        (gate * z + gate * m, "both terms get sigmoid(s). The second gets 1 - sigmoid(s)."),
        (
            s.exp() * z + m,
            "this is the exponential scale. The gate is sigmoid(s), and 1 - sigmoid(s) of m.",
        ),
        (
            s * z + (1 - s) * m,
            "s itself is taken for the gate. The gate is sigmoid(s).",
        ),
        (
            (z - (1 - gate) * m) / gate,
            "this is the inverse step. The forward one multiplies z by sigmoid(s).",
        ),
    ]
    expect_close(new, want, "z", faults=faults)
    each = F.logsigmoid(s)
    det_faults = [
        (-logdet, "the log-determinant has the wrong sign: that of z -> z' sums log sigmoid(s)."),
        (gate.prod(1), "this is the determinant. Return its logarithm."),
        (gate.sum(1), "you add up the gates. Take the logarithm of each first."),
        (s.sum(1), "you add up s. The scale is sigmoid(s), so add up log sigmoid(s)."),
        (each, "you return log sigmoid(s) for each variable. Sum over the variables."),
        (each.mean(1), "you average over the variables. The log-determinant is a sum."),
        (each.sum(0), "you sum over the batch. Sum over dimension 1, the variables."),
        (each.sum(), "you sum over the batch too. Return one number for each item."),
        (
            (2 * each + F.logsigmoid(-s)).sum(1),
            "the term of 1 - sigmoid(s) does not belong here: m does not depend on its own z.",
        ),
    ]
    expect_close(got, logdet, "the log-determinant", faults=det_faults)

    z = torch.tensor([[1.0, 1.0]], dtype=torch.float64)
    m = torch.tensor([[2.0, 1e18]], dtype=torch.float64)
    s = torch.tensor([[-800.0, 40.0]], dtype=torch.float64)
    want = torch.sigmoid(s) * z + torch.sigmoid(-s) * m
    new, got = expect_pair(answer(z.clone(), m.clone(), s.clone()), "`z` and the log-determinant")
    far = [
        (
            torch.sigmoid(s) * z + (1 - torch.sigmoid(s)) * m,
            "at s = 40 your 1 - sigmoid(s) has rounded to 0 and m = 1e18 is lost. Write it as "
            "sigmoid(-s).",
        )
    ]
    expect_close(new, want, "z at large s", faults=far)
    lost = [
        (
            torch.full_like(got, -torch.inf) if isinstance(got, Tensor) else s.sum(1),
            "at s = -800 your log-determinant is -inf: sigmoid(s) has rounded to 0. Use "
            "F.logsigmoid(s).",
        )
    ]
    expect_close(got, F.logsigmoid(s).sum(1), "the log-determinant at large s", faults=lost)

    def right(z: Tensor, m: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        return torch.sigmoid(s) * z + torch.sigmoid(-s) * m, F.logsigmoid(s).sum(1)

    def some(*shape: int) -> tuple[Tensor, Tensor, Tensor]:
        return wave(*shape), wave(*shape, pace=0.9), 2 * wave(*shape, pace=0.5)

    names = ("z", "the log-determinant")
    cases = {
        "of a single number": some(1, 1),
        "of three items of one dimension": some(3, 1),
        "of as many items as dimensions": some(4, 4),
        "at very negative s": (wave(2, 2), wave(2, 2, pace=0.9), -700 - 90 * wave(2, 2)),
    }
    expect_agreement(answer, right, names, cases)
    expect_gradients(answer, right, names, some(2, 3), {0: "z", 1: "m", 2: "s"})


def invert_step(answer: Callable[..., Tensor]) -> None:
    """Check ``invert_step(y, net)``: ``z`` of ``y = m(z) + exp(s(z)) z``, variable by variable.

    ``net`` maps ``(B, D)`` to ``m`` and ``s``, both ``(B, D)``; a column sees those before it.

    Args:
        answer: The reader's function.

    Raises:
        Wrong: The first fault found.
    """
    z = torch.tensor(
        [[0.5, -1.2, 0.8, 0.3], [1.5, 0.3, -0.7, -0.4], [-0.6, 0.9, 0.2, 1.1]], dtype=torch.float64
    )
    lower = torch.tensor(
        [[0, 0, 0, 0], [0.9, 0, 0, 0], [-0.6, 0.7, 0, 0], [0.4, -0.8, 0.5, 0]], dtype=torch.float64
    )

    def net(v: Tensor) -> tuple[Tensor, Tensor]:
        h = v @ lower.T
        return torch.sin(h + 0.5) + h, 0.6 * torch.cos(h) - 0.2

    def forward(v: Tensor) -> Tensor:
        m, s = net(v)
        return m + s.exp() * v

    y = forward(z)

    def turns(rule: Callable[[Tensor, Tensor, Tensor], Tensor], count: int) -> Tensor:
        v = torch.zeros_like(y)
        for i in range(count):
            m, s = net(v)
            v = v.clone()
            v[:, i] = rule(y, m, s)[:, i]
        return v

    def undo(y: Tensor, m: Tensor, s: Tensor) -> Tensor:
        return (y - m) * (-s).exp()

    faults = [
        (
            undo(y, *net(y)),
            "the network reads y. It read z on the way, which is known only column by column.",
        ),
        (forward(y), "this is the step once more, not its inverse."),
        (
            undo(y, *net(torch.zeros_like(y))),
            "one pass from zeros makes only the first column right. Each column needs a pass that "
            "sees the columns found before it.",
        ),
        (turns(undo, y.shape[1] - 1), "the last column is never solved: D variables take D turns."),
        (
            turns(lambda y, m, s: (y - m) * s.exp(), y.shape[1]),
            "the scale is applied once more, not undone: multiply by exp(-s).",
        ),
        (
            turns(lambda y, m, s: y * (-s).exp() - m, y.shape[1]),
            "you undo the scale first and the shift then. The shift came last, so it goes first.",
        ),
        (
            turns(lambda y, m, s: (y + m) * (-s).exp(), y.shape[1]),
            "the shift is added once more, not taken away: y - m.",
        ),
        (
            turns(lambda y, m, s: (y - m) / s, y.shape[1]),
            "you divide by s itself. The scale was exp(s).",
        ),
    ]
    expect_close(answer(y, net), z, "z", faults=faults)

    def of_size(dim: int) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        weight = wave(dim, dim).tril(-1).T

        def net(v: Tensor) -> tuple[Tensor, Tensor]:
            if v.ndim != 2 or v.shape[1] != dim:
                raise ValueError(f"net takes a tensor of shape (B, {dim}), got {tuple(v.shape)}")
            h = v @ weight
            return h.cos(), 0.5 - h.sin()

        return net

    def right(y: Tensor, net: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Tensor:
        z = torch.zeros_like(y)
        for _ in range(y.shape[1]):
            m, s = net(z)
            z = undo(y, m, s)
        return z

    cases = {
        "of one variable": (wave(1, 1), of_size(1)),
        "of two variables": (wave(5, 2), of_size(2)),
        "of seven variables": (2 * wave(2, 7), of_size(7)),
    }
    expect_agreement(answer, right, "z", cases)


def _covariance() -> Tensor:
    c = [[1.4, 0.0, 0.0, 0.0], [-0.8, 0.6, 0.0, 0.0], [0.5, 0.9, 1.1, 0.0], [0.3, -0.4, 0.7, 0.5]]
    root = torch.tensor(c, dtype=torch.float64)
    return root @ root.T


def _covariances() -> dict[str, tuple[Tensor]]:
    strong = torch.tensor([[2.0, -1.3], [-1.3, 0.9]], dtype=torch.float64)
    wide = wave(5, 6)
    return {
        "of one variable": (torch.tensor([[0.3]], dtype=torch.float64),),
        "of two variables": (strong,),
        "of five variables": (wide @ wide.T + 0.2 * torch.eye(5),),
        "of independent variables": (torch.diag(wave(3).exp()),),
    }


def linear_iaf(answer: Callable[..., Any]) -> None:
    """Check ``linear_iaf(cov)``: the linear flow with that covariance.

    The result is ``L``, lower triangular with ones on its diagonal, ``(D, D)``, and the standard
    deviations ``sigma``, ``(D,)``, with ``L diag(sigma^2) L' = cov``.

    Args:
        answer: The reader's function.

    Raises:
        Wrong: The first fault found.
    """
    cov = _covariance()
    root = torch.linalg.cholesky(cov)
    sigma = root.diagonal()
    low, got = expect_pair(answer(cov.clone()), "`L` and `sigma`")
    unit = root / sigma
    faults = [
        (root, "L has the scales in it. Its diagonal must be ones: divide each column by C_ii."),
        (
            root / sigma[:, None],
            "you divide the rows of C. L = C diag(sigma)^-1 divides its columns.",
        ),
        (unit.T, "L is transposed: the first variable may see none of the others."),
        (torch.linalg.inv(unit), "this is the inverse of L, which takes z back to the noise."),
        (
            torch.linalg.cholesky(torch.linalg.inv(cov)),
            "you factor the precision. The covariance is what has to be L diag(sigma^2) L'.",
        ),
        (cov.tril(), "you take the lower half of the covariance. Factor it: cholesky."),
    ]
    expect_close(low, unit, "L", faults=faults)
    deviations = [
        (sigma.square(), "sigma holds variances. Return standard deviations."),
        (sigma.log(), "sigma holds logarithms."),
        (1 / sigma, "sigma is upside down: its entries are C_ii, not 1 / C_ii."),
        (cov.diagonal().sqrt(), "these are the deviations of z_1, not of the noise z_0: C_ii."),
        (sigma.diag(), "sigma is a matrix. Return its diagonal, of shape (D,)."),
    ]
    expect_shape(expect_tensor(low, cov, "L"), tuple(cov.shape), "L")
    expect_close(got, sigma, "sigma", faults=deviations)

    def right(cov: Tensor) -> tuple[Tensor, Tensor]:
        root = torch.linalg.cholesky(cov)
        return root / root.diagonal(), root.diagonal()

    expect_agreement(answer, right, ("L", "sigma"), _covariances())


def diagonal_gap(answer: Callable[..., Tensor]) -> None:
    """Check ``diagonal_gap(cov)``: least KL(q || N(mu, cov)) of a diagonal Gaussian ``q``, nats.

    Args:
        answer: The reader's function.

    Raises:
        Wrong: The first fault found.
    """
    cov = _covariance()
    precision = torch.linalg.inv(cov)
    spread, whole = precision.diagonal().log().sum(), torch.logdet(cov)
    want = 0.5 * (spread + whole)
    other = 0.5 * (cov.diagonal().log().sum() - whole)
    faults = [
        (
            other,
            "you match the marginal variances. That is best for KL(p || q); for KL(q || p) the "
            "variances are 1 / P_ii.",
        ),
        (-want, "the sign is flipped: a divergence is not negative."),
        (2 * want, "the factor 1/2 is missing."),
        (0.5 * (spread - whole), "log det P = -log det cov: the second term has the wrong sign."),
        (
            0.5 * ((1 / cov.diagonal()).log().sum() + whole),
            "P_ii is not 1 / cov_ii. Invert the matrix, then take the diagonal.",
        ),
        (
            0.5 * (cov.diagonal().log().sum() + whole),
            "P_ii is the precision's diagonal, and you take the covariance's. Invert cov first.",
        ),
        (
            0.5 * (precision.diagonal().sum() + whole),
            "you add up the P_ii. Take the logarithm of each first.",
        ),
        (want / len(cov), "you average over the variables. The divergence is a sum."),
    ]
    expect_close(answer(cov.clone()), want, "the loss", faults=faults)

    def right(cov: Tensor) -> Tensor:
        return 0.5 * (torch.linalg.inv(cov).diagonal().log().sum() + torch.logdet(cov))

    expect_agreement(answer, right, "the loss", _covariances())
