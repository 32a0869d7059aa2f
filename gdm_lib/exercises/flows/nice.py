"""Checkers for the exercises of ``chapters/flows/nice`` (Dinh et al. 2014, 1410.8516)."""

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
    wave,
)

__all__ = ["coupling_inverse", "inpaint_step", "logistic_log_prob", "volume_floor"]

# Inputs are fixed and in double precision: known mistakes are then told apart beyond doubt.


def _latents() -> Tensor:
    """Three items of four dimensions, none zero and no two equal."""
    z = [[0.5, -1.0, 2.0, 0.3], [0.1, 0.7, -0.4, 1.6], [-1.5, 0.2, 0.9, -0.8]]
    return torch.tensor(z, dtype=torch.float64)


def _interleave(even: Tensor, odd: Tensor) -> Tensor:
    return torch.stack([even, odd], 2).flatten(1)


def coupling_inverse(answer: Callable[..., Tensor]) -> None:
    """Check ``coupling_inverse(y, net)``: the inverse of an additive coupling.

    ``y`` has shape ``(B, D)`` with ``D`` even. The coupling kept the even dimensions 0, 2, ... and
    added ``net`` of them to the odd ones; ``net`` maps ``(B, D / 2)`` to ``(B, D / 2)``. The result
    has the shape and the order of ``y`` (1410.8516, section 3.2).

    Args:
        answer: The reader's function.

    Raises:
        Wrong: The first fault found.
    """
    mixing = torch.tensor([[1.3, -0.6], [0.4, 0.9]], dtype=torch.float64)

    def net(x: Tensor) -> Tensor:
        if x.ndim != 2 or x.shape[1] != 2:
            raise ValueError(f"net takes a tensor of shape (B, 2), got {tuple(x.shape)}")
        return (x @ mixing).sin() + x.square() + 0.25

    y = _latents()
    even, odd = y[:, ::2], y[:, 1::2]
    first, second = y[:, :2], y[:, 2:]
    x = _interleave(even, odd - net(even))
    faults = [
        (y, "you return `y` unchanged."),
        (
            _interleave(even, odd + net(even)),
            "you add net's output, which is the forward direction. The inverse subtracts what the "
            "forward direction added.",
        ),
        (
            _interleave(even - net(odd), odd),
            "you change the even dimensions. They were kept: subtract from the odd ones.",
        ),
        (
            _interleave(even - net(even), odd),
            "you subtract from the half that was kept. The odd dimensions were changed.",
        ),
        (
            _interleave(even, odd - net(odd)),
            "you feed net the odd dimensions. It saw the even ones, which the coupling kept, so "
            "that you can compute the same sum again.",
        ),
        (
            torch.cat([even, odd - net(even)], 1),
            "the halves are joined one after the other. Put them back in their places: even, odd, "
            "even, odd.",
        ),
        (
            _interleave(odd - net(even), even),
            "the halves are back in each other's places: the even dimensions come first.",
        ),
        (
            torch.cat([first, second - net(first)], 1),
            "you split into the first and the second half. This coupling splits into even and odd "
            "dimensions: y[:, ::2] and y[:, 1::2].",
        ),
        (
            odd - net(even),
            "you return the changed half alone. Join it with the half that was kept.",
        ),
    ]
    expect_close(answer(y, net), x, "x", faults=faults)
    expect_close(answer(y[:1], net), x[:1], "x of a single item")

    def of_size(half: int) -> Callable[[Tensor], Tensor]:
        def net(x: Tensor) -> Tensor:
            if x.ndim != 2 or x.shape[1] != half:
                raise ValueError(f"net takes a tensor of shape (B, {half}), got {tuple(x.shape)}")
            return (x @ wave(half, half)).cos() - x.square()

        return net

    def right(y: Tensor, net: Callable[[Tensor], Tensor]) -> Tensor:
        return _interleave(y[:, ::2], y[:, 1::2] - net(y[:, ::2]))

    cases = {
        "of two dimensions": (wave(4, 2), of_size(1)),
        "of six dimensions": (wave(2, 6), of_size(3)),
    }
    expect_agreement(answer, right, "x", cases)


