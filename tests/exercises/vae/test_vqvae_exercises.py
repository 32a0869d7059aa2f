"""Each checker of the VQ-VAE chapter accepts the solution and names each planted fault."""

import math

import pytest
import torch
import torch.nn.functional as F

from gdm_lib.exercises import check
from gdm_lib.exercises.testing import assert_checker
from gdm_lib.exercises.vae import vqvae as exercises


def nearest(z, codebook):
    squares = z.square().sum(1, keepdim=True) - 2 * z @ codebook.T + codebook.square().sum(1)
    return squares.argmin(1)


def all_pairs(z, codebook):
    return (z[:, None] - codebook).square().sum(2)


def test_nearest():
    def norms(codebook):
        return codebook.square().sum(1)

    def last(z, codebook):
        return len(codebook) - 1 - all_pairs(z, codebook).flip(1).argmin(1)

    def cosine(z, codebook):
        return (F.normalize(z) @ F.normalize(codebook).T).argmax(1)

    def for_six(z, codebook):
        return nearest(z, codebook).clamp(max=5)

    def one_hot(z, codebook):
        return F.one_hot(nearest(z, codebook), len(codebook))

    assert_checker(
        exercises.nearest,
        nearest,
        {
            r"farthest": lambda z, c: all_pairs(z, c).argmax(1),
            r"squared norm of the entries is missing": lambda z, c: (z @ c.T).argmax(1),
            r"points away": lambda z, c: (z @ c.T).argmin(1),
            r"z.e has the wrong sign": lambda z, c: (norms(c) + 2 * z @ c.T).argmin(1),
            r"factor 2": lambda z, c: (norms(c) - z @ c.T).argmin(1),
            r"entries has the wrong sign": lambda z, c: (norms(c) + 2 * z @ c.T).argmax(1),
            r"directions": cosine,
            r"absolute differences": lambda z, c: torch.cdist(z, c, p=1).argmin(1),
            r"without squaring": lambda z, c: (z[:, None] - c).sum(2).argmin(1),
            r"nearest vector of each entry": lambda z, c: all_pairs(z, c).argmin(0),
            r"over all pairs": lambda z, c: all_pairs(z, c).argmin(),
            r"entries themselves": lambda z, c: c[nearest(z, c)],
            r"the squared distance\. Return": lambda z, c: all_pairs(z, c).amin(1),
            r"return the distance\.": lambda z, c: torch.cdist(z, c).amin(1),
            r"all distances": all_pairs,
            r"one-hot": one_hot,
            r"what `min` gives": lambda z, c: all_pairs(z, c).min(1),
            r"the last\. Return the first": last,
            r"dtype int32": lambda z, c: nearest(z, c).int(),
            r"the codes of large vectors are wrong": for_six,
            r"N x K x D": lambda z, c: all_pairs(z, c).argmin(1),
        },
    )


@pytest.mark.parametrize(
    "answer",
    [
        lambda z, c: (z.unsqueeze(1) - c.unsqueeze(0)).norm(dim=2).argmin(1),
        lambda z, c: (c[:, None] - z[None]).pow(2).sum(-1).argmin(0),
        lambda z, c: (
            F.mse_loss(
                z[:, None].expand(-1, len(c), -1), c.expand(len(z), -1, -1), reduction="none"
            )
            .sum(2)
            .argmin(1)
        ),
        lambda z, c: (
            (z.repeat_interleave(len(c), 0) - c.repeat(len(z), 1))
            .square()
            .sum(1)
            .view(len(z), -1)
            .argmin(1)
        ),
        torch.no_grad()(lambda z, c: all_pairs(z, c).argmin(1)),
    ],
)
def test_all_differences_at_once_are_seen(answer):
    assert "N x K x D" in check(exercises.nearest, answer).message


@pytest.mark.parametrize(
    "answer",
    [
        lambda z, c: torch.cdist(z, c).argmin(1),
        lambda z, c: torch.stack([(c - v).square().sum(1).argmin() for v in z]),
        lambda z, c: torch.cat([all_pairs(part, c).argmin(1) for part in z.split(1024)]),
        lambda z, c: (z[:, None].expand(-1, len(c), -1)[:, :, 0] * 0 + torch.cdist(z, c)).argmin(1),
        lambda z, c: torch.cdist(z, c).topk(1, largest=False).indices[:, 0].minimum(nearest(z, c)),
    ],
)
def test_what_takes_less_memory_passes(answer):
    """A view of N x K x D numbers takes none; nor do the differences of one part at a time."""
    assert check(exercises.nearest, answer).passed is True


