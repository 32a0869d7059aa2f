"""Checkers for the exercises of ``chapters/autoregressive/pixelcnn_pp`` (Salimans et al. 2017,
1701.05517)."""

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
    expect_gradients,
)

__all__ = ["colour_means", "concat_elu", "data_init", "log_mass_of_level"]

# Inputs are fixed and in double precision. No two sizes are equal, so that a wrong axis shows.


def _wave(*shape: int, speed: float = 1.7) -> Tensor:
    return (torch.arange(torch.Size(shape).numel(), dtype=torch.float64) * speed).sin().view(shape)


def concat_elu(answer: Callable[..., Tensor]) -> None:
    """Check ``concat_elu(x)``: ELU of ``x`` and of ``-x``, side by side.

    ``x`` has shape ``(B, F, ...)``, the result ``(B, 2F, ...)``.

    Args:
        answer: The reader's function.

    Raises:
        Wrong: The first fault found.
    """
    x = 2 * _wave(2, 3, 4, 5)
    both = torch.cat([x, -x], 1)
    want = F.elu(both)
    faults = [
        (torch.cat([F.elu(-x), F.elu(x)], 1), "the halves are exchanged: ELU(x) comes first."),
        (
            torch.cat([F.elu(x), -F.elu(x)], 1),
            "the second half is -ELU(x). It should be ELU(-x): the sign goes in, not out.",
        ),
        (
            F.elu(torch.cat([x, x], 1)),
            "both halves are ELU(x). The second should be ELU(-x).",
        ),
        (F.relu(both), "you use ReLU, which is zero for all that is negative. Use ELU."),
        (both, "the ELU is missing: this is only x beside -x."),
        (
            F.elu(torch.cat([x, -x], -1)),
            "the halves are side by side along the last axis. Features are dim 1.",
        ),
        (
            F.elu(torch.cat([x, -x], 0)),
            "the halves are stacked along the batch (dim 0). Features are dim 1.",
        ),
        (F.elu(x), "the second half, ELU(-x), is missing: there are twice as many features."),
        (
            torch.stack([F.elu(x), F.elu(-x)], 2).flatten(1, 2),
            "the two signs take turns. All of ELU(x) comes first, then all of ELU(-x).",
        ),
    ]
    expect_close(answer(x), want, "the result", faults=faults)
    expect_gradients(answer, _concat_elu, "the result", (x,), {0: "x"})
    cases = {
        "of one feature": (_wave(1, 1),),
        "of features without pixels": (3 * _wave(4, 3),),
        "of a sound": (_wave(3, 2, 1),),
        "of large features": (400 * _wave(2, 2, 1, 3),),
    }
    expect_agreement(answer, _concat_elu, "the result", cases)


def _concat_elu(x: Tensor) -> Tensor:
    return F.elu(torch.cat([x, -x], 1))


