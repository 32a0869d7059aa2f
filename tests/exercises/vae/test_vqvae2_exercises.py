"""Each checker of the VQ-VAE-2 chapter accepts the solution and names each planted fault."""

import math

import pytest
import torch
import torch.nn.functional as F

from gdm_lib.exercises import check
from gdm_lib.exercises.testing import assert_checker
from gdm_lib.exercises.vae import vqvae2 as exercises


def drop_bottom(bottom, u, p):
    return bottom * (u >= p)[:, None, None, None]


def test_drop_bottom():
    def along(axis):
        """Drop along another axis than the items'."""

        def answer(bottom, u, p):
            shape = [1] * 4
            shape[axis] = -1
            return bottom * (u >= p).view(shape)

        return answer

    def of_its_own(bottom, u, p):
        return bottom * (1 - torch.rand(len(u), 1, 1, 1, dtype=u.dtype) >= p)

    def at_equality(bottom, u, p):
        return bottom * (u > p)[:, None, None, None]

    def in_place(bottom, u, p):
        bottom[u < p] = 0
        return bottom

    def all_together(bottom, u, p):
        return bottom * 0 if (u < p).any() else bottom

    def subtracted(bottom, u, p):
        return bottom - (bottom - drop_bottom(bottom, u, p)).detach()

    def for_four(bottom, u, p):
        return torch.cat([drop_bottom(bottom[:4], u[:4], p), bottom[4:]])

    def divided(bottom, u, p):
        return drop_bottom(bottom, u, p) / (p or 1)

    def halved(bottom, u, p):
        kept = drop_bottom(bottom, u, p)
        return kept / 2 + kept.detach() / 2

    assert_checker(
        exercises.drop_bottom,
        drop_bottom,
        {
            r"as ordinary dropout does": lambda b, u, p: drop_bottom(b, u, p) / (1 - p),
            r"divide what stays by p": divided,
            r"multiply what stays by 1 - p": lambda b, u, p: drop_bottom(b, u, p) * (1 - p),
            r"mean of what dropping gives": lambda b, u, p: b * (1 - p),
            r"turned round": lambda b, u, p: b - drop_bottom(b, u, p),
            r"compare u with 1 - p": lambda b, u, p: drop_bottom(b, u, 1 - p),
            r"no item loses anything": lambda b, u, p: b.clone(),
            r"all items lose": all_together,
            r"drop features": along(1),
            r"drop rows": along(2),
            r"drop columns": lambda b, u, p: torch.where(u < p, 0, b),
            r"leave items out": lambda b, u, p: b[u >= p],
            r"loses some of its entries": lambda b, u, p: b * (torch.rand_like(b) >= p),
            r"draw no numbers of your own": of_its_own,
            r"where a number of u equals p": at_equality,
            r"changes its input `bottom`": in_place,
            r"no gradient reaches `bottom`": lambda b, u, p: drop_bottom(b.detach(), u, p),
            r"reaches the lost items too": subtracted,
            r"gradient that reaches `bottom` is 0\.5 times": halved,
            r"of many items": for_four,
        },
    )


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda b, u, p: F.dropout(b, p), "loses some of its entries"),
        (lambda b, u, p: F.dropout2d(b, p), "loses some of its entries"),
        (lambda b, u, p: b * (u[0] >= p), "no item loses anything"),
        (lambda b, u, p: b * (u.min() >= p), "all items lose"),
        (lambda b, u, p: b * (u >= p), "drop columns"),
        (lambda b, u, p: drop_bottom(b, u.sort().values, p), "draw no numbers of your own"),
        (lambda b, u, p: drop_bottom(b, u, p).to(torch.complex128), "dtype complex128"),
        (lambda b, u, p: u >= p, "dtype bool"),
    ],
)
def test_drop_bottom_in_other_wrong_words(answer, told):
    assert told in check(exercises.drop_bottom, answer).message


# -- spread


def repeated(grid, factor):
    return grid.repeat_interleave(factor, -2).repeat_interleave(factor, -1)


def vectors(codes, table):
    return table[codes].movedim(3, 1)


def spread(codes, table, factor):
    return repeated(vectors(codes, table), factor)


