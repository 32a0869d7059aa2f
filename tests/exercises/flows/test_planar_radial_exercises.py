"""Each checker of the planar and radial chapter accepts the solution and names each fault."""

import math

import torch
import torch.nn.functional as F

from gdm_lib.exercises import check
from gdm_lib.exercises.flows import planar_radial as exercises
from gdm_lib.exercises.testing import assert_checker


def gradient_only(x):
    """Zero, with the gradient of x's sum: what leaves a value right and its gradient wrong."""
    return x.sum() - x.sum().detach()


# -- constrained_u


def m(a):
    return F.softplus(a) - 1


def constrained_u(w, u):
    wu = w @ u
    return u + (m(wu) - wu) * w / (w @ w)


def test_constrained_u():
    def overflows(w, u):
        wu = w @ u
        return u + (torch.log(1 + wu.exp()) - 1 - wu) * w / (w @ w)

    def only_where_broken(w, u):
        return u.clone() if w @ u > -1 else constrained_u(w, u)

    def underflows(w, u):
        wu = w @ u
        return u + ((1 + wu.exp()).log2().exp2().log() - 1 - wu) * w / (w @ w) / (1 + 0 / wu.exp())

    assert_checker(
        exercises.constrained_u,
        constrained_u,
        {
            r"u itself": lambda w, u: u.clone(),
            r"divide by the norm of w": lambda w, u: u + (m(w @ u) - w @ u) * w / w.norm(),
            r"not divided by its squared norm": lambda w, u: u + (m(w @ u) - w @ u) * w,
            r"lacks its -1": lambda w, u: u + (F.softplus(w @ u) - w @ u) * w / (w @ w),
            r"without taking w'u away": lambda w, u: u + m(w @ u) * w / (w @ w),
            r"correction has the wrong sign": lambda w, u: u - (m(w @ u) - w @ u) * w / (w @ w),
            r"correct along u": lambda w, u: u + (m(w @ u) - w @ u) * u / (u @ u),
            r"drop the part of u": lambda w, u: m(w @ u) * w / (w @ w),
            r"not -1 \+ exp": lambda w, u: u + ((w @ u).exp() - 1 - w @ u) * w / (w @ w),
            r"scale all of u": lambda w, u: u * m(w @ u) / (w @ u),
            r"return the product with w": lambda w, u: m(w @ u),
            r"only where w'u is below -1": only_where_broken,
            r"exp\(w'u\) overflows": overflows,
            r"not finite where w'u is very negative": underflows,
            r"no gradient reaches `w`": lambda w, u: constrained_u(w.detach(), u),
            r"no gradient reaches `u`": lambda w, u: constrained_u(w, u.detach()),
            r"respect to `w` ": lambda w, u: constrained_u(w, u) + gradient_only(w),
            r"respect to `u` ": lambda w, u: constrained_u(w, u) + gradient_only(u),
        },
    )


# -- planar_logdet


def planar_logdet(z, w, u, b):
    t = torch.tanh(z @ w + b)
    return torch.log(1 + (w @ u) * (1 - t**2))


def test_planar_logdet():
    def of(factor, z, w, b):
        return torch.log(1 + factor * (1 - torch.tanh(z @ w + b) ** 2))

    def diagonal(z, w, u, b):
        psi = (1 - torch.tanh(z @ w + b) ** 2)[:, None] * w
        return torch.log(1 + psi * u).sum(1)

    def whole_jacobian(z, w, u, b):
        psi = (1 - torch.tanh(z @ w + b) ** 2)[:, None] * w
        return torch.linalg.slogdet(torch.eye(len(w)).to(z) + u[:, None] * psi[:, None])[1]

    verdict = check(exercises.planar_logdet, whole_jacobian)
    assert verdict.passed is True, verdict
    assert_checker(
        exercises.planar_logdet,
        planar_logdet,
        {
            r"determinant itself": lambda z, w, u, b: planar_logdet(z, w, u, b).exp(),
            r"of the inverse": lambda z, w, u, b: -planar_logdet(z, w, u, b),
            r"tanh itself": lambda z, w, u, b: torch.log(1 + w @ u * torch.tanh(z @ w + b)),
            r"square is gone": lambda z, w, u, b: torch.log(
                1 + w @ u * (1 - torch.tanh(z @ w + b))
            ),
            r"b is missing": lambda z, w, u, b: planar_logdet(z, w, u, 0),
            r"1 of the identity": lambda z, w, u, b: (
                (planar_logdet(z, w, u, b).exp() - 1).abs().log()
            ),
            r"multiply u by itself": lambda z, w, u, b: of(u @ u, z, w, b),
            r"multiply w by itself": lambda z, w, u, b: of(w @ w, z, w, b),
            r"not u'z \+ b": lambda z, w, u, b: of(w @ u, z, u, b),
            r"multiply the diagonal": diagonal,
            r"w'u is missing": lambda z, w, u, b: of(1, z, w, b),
            r"sum over the batch": lambda z, w, u, b: planar_logdet(z, w, u, b).sum(),
            r"average over the batch": lambda z, w, u, b: planar_logdet(z, w, u, b).mean(),
            r"in bits": lambda z, w, u, b: planar_logdet(z, w, u, b) / math.log(2),
            r"ignores the sign of w'u": lambda z, w, u, b: of((w @ u).abs(), z, w, b),
            r"no gradient reaches `z`": lambda z, w, u, b: planar_logdet(z.detach(), w, u, b),
            r"respect to `z` ": lambda z, w, u, b: planar_logdet(z, w, u, b) + gradient_only(z),
        },
    )