def test_what_watches_the_memory_is_over_after_the_check():
    check(exercises.nearest, nearest)
    assert torch._C._len_torch_function_stack() == 0
    exercises.nearest(nearest)  # without the sandbox
    assert torch._C._len_torch_function_stack() == 0


# -- straight_through


def straight_through(z_e, z_q):
    return z_e + (z_q - z_e).detach()


def test_straight_through():
    def twice_for_maps(z_e, z_q):
        return z_q.detach() + (2 if z_e.ndim == 4 else 1) * (z_e - z_e.detach())

    def backward_fails(z_e, z_q):
        class Pass(torch.autograd.Function):
            @staticmethod
            def forward(ctx, a, b):
                return b.clone()

            @staticmethod
            def backward(ctx, gradient):
                return gradient  # one for two inputs

        return Pass.apply(z_e, z_q)

    def of_its_sign(z_e, z_q):
        return z_q.detach() - (z_e - z_e.detach())

    assert_checker(
        exercises.straight_through,
        straight_through,
        {
            r"nothing is quantised": lambda e, q: e + (q - e).detach() * 0,
            r"2 z_e - z_q": lambda e, q: e + (e - q).detach(),
            r"2 z_q - z_e": lambda e, q: q + (q - e).detach(),
            r"must add 0": lambda e, q: e + q.detach(),
            r"value is z_q - z_e": lambda e, q: q - e,
            r"value is z_e - z_q": lambda e, q: e - q,
            r"average of the two": lambda e, q: (e + q) / 2,
            r"no gradient comes out at all": lambda e, q: e + q.detach() - e,
            r"wrong way round": lambda e, q: e.detach() + (q - e.detach()),
            r"to both": lambda e, q: q + (e - e.detach()),
            r"reaches z_e has the wrong sign": of_its_sign,
            r"respect to `z_e` is 0\.5 times": lambda e, q: e / 2 + (q - e / 2).detach(),
            r"respect to `z_q` is wrong": lambda e, q: (
                straight_through(e, q) + q / 3 - q.detach() / 3
            ),
            r"respect to `z_e` of feature maps": twice_for_maps,
            r"backward pass failed": backward_fails,
        },
    )


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda e, q: q, "wrong way round"),
        (lambda e, q: q.detach(), "no gradient comes out at all"),
        (lambda e, q: (e + (q - e)).detach(), "no gradient comes out at all"),
        (lambda e, q: e + (q - e), "wrong way round"),
        (lambda e, q: e + (q - e.detach()), "goes to both"),
        (lambda e, q: q + (q - e).detach() - (q - e).detach(), "wrong way round"),
        (lambda e, q: e, "nothing is quantised"),
    ],
)
def test_straight_through_in_other_wrong_words(answer, told):
    assert told in check(exercises.straight_through, answer).message


# -- vq_loss


def vq_loss(nats, z_e, z_q, beta):
    codebook = (z_e.detach() - z_q).square().sum(1).mean()
    commitment = (z_e - z_q.detach()).square().sum(1).mean()
    return nats + codebook + beta * commitment


