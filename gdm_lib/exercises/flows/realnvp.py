"""Checkers for the exercises of ``chapters/flows/realnvp`` (Dinh et al. 2016, 1605.08803)."""

from __future__ import annotations

import math
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
    wave,
)

__all__ = ["bits_per_dim", "masked_coupling", "masked_inverse", "squeeze"]

# Inputs are fixed and in double precision: known mistakes are then told apart beyond doubt.

Net = Callable[[Tensor], Tensor]


def _coupling() -> tuple[Tensor, Tensor, Net, Net]:
    """Three items of five dimensions, a mask that is no half, and two functions.

    Both functions answer at kept positions too, and every output depends on every input, so that
    a mask that was forgotten shows.
    """
    x = [[0.5, -1.0, 2.0, 0.3, -0.7], [0.1, 0.7, -0.4, 1.6, 0.9], [-1.5, 0.2, 0.8, -0.6, 1.2]]
    b = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    row = torch.tensor([0.3, -0.5, 0.8, 0.4, -0.2], dtype=torch.float64)

    def s(v: Tensor) -> Tensor:
        return torch.sin(v.sum(1, keepdim=True) + 2 * row)

    def t(v: Tensor) -> Tensor:
        return v.square().sum(1, keepdim=True) * row + 0.5

    return torch.tensor(x, dtype=torch.float64), b, s, t


def _couplings() -> dict[str, tuple[Tensor, Tensor, Net, Net]]:
    """Inputs of other sizes, and masks that keep all or nothing."""

    def some(items: int, *mask: float) -> tuple[Tensor, Tensor, Net, Net]:
        dim = len(mask)
        row = wave(dim, pace=0.9)

        def s(v: Tensor) -> Tensor:
            return 0.5 * torch.cos(v @ wave(dim, dim)) + row

        def t(v: Tensor) -> Tensor:
            return v.sum(1, keepdim=True) - row

        return wave(items, dim), torch.tensor(mask, dtype=torch.float64), s, t

    return {
        "of a single number": some(1, 0.0),
        "of two dimensions": some(4, 0.0, 1.0),
        "of a mask that keeps all": some(2, 1.0, 1.0, 1.0),
        "of a mask that keeps nothing": some(3, 0.0, 0.0, 0.0),
        "of a single item": some(1, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0),
    }


def _coupled(x: Tensor, b: Tensor, s: Net, t: Net) -> tuple[Tensor, Tensor]:
    log_scale, shift = (1 - b) * s(b * x), (1 - b) * t(b * x)
    return x * log_scale.exp() + shift, log_scale.sum(1)