def test_spread():
    def with_zeros(codes, table, factor):
        coarse = vectors(codes, table)
        result = torch.zeros_like(repeated(coarse, factor))
        result[:, :, ::factor, ::factor] = coarse
        return result

    def reshaped(codes, table, factor):
        fine = repeated(codes, factor)
        return table[fine].reshape(len(fine), -1, *fine.shape[1:])

    def amounts(codes, table, factor):
        wide = F.interpolate(codes[:, None].double(), scale_factor=factor, mode="bilinear")
        return vectors(wide[:, 0].long(), table)

    def by_column(codes, table, factor):
        return spread(codes.mT.reshape(codes.shape), table, factor)

    def one_hot(codes, table, factor):
        return F.one_hot(repeated(codes, factor), len(table)).movedim(3, 1).to(table.dtype)

    def blended(codes, table, factor):
        return F.interpolate(vectors(codes, table), scale_factor=factor, mode="bilinear")

    assert_checker(
        exercises.spread,
        spread,
        {
            r"copies of the whole grid": lambda c, t, f: vectors(c, t).repeat(1, 1, f, f),
            r"features are the last axis": lambda c, t, f: t[repeated(c, f)],
            r"features stand before": lambda c, t, f: t.T[:, repeated(c, f)],
            r"height and width are exchanged": lambda c, t, f: t[repeated(c, f)].transpose(1, 3),
            r"mixes them with places": reshaped,
            r"column by column": by_column,
            r"repeat the rows only": lambda c, t, f: vectors(c, t).repeat_interleave(f, 2),
            r"repeat the columns only": lambda c, t, f: vectors(c, t).repeat_interleave(f, 3),
            r"as coarse as before": lambda c, t, f: vectors(c, t),
            r"have zeros": with_zeros,
            r"blend the vectors": blended,
            r"interpolate between codes": amounts,
            r"whole numbers, the codes": lambda c, t, f: repeated(c, f),
            r"the codes as numbers": lambda c, t, f: repeated(c, f).to(t.dtype),
            r"one-hot": one_hot,
            r"no gradient reaches `table`": lambda c, t, f: spread(c, t.detach(), f),
            r"the context of one feature has shape": lambda c, t, f: spread(c, t, min(f, 4)),
            r"the context of many codes is wrong": lambda c, t, f: spread(c.clamp(max=9), t, f),
        },
    )


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (
            lambda c, t, f: repeated(t[c].view(len(c), -1, *c.shape[1:]), f),
            "mixes them with places",
        ),
        (
            lambda c, t, f: F.interpolate(
                vectors(c, t), scale_factor=f, mode="bilinear", align_corners=True
            ),
            "blend the vectors",
        ),
        (lambda c, t, f: F.one_hot(repeated(c, f), len(t)), "whole numbers, the codes"),
        (lambda c, t, f: repeated(c[:, None], f).to(t.dtype), "the codes as numbers"),
        (lambda c, t, f: vectors(c, t).tile(1, 1, f, f), "copies of the whole grid"),
        (lambda c, t, f: spread(c, t, f).mT, "height and width are exchanged"),
    ],
)
def test_spread_in_other_wrong_words(answer, told):
    assert told in check(exercises.spread, answer).message


# -- attend_before


def attend_before(q, k, v):
    k, v = (torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1) for x in (k, v))
    logits = q @ k.transpose(1, 2) / math.sqrt(q.shape[2])
    later = torch.ones_like(logits[0]).triu(1).bool()
    return logits.masked_fill(later, -math.inf).softmax(2) @ v


def attention(
    q, k, v, *, diagonal=-1, zero=True, scale=None, dim=2, hidden=-math.inf, turned=False, late=None
):
    """Attention with one of its parts done in another way."""
    logits = q @ k.transpose(1, 2) / (scale or math.sqrt(q.shape[2]))
    seen = torch.ones_like(logits[0]).tril(diagonal)
    seen = seen.T if turned else seen
    if late is None:
        logits = logits.masked_fill(seen == 0, hidden)
    if late == "logits":
        logits = logits * seen
    logits = F.pad(logits, (1, 0), value=0.0) if zero else logits
    weights = logits.softmax(dim)[:, :, -q.shape[1] :]
    return (weights * seen if late == "weights" else weights) @ v