# -- radial_inverse


def distance(y, c, alpha, beta):
    rho = (y - c).norm(dim=1, keepdim=True)
    total = alpha + beta
    return 0.5 * (rho - total + torch.sqrt((total - rho) ** 2 + 4 * alpha * rho))


def radial_inverse(y, c, alpha, beta):
    return c + (y - c) / (1 + beta / (alpha + distance(y, c, alpha, beta)))


def forward(x, c, alpha, beta):
    r = (x - c).norm(dim=1, keepdim=True)
    return x + beta / (alpha + r) * (x - c)


def test_radial_inverse():
    def placed(root):
        def solve(y, c, alpha, beta):
            rho = (y - c).norm(dim=1, keepdim=True)
            return c + (y - c) / (1 + beta / (alpha + root(rho, alpha, beta)))

        return solve

    def root(rho, a, b, sign=1, inner=1, outer=1):
        discriminant = (a + b - rho) ** 2 + inner * 4 * a * rho
        return (outer * (rho - a - b) + sign * torch.sqrt(discriminant)) / 2

    def by_unit_vector(y, c, alpha, beta):
        rho = (y - c).norm(dim=1, keepdim=True)
        return c + distance(y, c, alpha, beta) * (y - c) / rho

    without_beta = placed(lambda rho, a, b: root(rho, a, 0))
    assert "mind that it holds beta" in check(exercises.radial_inverse, without_beta).message
    assert_checker(
        exercises.radial_inverse,
        radial_inverse,
        {
            r"you return y itself": lambda y, c, a, b: y.clone(),
            r"apply the step forward": forward,
            r"use the distance of y": placed(lambda rho, a, b: rho),
            r"run the step with -beta": lambda y, c, a, b: forward(y, c, a, -b),
            r"negative root": placed(lambda rho, a, b: root(rho, a, b, sign=-1)),
            r"factor 1/2": placed(lambda rho, a, b: 2 * root(rho, a, b)),
            r"discriminant has the wrong sign": placed(lambda rho, a, b: root(rho, a, b, inner=-1)),
            r"sign before alpha": placed(lambda rho, a, b: root(rho, a, b, outer=-1)),
            r"distances alone": distance,
            r"centre is not added": lambda y, c, a, b: radial_inverse(y, c, a, b) - c,
            r"not made a unit vector": lambda y, c, a, b: c + (y - c) * distance(y, c, a, b),
            r"multiply by 1 \+ beta h": lambda y, c, a, b: (
                c + (y - c) * (1 + b / (a + distance(y, c, a, b)))
            ),
            r"forget the centre": lambda y, c, a, b: radial_inverse(y, 0 * c, a, b),
            r"comes back as NaN": by_unit_vector,
        },
    )


# -- free_energy


def free_energy(log_q0, logdets, log_p, heat):
    return (log_q0 - logdets.sum(0) - heat * log_p).mean()


def test_free_energy():
    def each_wrong(name, log_q0, logdets, log_p, heat):
        extra = {"log_q0": log_q0, "logdets": logdets, "log_p": log_p}[name]
        return free_energy(log_q0, logdets, log_p, heat) + gradient_only(extra)

    assert_checker(
        exercises.free_energy,
        free_energy,
        {
            r"determinants have the wrong sign": lambda q, d, p, h: free_energy(q, -d, p, h),
            r"average over the steps": lambda q, d, p, h: (q - d.mean(0) - h * p).mean(),
            r"determinants are missing": lambda q, d, p, h: (q - h * p).mean(),
            r"this is the bound": lambda q, d, p, h: -free_energy(q, d, p, h),
            r"heat is not used": lambda q, d, p, h: free_energy(q, d, p, 1),
            r"which only scales": lambda q, d, p, h: h * free_energy(q, d, p, 1),
            r"heat log q instead": lambda q, d, p, h: (h * (q - d.sum(0)) - p).mean(),
            r"heat the log-determinants": lambda q, d, p, h: (q - h * d.sum(0) - h * p).mean(),
            r"log_p has the wrong sign": lambda q, d, p, h: free_energy(q, d, -p, h),
            r"divide by heat": lambda q, d, p, h: free_energy(q, d, p, 1 / h),
            r"sum over the batch": lambda q, d, p, h: (q - d.sum(0) - h * p).sum(),
            r"one value per draw": lambda q, d, p, h: q - d.sum(0) - h * p,
            r"log_p is missing": lambda q, d, p, h: (q - d.sum(0)).mean(),
            r"without steps": lambda q, d, p, h: free_energy(q, d, p, h) + (len(d) == 0),
            r"no gradient reaches `logdets`": lambda q, d, p, h: free_energy(q, d.detach(), p, h),
            r"respect to `log_q0` ": lambda *a: each_wrong("log_q0", *a),
            r"respect to `logdets` ": lambda *a: each_wrong("logdets", *a),
            r"respect to `log_p` ": lambda *a: each_wrong("log_p", *a),
        },
    )
