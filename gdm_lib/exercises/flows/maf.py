"""Checkers for the exercises of ``chapters/flows/maf`` (Papamakarios et al. 2017, 1705.07057)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from gdm_lib.exercises.expect import (
    expect_agreement,
    expect_close,
    expect_finite,
    expect_gradient,
    expect_gradients,
    wave,
)

__all__ = ["log_density", "mixture_log_prob", "path_counts", "sample_from_noise"]

# Inputs are fixed and in double precision. No two sizes are equal, so that a sum over the wrong
# axis shows; no order is its own inverse, so that a variable and its place can't be confused.


def path_counts(answer: Callable[..., Tensor]) -> None:
    """Check ``path_counts(order, degrees)``: paths through a masked network of one hidden layer.

    ``order`` lists the variables from first to last, ``(D,)``, integers; ``degrees`` are the hidden
    units', ``(H,)``, in floating point like the result. Its entry ``[i, j]``, of ``(D, D)``, counts
    the paths from input ``j`` to output ``i`` that the masks leave (1502.03509, section 4).

    Args:
        answer: The reader's function.

    Raises:
        Wrong: The first fault found.
    """
    order = torch.tensor([2, 0, 3, 1])
    degrees = torch.tensor([1.0, 3, 2, 1, 2, 3, 1])
    place = order.argsort() + 1

    def paths(place: Tensor, strict_in: bool = False, strict_out: bool = True) -> Tensor:
        top, low = place[:, None], degrees[:, None]
        last = top > degrees if strict_out else top >= degrees
        first = low > place if strict_in else low >= place
        return last.to(degrees) @ first.to(degrees)

    want = paths(place)
    faults = [
        (
            paths(place, strict_out=False),
            "the output mask lets a unit of degree d feed the output of place d, so a variable "
            "sees itself. There the inequality is strict: place > degree.",
        ),
        (
            paths(place, strict_in=True),
            "the input mask is strict: a hidden unit of degree d may see the variable of place d "
            "itself. Only the output mask is strict.",
        ),
        (
            paths(place, strict_in=True, strict_out=False),
            "the two inequalities are exchanged: `>=` belongs to the input mask, `>` to the "
            "output mask.",
        ),
        (
            paths(order + 1),
            "you take the order for the places. `order` says which variable comes first; the "
            "place of a variable is the inverse permutation, `order.argsort()`.",
        ),
        (
            paths(place - 1),
            "your places count from 0, but the degrees count from 1: the first variable has place "
            "1.",
        ),
        (want.T, "the result is transposed: rows are outputs, columns are inputs."),
        (
            (want > 0).to(want),
            "you say whether there is a path. Count the paths: multiply the masks as matrices.",
        ),
        (
            paths(torch.arange(1, 5)),
            "you ignore `order` and take the variables as they stand.",
        ),
    ]
    expect_close(answer(order, degrees), want, "the matrix of paths", faults=faults)
    three = answer(torch.tensor([1, 2, 0]), torch.tensor([2.0, 2, 1, 2]))
    fewer = torch.tensor([[0.0, 4, 3], [0, 0, 0], [0, 1, 0]])
    expect_close(three, fewer, "the matrix of paths of three variables")

    def right(order: Tensor, degrees: Tensor) -> Tensor:
        place = order.argsort() + 1
        first = (degrees[:, None] >= place).to(degrees)
        return (place[:, None] > degrees).to(degrees) @ first

    cases = {
        "of one variable": (torch.tensor([0]), torch.tensor([1.0, 1])),
        "through one unit": (torch.tensor([1, 3, 0, 2, 4]), torch.tensor([3.0])),
        "of five variables": (
            torch.tensor([4, 0, 1, 3, 2]),
            torch.tensor([4.0, 1, 2, 2, 3, 1, 4, 1]),
        ),
    }
    expect_agreement(answer, right, "the matrix of paths", cases)


def _conditionals() -> tuple[Tensor, Tensor, Tensor]:
    """Data, means and log standard deviations: four items of three variables."""
    x = [[0.5, -1.0, 2.0], [0.1, 0.3, -0.7], [-1.5, 0.2, 0.4], [0.9, 1.1, -0.2]]
    mu = [[0.2, -0.4, 1.1], [-0.3, 0.8, 0.5], [1.0, -0.3, -1.2], [-0.1, 0.7, 0.3]]
    alpha = [[-0.4, 0.6, -0.9], [0.2, 0.5, -0.3], [0.7, -0.8, 0.1], [0.3, -0.2, 0.4]]
    x_, mu_, alpha_ = (torch.tensor(v, dtype=torch.float64) for v in (x, mu, alpha))
    return x_, mu_, alpha_


def log_density(answer: Callable[..., Tensor]) -> None:
    """Check ``log_density(x, mu, alpha)``: one layer of MAF over a standard normal base.

    All have shape ``(B, D)``, the result ``(B,)``, in nats (1705.07057, equations 1, 4 and 5).

    Args:
        answer: The reader's function.

    Raises:
        Wrong: The first fault found.
    """
    x, mu, alpha = _conditionals()
    half_log = 0.5 * math.log(2 * math.pi)

    def terms(scale: Tensor, log_scale: Tensor) -> Tensor:
        return -0.5 * ((x - mu) / scale) ** 2 - half_log - log_scale

    each = terms(alpha.exp(), alpha)
    want = each.sum(1)
    base = each + alpha
    soft = torch.nn.functional.softplus(alpha)
    faults = [
        (
            base.sum(1),
            "the log-determinant is missing: this is the base's density of u alone. Add "
            "-sum(alpha).",
        ),
        (
            (base + alpha).sum(1),
            "the log-determinant has the wrong sign: u shrinks as exp(-alpha), so -sum(alpha) is "
            "added.",
        ),
        (
            (-0.5 * ((x - mu) * alpha.exp()) ** 2 - half_log - alpha).sum(1),
            "u is computed with exp(+alpha). From data to noise it is (x - mu) * exp(-alpha).",
        ),
        (
            (-0.5 * ((x - mu) * alpha.exp()) ** 2 - half_log + alpha).sum(1),
            "you take exp(-alpha) for the standard deviation, everywhere. It is exp(alpha).",
        ),
        (
            terms((alpha / 2).exp(), alpha / 2).sum(1),
            "you take alpha for the logarithm of the variance. It is that of the standard "
            "deviation.",
        ),
        (
            terms(soft, soft.log()).sum(1),
            "your scale is a softplus. The paper's is an exponential.",
        ),
        (
            (each + half_log).sum(1),
            "the constant -log(2 pi)/2 of each variable is missing, so the density doesn't "
            "integrate to one.",
        ),
        (
            (-(((x - mu) * (-alpha).exp()) ** 2) - half_log - alpha).sum(1),
            "the 1/2 before the square is missing.",
        ),
        (-want, "you return the loss: the sign is flipped."),
        (each.mean(1), "you average over the variables. Their log-densities add up."),
        (each, "you return one value for each variable. Sum over the last axis."),
        (want.mean(), "you average over the batch. Return one value for each item, (B,)."),
        (want.sum(), "you sum over the batch too. Return one value for each item, (B,)."),
        (each.sum(0), "you sum over the batch axis (dim 0). Sum over the variables (dim 1)."),
        (want / math.log(2), "the result is in bits. Use the natural logarithm: nats."),
    ]
    expect_close(answer(x, mu, alpha), want, "the log-density", faults=faults)
    alpha.requires_grad_()
    gradient = expect_gradient(answer(x, mu, alpha), alpha, "alpha")
    slope = ((x - mu) * (-alpha).exp()) ** 2 - 1
    expect_close(gradient, slope, "the gradient of the log-density with respect to `alpha`")

    def right(x: Tensor, mu: Tensor, alpha: Tensor) -> Tensor:
        return (-0.5 * ((x - mu) / alpha.exp()) ** 2 - half_log - alpha).sum(1)

    def some(*shape: int) -> tuple[Tensor, Tensor, Tensor]:
        return 3 * wave(*shape), wave(*shape, pace=0.9), 2 * wave(*shape, pace=0.5)

    cases = {
        "of a single number": some(1, 1),
        "of five items of one variable": some(5, 1),
        "of as many items as variables": some(3, 3),
        "far from the mean": (1e3 * wave(2, 4), wave(2, 4), wave(2, 4, pace=0.5)),
    }
    expect_agreement(answer, right, "the log-density", cases)
    every = {0: "x", 1: "mu", 2: "alpha"}
    expect_gradients(answer, right, "the log-density", some(2, 3), every)


def sample_from_noise(answer: Callable[..., Tensor]) -> None:
    """Check ``sample_from_noise(net, u)``: MAF's slow direction, variable by variable.

    ``net`` maps ``(B, D)`` to ``mu`` and ``alpha``, each ``(B, D)``, autoregressive in the natural
    order; ``u`` is the noise, ``(B, D)``, and so is the result (1705.07057, equation 3).

    Args:
        answer: The reader's function.

    Raises:
        Wrong: The first fault found.
    """
    u = _conditionals()[0]
    dim = u.shape[1]
    weight = torch.tensor([[0, 0, 0], [0.8, 0, 0], [-0.5, 0.7, 0]], dtype=torch.float64)
    bias = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)

    def net(x: Tensor) -> tuple[Tensor, Tensor]:
        if x.shape != u.shape:
            raise ValueError(f"net takes all {dim} variables, {tuple(u.shape)}: {tuple(x.shape)}")
        h = torch.tanh(x)
        return h @ weight.T + bias, 0.5 * h @ weight.T - bias

    def solve(sign: int = 1) -> Tensor:
        x = torch.zeros_like(u)
        for i in range(dim):
            mu, alpha = net(x)
            x[:, i] = u[:, i] * (sign * alpha[:, i]).exp() + mu[:, i]
        return x

    def at(x: Tensor) -> Tensor:
        mu, alpha = net(x)
        return u * alpha.exp() + mu

    mu, alpha = net(u)
    want = solve()
    shifted = torch.zeros_like(u)
    for i in range(dim):
        mu_i, alpha_i = net(shifted)
        shifted[:, i] = (u[:, i] + mu_i[:, i]) * alpha_i[:, i].exp()
    faults = [
        (
            at(u),
            "you run the network on the noise, once: that is an IAF. MAF's networks read the "
            "variables of x that are already made.",
        ),
        (
            (u - mu) * (-alpha).exp(),
            "this is the other direction, from data to noise. Solve for x instead.",
        ),
        (
            at(torch.zeros_like(u)),
            "you run the network once, on zeros (or go from the last variable to the first, which "
            "is the same). Every new variable changes the parameters of those after it: start "
            "with variable 0, and run the network D times.",
        ),
        (at(at(torch.zeros_like(u))), "two passes are too few: D variables take D passes."),
        (solve(-1), "the scale has the wrong sign: x_i = u_i exp(+alpha_i) + mu_i."),
        (shifted, "the mean is scaled too: add mu_i after multiplying by exp(alpha_i)."),
        (u, "you return the noise as it came."),
    ]
    expect_close(answer(net, u), want, "x", faults=faults)

    def of_size(dim: int) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        weight = wave(dim, dim).tril(-1).T

        def net(x: Tensor) -> tuple[Tensor, Tensor]:
            if x.ndim != 2 or x.shape[1] != dim:
                raise ValueError(f"net takes all {dim} variables: {tuple(x.shape)}")
            h = x @ weight
            return h.cos(), 0.5 - h.sin()

        return net

    def right(net: Callable[[Tensor], tuple[Tensor, Tensor]], u: Tensor) -> Tensor:
        x = torch.zeros_like(u)
        for _ in range(u.shape[1]):
            mu, alpha = net(x)
            x = u * alpha.exp() + mu
        return x

    cases = {
        "of one variable": (of_size(1), wave(1, 1)),
        "of two variables": (of_size(2), wave(5, 2)),
        "of seven variables": (of_size(7), wave(2, 7)),
    }
    expect_agreement(answer, right, "x", cases)


def mixture_log_prob(answer: Callable[..., Tensor]) -> None:
    """Check ``mixture_log_prob(x, logits, mu, alpha)``: MADE MoG's density.

    ``x`` has shape ``(B, D)``, the parameters ``(B, C, D)``: logits of the weights, means and log
    standard deviations. The result, ``(B,)``, in nats, is finite far from all components.

    Args:
        answer: The reader's function.

    Raises:
        Wrong: The first fault found.
    """
    x = _conditionals()[0][:, :2]
    logits, mu, alpha = wave(4, 3, 2), 1.5 * wave(4, 3, 2, pace=2.3), 0.5 * wave(4, 3, 2, pace=0.9)
    u = (x[:, None] - mu) * (-alpha).exp()
    normal = -0.5 * u**2 - 0.5 * math.log(2 * math.pi) - alpha
    log_weight = logits.log_softmax(1)
    each = (log_weight + normal).logsumexp(1)
    want = each.sum(1)
    faults = [
        (
            (log_weight.exp() * normal).sum(1).sum(1),
            "you average the components' log-densities. Average the densities, then take the "
            "logarithm.",
        ),
        (
            (logits + normal).logsumexp(1).sum(1),
            "the logits are used as log-weights: the weights don't sum to one. Take "
            "`log_softmax` first.",
        ),
        (
            (logits.log_softmax(2) + normal).logsumexp(1).sum(1),
            "the softmax runs over the variables. The weights of one variable's components sum to "
            "one: dim 1.",
        ),
        (
            (logits.log_softmax(0) + normal).logsumexp(1).sum(1),
            "the softmax runs over the batch. The weights of one variable's components sum to "
            "one: dim 1.",
        ),
        (
            (normal.logsumexp(1) - math.log(3)).sum(1),
            "the logits are not used: your components all weigh the same.",
        ),
        (
            (log_weight + normal + alpha).logsumexp(1).sum(1),
            "each component's -alpha is missing: a wider Gaussian is a lower one.",
        ),
        (
            (log_weight.sum(2) + normal.sum(2)).logsumexp(1),
            "one component is chosen for all variables together. Each variable is a mixture of "
            "its own: first the logsumexp over components, then the sum over variables.",
        ),
        (each, "you return one value for each variable. Sum over the last axis."),
        (-want, "you return the loss: the sign is flipped."),
    ]
    expect_close(answer(x, logits, mu, alpha), want, "the log-density", faults=faults)
    got = answer(x + 500, logits, mu, alpha)
    expect_finite(
        got,
        want,
        "the log-density far out",
        "far from all components the sum of densities underflows to zero, and its logarithm "
        "is infinite. Use `torch.logsumexp` on the logarithms.",
    )
    far = (log_weight - 0.5 * ((x + 500)[:, None] - mu).div(alpha.exp()) ** 2 - alpha).logsumexp(1)
    expect_close(got, (far - 0.5 * math.log(2 * math.pi)).sum(1), "the log-density far out")

    def right(x: Tensor, logits: Tensor, mu: Tensor, alpha: Tensor) -> Tensor:
        u = (x[:, None] - mu) * (-alpha).exp()
        normal = -0.5 * u**2 - 0.5 * math.log(2 * math.pi) - alpha
        return (logits.log_softmax(1) + normal).logsumexp(1).sum(1)

    def some(*shape: int) -> tuple[Tensor, Tensor, Tensor]:
        return 2 * wave(*shape), 3 * wave(*shape, pace=0.9), 0.5 * wave(*shape, pace=0.5)

    # Each variable of each item has a largest component of its own.
    apart = torch.tensor([[0.0, 3000.0, -80.0], [2000.0, 0.0, 1.0]], dtype=torch.float64)
    heavy, means, scales = some(2, 4, 3)
    heavy = heavy + torch.tensor([[0.0, 2000, 5], [-4000, 1, 0]], dtype=torch.float64)[:, None]
    cases = {
        "of a single component": (wave(3, 2), *some(3, 1, 2)),
        "of a single number": (wave(1, 1), *some(1, 4, 1)),
        "of as many components as variables": (wave(2, 3), *some(2, 3, 3)),
        "of variables that are thousands apart": (apart, *some(2, 4, 3)),
        "of logits that are thousands apart": (wave(2, 3), heavy, means, scales),
    }
    expect_agreement(answer, right, "the log-density", cases)
    every = {1: "logits", 2: "mu", 3: "alpha"}
    expect_gradients(answer, right, "the log-density", (wave(2, 3), *some(2, 4, 3)), every)
