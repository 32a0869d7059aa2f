"""Checkers for the exercises of ``chapters/flows/planar_radial`` (1505.05770)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from gdm_lib.exercises._check import Wrong
from gdm_lib.exercises.expect import (
    expect_agreement,
    expect_close,
    expect_finite,
    expect_gradient,
    wave,
)

__all__ = ["constrained_u", "free_energy", "planar_logdet", "radial_inverse"]

# Inputs are fixed and in double precision: known mistakes are then told apart beyond doubt. No two
# sizes are equal, so that a sum over the wrong axis shows.


def _vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def constrained_u(answer: Callable[..., Tensor]) -> None:
    """Check ``constrained_u(w, u)``: the direction of a planar step that is made legal.

    ``w`` and ``u`` have shape ``(D,)``, and so has the result, whose product with ``w`` is
    ``-1 + log(1 + exp(w'u))`` (1505.05770, appendix A.1).

    Args:
        answer: The reader's function.

    Raises:
        Wrong: The first fault found.
    """
    w, u = _vector(1.5, -0.7, 2.0), _vector(-0.4, 0.9, -1.1)
    wu, ww = w @ u, w @ w
    m = F.softplus(wu) - 1
    want = u + (m - wu) * w / ww
    faults = [
        (u, "you return u itself: nothing is constrained."),
        (
            u + (m - wu) * w / ww.sqrt(),
            "you divide by the norm of w. Divide by its square, so that the norm cancels in w'u.",
        ),
        (u + (m - wu) * w, "w is not divided by its squared norm."),
        (
            u + (m + 1 - wu) * w / ww,
            "m lacks its -1: softplus(w'u) alone is positive, so steps could never contract.",
        ),
        (u + m * w / ww, "you add m(w'u) without taking w'u away, which u brings already."),
        (u - (m - wu) * w / ww, "the correction has the wrong sign: add m(w'u) - w'u, along w."),
        (
            u + (m - wu) * u / (u @ u),
            "you correct along u. The correction is along w, the only direction that matters.",
        ),
        (m * w / ww, "you drop the part of u across w. Only its part along w is to change."),
        (
            u + (wu.exp() - 1 - wu) * w / ww,
            "m(a) is -1 + log(1 + exp(a)), not -1 + exp(a).",
        ),
        (u * m / wu, "you scale all of u. Only its part along w is to change."),
        (want @ w, "you return the product with w. Return the vector."),
    ]
    expect_close(answer(w, u), want, "the vector", faults=faults)

    # w'u = 0.9: what corrects only where the constraint is broken leaves u alone here.
    legal = _vector(0.6, 0.0, 0.0)
    mended = legal + (F.softplus(w @ legal) - 1 - w @ legal) * w / ww
    faults = [
        (
            legal,
            "you correct only where w'u is below -1. The formula has no case distinction: m is "
            "smooth, so that gradients are.",
        ),
        (-w / ww + legal, "you put every w'u to -1."),
    ]
    expect_close(answer(w, legal), mended, "the vector for a u that was legal", faults=faults)

    negative = "the result is not finite where w'u is very negative."
    expect_finite(answer(w, -300 * w), w, "the vector", negative)
    overflow = "exp(w'u) overflows where w'u is large. Use `F.softplus`."
    expect_finite(answer(w, 300 * w), w, "the vector", overflow)
    cases = {
        "where w'u is very negative": (w, -300 * w),
        "where w'u is very large": (w, 300 * w),
        "of one dimension": (_vector(-0.7), _vector(3.0)),
        "of five dimensions": (wave(5), wave(5, pace=0.9)),
    }
    expect_agreement(answer, _constrained_u, "the vector", cases)

    w, u = w[:2].clone().requires_grad_(), u[:2].clone().requires_grad_()
    got = answer(w, u)
    wu, ww = w @ u, w @ w
    want = u + (F.softplus(wu) - 1 - wu) * w / ww
    expect_close(got, want, "the vector in two dimensions")
    for x, name in ((w, "w"), (u, "u")):
        right = torch.autograd.grad(want.sum(), x, retain_graph=True)[0]
        gradient = expect_gradient(got, x, name)
        expect_close(gradient, right, f"the gradient with respect to `{name}`")


def _constrained_u(w: Tensor, u: Tensor) -> Tensor:
    wu = w @ u
    return u + (F.softplus(wu) - 1 - wu) * w / (w @ w)


def planar_logdet(answer: Callable[..., Tensor]) -> None:
    """Check ``planar_logdet(z, w, u, b)``: log |det| of z + u tanh(w'z + b).

    ``z`` has shape ``(B, D)``, ``w`` and ``u`` ``(D,)`` with w'u > -1, ``b`` is a number; the
    result has shape ``(B,)`` (1505.05770, equation 12).

    Args:
        answer: The reader's function.

    Raises:
        Wrong: The first fault found.
    """
    z = torch.tensor(
        [[0.3, -0.8, 0.5], [-1.0, 0.2, 0.1], [0.7, 0.4, -0.6], [0.0, -0.3, 0.9]],
        dtype=torch.float64,
    )
    w, u, b = _vector(0.8, -0.5, 1.1), _vector(0.9, 0.4, 0.7), 0.3
    wu = w @ u
    t = torch.tanh(z @ w + b)
    psi = 1 - t**2
    want = torch.log(1 + wu * psi)
    faults = [
        (1 + wu * psi, "you return the determinant itself. Take its logarithm."),
        (-want, "the sign is flipped: this is the log-determinant of the inverse."),
        (torch.log(1 + wu * t), "you use tanh itself. Its derivative is 1 - tanh^2."),
        (torch.log(1 + wu * (1 - t)), "the derivative of tanh is 1 - tanh^2: the square is gone."),
        (
            torch.log(1 + wu * (1 - torch.tanh(z @ w) ** 2)),
            "b is missing: the plane is where w'z + b = 0.",
        ),
        (torch.log((wu * psi).abs()), "the 1 of the identity is missing: 1 + u'psi."),
        (
            torch.log(1 + (u @ u) * psi),
            "you multiply u by itself. psi points along w, so that the product is w'u.",
        ),
        (
            torch.log(1 + (w @ w) * psi),
            "you multiply w by itself. The product is of psi, which points along w, with u.",
        ),
        (
            torch.log(1 + wu * (1 - torch.tanh(z @ u + b) ** 2)),
            "the argument of tanh is w'z + b, not u'z + b.",
        ),
        (
            torch.log1p(psi[:, None] * w * u).sum(1),
            "you multiply the diagonal of the Jacobian. It isn't diagonal: use the determinant "
            "lemma, 1 + u'psi.",
        ),
        (torch.log(1 + psi), "w'u is missing."),
        (
            want.sum(),
            "you sum over the batch. Return one log-determinant per point, of shape (B,).",
        ),
        (
            want.mean(),
            "you average over the batch. Return one log-determinant per point, of shape (B,).",
        ),
        (want / math.log(2), "the result is in bits. Use the natural logarithm."),
    ]
    expect_close(answer(z, w, u, b), want, "the log-determinant", faults=faults)

    press = -0.9 * w / (w @ w)  # w'u = -0.9
    want = torch.log(1 - 0.9 * psi)
    faults = [
        (torch.log(1 + 0.9 * psi), "the result ignores the sign of w'u: a step may also contract.")
    ]
    got = answer(z, w, press, b)
    expect_close(got, want, "the log-determinant of a step that contracts", faults=faults)

    z = z[:2].clone().requires_grad_()
    got = answer(z, w, u, b)
    t = torch.tanh(z @ w + b)
    want = torch.log(1 + wu * (1 - t**2))
    expect_close(got, want, "the log-determinant of two points")
    right = torch.autograd.grad(want.sum(), z, retain_graph=True)[0]
    expect_close(expect_gradient(got, z, "z"), right, "the gradient with respect to `z`")

    def logdet(z: Tensor, w: Tensor, u: Tensor, b: float) -> Tensor:
        return torch.log1p((w @ u) * (1 - torch.tanh(z @ w + b) ** 2))

    cases = {
        "of one point in one dimension": (wave(1, 1), _vector(0.9), _vector(-0.8), -1.2),
        "of five points in two dimensions": (2 * wave(5, 2), w[:2], u[:2], 0.0),
        "of points far from the plane": (9 * wave(3, 3), w, u, 2.5),
    }
    expect_agreement(answer, logdet, "the log-determinant", cases)


def radial_inverse(answer: Callable[..., Tensor]) -> None:
    """Check ``radial_inverse(y, c, alpha, beta)``: the points that a radial step takes to ``y``.

    ``y`` has shape ``(B, D)``, ``c`` ``(D,)``; ``alpha > 0`` and ``beta > -alpha`` are numbers. The
    result has ``y``'s shape (1505.05770, appendix A.2).

    Args:
        answer: The reader's function.

    Raises:
        Wrong: The first fault found.
    """
    c = _vector(0.4, -0.2)
    x = torch.tensor([[1.5, 0.7], [-0.3, 0.9], [0.1, -2.0]], dtype=torch.float64)

    def forward(x: Tensor, alpha: float, beta: float) -> Tensor:
        r = (x - c).norm(dim=1, keepdim=True)
        return x + beta / (alpha + r) * (x - c)

    for alpha, beta in ((0.7, 1.3), (1.2, -0.9)):
        y = forward(x, alpha, beta)
        rho = (y - c).norm(dim=1, keepdim=True)
        total = alpha + beta
        root = torch.sqrt((total - rho) ** 2 + 4 * alpha * rho)
        r = (rho - total + root) / 2
        inner = (total - rho) ** 2 - 4 * alpha * rho
        at_zero = y.norm(dim=1, keepdim=True)
        uncentred = (at_zero - total + ((total - at_zero) ** 2 + 4 * alpha * at_zero).sqrt()) / 2

        def place(r: Tensor, y: Tensor = y, alpha: float = alpha, beta: float = beta) -> Tensor:
            return c + (y - c) / (1 + beta / (alpha + r))

        faults = [
            (y, "you return y itself."),
            (forward(y, alpha, beta), "you apply the step forward, where its inverse is wanted."),
            (
                place(rho),
                "you use the distance of y, where the distance of the point that is looked for is "
                "wanted: solve the quadratic equation first, and mind that it holds beta.",
            ),
            (
                forward(y, alpha, -beta),
                "you run the step with -beta. That isn't the inverse: the distance has changed.",
            ),
            (
                place((rho - total - root) / 2),
                "you take the negative root. A distance is the positive one.",
            ),
            (place(2 * r), "the factor 1/2 of the root is missing."),
            (
                place((rho - total + inner.sqrt()) / 2),
                "the point is NaN, as when the discriminant has the wrong sign: it is "
                "(alpha + beta - rho)^2 + 4 alpha rho.",
            ),
            (
                place((total - rho + root) / 2),
                "the sign before alpha + beta - rho is flipped in the root.",
            ),
            (r, "you return the distances alone. Put the points on their rays."),
            (r[:, 0], "you return the distances alone. Put the points on their rays."),
            (place(r) - c, "the centre is not added back."),
            (c + (y - c) * r, "the ray is not made a unit vector: y - c has length rho."),
            (
                c + (y - c) * (1 + beta / (alpha + r)),
                "you multiply by 1 + beta h. Undoing the step divides by it.",
            ),
            (
                y / (1 + beta / (alpha + uncentred)),
                "you forget the centre: distances and rays start at c.",
            ),
        ]
        expect_close(answer(y, c, alpha, beta), x, "the point", faults=faults)

    centre = answer(c[None].clone(), c, 0.7, 1.3)
    if isinstance(centre, Tensor) and centre.isnan().any():
        raise Wrong(
            "the centre itself comes back as NaN: you divide by rho, which is 0 there. Divide by "
            "1 + beta h(r) instead."
        )
    expect_close(centre, c[None], "the point that is the centre")

    def right(y: Tensor, c: Tensor, alpha: float, beta: float) -> Tensor:
        rho, total = (y - c).norm(dim=1, keepdim=True), alpha + beta
        r = (rho - total + torch.sqrt((total - rho) ** 2 + 4 * alpha * rho)) / 2
        return c + (y - c) / (1 + beta / (alpha + r))

    cases = {
        "of one dimension": (wave(1, 1), _vector(0.2), 0.5, 0.4),
        "of five dimensions": (2 * wave(2, 5), wave(5, pace=0.9), 2.0, -1.9),
        "far from the centre": (100 * wave(4, 2), c, 0.3, 2.0),
        "near the centre": (c + 0.01 * wave(4, 2), c, 1.5, 6.0),
    }
    expect_agreement(answer, right, "the point", cases)


def free_energy(answer: Callable[..., Tensor]) -> None:
    """Check ``free_energy(log_q0, logdets, log_p, heat)``: E[log q_K(z_K) - heat log p(z_K)].

    ``log_q0`` and ``log_p`` have shape ``(B,)``, ``logdets`` ``(K, B)``, ``heat`` is a number; the
    result is a scalar (1505.05770, equations 13, 15 and 20).

    Args:
        answer: The reader's function.

    Raises:
        Wrong: The first fault found.
    """
    log_q0, log_p = _vector(-1.9, -2.6, -3.1, -2.2), _vector(-0.7, -4.0, -1.3, -2.5)
    logdets = torch.tensor(
        [[0.4, -0.2, 0.9, 0.1], [0.3, 0.8, -0.5, 0.6], [-0.1, 0.7, 0.2, 1.1]],
        dtype=torch.float64,
    )
    heat = 0.3
    log_q = log_q0 - logdets.sum(0)
    want = (log_q - heat * log_p).mean()
    faults = [
        (
            (log_q0 + logdets.sum(0) - heat * log_p).mean(),
            "the log-determinants have the wrong sign: where volume grows, density falls.",
        ),
        (
            (log_q0 - logdets.mean(0) - heat * log_p).mean(),
            "you average over the steps. Each changes the volume in turn: sum over dim 0.",
        ),
        (
            (log_q0 - heat * log_p).mean(),
            "the log-determinants are missing: log_q0 is the density of the noise.",
        ),
        (-want, "the sign is flipped: this is the bound, to be maximised."),
        ((log_q - log_p).mean(), "heat is not used."),
        (
            heat * (log_q - log_p).mean(),
            "you heat log q too, which only scales the objective. Only the target is heated.",
        ),
        (
            (heat * log_q - log_p).mean(),
            "you heat log q instead of the target.",
        ),
        (
            (log_q0 - logdets.sum(0) * heat - log_p * heat).mean(),
            "you heat the log-determinants too. Only the target is heated.",
        ),
        ((log_q + heat * log_p).mean(), "log_p has the wrong sign: a likely place costs less."),
        ((log_q - log_p / heat).mean(), "you divide by heat. It is an inverse temperature."),
        ((log_q - heat * log_p).sum(), "you sum over the batch. The expectation is its mean."),
        (log_q - heat * log_p, "you return one value per draw. Average over the batch."),
        (log_q.mean(), "log_p is missing."),
    ]
    expect_close(answer(log_q0, logdets, log_p, heat), want, "the free energy", faults=faults)

    none = answer(log_q0, logdets[:0], log_p, 1.0)
    expect_close(none, (log_q0 - log_p).mean(), "the free energy of a flow without steps")

    def right(log_q0: Tensor, logdets: Tensor, log_p: Tensor, heat: float) -> Tensor:
        return (log_q0 - logdets.sum(0) - heat * log_p).mean()

    cases = {
        "of a single draw": (wave(1), wave(2, 1), wave(1, pace=0.9), 0.1),
        "of a single step": (wave(5), wave(1, 5), 3 * wave(5, pace=0.9), 1.0),
        "of as many steps as draws": (wave(3), wave(3, 3), wave(3, pace=0.9), 0.01),
    }
    expect_agreement(answer, right, "the free energy", cases)

    inputs = [v.clone().requires_grad_() for v in (log_q0, logdets, log_p)]
    got = answer(*inputs, heat)
    for x, slope, name in zip(inputs, (1, -1, -heat), ("log_q0", "logdets", "log_p"), strict=True):
        gradient = expect_gradient(got, x, name)
        expect_close(
            gradient, torch.full_like(x, slope / 4), f"the gradient with respect to `{name}`"
        )