def log_mass_of_level(answer: Callable[..., Tensor]) -> None:
    """Check ``log_mass_of_level(x, mean, log_scale, count)``: one discretized logistic.

    ``x`` holds int64 levels from 0 to ``count - 1``; ``mean`` and ``log_scale`` are in the units in
    which levels go from -1 to 1. All have shape ``(N,)``, and so has the result, in nats
    (1701.05517, equation 2).

    Args:
        answer: The reader's function.

    Raises:
        Wrong: The first fault found.
    """
    count = 9
    x = torch.arange(count).repeat(3)
    mean, log_scale = 1.1 * _wave(len(x)), _wave(len(x), speed=0.9) - 1.5
    half = 1 / (count - 1)

    def parts(
        mean: Tensor, log_scale: Tensor, half: float = half, step: float = 2 * half
    ) -> tuple[Tensor, Tensor, Tensor]:
        centred, precision = step * x - 1 - mean, torch.exp(-log_scale)
        return (
            F.logsigmoid((centred + half) * precision),
            F.logsigmoid((half - centred) * precision),
            torch.log(-torch.expm1(-2 * half * precision)),
        )

    def edges(below: Tensor, above: Tensor, width: Tensor) -> Tensor:
        inside = torch.where(x == count - 1, above, below + above + width)
        return torch.where(x == 0, below, inside)

    below, above, width = parts(mean, log_scale)
    want = edges(below, above, width)
    inside = below + above + width
    z = (2 * half * x - 1 - mean) * torch.exp(-log_scale)
    density = F.logsigmoid(z) + F.logsigmoid(-z) - log_scale + math.log(2 * half)
    faults = [
        (
            inside,
            "the edges are missing: the lowest level also has all the mass below it, the highest "
            "all above it. Your probabilities don't sum to one.",
        ),
        (
            torch.where(x == 0, below, inside),
            "the upper edge is missing: level `count - 1` has all the mass above it too.",
        ),
        (
            torch.where(x == count - 1, above, inside),
            "the lower edge is missing: level 0 has all the mass below it too.",
        ),
        (
            torch.where(x == 0, above, torch.where(x == count - 1, below, inside)),
            "the edges are exchanged: level 0 keeps the sigmoid of its upper end, the highest "
            "level one minus the sigmoid of its lower end.",
        ),
        (
            edges(*parts(mean, log_scale, half=half / 2)),
            "the bin is half as wide as it should be: neighbouring levels are 2 / (count - 1) "
            "apart, so its ends are 1 / (count - 1) from the level.",
        ),
        (
            edges(*parts(mean, log_scale, half=2 * half)),
            "the bin is twice as wide as it should be: its ends are 1 / (count - 1) from the "
            "level.",
        ),
        (
            edges(*parts(mean, log_scale, half=1 / count, step=2 / count)),
            "you divide by count. Levels 0 to count - 1 go from -1 to 1 in count - 1 steps.",
        ),
        (
            edges(*parts(mean, -log_scale)),
            "you multiply by the scale. Differences from the mean are divided by exp(log_scale).",
        ),
        (
            edges(*parts(mean, log_scale / 2)),
            "you take `log_scale` for the logarithm of a variance. It is that of the scale s.",
        ),
        (
            edges(below, above, torch.zeros_like(width)),
            "the last term of the identity, log(1 - exp(b - a)), is missing.",
        ),
        (
            density,
            "this is the density at the level times the width of the bin. The mass of the bin is "
            "a difference of two sigmoids, and the edges collect the tails.",
        ),
        (want.exp(), "you return the probability. Return its logarithm."),
        (-want, "you return the loss: the sign is flipped."),
    ]
    expect_close(answer(x, mean, log_scale, count), want, "the log-mass", faults=faults)

    far = mean + torch.where(mean < 0, -60.0, 60.0)
    got = answer(x, far, log_scale, count)
    expect_finite(
        got,
        want,
        "the log-mass far from the mean",
        "far from the mean the difference of sigmoids underflows, and its logarithm is "
        "infinite or NaN. Add logarithms instead: log sigmoid(a) + log sigmoid(-b) + "
        "log(1 - exp(b - a)).",
    )
    expect_close(got, edges(*parts(far, log_scale)), "the log-mass far from the mean")
    far.requires_grad_()
    below, above, width = parts(far, log_scale)
    (slope,) = torch.autograd.grad(edges(below, above, width).sum(), far)
    gradient = expect_gradient(answer(x, far, log_scale, count), far, "mean")
    if not gradient.isfinite().all():
        raise Wrong("far from the mean the gradient with respect to `mean` is NaN or infinite.")
    if (gradient[slope.abs() > 1e-30] == 0).any():
        raise Wrong(
            "far from the mean the gradient with respect to `mean` is zero: a clamp hides the "
            "underflow and cuts the graph."
        )
    expect_close(gradient, slope, "the gradient with respect to `mean`, far from it,")

    def some(count: int, n: int, spread: float = 1.0) -> tuple[Tensor, Tensor, Tensor, int]:
        levels = torch.arange(n).mul(7).remainder(count)
        return levels, spread * _wave(n, speed=2.3), _wave(n, speed=0.9) - 1.5, count

    cases = {
        "of a single level": some(9, 1),
        "of two levels": some(2, 5),
        "of 256 levels": some(256, 40),
        "of 17 levels far from the mean": some(17, 17, 200),
    }
    expect_agreement(answer, _log_mass, "the log-mass", cases)
    near = {1: "mean", 2: "log_scale"}
    expect_gradients(answer, _log_mass, "the log-mass", some(5, 12), near)


