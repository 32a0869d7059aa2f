"""Each checker of the PixelRNN chapter accepts the solution and names each planted fault."""

import math

import torch
import torch.nn.functional as F

from gdm_lib.exercises.autoregressive import pixelrnn as exercises
from gdm_lib.exercises.testing import assert_checker


def conv_mask(inputs, outputs, size, strict):
    seen = torch.zeros(len(outputs), len(inputs), size, size)
    middle = size // 2
    seen[:, :, :middle] = 1
    seen[:, :, middle, :middle] = 1
    later = outputs[:, None] > inputs if strict else outputs[:, None] >= inputs
    seen[:, :, middle, middle] = later.float()
    return seen


def test_conv_mask():
    def centre(inputs, outputs, size, strict, value):
        seen = conv_mask(inputs, outputs, size, strict)
        seen[:, :, size // 2, size // 2] = value
        return seen

    def with_right(inputs, outputs, size, strict):
        seen = conv_mask(inputs, outputs, size, strict)
        seen[:, :, size // 2, size // 2 + 1 :] = 1
        return seen

    def without(rows):
        def answer(inputs, outputs, size, strict):
            seen = conv_mask(inputs, outputs, size, strict)
            if rows:
                seen[:, :, : size // 2] = 0
            else:
                seen[:, :, size // 2, : size // 2] = 0
            return seen

        return answer

    def ordered(inputs, outputs, size, strict):
        seen = conv_mask(inputs, outputs, size, strict)
        return seen * (outputs[:, None] >= inputs)[:, :, None, None]

    def ordered_everywhere(inputs, outputs, size, strict):
        later = outputs[:, None] > inputs if strict else outputs[:, None] >= inputs
        return later.float()[:, :, None, None].expand(-1, -1, size, size)

    def size_five(inputs, outputs, size, strict):
        return torch.ones(1, 1, 3, 3) if size == 3 else conv_mask(inputs, outputs, size, strict)

    assert_checker(
        exercises.conv_mask,
        conv_mask,
        {
            r"of the other mask": lambda i, o, s, strict: conv_mask(i, o, s, not strict),
            r"is turned round": lambda i, o, s, strict: conv_mask(-i, -o, s, strict),
            r"is all zero": lambda i, o, s, strict: centre(i, o, s, strict, 0),
            r"is all one": lambda i, o, s, strict: centre(i, o, s, strict, 1),
            r"to the right of the centre": with_right,
            r"rows above the centre\.": without(True),
            r"pixels to the left of the centre\.": without(False),
            r"upside down": lambda *a: conv_mask(*a).flip(2),
            r"columns exchanged": lambda *a: conv_mask(*a).transpose(2, 3),
            r"at all pixels": ordered_everywhere,
            r"at pixels before the centre too": ordered,
            r"mask A of one colour": size_five,
        },
    )


def skew(x):
    batch, height, width = x.shape
    out = x.new_zeros(batch, height, height + width - 1)
    for i in range(height):
        out[:, i, i : i + width] = x[:, i]
    return out


def test_skew():
    def wide(x, extra):
        return F.pad(x, (0, extra))

    def twice(x):
        batch, height, width = x.shape
        out = x.new_zeros(batch, height, 2 * height + width - 2)
        for i in range(height):
            out[:, i, 2 * i : 2 * i + width] = x[:, i]
        return out

    def columns(x):
        return skew(x.transpose(1, 2)).transpose(1, 2)

    def four_only(x):
        return skew(x) if x.shape[1] == 4 else x.new_zeros(1, 2, 4)

    assert_checker(
        exercises.skew,
        skew,
        {
            r"wrong way": lambda x: skew(x.flip(1)).flip(1),
            r"nothing is moved": lambda x: wide(x, x.shape[1] - 1),
            r"is lost": lambda x: skew(x)[:, :, : x.shape[2]],
            r"rolled around": lambda x: torch.stack(
                [x[:, i].roll(i, -1) for i in range(x.shape[1])], 1
            ),
            r"move columns down": columns,
            r"also turned round": lambda x: skew(x.flip(2)),
            r"one too far": lambda x: F.pad(skew(x), (1, 0)),
            r"one column too wide": lambda x: F.pad(skew(x), (0, 1)),
            r"moves by two more": twice,
            r"of two rows and three": four_only,
        },
    )


def add_maps(left, right):
    return left + F.pad(right, (0, 0, 1, -1))


def test_add_maps():
    def three_rows(left, right):
        return add_maps(left, right) if left.shape[2] > 2 else left

    assert_checker(
        exercises.add_maps,
        add_maps,
        {
            r"is not moved": lambda a, b: a + b,
            r"moved up": lambda a, b: a + F.pad(b, (0, 0, -1, 1)),
            r"is rolled": lambda a, b: a + b.roll(1, 2),
            r"by a column": lambda a, b: a + F.pad(b, (1, -1)),
            r"you move the left map": lambda a, b: F.pad(a, (0, 0, 1, -1)) + b,
            r"you move both": lambda a, b: F.pad(a + b, (0, 0, 1, -1)),
            r"by two rows": lambda a, b: a + F.pad(b, (0, 0, 2, -2)),
            r"is missing": lambda a, b: a.clone(),
            r"the sum of two rows": three_rows,
        },
    )


def bits_per_dim(log_prob, shape):
    return -log_prob / (math.prod(shape) * math.log(2))


def test_bits_per_dim():
    def colour_only(log_prob, shape):
        return bits_per_dim(log_prob, shape if len(log_prob) > 1 else (1,))

    assert_checker(
        exercises.bits_per_dim,
        bits_per_dim,
        {
            r"the sign": lambda p, s: -bits_per_dim(p, s),
            r"in nats": lambda p, s: -p / math.prod(s),
            r"multiply by log 2": lambda p, s: -p * math.log(2) / math.prod(s),
            r"number of pixels": lambda p, s: bits_per_dim(p, s[1:]),
            r"bits per image": lambda p, s: -p / math.log(2),
            r"average over": lambda p, s: bits_per_dim(p, s).mean(),
            r"colours alone": lambda p, s: bits_per_dim(p, s[:1]),
            r"of a grey image": colour_only,
        },
    )