def logistic_log_prob(answer: Callable[..., Tensor]) -> None:
    """Check ``logistic_log_prob(h)``: the log-density of independent standard logistics, in nats.

    ``h`` has shape ``(B, D)``, the result ``(B,)``. It stays finite for ``h`` of any size, and a
    gradient flows (1410.8516, section 3.4).

    Args:
        answer: The reader's function.

    Raises:
        Wrong: The first fault found.
    """
    h = _latents()
    up, down = torch.log1p(h.exp()), torch.log1p((-h).exp())
    terms = -up - down
    want = terms.sum(1)
    normal = -0.5 * (h.square() + math.log(2 * math.pi))
    faults = [
        (normal.sum(1), "this is the standard normal's log-density. The logistic is asked for."),
        (-want, "the sign is flipped: a log-density of the logistic is never positive."),
        (
            -up.sum(1),
            "the term log(1 + exp(-h)) is missing: this is log(1 - F(h)), of the distribution "
            "function F. The density is F (1 - F).",
        ),
        (
            -down.sum(1),
            "the term log(1 + exp(h)) is missing: this is log F(h), of the distribution function "
            "F. The density is F (1 - F).",
        ),
        (terms.mean(1), "you take the mean over the dimensions. They are independent: sum."),
        (terms, "you return one value per dimension. Sum over the last axis."),
        (terms.sum(), "you sum over the batch too. Return one value per item, of shape (B,)."),
        (terms.mean(), "you average over all entries. Sum over the dimensions only."),
        (terms.sum(0), "you sum over the batch axis (dim 0). Sum over the dimensions (dim 1)."),
        (want.exp(), "you return the density itself, without the logarithm."),
        (want / math.log(2), "the result is in bits. Use the natural logarithm: nats."),
    ]
    expect_close(answer(h), want, "the log-density", faults=faults)

    far = torch.tensor([[2000.0, 1.0], [-3000.0, 1.0]], dtype=torch.float64)
    got = answer(far)
    expect_finite(
        got,
        h,
        "the log-density far from zero",
        "far from zero exp overflows and the result is not finite. Use "
        "`torch.nn.functional.softplus` or `logsigmoid`, which are linear there.",
    )
    one = float(torch.log1p(torch.tensor(math.e, dtype=torch.float64)))
    one += float(torch.log1p(torch.tensor(1 / math.e, dtype=torch.float64)))
    tails = torch.tensor([-2000.0 - one, -3000.0 - one], dtype=torch.float64)
    expect_close(got, tails, "the log-density far from zero")

    h.requires_grad_()
    gradient = expect_gradient(answer(h), h, "h")
    expect_close(gradient, -(h / 2).tanh(), "the gradient of the log-density")

    def right(h: Tensor) -> Tensor:
        return (-h - 2 * torch.nn.functional.softplus(-h)).sum(1)

    cases = {
        "of a single number": (wave(1, 1),),
        "of five items of one dimension": (3 * wave(5, 1),),
        "of small and large numbers": (1e4 * wave(3, 3) ** 9,),
    }
    expect_agreement(answer, right, "the log-density", cases)