def masked_coupling(answer: Callable[..., Any]) -> None:
    """Check ``masked_coupling(x, b, s, t)``: an affine coupling under a mask.

    ``x`` is ``(B, D)``, ``b`` ``(D,)`` holds 1 where the input is kept, ``s`` and ``t`` map
    ``(B, D)`` to ``(B, D)``. The result is ``y``, ``(B, D)``, and the log-determinant, ``(B,)``
    (1605.08803, equations 6 and 9).

    Args:
        answer: The reader's function.

    Raises:
        Wrong: The first fault found.
    """
    x, b, s, t = _coupling()
    seen = b * x
    log_scale, shift = (1 - b) * s(seen), (1 - b) * t(seen)
    want, logdet = x * log_scale.exp() + shift, log_scale.sum(1)

    y, got = expect_pair(answer(x, b, s, t), "`y` and the log-determinant")
    faults = [
        (
            b * x + (1 - b) * (x * s(x).exp() + t(x)),
            "s and t see the whole of x. They may see only what is kept, b * x: otherwise the "
            "inverse would need what it is looking for.",
        ),
        (
            (1 - b) * x + b * (x * s((1 - b) * x).exp() + t((1 - b) * x)),
            "the mask is upside down: b is 1 where the input is kept.",
        ),
        (
            x * s(seen).exp() + t(seen),
            "the kept dimensions are changed too: multiply s and t by 1 - b, or put b * x back.",
        ),
        (
            (1 - b) * (x * s(seen).exp() + t(seen)),
            "the kept dimensions are missing: add b * x.",
        ),
        (
            b * x + (1 - b) * (x * s(seen) + t(seen)),
            "you multiply by s itself. The scale is exp(s), which is never zero or negative.",
        ),
        (
            b * x + (1 - b) * ((x + t(seen)) * s(seen).exp()),
            "you shift first and scale then. The layer scales first: x * exp(s) + t.",
        ),
        (
            b * x + (1 - b) * ((x - t(seen)) * (-s(seen)).exp()),
            "this is the inverse. Forward is x * exp(s) + t.",
        ),
        (b * x + (1 - b) * (x * s(seen).exp()), "the translation t is missing."),
        (
            b * x + (1 - b) * (x + t(seen)),
            "the scale exp(s) is missing: this is NICE's coupling.",
        ),
    ]
    expect_close(y, want, "y", faults=faults)
    faults = [
        (
            s(seen).sum(1),
            "your log-determinant sums s over the kept dimensions too. They pass unchanged: only "
            "(1 - b) * s counts.",
        ),
        (-logdet, "the log-determinant has the wrong sign: it is that of x -> y."),
        (
            logdet.exp(),
            "you return the determinant. Its logarithm is the sum of s.",
        ),
        (
            log_scale.exp().sum(1),
            "you add up exp(s). The determinant is their product, and its logarithm the sum of s.",
        ),
        (
            ((1 - b) * s(seen).exp()).sum(1),
            "you add up exp(s). The determinant is their product, and its logarithm the sum of s.",
        ),
        (log_scale.mean(1), "you average s over the dimensions. Add them up."),
        (logdet.sum(), "you sum over the batch too. Return one log-determinant for each item."),
        (logdet.mean(), "you average over the batch. Return one log-determinant for each item."),
        (log_scale, "you return s for each dimension. Sum over the dimensions."),
        (
            log_scale.sum(0),
            "you sum over the batch axis (dim 0). Sum over the dimensions (dim 1).",
        ),
        (torch.zeros_like(logdet), "a log-determinant of 0 would be NICE's: this layer stretches."),
    ]
    expect_close(got, logdet, "the log-determinant", faults=faults)
    names = ("y", "the log-determinant")
    expect_agreement(answer, _coupled, names, _couplings())
    expect_gradients(answer, _coupled, names, (x, b, s, t), {0: "x"})


def masked_inverse(answer: Callable[..., Tensor]) -> None:
    """Check ``masked_inverse(y, b, s, t)``: the inverse of an affine coupling under a mask.

    Arguments are those of ``masked_coupling`` with ``y`` for ``x``; the result is ``x``, ``(B, D)``
    (1605.08803, equation 8).

    Args:
        answer: The reader's function.

    Raises:
        Wrong: The first fault found.
    """
    x, b, s, t = _coupling()
    seen = b * x
    y = x * ((1 - b) * s(seen)).exp() + (1 - b) * t(seen)

    def undo(seen: Tensor) -> Tensor:
        return b * y + (1 - b) * ((y - t(seen)) * (-s(seen)).exp())

    faults = [
        (
            undo(y),
            "s and t see the whole of y. They saw b * x on the way, so give them b * y, the same.",
        ),
        (
            undo((1 - b) * y),
            "s and t see what was changed, (1 - b) * y. They saw b * x on the way: give them "
            "b * y, the same.",
        ),
        (
            b * y + (1 - b) * (y * (-s(seen)).exp() - t(seen)),
            "you undo the scale first and the shift then. The shift came last, so it goes first: "
            "(y - t) * exp(-s).",
        ),
        (
            b * y + (1 - b) * ((y - t(seen)) * s(seen).exp()),
            "the scale is applied once more, not undone: multiply by exp(-s).",
        ),
        (
            b * y + (1 - b) * ((y + t(seen)) * (-s(seen)).exp()),
            "the shift is added once more, not taken away: y - t.",
        ),
        (
            b * y + (1 - b) * (y * s(seen).exp() + t(seen)),
            "this is the forward map, once more. Undo it: (y - t) * exp(-s).",
        ),
        (
            b * y + (1 - b) * ((y - t(seen)) / s(seen)),
            "you divide by s itself. The scale was exp(s).",
        ),
        (
            (y - t(seen)) * (-s(seen)).exp(),
            "the kept dimensions are changed too: multiply s and t by 1 - b, or put b * y back.",
        ),
        (
            (1 - b) * (y - t(seen)) * (-s(seen)).exp(),
            "the kept dimensions are missing: add b * y.",
        ),
    ]
    expect_close(answer(y, b, s, t), x, "x", faults=faults)

    def right(y: Tensor, b: Tensor, s: Net, t: Net) -> Tensor:
        return b * y + (1 - b) * (y - t(b * y)) * (-s(b * y)).exp()

    expect_agreement(answer, right, "x", _couplings())


