"""Checkers for the exercises of ``chapters/autoregressive/gated_pixelcnn`` (van den Oord et al.
2016, 1606.05328)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from gdm_lib.exercises.expect import (
    expect_agreement,
    expect_close,
    expect_finite,
    expect_gradient,
    expect_gradients,
)

__all__ = ["conditional_gain", "conditioned_gate", "gated_unit", "rows_above"]

# Inputs are fixed and in double precision. No two sizes are equal, so that a wrong axis shows.


def _wave(*shape: int, pace: float = 1.7) -> Tensor:
    """Fixed numbers between -1.5 and 1.5, in double precision."""
    return 1.5 * (torch.arange(math.prod(shape), dtype=torch.float64) * pace + 0.3).sin().view(
        shape
    )


def gated_unit(answer: Callable[..., Tensor]) -> None:
    """Check ``gated_unit(x)``: the gated unit on features ``(B, 2p, H, W)``, to ``(B, p, H, W)``.

    The first half of the features goes through the tanh, the second through the sigmoid
    (1606.05328, equation 2).

    Args:
        answer: The reader's function.

    Raises:
        Wrong: The first fault found.
    """
    x = _wave(2, 6, 4, 5)
    a, b = x.chunk(2, 1)
    want = a.tanh() * b.sigmoid()
    even, odd = x[:, ::2], x[:, 1::2]
    faults = [
        (
            b.tanh() * a.sigmoid(),
            "the halves are exchanged: the first goes through the tanh, the second through the "
            "sigmoid.",
        ),
        (
            even.tanh() * odd.sigmoid(),
            "you take every other feature. The halves are the first p features and the last p.",
        ),
        (a.tanh() + b.sigmoid(), "you add the two. A gate multiplies them."),
        (a * b.sigmoid(), "the tanh is missing: this is a gated linear unit, another paper's."),
        (a.tanh() * b.tanh(), "both halves go through a tanh. The gate itself is a sigmoid."),
        (a.sigmoid() * b.sigmoid(), "both halves go through a sigmoid. The first takes a tanh."),
        (a.tanh() * b.softmax(1), "the gate is a softmax over features. It is a sigmoid of each."),
        (x.tanh() * x.sigmoid(), "you use all features twice. Cut them into two halves (dim 1)."),
        *(
            (u.tanh() * v.sigmoid(), f"you cut axis {axis}. Features are axis 1.")
            for axis in (0, 2)
            for u, v in [x.chunk(2, axis)]
        ),
    ]
    expect_close(answer(x), want, "the result", faults=faults)
    x.requires_grad_()
    slope = expect_gradient(answer(x), x, "x")
    a, b = x.detach().chunk(2, 1)
    s = b.sigmoid()
    both = torch.cat([(1 - a.tanh() ** 2) * s, a.tanh() * s * (1 - s)], 1)
    expect_close(slope, both, "the gradient of the result's sum")
    cases = {
        "for two features of one pixel": (_wave(1, 2, 1, 1),),
        "for four features": (_wave(3, 4, 1, 2),),
        "for large features": (30 * _wave(2, 8, 3, 1),),
    }
    expect_agreement(answer, _gated_unit, "the result", cases)


def _gated_unit(x: Tensor) -> Tensor:
    a, b = x.chunk(2, 1)
    return a.tanh() * b.sigmoid()


def rows_above(answer: Callable[..., Tensor]) -> None:
    """Check ``rows_above(x, weight)``: the first convolution of the vertical stack.

    ``x`` is ``(B, C, H, W)``, ``weight`` ``(F, C, k, 2 k + 1)``; row ``i`` of the result, ``(B, F,
    H, W)``, is computed from the rows ``i - k`` to ``i - 1``, with zeros outside the image
    (1606.05328, section 2.2).

    Args:
        answer: The reader's function.

    Raises:
        Wrong: The first fault found.
    """
    x, weight = _wave(2, 3, 5, 6), _wave(7, 3, 2, 5, pace=0.9)

    def with_rows(top: int, bottom: int, side: int = 2) -> Tensor:
        return F.conv2d(F.pad(x, (side, side, top, bottom)), weight)

    want = with_rows(2, -1)
    own = with_rows(1, 0)
    faults = [
        (
            own,
            "the shift is missing: row i of your result depends on row i of x, so the stack sees "
            "the pixel that it shall predict. Pad one row more above, and drop the last row.",
        ),
        (
            with_rows(0, 1),
            "you pad below: row i of your result is computed from row i and those after it. Pad "
            "above.",
        ),
        (
            with_rows(-1, 2),
            "you look at the rows below instead of those above.",
        ),
        (
            with_rows(3, -2),
            "the shift is by one row too many: row i - 1 is not seen, a blind row.",
        ),
        (
            own.roll(1, 2),
            "you shift with `roll`: the first row gets what belongs to the last, the future. "
            "Zeros come in from above.",
        ),
        (
            with_rows(2, 0),
            "the result has one row too many: the last row of x is seen by no row of the result. "
            "Drop it (a padding of -1 does).",
        ),
        (
            with_rows(2, -1, 0),
            "the result is too narrow: pad k columns of zeros on each side.",
        ),
        (
            F.conv2d(F.pad(x, (4, 0, 2, -1)), weight),
            "you pad on the left only, so that nothing to the right is seen: that is a blind spot "
            "again. Above, all columns are known. Pad both sides.",
        ),
        (
            F.conv2d(F.pad(x, (2, 2, 2, -1)), weight.flip(2, 3)),
            "the kernel is turned round. `F.conv2d` does not flip it, and nor should you.",
        ),
    ]
    expect_close(answer(x, weight), want, "the result", faults=faults)
    x, weight = _wave(1, 2, 4, 3), _wave(3, 2, 1, 3)
    want = F.conv2d(F.pad(x, (1, 1, 1, -1)), weight)
    expect_close(answer(x, weight), want, "the result for a kernel of one row")
    cases = {
        "for one pixel": (_wave(1, 1, 1, 1), _wave(1, 1, 1, 3, pace=0.7)),
        "for a kernel taller than the image": (_wave(2, 1, 2, 3), _wave(2, 1, 3, 7, pace=0.7)),
        "for a single column": (_wave(1, 2, 5, 1), _wave(1, 2, 2, 5, pace=0.7)),
    }
    expect_agreement(answer, _rows_above, "the result", cases)
    both = (_wave(2, 2, 4, 3), _wave(3, 2, 2, 5, pace=0.7))
    expect_gradients(answer, _rows_above, "the result", both, {0: "x", 1: "weight"})


def _rows_above(x: Tensor, weight: Tensor) -> Tensor:
    k = weight.shape[2]
    return F.conv2d(F.pad(x, (k, k, k, -1)), weight)


def conditioned_gate(answer: Callable[..., Tensor]) -> None:
    """Check ``conditioned_gate(x, h, V)``: the gated unit with a context.

    ``x`` is ``(B, 2p, H, W)``, ``h`` ``(B, F)``, ``V`` ``(2p, F)``, its rows in the order of the
    features of ``x``; the result is ``(B, p, H, W)`` (1606.05328, equation 4).

    Args:
        answer: The reader's function.

    Raises:
        Wrong: The first fault found.
    """
    x, h, v = _wave(2, 6, 4, 5), _wave(2, 3, pace=0.7), _wave(6, 3, pace=1.1)

    def gated(a: Tensor, b: Tensor) -> Tensor:
        return a.tanh() * b.sigmoid()

    shift = (h @ v.T)[:, :, None, None]
    f, g = shift.chunk(2, 1)
    a, b = x.chunk(2, 1)
    want = gated(a + f, b + g)
    corner = x.clone()
    corner[:, :, 0, 0] += shift[:, :, 0, 0]
    faults = [
        (gated(a, b), "the context is not used."),
        (
            gated(a + f, b),
            "the context reaches the tanh only. It has weights for the sigmoid as well: the lower "
            "half of V.",
        ),
        (
            gated(a, b + g),
            "the context reaches the sigmoid only. It has weights for the tanh as well: the upper "
            "half of V.",
        ),
        (
            gated(a + g, b + f),
            "the halves of V are exchanged: the upper half belongs to the tanh.",
        ),
        (
            gated(a, b) + f,
            "you add the context behind the gate. It belongs inside, before tanh and sigmoid.",
        ),
        (gated(a * f, b * g), "you multiply by V h. It is added to what the convolutions give."),
        (
            gated(a + f.mean(0), b + g.mean(0)),
            "all images get the average context. Each has its own.",
        ),
        (gated(a + f.flip(0), b + g.flip(0)), "each image gets another one's context."),
        (
            gated(*corner.chunk(2, 1)),
            "the context reaches one pixel only. It is the same at every place of the image.",
        ),
    ]
    expect_close(answer(x, h, v), want, "the result", faults=faults)
    h.requires_grad_()
    slope = expect_gradient(answer(x, h, v), h, "h")
    inside = gated(*(x + (h @ v.T)[:, :, None, None]).chunk(2, 1))
    (known,) = torch.autograd.grad(inside.sum(), h)
    expect_close(slope, known, "the gradient of the result's sum with respect to `h`")

    def right(x: Tensor, h: Tensor, v: Tensor) -> Tensor:
        return _gated_unit(x + (h @ v.T)[:, :, None, None])

    cases = {
        "for one image of one pixel": (_wave(1, 2, 1, 1), _wave(1, 1, pace=0.7), _wave(2, 1)),
        "for three images": (_wave(3, 4, 2, 1), _wave(3, 5, pace=0.7), _wave(4, 5, pace=1.1)),
    }
    expect_agreement(answer, right, "the result", cases)
    every = {0: "x", 1: "h", 2: "V"}
    expect_gradients(answer, right, "the result", (x, h.detach(), v), every)


def conditional_gain(answer: Callable[..., Tensor]) -> None:
    """Check ``conditional_gain(log_p, y)``: what a class is worth to a conditional model, in bits.

    ``log_p`` is ``(B, K)``, log p(x|y) in nats for each of ``K`` classes, which are equally likely;
    ``y`` the true ones, ``(B,)``. The result, ``(B,)``, is log2 p(x|y) - log2 p(x).

    Args:
        answer: The reader's function.

    Raises:
        Wrong: The first fault found.
    """
    log_p = 4 * _wave(5, 3) - 700
    y = torch.tensor([2, 0, 1, 1, 0])
    own = log_p[torch.arange(5), y]
    log_k, bit = math.log(3), math.log(2)
    total = log_p.logsumexp(1)
    want = (own - total + log_k) / bit
    faults = [
        (
            (own - total) / bit,
            "you don't divide by the number of classes: p(x) is the average of p(x|y), so log K "
            "is missing. (What you have is log2 p(y|x).)",
        ),
        (
            (own - log_p.mean(1)) / bit,
            "you average the logarithms. Average the probabilities, then take the logarithm.",
        ),
        (
            (own - total - log_k) / bit,
            "log K has the wrong sign: p(x) is the sum of p(x|y) *divided* by K.",
        ),
        (want * bit, "the result is in nats. Divide by log 2 for bits."),
        (-want, "the sign is flipped: the class should help, so the gain is mostly positive."),
        (want.mean(), "you average over the batch. Return one value for each image, (B,)."),
        (
            (log_p.max(1).values - total + log_k) / bit,
            "you take the likeliest class instead of the true one, `y`.",
        ),
    ]
    expect_close(answer(log_p, y), want, "the gain", faults=faults)
    # Of 32 x 32 pixels, say: exp(-2000) is zero in double precision.
    infinite = (
        torch.full_like(want, math.inf),
        "for an image of a thousand pixels exp(log_p) is zero, and its logarithm infinite. Use "
        "`torch.logsumexp`.",
    )
    expect_close(answer(log_p - 1300, y), want, "the gain of a large image", faults=[infinite])

    def right(log_p: Tensor, y: Tensor) -> Tensor:
        posterior = log_p.log_softmax(1)[torch.arange(len(y)), y]
        return posterior / math.log(2) + math.log2(log_p.shape[1])

    # Images of one batch may be worlds apart: each has its own largest class.
    far = torch.tensor([[-3000.0], [-100.0], [-1500.0]], dtype=torch.float64)
    cases = {
        "of a single image and four classes": (_wave(1, 4) - 90, torch.tensor([3])),
        "of two classes": (3 * _wave(4, 2) - 50, torch.tensor([1, 0, 0, 1])),
        "of one class": (_wave(2, 1) - 50, torch.tensor([0, 0])),
        "of images whose log-probabilities are thousands of nats apart": (
            _wave(3, 5) + far,
            torch.tensor([4, 0, 2]),
        ),
    }
    expect_agreement(answer, right, "the gain", cases)
    # Nor may the true class be far less likely than another.
    far_apart = 400 * _wave(5, 3) - 2000
    expect_finite(
        answer(far_apart, y),
        want,
        "the gain where classes are hundreds of nats apart",
        "where another class is hundreds of nats likelier than the true one exp overflows, and the "
        "gain is infinite. Use `torch.logsumexp`.",
    )
    apart = {"where classes are hundreds of nats apart": (far_apart, y)}
    expect_agreement(answer, right, "the gain", apart)
