"""Checkers for the exercises of ``chapters/autoregressive/pixelrnn`` (van den Oord et al. 2016,
1601.06759)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from gdm_lib.exercises.expect import expect_agreement, expect_close, expect_gradients, wave

__all__ = ["add_maps", "bits_per_dim", "conv_mask", "skew"]

# No two sizes are equal, so that an exchange of axes shows.


def conv_mask(answer: Callable[..., Tensor]) -> None:
    """Check ``conv_mask(inputs, outputs, size, strict)``: masks A (``strict``) and B.

    ``inputs`` and ``outputs`` are the colours of the features, ``(in,)`` and ``(out,)``, integers;
    the result is a float tensor of ``(out, in, size, size)`` (1601.06759, section 3.4).

    Args:
        answer: The reader's function.

    Raises:
        Wrong: The first fault found.
    """
    inputs, outputs, size = torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 1, 2, 2]), 5
    middle = size // 2

    def make(centre: Tensor, above: float = 1, left: float = 1, right: float = 0) -> Tensor:
        full = torch.zeros(len(outputs), len(inputs), size, size)
        full[:, :, :middle] = above
        full[:, :, middle, :middle] = left
        full[:, :, middle, middle + 1 :] = right
        full[:, :, middle, middle] = centre
        return full

    more, same = outputs[:, None] > inputs, outputs[:, None] == inputs
    for strict in (True, False):
        name = "mask A" if strict else "mask B"
        centre = (more if strict else more | same).float()
        want = make(centre)
        other = (more | same if strict else more).float()
        faults = [
            (
                make(other),
                f"{name} has the centre of the other mask. Mask A, strict, lets a colour see only "
                "those before it; mask B itself as well.",
            ),
            (
                make(1 - (more | same).float() if strict else 1 - more.float()),
                f"the centre of {name} is turned round: an output may see the inputs of a smaller "
                "colour, `outputs[:, None] > inputs`.",
            ),
            (
                make(torch.zeros_like(centre)),
                f"the centre of {name} is all zero, so that no colour sees another of its own "
                "pixel.",
            ),
            (
                make(torch.ones_like(centre)),
                f"the centre of {name} is all one, so that red sees green and blue of its own "
                "pixel.",
            ),
            (
                make(centre, right=1),
                f"{name} sees pixels to the right of the centre, which come later.",
            ),
            (
                make(centre, above=0),
                f"{name} does not see the rows above the centre.",
            ),
            (
                make(centre, left=0),
                f"{name} does not see the pixels to the left of the centre.",
            ),
            (
                want.flip(2),
                f"{name} is upside down: the rows above the centre, which have the smaller "
                "indices, come before it.",
            ),
            (
                want.transpose(2, 3),
                f"{name} has rows and columns exchanged: images are drawn row by row.",
            ),
            (
                (more | same if not strict else more)[:, :, None, None] * torch.ones_like(want),
                f"{name} asks for the order of colours at all pixels. Of a pixel before the "
                "centre every colour is known.",
            ),
            (
                make(centre) * (more | same)[:, :, None, None],
                f"{name} asks for the order of colours at pixels before the centre too. There "
                "every colour is known.",
            ),
        ]
        expect_close(answer(inputs, outputs, size, strict), want, name, faults=faults)
    one = torch.zeros(1, dtype=torch.int64)
    want = torch.tensor([[1.0, 1, 1], [1, 0, 0], [0, 0, 0]])[None, None]
    expect_close(answer(one, one, 3, True), want, "mask A of one colour and size 3")
    few = torch.tensor([2, 0])
    cases = {
        "A of one pixel": (inputs, outputs, 1, True),
        "B of one pixel": (few, few, 1, False),
        "B of one colour and size 7": (one, one, 7, False),
        "A of three features, of five and of size 3": (outputs, outputs[1:4], 3, True),
        "B from one feature to four": (few[:1], inputs, 3, False),
    }
    expect_agreement(answer, _conv_mask, "mask", cases)


def _conv_mask(inputs: Tensor, outputs: Tensor, size: int, strict: bool) -> Tensor:
    place = torch.arange(size * size).view(size, size)
    centre = size * size // 2
    later = outputs[:, None] > inputs if strict else outputs[:, None] >= inputs
    return ((place < centre) | ((place == centre) & later[:, :, None, None])).float()


def skew(answer: Callable[..., Tensor]) -> None:
    """Check ``skew(x)``: row ``i`` moved right by ``i``, ``(B, H, W)`` -> ``(B, H, H + W - 1)``.

    What is not covered is zero (1601.06759, section 3.2 and figure 3).

    Args:
        answer: The reader's function.

    Raises:
        Wrong: The first fault found.
    """
    batch, height, width = 2, 4, 3
    x = 1 + torch.arange(batch * height * width, dtype=torch.float64).view(batch, height, width)

    def place(start: Callable[[int], int], wide: int = height + width - 1) -> Tensor:
        out = x.new_zeros(batch, height, wide)
        for i in range(height):
            for j in range(width):
                if start(i) + j < wide:
                    out[:, i, start(i) + j] = x[:, i, j]
        return out

    want = place(lambda i: i)
    turned = x.new_zeros(batch, height, height + width - 1)
    for i in range(height):
        turned[:, i, i : i + width] = x[:, i].flip(-1)
    rolled = torch.stack([x[:, i].roll(i, -1) for i in range(height)], 1)
    tall = x.new_zeros(batch, height + width - 1, width)
    for j in range(width):
        tall[:, j : j + height, j] = x[:, :, j]
    faults = [
        (
            place(lambda i: height - 1 - i),
            "the rows move the wrong way: row 0 stays where it is, and each row below starts one "
            "further to the right.",
        ),
        (
            place(lambda i: 0),
            "nothing is moved: the map is only wider.",
        ),
        (
            place(lambda i: i, width),
            "what moves out on the right is lost: the result is H + W - 1 wide.",
        ),
        (
            rolled,
            "rows are rolled around the edge. Skewing widens the map, to H + W - 1 columns.",
        ),
        (
            tall,
            "you move columns down. Rows move to the right, so that a *column* of the result is "
            "a diagonal of the image.",
        ),
        (turned, "each row is also turned round."),
        (
            place(lambda i: i + 1, height + width),
            "each row has moved one too far: row 0 stays where it is.",
        ),
        (
            place(lambda i: i, height + width),
            "the result is one column too wide: H + W - 1.",
        ),
        (
            place(lambda i: 2 * i, 2 * height + width - 2),
            "each row moves by two more than the one above. Diagonals become columns if it "
            "moves by one.",
        ),
    ]
    expect_close(answer(x), want, "the skewed map", faults=faults)
    wide = torch.tensor([[[1.0, 2, 3], [4, 5, 6]]])
    two = torch.tensor([[[1.0, 2, 3, 0], [0, 4, 5, 6]]])
    expect_close(answer(wide), two, "the skewed map of two rows and three columns")
    cases = {
        "of a single pixel": (wave(1, 1, 1),),
        "of a single row": (wave(2, 1, 4),),
        "of a single column": (wave(1, 5, 1),),
        "of five rows and two columns": (wave(3, 5, 2),),
    }
    expect_agreement(answer, _skew, "the skewed map", cases)
    expect_gradients(answer, _skew, "the skewed map", (wave(2, 3, 4),), {0: "x"})


def _skew(x: Tensor) -> Tensor:
    height, width = x.shape[1:]
    out = x.new_zeros(len(x), height, height + width - 1)
    for i in range(height):
        out[:, i, i : i + width] = x[:, i]
    return out


def add_maps(answer: Callable[..., Tensor]) -> None:
    """Check ``add_maps(left, right)``: a Diagonal BiLSTM's output from its two maps.

    All have shape ``(B, h, H, W)``; the right map is moved down by one row, zeros above
    (1601.06759, section 3.2).

    Args:
        answer: The reader's function.

    Raises:
        Wrong: The first fault found.
    """
    left, right = wave(2, 3, 4, 5, pace=1.3), wave(2, 3, 4, 5, pace=0.7)

    def moved(x: Tensor, rows: int = 0, columns: int = 0) -> Tensor:
        out = torch.zeros_like(x)
        height, width = x.shape[2:]
        out[:, :, max(rows, 0) : height + min(rows, 0), max(columns, 0) :] = x[
            :, :, max(-rows, 0) : height - max(rows, 0), : width - max(columns, 0)
        ]
        return out

    want = left + moved(right, 1)
    faults = [
        (
            left + right,
            "the right map is not moved. At its own pixel it has seen the pixels to the right in "
            "the same row, which come later.",
        ),
        (
            left + moved(right, -1),
            "the right map is moved up, so that it brings news from the row below. Down.",
        ),
        (
            left + right.roll(1, 2),
            "the right map is rolled: its last row comes round to the top, and the first row "
            "sees the last. Fill with zeros.",
        ),
        (
            left + moved(right, 0, 1),
            "the right map is moved by a column. Then it still has seen pixels of its own row; "
            "move it down by a row.",
        ),
        (
            moved(left, 1) + right,
            "you move the left map. It may stay: it has seen nothing that comes later.",
        ),
        (
            moved(left + right, 1),
            "you move both maps. The left one may stay, and without it a pixel does not see its "
            "own row.",
        ),
        (
            left + moved(right, 2),
            "the right map is moved by two rows: it no longer sees the row above.",
        ),
        (left, "the right map is missing."),
    ]
    expect_close(answer(left, right), want, "the sum", faults=faults)
    short = left[:1, :2, :2, :3]
    expect_close(answer(short, short), short + moved(short, 1), "the sum of two rows")

    def added(left: Tensor, right: Tensor) -> Tensor:
        return left + torch.cat([torch.zeros_like(right[:, :, :1]), right[:, :, :-1]], 2)

    cases = {
        "of a single pixel": (wave(1, 1, 1, 1), wave(1, 1, 1, 1, pace=0.9)),
        "of a single row": (wave(2, 3, 1, 4), wave(2, 3, 1, 4, pace=0.9)),
        "of a single column": (wave(1, 2, 5, 1), wave(1, 2, 5, 1, pace=0.9)),
    }
    expect_agreement(answer, added, "the sum", cases)
    expect_gradients(answer, added, "the sum", (left, right), {0: "left", 1: "right"})


def bits_per_dim(answer: Callable[..., Tensor]) -> None:
    """Check ``bits_per_dim(log_prob, shape)``: nats of images, ``(B,)``, to bits per dimension.

    ``shape`` is that of an image, ``(C, H, W)`` (1601.06759, section 5.1).

    Args:
        answer: The reader's function.

    Raises:
        Wrong: The first fault found.
    """
    log_prob = torch.tensor([-70.0, -64.5, -91.25], dtype=torch.float64)
    shape = (3, 4, 5)
    each = log_prob / math.prod(shape)
    want = -each / math.log(2)
    faults = [
        (-want, "the sign is wrong: a log-probability is negative, a number of bits is not."),
        (-each, "this is in nats. Divide by log 2."),
        (-each * math.log(2), "you multiply by log 2. A bit is log 2 nats, so divide."),
        (
            want * 3,
            "you divide by the number of pixels. Each colour of a pixel is a dimension: C * H * W.",
        ),
        (want * math.prod(shape), "these are bits per image. Divide by the dimensions."),
        (want.mean(), "you average over the batch. Return one value for each image, (B,)."),
        (want * 20, "you divide by the number of colours alone. The dimensions are C * H * W."),
    ]
    expect_close(answer(log_prob, shape), want, "bits per dimension", faults=faults)
    grey = answer(log_prob[:1], (1, 8, 8))
    expect_close(grey, -log_prob[:1] / (64 * math.log(2)), "bits per dimension of a grey image")

    def bits(log_prob: Tensor, shape: tuple[int, ...]) -> Tensor:
        return -log_prob / (math.prod(shape) * math.log(2))

    cases = {
        "of images of 2 x 1 pixels": (20 * wave(5) - 30, (3, 2, 1)),
        "of a large image": (1e4 * wave(1) - 1e5, (3, 64, 32)),
    }
    expect_agreement(answer, bits, "bits per dimension", cases)