def _log_mass(x: Tensor, mean: Tensor, log_scale: Tensor, count: int) -> Tensor:
    half = 1 / (count - 1)
    centred, precision = 2 * half * x - 1 - mean, torch.exp(-log_scale)
    below = F.logsigmoid((centred + half) * precision)
    above = F.logsigmoid((half - centred) * precision)
    inside = below + above + torch.log(-torch.expm1(-2 * half * precision))
    return torch.where(x == 0, below, torch.where(x == count - 1, above, inside))


def colour_means(answer: Callable[..., Tensor]) -> None:
    """Check ``colour_means(means, coefficients, x)``: how a colour depends on those before it.

    ``means`` and ``coefficients`` have shape ``(B, 3, K)``, the latter alpha, beta and gamma before
    their tanh; ``x`` is ``(B, 3)``, in [-1, 1]. The result is ``(B, 3, K)`` (1701.05517,
    section 2.2).

    Args:
        answer: The reader's function.

    Raises:
        Wrong: The first fault found.
    """
    means, coefficients = _wave(4, 3, 5), 1.5 * _wave(4, 3, 5, speed=2.3)
    x = _wave(4, 3, speed=0.7)
    red, green, blue = (c[:, None] for c in x.unbind(1))

    def at(alpha: Tensor, beta: Tensor, gamma: Tensor) -> Tensor:
        """The means, given what is added to green, and to blue from red and from green."""
        return torch.stack([means[:, 0], means[:, 1] + alpha, means[:, 2] + beta + gamma], 1)

    alpha, beta, gamma = torch.tanh(coefficients).unbind(1)
    raw_alpha, raw_beta, raw_gamma = coefficients.unbind(1)
    want = at(alpha * red, beta * red, gamma * green)
    chained = at(alpha * red, beta * red, gamma * (means[:, 1] + alpha * red))
    zero = torch.zeros_like(alpha)
    faults = [
        (
            at(raw_alpha * red, raw_beta * red, raw_gamma * green),
            "the tanh is missing: the coefficients come before it.",
        ),
        (
            at(alpha * red, beta * green, gamma * red),
            "beta and gamma are exchanged: beta belongs to red, gamma to green.",
        ),
        (
            at(alpha * means[:, 0], beta * means[:, 0], gamma * means[:, 1]),
            "you use the means of the earlier colours. The dependence is on the colours "
            "themselves, `x`.",
        ),
        (
            chained,
            "for gamma you use the mean of green. Use green itself, `x[:, 1]`.",
        ),
        (
            at(alpha * green, beta * red, gamma * green),
            "green's mean depends on green itself. It may only see red: use `x[:, 0]`.",
        ),
        (
            at(alpha * red, beta * green, gamma * blue),
            "blue's mean depends on blue itself. It may only see red and green.",
        ),
        (at(alpha * red, beta * red, zero), "blue doesn't depend on green: gamma is missing."),
        (at(alpha * red, zero, gamma * green), "blue doesn't depend on red: beta is missing."),
        (
            at(alpha * red, beta * red, gamma * green) - means,
            "you return what is added to the means. Return the means with it.",
        ),
        (means, "the coefficients are not used."),
        (
            at(-alpha * red, -beta * red, -gamma * green),
            "the dependence has the wrong sign: it is added.",
        ),
    ]
    expect_close(answer(means, coefficients, x), want, "the means", faults=faults)

    def right(means: Tensor, coefficients: Tensor, x: Tensor) -> Tensor:
        alpha, beta, gamma = coefficients.tanh().unbind(1)
        red, green, _ = x[:, :, None].unbind(1)
        shifts = [torch.zeros_like(alpha), alpha * red, beta * red + gamma * green]
        return means + torch.stack(shifts, 1)

    cases = {
        "of one pixel and one component": (_wave(1, 3, 1), _wave(1, 3, 1, speed=2), _wave(1, 3)),
        "of as many pixels as colours": (_wave(3, 3, 3), 3 * _wave(3, 3, 3, speed=2), _wave(3, 3)),
    }
    expect_agreement(answer, right, "the means", cases)
    every = {0: "means", 1: "coefficients", 2: "x"}
    expect_gradients(answer, right, "the means", (means, coefficients, x), every)