def test_vq_loss():
    def reduced(reduce):
        """The loss with another reduction of the differences (B, D, h, w)."""

        def answer(nats, z_e, z_q, beta):
            return nats + reduce(z_e.detach() - z_q) + beta * reduce(z_e - z_q.detach())

        return answer

    def weighted(first, second, third):
        """The loss with other weights, each a function of beta."""

        def answer(nats, z_e, z_q, beta):
            codebook = (z_e.detach() - z_q).square().sum(1).mean()
            commitment = (z_e - z_q.detach()).square().sum(1).mean()
            return first(beta) * nats + second(beta) * codebook + third(beta) * commitment

        return answer

    def pulled(codebook, commitment):
        """The loss of two differences, whose values are right."""

        def answer(nats, e, q, beta):
            return (
                nats
                + codebook(e, q).square().sum(1).mean()
                + beta * commitment(e, q).square().sum(1).mean()
            )

        return answer

    def keep(b):
        return b

    def one(b):
        return 1

    def none(b):
        return 0

    def to_q(e, q):
        return e.detach() - q

    def to_e(e, q):
        return e - q.detach()

    def through_in_both(nats, e, q, beta):
        return pulled(to_q, lambda e, q: e - q)(nats, e, straight_through(e, q), beta)

    assert_checker(
        exercises.vq_loss,
        vq_loss,
        {
            r"average over the features too": reduced(lambda d: d.square().mean()),
            r"sum over items and cells": reduced(lambda d: d.square().sum()),
            r"sum over the cells": reduced(lambda d: d.square().sum((1, 2, 3)).mean()),
            r"sum over the items\.": reduced(lambda d: d.square().sum((0, 1)).mean()),
            r"last axis": reduced(lambda d: d.square().sum(-1).mean()),
            r"not squared": reduced(lambda d: d.norm(dim=1).mean()),
            r"beta is not used": weighted(one, one, one),
            r"beta weighs both": weighted(one, keep, keep),
            r"divide by beta": weighted(one, one, lambda b: 1 / b if b else 0),
            r"third term has the wrong sign": weighted(one, one, lambda b: -b),
            r"beta weighs everything": weighted(keep, keep, keep),
            r"nats has the wrong sign": weighted(lambda b: -1, one, keep),
            r"first term, is missing": weighted(none, one, keep),
            r"one distance is missing": weighted(one, one, none),
            r"which moves the codebook, is missing": weighted(one, none, keep),
            r"one value for each item": reduced(lambda d: d.square().sum(1).mean((1, 2))),
            r"one value for each cell": reduced(lambda d: d.square().sum(1)),
            r"no gradient reaches `nats`": lambda n, e, q, b: vq_loss(n.detach(), e, q, b),
            r"gradients are exchanged": weighted(one, keep, one),
            r"there is no stop-gradient": pulled(lambda e, q: e - q, lambda e, q: e - q),
            r"second term pulls at z_e": pulled(lambda e, q: e - q, to_e),
            r"third term pulls at z_q": pulled(to_q, lambda e, q: e - q),
            r"pushed away": lambda n, e, q, b: vq_loss(n, e, straight_through(e, q), b),
            r"straight-through output in both": through_in_both,
            r"not both\.": lambda n, e, q, b: vq_loss(n, e.detach(), q.detach(), b),
            r"z_e is cut off in both terms": pulled(to_q, to_q),
            r"z_q is cut off in both terms": pulled(to_e, to_e),
            r"cut off in the second term, so": pulled(lambda e, q: to_q(e, q).detach(), to_e),
            r"cut off in the third term, so": pulled(to_q, lambda e, q: to_e(e, q).detach()),
            r"of one item": lambda n, e, q, b: vq_loss(n, e, q, min(b, 1.0)),
            r"where nats is negative": lambda n, e, q, b: vq_loss(n, e, q, b).abs(),
        },
    )


def test_swapped_stop_gradients_are_told_as_a_beta_in_the_wrong_place():
    """They are one mistake: the values and all gradients are equal."""

    def swapped(nats, z_e, z_q, beta):
        codebook = (z_e - z_q.detach()).square().sum(1).mean()
        commitment = (z_e.detach() - z_q).square().sum(1).mean()
        return nats + codebook + beta * commitment

    assert "stop-gradients are swapped" in check(exercises.vq_loss, swapped).message


# -- ema_update


def ema_update(sizes, sums, vectors, codes, decay):
    chosen = torch.bincount(codes, minlength=len(sizes))
    totals = torch.zeros_like(sums).index_add(0, codes, vectors)
    sizes = decay * sizes + (1 - decay) * chosen
    sums = decay * sums + (1 - decay) * totals
    return sizes, sums, sums / sizes[:, None]