def with_parts(**parts):
    return lambda q, k, v: attention(q, k, v, **parts)


def weights_of(q, k):
    return attention(q, k, torch.eye(q.shape[1], dtype=q.dtype).expand(len(q), -1, -1))


def test_attend_before():
    def zero_for_the_first(q, k, v):
        return attention(q, k, v, zero=False).nan_to_num()

    def first_sees_itself(q, k, v):
        return torch.cat([v[:, :1], attention(q, k, v, zero=False)[:, 1:]], 1)

    def causal(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    def by_places(q, k, v):
        return attention(q, k, v, scale=math.sqrt(q.shape[1]))

    def exponentials(q, k, v):
        logits = q @ k.mT / math.sqrt(q.shape[2])
        return logits.exp().tril(-1) @ v

    def logits_alone(q, k, v):
        return (q @ k.mT / math.sqrt(q.shape[2])).tril(-1) @ v

    def by_hand(q, k, v):
        exp = (q @ k.mT / math.sqrt(q.shape[2])).exp().tril(-1)
        return exp @ v / (1 + exp.sum(2, keepdim=True))

    def not_below(q, k, v):
        logits = (q @ k.mT / math.sqrt(q.shape[2])).clamp(min=-8)
        later = torch.ones_like(logits[0]).triu().bool()
        weights = F.pad(logits.masked_fill(later, -math.inf), (0, 1)).softmax(2)
        return weights[:, :, :-1] @ v

    assert_checker(
        exercises.attend_before,
        attend_before,
        {
            r"a place sees itself\. It": with_parts(diagonal=0),
            r"sees itself and the later ones": with_parts(diagonal=9),
            r"mask is turned round": with_parts(turned=True),
            r"off by one": with_parts(diagonal=-2),
            r"the first row is NaN": with_parts(zero=False),
            r"the first row is right, but": zero_for_the_first,
            r"the first place sees all": with_parts(zero=False, hidden=-1e9),
            r"the first place sees itself": first_sees_itself,
            r"ordinary causal attention": causal,
            r"this is ordinary attention": F.scaled_dot_product_attention,
            r"logits are not scaled": with_parts(scale=1),
            r"divide the logits by d\.": lambda q, k, v: attention(q, k, v, scale=q.shape[2]),
            r"multiply the logits": lambda q, k, v: attention(q, k, v, scale=q.shape[2] ** -0.5),
            r"root of the number of places": by_places,
            r"everything is NaN": with_parts(dim=1),
            r"softmax runs over the queries": with_parts(dim=1, hidden=-1e9),
            r"mask after the softmax": with_parts(late="weights"),
            r"e\^0 is 1": with_parts(late="logits"),
            r"exchanged": lambda q, k, v: attention(k, q, v),
            r"average keys": lambda q, k, v: attention(q, k, k),
            r"return the weights": lambda q, k, v: weights_of(q, k),
            r"don't add up to 1": exponentials,
            r"softmax is missing": logits_alone,
            r"with large logits the result is not finite": by_hand,
            r"where nothing fits": not_below,
            r"of one feature": lambda q, k, v: attention(q * (1 + (q.shape[2] == 1)), k, v),
            r"no gradient reaches `k`": lambda q, k, v: attend_before(q, k.detach(), v),
        },
    )


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (with_parts(zero=False, late="weights"), "mask after the softmax"),
        (with_parts(zero=False, late="logits"), "e^0 is 1"),
        (with_parts(turned=True, diagonal=0), "mask is turned round"),
        (with_parts(zero=False, dim=1), "everything is NaN"),
        (with_parts(zero=False, hidden=torch.finfo(torch.float64).min), "the first place sees all"),
        (lambda q, k, v: F.pad(weights_of(q, k), (1, 0)), "has shape (2, 5, 6)"),
        (
            lambda q, k, v: torch.cat(
                [1 - weights_of(q, k).sum(2, keepdim=True), weights_of(q, k)], 2
            ),
            "return the weights",
        ),
        (
            lambda q, k, v: torch.where(q == q, attend_before(q, k, v), 0 / (q - q)),
            "the gradient of the result with respect to `q` is NaN",
        ),
    ],
)
def test_attend_before_in_other_wrong_words(answer, told):
    assert told in check(exercises.attend_before, answer).message