def data_init(answer: Callable[..., Tensor]) -> None:
    """Check ``data_init(v, x, gain)``: weight normalisation's data-dependent initialisation.

    ``v`` has shape ``(out, in)``, ``x`` ``(N, in)``, ``gain`` is a number. The result, of shape
    ``(2, out)``, holds the lengths ``g`` and the biases ``b`` with which the outputs
    ``g v x / |v| + b`` have mean 0 and standard deviation ``gain`` over the batch (1602.07868,
    section 3).

    Args:
        answer: The reader's function.

    Raises:
        Wrong: The first fault found.
    """
    v, x, gain = _wave(3, 4) + 0.3, _wave(7, 4, speed=2.9) + torch.arange(4.0).double(), 0.5
    t = x @ v.T / v.norm(dim=1)
    std, mean = torch.std_mean(t, 0, correction=0)
    want = torch.stack([gain / std, -gain * mean / std])
    raw_std, raw_mean = torch.std_mean(x @ v.T, 0, correction=0)
    sample_std = t.std(0)
    faults = [
        (
            torch.stack([gain / raw_std, -gain * raw_mean / raw_std]),
            "you leave out the length of v: g multiplies v / |v|.",
        ),
        (
            torch.stack([1 / std, -mean / std]),
            "`gain` is not used: the standard deviation becomes one.",
        ),
        (
            torch.stack([gain / std, -mean / std]),
            "`gain` is missing in b: the mean is scaled like everything else.",
        ),
        (
            torch.stack([gain / std, -mean]),
            "b takes away the mean as it was before g scaled it.",
        ),
        (
            torch.stack([gain / std, gain * mean / std]),
            "b has the wrong sign: it takes the mean away.",
        ),
        (
            torch.stack([gain / std, torch.zeros_like(std)]),
            "b is zero, so the outputs keep their mean.",
        ),
        (
            torch.stack([gain * std, -gain * mean * std]),
            "you multiply by the standard deviation. Divide by it.",
        ),
        (
            torch.stack([gain / std**2, -gain * mean / std**2]),
            "you divide by the variance. Divide by the standard deviation.",
        ),
        (
            torch.stack([gain / sample_std, -gain * mean / sample_std]),
            "you divide by N - 1 in the variance. Divide by N: `correction=0`.",
        ),
        (torch.stack([want[1], want[0]]), "g and b are exchanged: g comes first."),
        (want.T, "the result is transposed: stack g and b along dim 0."),
    ]
    expect_close(answer(v, x, gain), want, "g and b", faults=faults)

    def right(v: Tensor, x: Tensor, gain: float) -> Tensor:
        std, mean = torch.std_mean(x @ v.T / v.norm(dim=1), 0, correction=0)
        return torch.stack([gain / std, -gain * mean / std])

    cases = {
        "of one output": (_wave(1, 3) + 0.3, _wave(5, 3, speed=2.9) + 1, 2.0),
        "of one input": (_wave(4, 1) + 0.3, _wave(6, 1, speed=2.9) - 0.4, 0.1),
        "of a batch of two": (_wave(2, 5) + 0.3, _wave(2, 5, speed=2.9), 1.0),
    }
    expect_agreement(answer, right, "g and b", cases)