def test_ema_update():
    def with_parts(*, sizes=None, sums=None, codebook=None):
        """The update with another way to one of its parts: of old, new, decay and what is used."""

        def answer(old_sizes, old_sums, vectors, codes, decay):
            n = torch.bincount(codes, minlength=len(old_sizes)).to(old_sums.dtype)
            total = torch.zeros_like(old_sums).index_add(0, codes, vectors)
            new_sizes, new_sums, entries = ema_update(old_sizes, old_sums, vectors, codes, decay)
            if sizes:
                new_sizes = sizes(old_sizes, n, decay, n > 0)
            if sums:
                new_sums = sums(old_sums, total, decay, n[:, None])
            if codebook:
                entries = codebook(
                    old_sizes[:, None],
                    old_sums,
                    new_sizes[:, None],
                    new_sums,
                    n[:, None],
                    total,
                    decay,
                )
            return new_sizes, new_sums, entries

        return answer

    def average(old, new, g):
        return g * old + (1 - g) * new

    def overwritten(sizes, sums, vectors, codes, decay):
        totals = torch.zeros_like(sums)
        totals[codes] += vectors
        return ema_update(sizes, sums, vectors, codes, decay)[0], average(sums, totals, decay), None

    def counted_once(sizes, sums, vectors, codes, decay):
        counts = torch.zeros_like(sizes)
        counts[codes] += 1
        return average(sizes, counts, decay), *ema_update(sizes, sums, vectors, codes, decay)[1:]

    def in_place(sizes, sums, vectors, codes, decay):
        new, *rest = ema_update(sizes, sums, vectors, codes, decay)
        return sizes.copy_(new), *rest

    def of_chosen_only(sizes, sums, vectors, codes, decay):
        chosen = torch.bincount(codes)
        _, *rest = ema_update(sizes, sums, vectors, codes, decay)
        return decay * sizes + (1 - decay) * chosen, *rest

    assert_checker(
        exercises.ema_update,
        ema_update,
        {
            r"`sizes`: the decay is turned": with_parts(sizes=lambda o, n, g, u: average(n, o, g)),
            r"`sizes`: what comes in is not sc": with_parts(sizes=lambda o, n, g, u: g * o + n),
            r"`sizes`: an entry that no vector": with_parts(
                sizes=lambda o, n, g, u: torch.where(u, average(o, n, g), o)
            ),
            r"`sizes`: nothing comes in": with_parts(sizes=lambda o, n, g, u: g * o),
            r"`sizes`: nothing decays": with_parts(sizes=lambda o, n, g, u: o + n),
            r"`sizes`: the old value does not": with_parts(
                sizes=lambda o, n, g, u: o + (1 - g) * n
            ),
            r"`sizes`: you return the old": with_parts(sizes=lambda o, n, g, u: o),
            r"`sizes`: you return the value of": with_parts(sizes=lambda o, n, g, u: n),
            r"counted once": counted_once,
            r"average shares": with_parts(sizes=lambda o, n, g, u: average(o, n / n.sum(), g)),
            r"`sums`: the decay is turned": with_parts(sums=lambda o, t, g, n: average(t, o, g)),
            r"`sums`: what comes in is not sc": with_parts(sums=lambda o, t, g, n: g * o + t),
            r"`sums`: an entry that no vector": with_parts(
                sums=lambda o, t, g, n: torch.where(n > 0, average(o, t, g), o)
            ),
            r"your mean is 0/0, NaN": with_parts(sums=lambda o, t, g, n: average(o, t / n, g)),
            r"It is their sum\.$": with_parts(
                sums=lambda o, t, g, n: average(o, t / n.clamp(min=1), g)
            ),
            r"only one counts": overwritten,
            r"sum of all vectors": with_parts(
                sums=lambda o, t, g, n: average(o, t.sum(0).expand_as(o), g)
            ),
            r"codebook in the place": lambda *a: (ema_update(*a)[0], *ema_update(*a)[2:], 0),
            r"which is 0 for": with_parts(codebook=lambda on, om, n, m, c, t, g: m / c),
            r"of vectors of this batch\. Div": with_parts(
                codebook=lambda on, om, n, m, c, t, g: m / c.clamp(min=1)
            ),
            r"divide by the old sizes": with_parts(codebook=lambda on, om, n, m, c, t, g: m / on),
            r"the new of both": with_parts(codebook=lambda on, om, n, m, c, t, g: om / on),
            r"Divide the new ones": with_parts(codebook=lambda on, om, n, m, c, t, g: om / n),
            r"return the sums\.": with_parts(codebook=lambda on, om, n, m, c, t, g: m),
            r"multiply by the sizes": with_parts(codebook=lambda on, om, n, m, c, t, g: m * n),
            r"means of this batch alone": with_parts(codebook=lambda on, om, n, m, c, t, g: t / c),
            r"average the entries themselves": with_parts(
                codebook=lambda on, om, n, m, c, t, g: average(om / on, t / c.clamp(min=1), g)
            ),
            r"changes its input `sizes`": in_place,
            r"return three tensors": lambda *a: ema_update(*a)[:2],
            r"for a codebook of one entry": lambda *a: ema_update(*a[:4], min(a[4], 0.9)),
            r"must match the size": of_chosen_only,
        },
    )


# -- perplexity


def perplexity(codes, count):
    share = torch.bincount(codes.flatten(), minlength=count) / codes.numel()
    return torch.special.entr(share).sum().exp()


