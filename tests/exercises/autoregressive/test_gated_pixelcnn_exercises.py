"""Each checker of the Gated PixelCNN chapter accepts the solution and names each planted fault."""

import math

import torch
import torch.nn.functional as F

from gdm_lib.exercises.autoregressive import gated_pixelcnn as exercises
from gdm_lib.exercises.testing import assert_checker


def gated_unit(x):
    a, b = x.chunk(2, dim=1)
    return torch.tanh(a) * torch.sigmoid(b)


def test_gated_unit():
    def of_halves(combine):
        return lambda x: combine(*x.chunk(2, 1))

    def blocked(x):
        a, b = x.chunk(2, dim=1)
        return torch.tanh(a) * torch.sigmoid(b).detach()

    assert_checker(
        exercises.gated_unit,
        gated_unit,
        {
            r"exchanged": of_halves(lambda a, b: b.tanh() * a.sigmoid()),
            r"every other feature": lambda x: x[:, ::2].tanh() * x[:, 1::2].sigmoid(),
            r"you add the two": of_halves(lambda a, b: a.tanh() + b.sigmoid()),
            r"tanh is missing": of_halves(lambda a, b: a * b.sigmoid()),
            r"both halves go through a tanh": of_halves(lambda a, b: a.tanh() * b.tanh()),
            r"both halves go through a sigmoid": of_halves(lambda a, b: a.sigmoid() * b.sigmoid()),
            r"softmax": of_halves(lambda a, b: a.tanh() * b.softmax(1)),
            r"use all features twice": lambda x: x.tanh() * x.sigmoid(),
            r"cut axis 2": lambda x: x.chunk(2, 2)[0].tanh() * x.chunk(2, 2)[1].sigmoid(),
            r"gradient of the result's sum is wrong": blocked,
        },
    )


def rows_above(x, weight):
    k = weight.shape[2]
    return F.conv2d(F.pad(x, (k, k, k, -1)), weight)


def test_rows_above():
    def padded(top, bottom, side=2):
        return lambda x, w: F.conv2d(F.pad(x, (side, side, top, bottom)), w)

    def rolled(x, weight):
        return F.conv2d(F.pad(x, (2, 2, 1, 0)), weight).roll(1, 2)

    def two_only(x, weight):
        result = rows_above(x, weight)
        return result if weight.shape[2] == 2 else result * 0

    assert_checker(
        exercises.rows_above,
        rows_above,
        {
            r"shift is missing": padded(1, 0),
            r"pad below": padded(0, 1),
            r"rows below instead": padded(-1, 2),
            r"one row too many: row i - 1": padded(3, -2),
            r"`roll`": rolled,
            r"the result has one row too many": padded(2, 0),
            r"too narrow": padded(2, -1, 0),
            r"left only": lambda x, w: F.conv2d(F.pad(x, (4, 0, 2, -1)), w),
            r"turned round": lambda x, w: rows_above(x, w.flip(2, 3)),
            r"a kernel of one row is wrong": two_only,
        },
    )


def conditioned_gate(x, h, v):
    return gated_unit(x + (h @ v.T)[:, :, None, None])


def test_conditioned_gate():
    def halves(h, v):
        return (h @ v.T)[:, :, None, None].chunk(2, 1)

    def with_parts(combine):
        def answer(x, h, v):
            (a, b), (f, g) = x.chunk(2, 1), halves(h, v)
            return combine(a, b, f, g)

        return answer

    def unit(a, b):
        return a.tanh() * b.sigmoid()

    def corner(x, h, v):
        x = x.clone()
        x[:, :, 0, 0] += h @ v.T
        return gated_unit(x)

    def cut(x, h, v):
        return conditioned_gate(x, h.detach(), v) + 0 * h.sum()

    assert_checker(
        exercises.conditioned_gate,
        conditioned_gate,
        {
            r"context is not used": lambda x, h, v: gated_unit(x),
            r"reaches the tanh only": with_parts(lambda a, b, f, g: unit(a + f, b)),
            r"reaches the sigmoid only": with_parts(lambda a, b, f, g: unit(a, b + g)),
            r"halves of V are exchanged": with_parts(lambda a, b, f, g: unit(a + g, b + f)),
            r"behind the gate": with_parts(lambda a, b, f, g: unit(a, b) + f),
            r"you multiply by V h": with_parts(lambda a, b, f, g: unit(a * f, b * g)),
            r"average context": lambda x, h, v: conditioned_gate(x, h.mean(0, True), v),
            r"another one's context": lambda x, h, v: conditioned_gate(x, h.flip(0), v),
            r"one pixel only": corner,
            r"sum with respect to `h` is 0 times": cut,
        },
    )


def conditional_gain(log_p, y):
    own = log_p[torch.arange(len(y)), y]
    return (own - log_p.logsumexp(1) + math.log(log_p.shape[1])) / math.log(2)


def test_conditional_gain():
    def own(log_p, y):
        return log_p[torch.arange(len(y)), y]

    def no_count(log_p, y):
        return (own(log_p, y) - log_p.logsumexp(1)) / math.log(2)

    def of_logarithms(log_p, y):
        return (own(log_p, y) - log_p.mean(1)) / math.log(2)

    def wrong_sign(log_p, y):
        return no_count(log_p, y) - math.log2(log_p.shape[1])

    def likeliest(log_p, y):
        return conditional_gain(log_p, log_p.argmax(1))

    def underflows(log_p, y):
        mean = log_p.exp().mean(1).log()
        return (own(log_p, y) - mean) / math.log(2)

    assert_checker(
        exercises.conditional_gain,
        conditional_gain,
        {
            r"don't divide by the number of classes": no_count,
            r"average the logarithms": of_logarithms,
            r"log K has the wrong sign": wrong_sign,
            r"in nats": lambda p, y: conditional_gain(p, y) * math.log(2),
            r"sign is flipped": lambda p, y: -conditional_gain(p, y),
            r"average over the batch": lambda p, y: conditional_gain(p, y).mean(),
            r"likeliest class": likeliest,
            r"thousand pixels": underflows,
        },
    )