# -- best_of_each


def best_of_each(scores, y, keep, *, count=None, best=True, local=False):
    """The solution, or with one of its parts done in another way."""
    count = count or (lambda n: max(1, round(keep * n)))
    kept = []
    for label in y.unique():
        mine = (y == label).nonzero()[:, 0]
        ranked = scores[mine].argsort(descending=best)[: count(len(mine))]
        kept.append(ranked if local else mine[ranked])
    return torch.cat(kept)


def right_best(scores, y, keep):
    return best_of_each(scores, y, keep).sort().values


def test_best_of_each():
    def counted(count):
        return lambda s, y, keep: best_of_each(s, y, keep, count=lambda n: count(n, keep, len(y)))

    def in_order(answer):
        return lambda s, y, keep: answer(s, y, keep).sort().values

    def one_threshold(scores, y, keep):
        return scores.topk(round(keep * len(y))).indices

    def mask(scores, y, keep):
        return (torch.arange(len(y)) == right_best(scores, y, keep)[:, None]).any(0)

    def by_products(scores, y, keep):
        kept = []
        for label in y.unique():
            count = max(1, round(keep * int((y == label).sum())))
            kept.append((scores * (y == label)).topk(count).indices)
        return torch.cat(kept).sort().values

    def below_ten(scores, y, keep):
        kept = [right_best(scores, y, keep)[:0]]
        for label in range(10):
            mine = (y == label).nonzero()[:, 0]
            if len(mine):
                top = scores[mine].topk(max(1, round(keep * len(mine)))).indices
                kept.append(mine[top])
        return torch.cat(kept).sort().values

    def never_all(scores, y, keep):
        return right_best(scores, y, min(keep, 0.8))

    assert_checker(
        exercises.best_of_each,
        right_best,
        {
            r"the best of all samples": in_order(one_threshold),
            r"score worst": in_order(lambda s, y, keep: best_of_each(s, y, keep, best=False)),
            r"positions among": lambda s, y, keep: best_of_each(s, y, keep, local=True),
            r"return a mask": mask,
            r"return scores": lambda s, y, keep: s[right_best(s, y, keep)],
            r"return labels": lambda s, y, keep: y[right_best(s, y, keep)],
            r"rounds to none": in_order(counted(lambda n, keep, all_: round(keep * n))),
            r"number down": in_order(counted(lambda n, keep, all_: int(keep * n))),
            r"number up": in_order(counted(lambda n, keep, all_: math.ceil(keep * n))),
            r"the share of all samples": in_order(counted(lambda n, k, all_: round(k * all_))),
            r"many as should go": in_order(counted(lambda n, k, _: max(1, round((1 - k) * n)))),
            r"single best of each": in_order(counted(lambda n, keep, all_: 1)),
            r"keep all samples": in_order(counted(lambda n, keep, all_: n)),
            r"not in increasing order": best_of_each,
            r"dtype int32": lambda s, y, keep: right_best(s, y, keep).int(),
            r"of negative scores": by_products,
            r"of labels up to 999": below_ten,
            r"where all are to be kept": never_all,
        },
    )


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda s, y, keep: s.topk(round(keep * len(y))).indices, "the best of all samples"),
        (lambda s, y, keep: s.topk(6).indices.sort().values, "the best of all samples"),
        (
            lambda s, y, keep: (s >= s.quantile(1 - keep)).nonzero()[:, 0],
            "the best of all samples",
        ),
        (
            lambda s, y, keep: best_of_each(s, y, keep, local=True).sort().values,
            "positions among",
        ),
        (lambda s, y, keep: s[best_of_each(s, y, keep)], "return scores"),
        (
            lambda s, y, keep: (
                best_of_each(s, y, keep, count=lambda n: max(1, int(keep * n))).sort().values
            ),
            "number down",
        ),
        (lambda s, y, keep: right_best(s, y, keep).flip(0), "not in increasing order"),
        (lambda s, y, keep: right_best(s, y, keep).to(torch.complex64), "dtype complex64"),
    ],
)
def test_best_of_each_in_other_wrong_words(answer, told):
    assert told in check(exercises.best_of_each, answer).message
