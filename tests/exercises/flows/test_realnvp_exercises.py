"""Each checker of the Real NVP chapter accepts the solution and names each planted fault."""

import math

import torch
import torch.nn.functional as F

from gdm_lib.exercises import check
from gdm_lib.exercises.flows import realnvp as exercises
from gdm_lib.exercises.testing import assert_checker

# -- masked_coupling


def masked_coupling(x, b, s, t):
    log_scale, shift = (1 - b) * s(b * x), (1 - b) * t(b * x)
    return x * log_scale.exp() + shift, log_scale.sum(1)


def test_masked_coupling():
    def y_as(make):
        """The right log-determinant beside another y."""
        return lambda x, b, s, t: (make(x, b, s, t), masked_coupling(x, b, s, t)[1])

    def det_as(make):
        """The right y beside a log-determinant made of (1 - b) s."""
        return lambda x, b, s, t: (masked_coupling(x, b, s, t)[0], make((1 - b) * s(b * x)))

    def keeping(change):
        return lambda x, b, s, t: b * x + (1 - b) * change(x, s(b * x), t(b * x))

    def sees_all(x, b, s, t):
        return b * x + (1 - b) * (x * s(x).exp() + t(x))

    def kept_count(x, b, s, t):
        return masked_coupling(x, b, s, t)[0], s(b * x).sum(1)

    assert_checker(
        exercises.masked_coupling,
        masked_coupling,
        {
            r"return two tensors": lambda *a: masked_coupling(*a)[0],
            r"see the whole of x": y_as(sees_all),
            r"upside down": lambda x, b, s, t: masked_coupling(x, 1 - b, s, t),
            r"kept dimensions are changed": y_as(lambda x, b, s, t: x * s(b * x).exp() + t(b * x)),
            r"kept dimensions are missing": y_as(
                lambda x, b, s, t: (1 - b) * masked_coupling(x, b, s, t)[0]
            ),
            r"by s itself": y_as(keeping(lambda x, s, t: x * s + t)),
            r"shift first": y_as(keeping(lambda x, s, t: (x + t) * s.exp())),
            r"this is the inverse": y_as(keeping(lambda x, s, t: (x - t) * (-s).exp())),
            r"translation t is missing": y_as(keeping(lambda x, s, t: x * s.exp())),
            r"NICE's coupling": y_as(keeping(lambda x, s, t: x + t)),
            r"over the kept dimensions too": kept_count,
            r"wrong sign": det_as(lambda s: -s.sum(1)),
            r"return the determinant": det_as(lambda s: s.sum(1).exp()),
            r"add up exp": det_as(lambda s: s.exp().sum(1)),
            r"average s over the dim": det_as(lambda s: s.mean(1)),
            r"sum over the batch too": det_as(lambda s: s.sum()),
            r"average over the batch": det_as(lambda s: s.sum(1).mean()),
            r"s for each dimension": det_as(lambda s: s),
            r"batch axis": det_as(lambda s: s.sum(0)),
            r"would be NICE's": det_as(lambda s: s.sum(1) * 0),
        },
    )


# -- masked_inverse


def masked_inverse(y, b, s, t):
    log_scale, shift = (1 - b) * s(b * y), (1 - b) * t(b * y)
    return (y - shift) * torch.exp(-log_scale)


def test_masked_inverse():
    def with_nets(change, see=lambda y, b: b * y):
        def wrong(y, b, s, t):
            return b * y + (1 - b) * change(y, s(see(y, b)), t(see(y, b)))

        return wrong

    def undo(y, s, t):
        return (y - t) * (-s).exp()

    assert_checker(
        exercises.masked_inverse,
        masked_inverse,
        {
            r"see the whole of y": with_nets(undo, lambda y, b: y),
            r"see what was changed": with_nets(undo, lambda y, b: (1 - b) * y),
            r"undo the scale first": with_nets(lambda y, s, t: y * (-s).exp() - t),
            r"scale is applied once more": with_nets(lambda y, s, t: (y - t) * s.exp()),
            r"shift is added once more": with_nets(lambda y, s, t: (y + t) * (-s).exp()),
            r"forward map, once more": with_nets(lambda y, s, t: y * s.exp() + t),
            r"divide by s itself": with_nets(lambda y, s, t: (y - t) / s),
            r"kept dimensions are changed": lambda y, b, s, t: undo(y, s(b * y), t(b * y)),
            r"kept dimensions are missing": lambda y, b, s, t: (
                (1 - b) * undo(y, s(b * y), t(b * y))
            ),
        },
    )