def squeeze(answer: Callable[..., Tensor]) -> None:
    """Check ``squeeze(x)``: ``(B, C, H, W)`` -> ``(B, 4C, H/2, W/2)``.

    Channel ``4c + 2i + j`` of the result holds rows ``i, i + 2, ...`` and columns ``j, j + 2, ...``
    of channel ``c`` (1605.08803, section 3.6).

    Args:
        answer: The reader's function.

    Raises:
        Wrong: The first fault found.
    """
    b, c, h, w = 2, 2, 4, 6
    x = torch.arange(b * c * h * w, dtype=torch.float64).reshape(b, c, h, w).sqrt()
    want = F.pixel_unshuffle(x, 2)
    blocks = x.view(b, c, h // 2, 2, w // 2, 2)
    shape = (b, 4 * c, h // 2, w // 2)
    quarters = x.view(b, c, 2, h // 2, 2, w // 2)
    faults = [
        (
            x.reshape(shape),
            "a reshape alone keeps the pixels in their old order: neighbours are not dealt out to "
            "channels. Separate the axes of the 2x2 blocks, and permute.",
        ),
        (
            blocks.permute(0, 1, 5, 3, 2, 4).reshape(shape),
            "i and j are exchanged: within a channel's four, rows come first, channel 4c + 2i + j.",
        ),
        (
            blocks.permute(0, 3, 5, 1, 2, 4).reshape(shape),
            "the channels of the picture vary fastest: the four parts of a channel stand "
            "together, channel 4c + 2i + j.",
        ),
        (
            quarters.permute(0, 1, 2, 4, 3, 5).reshape(shape),
            "each channel of yours is a quarter of the picture. It should be every second pixel, "
            "of every second row.",
        ),
        (
            want.transpose(2, 3),
            "height and width are exchanged.",
        ),
        (
            blocks.permute(0, 1, 2, 4, 3, 5).reshape(shape),
            "the axes of the blocks come last. Permute them in front of the two axes of space.",
        ),
    ]
    expect_close(answer(x), want, "the squeezed picture", faults=faults)
    cases = {
        "of one block": (wave(1, 1, 2, 2),),
        "of three channels": (wave(1, 3, 6, 4),),
        "of two rows": (wave(3, 1, 2, 8),),
        "of two columns": (wave(2, 5, 6, 2),),
    }
    expect_agreement(answer, lambda x: F.pixel_unshuffle(x, 2), "the squeezed picture", cases)


def bits_per_dim(answer: Callable[..., Tensor]) -> None:
    """Check ``bits_per_dim(log_density, v, levels, alpha)``: bits of the levels, from logits.

    ``log_density`` ``(B,)`` is that of ``logit(alpha + (1 - 2 alpha) v)``, in nats; ``v``
    ``(B, D)`` are dequantised values in [0, 1]. The result has shape ``(B,)`` (1605.08803,
    section 4.1).

    Args:
        answer: The reader's function.

    Raises:
        Wrong: The first fault found.
    """
    log_density = torch.tensor([-3.1, 1.7, -0.4, -7.2], dtype=torch.float64)
    v = [[0.1, 0.52, 0.93], [0.7, 0.33, 0.05], [0.48, 0.61, 0.27], [0.88, 0.14, 0.79]]
    values, levels, alpha = torch.tensor(v, dtype=torch.float64), 17, 0.05
    dim = values.shape[1]
    volume = dim * math.log(levels)

    def slope(r: Tensor, width: float) -> Tensor:
        return (math.log(width) - r.log() - torch.log1p(-r)).sum(1)

    r = alpha + (1 - 2 * alpha) * values
    right = slope(r, 1 - 2 * alpha)

    def bits(log_p: Tensor) -> Tensor:
        return -log_p / (dim * math.log(2))

    want = bits(log_density + right - volume)
    faults = [
        (
            bits(log_density - right - volume),
            "the log-derivative of the logit has the wrong sign. The density of v is that of the "
            "logit TIMES dw/dv: add its logarithm.",
        ),
        (
            bits(log_density + right + volume),
            "log(levels) has the wrong sign. A bin has the volume levels ** -D, and probability is "
            "density times volume: subtract D log(levels).",
        ),
        (
            bits(log_density - right + volume),
            "both corrections have the wrong sign.",
        ),
        (
            bits(log_density + right),
            "the volume of a bin is missing: subtract D log(levels).",
        ),
        (
            bits(log_density + right - math.log(levels)),
            "you subtract log(levels) once. Each of the D dimensions has its own bin.",
        ),
        (
            bits(log_density - volume),
            "the logit is not accounted for: add the logarithm of its slope at each v.",
        ),
        (
            bits(log_density),
            "neither correction is made: this is the density of the logits.",
        ),
        (
            bits(log_density + slope(r, 1.0) - volume),
            "the factor 1 - 2 alpha of the slope is missing.",
        ),
        (
            bits(log_density + slope(values, 1.0) - volume),
            "you take the slope of logit(v). The argument is r = alpha + (1 - 2 alpha) v, and r "
            "moves by 1 - 2 alpha for each unit of v.",
        ),
        (
            bits(log_density + slope(values, 1 - 2 * alpha) - volume),
            "you take the slope at v. The argument of the logit is r = alpha + (1 - 2 alpha) v.",
        ),
        (
            bits(log_density + slope(alpha + (1 - alpha) * values, 1 - alpha) - volume),
            "you take alpha + (1 - alpha) v, as section 4.1 of the paper prints it; with 1 - 2 "
            "alpha both ends keep their distance.",
        ),
        (-want, "the sign is flipped: bits are a cost, minus the logarithm."),
        (want * math.log(2), "the result is in nats per dimension. Divide by log 2."),
        (want * dim, "the result is in bits per image. Divide by D."),
        (want * dim * math.log(2), "the result is in nats per image. Divide by D log 2."),
        (
            want.mean(),
            "you average over the batch. Return one number for each item, of shape (B,).",
        ),
    ]
    expect_close(answer(log_density, values, levels, alpha), want, "the cost", faults=faults)

    def cost(log_density: Tensor, v: Tensor, levels: int, alpha: float) -> Tensor:
        r = alpha + (1 - 2 * alpha) * v
        slope = math.log(1 - 2 * alpha) - r.log() - torch.log1p(-r) - math.log(levels)
        return -(log_density + slope.sum(1)) / (v.shape[1] * math.log(2))

    def inside(*shape: int) -> Tensor:
        return 0.5 + 0.45 * wave(*shape, pace=0.9)

    cases = {
        "of a single number": (wave(1), inside(1, 1), 256, 0.001),
        "of two levels": (3 * wave(5), inside(5, 2), 2, 0.1),
        "of as many items as dimensions": (9 * wave(4), inside(4, 4), 32, 0.2),
        "of a density that is high": (50 + wave(2), inside(2, 6), 8, 0.05),
    }
    expect_agreement(answer, cost, "the cost", cases)