def inpaint_step(answer: Callable[..., Tensor]) -> None:
    """Check ``inpaint_step(x, slope, noise, observed, rate)``: one step of the paper's inpainting.

    ``x``, ``slope`` (the gradient of log p(x)), ``noise`` and ``observed`` (1 for what stays, 0 for
    the rest) have shape ``(B, D)``; ``rate`` is a number. Unobserved values move by
    ``rate * (slope + noise)`` and are clipped to [0, 1]; observed ones stay as they are
    (1410.8516, section 5.2).

    Args:
        answer: The reader's function.

    Raises:
        Wrong: The first fault found.
    """
    # One observed value lies outside [0, 1], so that clipping it would show.
    x = torch.tensor([[0.2, 0.9, 0.5, 1.1], [0.7, 0.4, 0.05, 0.6]], dtype=torch.float64)
    slope = torch.tensor([[1.5, 3.0, -0.5, 2.0], [-0.8, 0.9, -4.0, 1.2]], dtype=torch.float64)
    noise = torch.tensor([[0.3, 0.2, -0.7, 1.0], [0.4, -1.3, -0.6, 0.1]], dtype=torch.float64)
    observed = torch.tensor([[1, 0, 0, 1], [0, 1, 0, 0]], dtype=torch.float64)
    rate = 0.2
    moved = x + rate * (slope + noise)
    want = torch.where(observed == 1, x, moved.clamp(0, 1))

    def keep(values: Tensor) -> Tensor:
        return torch.where(observed == 1, x, values)

    faults = [
        (x, "nothing moves."),
        (
            torch.where(observed == 1, moved.clamp(0, 1), x),
            "the mask is upside down: `observed` is 1 for the values that stay.",
        ),
        (
            moved.clamp(0, 1),
            "the observed values move too. They are data: put them back after the step.",
        ),
        (
            want.clamp(0, 1),
            "you clip the observed values as well. They stay exactly as they are.",
        ),
        (keep(moved), "values leave [0, 1]: clip what moved."),
        (
            keep((x - rate * (slope + noise)).clamp(0, 1)),
            "you go downhill. The log-density is to rise: add rate * (slope + noise).",
        ),
        (
            keep((x + rate * (slope - noise)).clamp(0, 1)),
            "you subtract the noise. It has the right distribution, but the paper adds it.",
        ),
        (
            keep((x + rate * slope + noise).clamp(0, 1)),
            "the noise is not scaled: the paper's rate multiplies slope and noise alike.",
        ),
        (
            keep((x + rate * slope + math.sqrt(2 * rate) * noise).clamp(0, 1)),
            "this is a step of Langevin's sampler, whose noise is sqrt(2 rate). The paper's noise "
            "is scaled by the rate itself, so it fades, and a mode is found and not a sample.",
        ),
        (keep((x + rate * slope).clamp(0, 1)), "the noise is missing."),
        (keep((x + rate * noise).clamp(0, 1)), "the slope is missing."),
        (keep((x + slope + noise).clamp(0, 1)), "the rate is missing."),
        (
            keep((rate * (slope + noise)).clamp(0, 1)),
            "you return the step alone. Add it to where you are.",
        ),
    ]
    expect_close(answer(x, slope, noise, observed, rate), want, "the new x", faults=faults)

    def right(x: Tensor, slope: Tensor, noise: Tensor, observed: Tensor, rate: float) -> Tensor:
        return torch.where(observed == 1, x, (x + rate * (slope + noise)).clamp(0, 1))

    def some(items: int, dim: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x, seen = wave(items, dim), (wave(items, dim, pace=0.4) > 0).double()
        return x, 3 * wave(items, dim, pace=0.9), wave(items, dim, pace=1.1), seen

    cases = {
        "of a single value": (*some(1, 1)[:3], torch.zeros(1, 1, dtype=x.dtype), 0.3),
        "with a small rate": (*some(4, 3), 0.05),
        "with a rate of one": (*some(3, 4), 1.0),
        "with all observed": (*some(2, 2)[:3], torch.ones(2, 2, dtype=x.dtype), 0.5),
    }
    expect_agreement(answer, right, "the new x", cases)


def volume_floor(answer: Callable[..., Tensor]) -> None:
    """Check ``volume_floor(density, cell)``: the least cross-entropy of volume-preserving flows.

    ``density`` ``(N,)`` holds p at the centres of the cells of a grid on the plane, in no order;
    ``cell`` is the area of one. The result is ``1 + log E[A]`` in nats, a scalar tensor, where
    A(x) is the area on which the density is at least p(x), the cell of x included.

    Args:
        answer: The reader's function.

    Raises:
        Wrong: The first fault found.
    """
    p = torch.tensor([0.05, 0.3, 0.9, 0.45, 0.7, 0.1], dtype=torch.float64)
    cell = 0.4
    n = len(p)
    falling, rising = p.sort(descending=True).values, p.sort().values
    rank = torch.arange(1, n + 1, dtype=torch.float64)
    mean = (falling * rank * cell).sum() * cell
    want = 1 + mean.log()
    faults = [
        (
            1 + ((rising * rank * cell).sum() * cell).log(),
            "you sort from low to high. A(x) is the area on which the density is at least p(x): "
            "sort from high to low.",
        ),
        (
            1 + ((p * rank * cell).sum() * cell).log(),
            "the cells are not sorted. A(x) counts the cells whose density is at least p(x).",
        ),
        (want - math.log(cell), "one factor `cell` is missing."),
        (
            want - 2 * math.log(cell),
            "both factors `cell` are missing: an area is a number of cells times `cell`, and so is "
            "a cell's share of the mass.",
        ),
        (mean.log(), "the 1 of the formula is missing."),
        (mean, "you return E[A] itself: the formula is 1 + log E[A]."),
        (
            1 + (falling * (rank * cell).log()).sum() * cell,
            "you average the logarithm of A. The logarithm is taken of the average.",
        ),
        (
            1 + (rank * cell).mean().log(),
            "you average A over the grid. The average is under p: weigh each cell with its mass.",
        ),
        (
            1 + ((falling * (rank - 1) * cell).sum() * cell).log(),
            "the cell of x itself is left out: the first one has area `cell`, and not 0.",
        ),
        (-(p * p.log()).sum() * cell, "this is the entropy of p, which the floor lies above."),
        (want / math.log(2), "the result is in bits. Use the natural logarithm: nats."),
        (1 + mean.log2(), "you take the logarithm to base 2. Use the natural one: nats."),
    ]
    expect_close(answer(p, cell), want, "the floor", faults=faults)
    expect_close(answer(p[:3], 0.7), _floor(p[:3], 0.7), "the floor of another grid")
    tied = torch.tensor([0.2, 0.6, 0.2, 0.6, 0.2], dtype=torch.float64)
    cases = {
        "of a single cell": (p[2:3], 1.1),
        "of a fine grid": (wave(9) + 1.5, 0.01),
        "of a density of two values": (tied, 0.5),
    }
    expect_agreement(answer, _floor, "the floor", cases)


def _floor(p: Tensor, cell: float) -> Tensor:
    falling = p.sort(descending=True).values
    return 1 + ((falling * falling.new_ones(len(p)).cumsum(0)).sum() * cell**2).log()