# -- squeeze


def squeeze(x):
    b, c, h, w = x.shape
    blocks = x.view(b, c, h // 2, 2, w // 2, 2)
    return blocks.permute(0, 1, 3, 5, 2, 4).reshape(b, 4 * c, h // 2, w // 2)


def permuted(*order):
    def wrong(x):
        b, c, h, w = x.shape
        blocks = x.view(b, c, h // 2, 2, w // 2, 2)
        return blocks.permute(*order).reshape(b, 4 * c, h // 2, w // 2)

    return wrong


def test_squeeze():
    def slices(x):
        parts = [x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)]
        return torch.stack(parts, 2).flatten(1, 2)

    def quarters(x):
        h, w = x.shape[2] // 2, x.shape[3] // 2
        parts = [x[:, :, :h, :w], x[:, :, :h, w:], x[:, :, h:, :w], x[:, :, h:, w:]]
        return torch.stack(parts, 2).flatten(1, 2)

    assert check(exercises.squeeze, slices).passed is True
    assert_checker(
        exercises.squeeze,
        squeeze,
        {
            r"reshape alone": lambda x: x.reshape(len(x), -1, x.shape[2] // 2, x.shape[3] // 2),
            r"i and j are exchanged": permuted(0, 1, 5, 3, 2, 4),
            r"vary fastest": permuted(0, 3, 5, 1, 2, 4),
            r"quarter of the picture": quarters,
            r"height and width": lambda x: F.pixel_unshuffle(x, 2).transpose(2, 3),
            r"come last": permuted(0, 1, 2, 4, 3, 5),
        },
    )


# -- bits_per_dim


def slope(r, width):
    return (math.log(width) - r.log() - torch.log1p(-r)).sum(1)


def log_p(d, v, q, a):
    return d + slope(a + (1 - 2 * a) * v, 1 - 2 * a) - v.shape[1] * math.log(q)


def bits_per_dim(log_density, v, levels, alpha):
    return -log_p(log_density, v, levels, alpha) / (v.shape[1] * math.log(2))


def test_bits_per_dim():
    def corrected(make):
        """Bits from nats of the logits, the logit's right slope, D log Q, v and alpha."""

        def wrong(d, v, q, a):
            right = slope(a + (1 - 2 * a) * v, 1 - 2 * a)
            nats = make(d, right, v.shape[1] * math.log(q), v, a)
            return -nats / (v.shape[1] * math.log(2))

        return wrong

    assert_checker(
        exercises.bits_per_dim,
        bits_per_dim,
        {
            r"logit has the wrong sign": corrected(lambda d, s, q, v, a: d - s - q),
            r"log\(levels\) has the wrong sign": corrected(lambda d, s, q, v, a: d + s + q),
            r"both corrections": corrected(lambda d, s, q, v, a: d - s + q),
            r"volume of a bin is missing": corrected(lambda d, s, q, v, a: d + s),
            r"log\(levels\) once": corrected(lambda d, s, q, v, a: d + s - q / v.shape[1]),
            r"logit is not accounted for": corrected(lambda d, s, q, v, a: d - q),
            r"neither correction": corrected(lambda d, s, q, v, a: d),
            r"factor 1 - 2 alpha": corrected(
                lambda d, s, q, v, a: d + slope(a + (1 - 2 * a) * v, 1) - q
            ),
            r"slope of logit\(v\)": corrected(lambda d, s, q, v, a: d + slope(v, 1) - q),
            r"slope at v": corrected(lambda d, s, q, v, a: d + slope(v, 1 - 2 * a) - q),
            r"as section 4.1": corrected(
                lambda d, s, q, v, a: d + slope(a + (1 - a) * v, 1 - a) - q
            ),
            r"sign is flipped": lambda *args: -bits_per_dim(*args),
            r"nats per dimension": lambda *args: bits_per_dim(*args) * math.log(2),
            r"bits per image": lambda *args: bits_per_dim(*args) * args[1].shape[1],
            r"nats per image": lambda *args: -log_p(*args),
            r"average over the batch": lambda *args: bits_per_dim(*args).mean(),
        },
    )