def test_perplexity():
    def entropy(codes, count):
        return perplexity(codes, count).log()

    def shares(codes, count):
        return torch.bincount(codes.flatten(), minlength=count) / codes.numel()

    def of_shares(combine):
        return lambda codes, count: combine(shares(codes, count))

    def of_items(codes, count):
        return torch.stack([perplexity(item, count) for item in codes])

    def of_k(codes, count):
        return torch.special.entr(torch.bincount(codes.flatten()) / count).sum().exp()

    def of_counts(codes, count):
        chosen = torch.bincount(codes.flatten(), minlength=count)
        return (-torch.xlogy(chosen, chosen).sum()).exp()

    def unweighted(share):
        return (-share[share > 0].log().mean()).exp()

    assert_checker(
        exercises.perplexity,
        perplexity,
        {
            r"0 times log 0": of_shares(lambda p: (-(p * p.log()).sum()).exp()),
            r"in bits, but you take exp": lambda c, k: (entropy(c, k) / math.log(2)).exp(),
            r"in nats, but you raise 2": lambda c, k: 2 ** entropy(c, k),
            r"in nats, without its exp": entropy,
            r"return the entropy in bits": lambda c, k: entropy(c, k) / math.log(2),
            r"exp is missing": lambda c, k: -entropy(c, k),
            r"take exp of \+sum p log p": lambda c, k: (-entropy(c, k)).exp(),
            r"used at all": of_shares(lambda p: (p > 0).sum().float()),
            r"whatever the codes": lambda c, k: torch.tensor(float(k)),
            r"not its share": lambda c, k: perplexity(c, k) / k,
            r"average -p log p": of_shares(lambda p: torch.special.entr(p).mean().exp()),
            r"by the number of codes\. It is": lambda c, k: (entropy(c, k) / c.numel()).exp(),
            r"another way to count": of_shares(lambda p: 1 / p.square().sum()),
            r"divide the counts by K": of_k,
            r"entropy of the counts": of_counts,
            r"counts alike": of_shares(unweighted),
            r"one value for each item": of_items,
            r"average the perplexities": lambda c, k: of_items(c, k).mean(),
            r"one value for each entry": of_shares(torch.special.entr),
            r"of many codes is wrong": of_shares(lambda p: torch.special.entr(p[:9]).sum().exp()),
        },
    )


def test_perplexity_in_double_precision_is_as_right():
    assert check(exercises.perplexity, lambda c, k: perplexity(c, k).double()).passed is True


def test_the_codes_that_are_used_are_counted_in_whole_numbers_too():
    verdict = check(exercises.perplexity, lambda c, k: c.unique().numel() + torch.zeros(()))
    assert "used at all" in verdict.message


# -- bound_in_bits


def bound_in_bits(log_p_x, log_p_z, pixels):
    return -(log_p_x + log_p_z) / (pixels * math.log(2))


def test_bound_in_bits():
    bit = math.log(2)

    assert_checker(
        exercises.bound_in_bits,
        bound_in_bits,
        {
            r"log p\(z\) is missing": lambda x, z, n: -x / (n * bit),
            r"log p\(x\|z\) is missing": lambda x, z, n: -z / (n * bit),
            r"result is in nats": lambda x, z, n: -(x + z) / n,
            r"multiply by log 2": lambda x, z, n: -(x + z) / n * bit,
            r"base 10": lambda x, z, n: -(x + z) / n / math.log10(2),
            r"sign is flipped": lambda x, z, n: -bound_in_bits(x, z, n),
            r"log p\(z\) has the wrong sign": lambda x, z, n: bound_in_bits(x, -z, n),
            r"log p\(x\|z\) has the wrong sign": lambda x, z, n: bound_in_bits(-x, z, n),
            r"bits of the whole item": lambda x, z, n: -(x + z) / bit,
            r"multiply by the number": lambda x, z, n: -(x + z) / bit * n,
            r"bits of the codes are not divided": lambda x, z, n: -x / (n * bit) - z / bit,
            r"bits of x given the codes": lambda x, z, n: -x / bit - z / (n * bit),
            r"codes are in nats": lambda x, z, n: -x / (n * bit) - z / n,
            r"x is in nats": lambda x, z, n: -x / n - z / (n * bit),
            r"average over the items": lambda x, z, n: bound_in_bits(x, z, n).mean(),
            r"sum over the items": lambda x, z, n: bound_in_bits(x, z, n).sum(),
            r"density above 1": lambda x, z, n: bound_in_bits(x, z, n).abs(),
        },
    )
