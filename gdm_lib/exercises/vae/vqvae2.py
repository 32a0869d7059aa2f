"""Checkers for the exercises of ``chapters/vae/vqvae2`` (Razavi et al. 2019, 1906.00446)."""

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
    expect_indices,
    wave,
)

__all__ = ["attend_before", "best_of_each", "drop_bottom", "spread"]

# Inputs are fixed and in double precision. If not said otherwise no two sizes are equal, so that a
# wrong axis shows.


def drop_bottom(answer: Callable[..., Tensor]) -> None:
    """Check ``drop_bottom(bottom, u, p)``: zeros for the finer entries of some items.

    ``bottom`` is ``(B, D, H, W)``, ``u``, ``(B,)``, from 0 up to but not 1, and ``p`` from 0 to 1.
    The items with ``u < p`` become zeros; all others stay as they are, with their gradients.

    Args:
        answer: The reader's function.

    Raises:
        Wrong: The first fault found.
    """
    # All sizes are equal: what is done along a wrong axis fits, and can be named.
    bottom, p = wave(4, 4, 4, 4), 0.35
    u = torch.tensor([0.9, 0.1, 0.5, 0.3], dtype=torch.float64)

    def right(bottom: Tensor, u: Tensor, p: float) -> Tensor:
        return bottom * (u >= p).view(-1, 1, 1, 1)

    want, kept = right(bottom, u, p), u >= p
    whole = "`u` has one number for each item, axis 0."
    got = answer(bottom, u, p)
    faults = [
        (
            want / (1 - p),
            "you divide what stays by 1 - p, as ordinary dropout does. Here nothing is averaged: "
            "the decoder should see the entries as they are in the codebook, or zeros.",
        ),
        (want / p, "you divide what stays by p. It stays as it is."),
        (want * (1 - p), "you multiply what stays by 1 - p. It stays as it is."),
        (
            bottom * (1 - p),
            "you multiply all items by 1 - p, which is the mean of what dropping gives. An item "
            "loses its entries or keeps them.",
        ),
        (
            bottom * (u < p).view(-1, 1, 1, 1),
            "it is turned round: the items with u < p become zeros, and the others stay. So the "
            "share p of them is lost.",
        ),
        (
            right(bottom, u, 1 - p),
            "you compare u with 1 - p. The items with u < p become zeros.",
        ),
        (bottom, "no item loses anything. Those with u < p become zeros."),
        (
            torch.zeros_like(bottom),
            "all items lose their entries. The number of an item decides for that item alone.",
        ),
        (bottom * kept.view(-1, 1, 1), f"you drop features (axis 1) of all items. {whole}"),
        (bottom * kept.view(-1, 1), f"you drop rows (axis 2) of all items. {whole}"),
        (
            bottom * kept,
            f"you drop columns of all items: shapes are matched from the last axis. {whole} Give "
            "it three axes of size one: `u[:, None, None, None]`.",
        ),
        (
            bottom[kept],
            "you leave items out of the batch. They stay in it, as zeros.",
        ),
        *_by_other_numbers(got, bottom),
    ]
    expect_close(got, want, "the result", faults=faults)
    cases = {
        "for a single number that is lost": (wave(1, 1, 1, 1), u[1:2], 0.5),
        "for a single number that stays": (wave(1, 1, 1, 1), u[:1], 0.5),
        "where a number of u equals p": (wave(3, 2, 5, 4), torch.tensor([0.5, 0.25, 0.125]), 0.25),
        "where nothing is to be lost (p = 0)": (wave(2, 3, 1, 4), torch.tensor([0.0, 0.4]), 0.0),
        "where all is to be lost (p = 1)": (wave(3, 2, 4, 1), torch.tensor([0.99, 0.0, 0.6]), 1.0),
        "of many items": (wave(50, 1, 2, 3), wave(50).abs(), 0.7),
    }
    cases = {what: (b, of.double(), share) for what, (b, of, share) in cases.items()}
    expect_agreement(answer, right, "the result", cases)
    for args in ((bottom, u, p), cases["where a number of u equals p"]):
        leaf = args[0].clone().requires_grad_()
        weights = wave(*leaf.shape, pace=0.6)
        slope = expect_gradient(answer(leaf, *args[1:]) * weights, leaf, "bottom")
        expect_close(
            slope,
            right(weights, *args[1:]),
            "the gradient that reaches `bottom`",
            faults=[
                (
                    weights,
                    "the values are right, but the gradient reaches the lost items too, which the "
                    "decoder has not seen. Multiply by 0 or take `torch.where`; don't subtract.",
                )
            ],
        )


def _by_other_numbers(got: object, bottom: Tensor) -> list[tuple[Tensor, str]]:
    """The result itself and its fault, if something else than ``u`` has decided."""
    if not isinstance(got, Tensor) or (got.shape, got.dtype) != (bottom.shape, bottom.dtype):
        return []
    lost = (got == 0).flatten(1)
    if bool((lost.any(1) & ~lost.all(1)).any()):
        fault = "an item loses some of its entries and keeps others. It loses all of them or none: "
        return [(got, fault + "one number of `u` decides for the whole item.")]
    if torch.equal(got, bottom.masked_fill(lost.view(bottom.shape), 0)):
        fault = "other items lose their entries than those with u < p. `u` and `p` alone decide: "
        return [(got, fault + "draw no numbers of your own.")]
    return []


def spread(answer: Callable[..., Tensor]) -> None:
    """Check ``spread(codes, table, factor)``: what each place of a finer grid is told.

    ``codes`` is int64, ``(B, h, w)``, ``table`` ``(K, F)``, a vector for each code, and ``factor``
    how many times finer the grid is. The result is ``(B, F, factor h, factor w)``: each place has
    the vector of the coarse place in which it lies.

    Args:
        answer: The reader's function.

    Raises:
        Wrong: The first fault found.
    """
    factor, codes, table = 3, (7 * wave(2, 4, 5).abs()).long(), wave(7, 6, pace=0.9)
    fine = _repeated(codes, factor)
    want, coarse = _looked_up(fine, table), _looked_up(codes, table)
    between = torch.zeros_like(want)
    between[:, :, ::factor, ::factor] = coarse
    numbers = codes[:, None].double()
    blended = F.interpolate(numbers, scale_factor=factor, mode="bilinear")[:, 0]
    by_column = codes.transpose(1, 2).reshape(codes.shape)
    mixed = (
        "you `view` or `reshape` to move the features, which mixes them with places. Moving an "
        "axis takes `movedim` or `permute`."
    )
    got = answer(codes, table, factor)
    if isinstance(got, Tensor) and not (got.is_floating_point() or got.is_complex()):
        raise Wrong(
            "you return whole numbers, the codes. A code is a name: look its vector up, a row of "
            "`table`."
        )
    faults = [
        (
            coarse.repeat(1, 1, factor, factor),
            "you lay copies of the whole grid side by side, as `repeat` and `tile` do. Repeat each "
            "place beside itself: `repeat_interleave`.",
        ),
        (
            want.permute(0, 2, 3, 1),
            "the features are the last axis, where looking up has put them. They come second: "
            "(B, F, H, W).",
        ),
        (want.transpose(0, 1), "the features stand before the items. They come second."),
        (
            want.transpose(2, 3),
            "height and width are exchanged. The place in row i and column j lies in the coarse "
            "row i // factor.",
        ),
        (table[fine].reshape(want.shape), mixed),
        (_repeated(table[codes].reshape(coarse.shape), factor), mixed),
        (
            _looked_up(_repeated(by_column, factor), table),
            "you read the coarse grid column by column.",
        ),
        (coarse.repeat_interleave(factor, 2), "you repeat the rows only. Repeat columns as well."),
        (coarse.repeat_interleave(factor, 3), "you repeat the columns only. Repeat rows as well."),
        (coarse, "the grid is as coarse as before: repeat rows and columns."),
        (
            between,
            "most places of the finer grid have zeros. Each has the vector of the coarse place in "
            "which it lies.",
        ),
        *(
            (
                F.interpolate(coarse, scale_factor=factor, mode="bilinear", align_corners=corners),
                "you blend the vectors of neighbours. Each place has the vector of the one coarse "
                "place in which it lies: `mode` is nearest.",
            )
            for corners in (False, True)
        ),
        *(
            (
                _looked_up(to_whole(blended).long(), table),
                "you interpolate between codes as if they were amounts, but code 4 is not between "
                "code 2 and code 6. Repeat codes, and interpolate nothing.",
            )
            for to_whole in (torch.floor, torch.round)
        ),
        *(
            (
                value,
                "you return the codes as numbers. A code is a name: look its row of `table` up.",
            )
            for value in (fine.double(), fine[:, None].double())
        ),
        (
            F.one_hot(fine, len(table)).movedim(3, 1).double(),
            "you return one-hot vectors. Multiply them with `table`, or look rows up in it.",
        ),
    ]
    expect_close(got, want, "the context", faults=faults)

    def right(codes: Tensor, table: Tensor, factor: int) -> Tensor:
        return F.interpolate(table[codes].movedim(3, 1), scale_factor=factor, mode="nearest")

    few = torch.tensor([[[2, 0, 1]]])
    cases = {
        "of a single place": (few[:, :, :1], wave(3, 4), 2),
        "of a grid that is as fine": (few.view(1, 3, 1), wave(3, 2), 1),
        "of one feature": (few.view(3, 1, 1), wave(4, 1), 5),
        "for a single code": (torch.zeros(2, 1, 3, dtype=torch.int64), wave(1, 4), 2),
        "where all sizes are equal": ((3 * wave(3, 3, 3).abs()).long(), wave(3, 3, pace=0.9), 3),
        "of many codes": ((300 * wave(2, 7, 6).abs()).long(), wave(300, 5, pace=0.9), 4),
    }
    expect_agreement(answer, right, "the context", cases)
    expect_gradients(answer, right, "the context", (codes, table, 2), {1: "table"})


def _repeated(grid: Tensor, factor: int) -> Tensor:
    return grid.repeat_interleave(factor, -2).repeat_interleave(factor, -1)


def _looked_up(codes: Tensor, table: Tensor) -> Tensor:
    return table[codes].movedim(3, 1)


def attend_before(answer: Callable[..., Tensor]) -> None:
    """Check ``attend_before(q, k, v)``: attention to the places strictly before, and to a zero.

    All are ``(B, N, d)``, as is the result. The logits are ``q k / sqrt(d)``. At each place there
    is one more key, 0, whose value is 0, so that the first has something to look at (1906.00446,
    section 3.2, as ``gdm_lib.vae.vqvae2.MaskedAttention`` has it).

    Args:
        answer: The reader's function.

    Raises:
        Wrong: The first fault found.
    """
    q, k, v = 2 * wave(2, 5, 3), 2 * wave(2, 5, 3, pace=0.9), wave(2, 5, 3, pace=0.6)
    every = torch.ones(5, 5, dtype=torch.bool)
    before = every.tril(-1)
    products = q @ k.transpose(1, 2)
    logits = products / math.sqrt(3)
    want = _weights(logits, before) @ v
    without = _weights(logits, before, zero=False) @ v

    def first(row: Tensor | float) -> Tensor:
        """What comes without the zero, and another row for the first place, which is NaN then."""
        made = without.clone()
        made[:, 0] = row
        return made

    lacking = (
        "The zero is a key like all others, at every place: where a query fits nothing that it "
        "sees, it can look there."
    )
    silent = "The sum of e^logit runs over what is seen and the zero alone."
    faults = [
        (
            _weights(logits, every.tril()) @ v,
            "a place sees itself. It sees those strictly before it: at its own place stands what "
            "is to be predicted.",
        ),
        (
            _weights(logits, every) @ v,
            "a place sees itself and the later ones. It sees those strictly before it.",
        ),
        *(
            (
                _weights(logits, every.triu(later)) @ v,
                "the mask is turned round: a place sees later ones, and none before it.",
            )
            for later in (0, 1)
        ),
        (
            _weights(logits, every.tril(-2)) @ v,
            "a place does not see the one just before it: the mask is off by one.",
        ),
        (
            without,
            "the first row is NaN: there is nothing before the first place, and a softmax over "
            f"nothing is 0/0. Put a key 0 with value 0 before all others. {lacking}",
        ),
        (
            first(0),
            "the first row is right, but at all other places the extra key is missing from the "
            f"softmax. {lacking}",
        ),
        (
            first(v.mean(1)),
            "the first place sees all places alike: its logits are all the same large negative "
            "number, and only their differences count. Put a key 0 with value 0 before all others. "
            f"{lacking}",
        ),
        (
            first(v[:, 0]),
            f"the first place sees itself. It sees the zero alone. {lacking}",
        ),
        (
            _weights(logits, every.tril(), zero=False) @ v,
            "this is ordinary causal attention: a place sees itself as well, and the extra key 0 "
            f"is missing. {lacking}",
        ),
        (
            _weights(logits, every, zero=False) @ v,
            "this is ordinary attention: each place sees all places, and the extra key 0 is "
            f"missing. {lacking}",
        ),
        (
            _weights(products, before) @ v,
            "the logits are not scaled: divide q.k by sqrt(d). The more features are summed, the "
            "larger the sums.",
        ),
        (
            _weights(products / 3, before) @ v,
            "you divide the logits by d. Divide by its root: a sum of d products with random signs "
            "grows with sqrt(d).",
        ),
        (
            _weights(products * math.sqrt(3), before) @ v,
            "you multiply the logits by sqrt(d). Divide by it.",
        ),
        (
            _weights(products / math.sqrt(5), before) @ v,
            "you divide by the root of the number of places. Divide by that of the features, d.",
        ),
        (
            torch.full_like(v, math.nan),
            "everything is NaN. That happens where the softmax runs over another axis than the "
            "keys, the last: some of the others are seen by nobody.",
        ),
        (
            _weights(logits, before, dim=1, hidden=-1e9) @ v,
            "the softmax runs over the queries. It runs over the keys, the last axis.",
        ),
        *(
            (
                (_weights(logits, every, zero=zero) * before) @ v,
                f"you mask after the softmax, in which the later places have had a share. {silent}",
            )
            for zero in (True, False)
        ),
        *(
            (
                _weights(logits * before, every, zero=zero) @ v,
                "you set the logits of what isn't seen to 0, but e^0 is 1: it is seen still. A "
                "weight of 0 takes a logit of minus infinity.",
            )
            for zero in (True, False)
        ),
        (
            _weights(logits.transpose(1, 2), before) @ v,
            "queries and keys are exchanged: the logit of place i for place j is q[i].k[j].",
        ),
        (_weights(logits, before) @ k, "you average keys. Average values."),
        *(
            (value, "you return the weights. Average the values `v` with them.")
            for value in (
                _weights(logits, before),
                torch.cat([_weights(logits, before), 1 - _weights(logits, before).sum(2, True)], 2),
                torch.cat([1 - _weights(logits, before).sum(2, True), _weights(logits, before)], 2),
            )
        ),
        (
            (logits.exp() * before) @ v,
            "the weights don't add up to 1: divide by the sum of e^logit, the zero's e^0 = 1 with "
            "them.",
        ),
        ((logits * before) @ v, "the softmax is missing: you weigh values by the logits."),
    ]
    expect_close(answer(q, k, v), want, "the result", faults=faults)

    def right(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k, v = F.pad(k, (0, 0, 1, 0)), F.pad(v, (0, 0, 1, 0))
        seen = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool).tril()
        logits = q @ k.transpose(1, 2) / math.sqrt(q.shape[2])
        return logits.masked_fill(~seen, -math.inf).softmax(2) @ v

    def of(*shape: int, scale: float = 2) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = scale * wave(*shape), scale * wave(*shape, pace=0.9), wave(*shape, pace=0.6)
        return q, k, v

    cases = {
        "of a single place": of(2, 1, 3),
        "of two places": of(1, 2, 4),
        "of one feature": of(3, 4, 1),
        "of as many items as places and features": of(3, 3, 3),
        "of many places": of(1, 12, 2),
        "where nothing fits": (-of(2, 4, 3)[0].abs() - 3, of(2, 4, 3)[1].abs() + 2, of(2, 4, 3)[2]),
    }
    expect_agreement(answer, right, "the result", cases)
    expect_gradients(answer, right, "the result", (q, k, v), {0: "q", 1: "k", 2: "v"})
    large = of(2, 4, 3, scale=60)
    expect_finite(
        answer(*large),
        right(*large),
        "the result of large logits",
        "with large logits the result is not finite: e^logit leaves the range of a number. Let "
        "`softmax` do it, which subtracts the largest first of those that are seen, the zero's 0 "
        "among them.",
    )
    expect_agreement(answer, right, "the result", {"of large logits": large})


def _weights(
    logits: Tensor, seen: Tensor, *, zero: bool = True, dim: int = 2, hidden: float = -math.inf
) -> Tensor:
    """Attention to the places; what is missing from 1 is the zero's."""
    logits = logits.masked_fill(~seen, hidden)
    return F.pad(logits, (1, 0), value=0.0 if zero else hidden).softmax(dim)[:, :, 1:]


def best_of_each(answer: Callable[..., Tensor]) -> None:
    """Check ``best_of_each(scores, y, keep)``: of each label the samples that score best.

    ``scores`` is ``(N,)``, no two alike, ``y`` int64, ``(N,)``. Of ``n`` samples of a label
    ``round(keep n)`` are kept, one at least. The result is int64: the indices of all that are kept,
    in increasing order (1906.00446, section 3.3).

    Args:
        answer: The reader's function.

    Raises:
        Wrong: The first fault found.
    """
    # The samples of label 7 score lower than all others. There is one sample of label 2.
    y = torch.tensor([3, 7, 0, 3, 0, 7, 0, 3, 0, 2, 3, 0, 0])
    scores = torch.tensor(
        [0.52, 0.05, 0.91, 0.77, 0.35, 0.11, 0.98, 0.41, 0.84, 0.47, 0.29, 0.63, 0.88],
        dtype=torch.float64,
    )
    keep = 0.4
    want = _best(scores, y, keep)
    groups = [(y == label).nonzero()[:, 0] for label in y.unique()]
    best_first = [mine[scores[mine].argsort(descending=True)] for mine in groups]
    counts = [max(1, round(keep * len(mine))) for mine in groups]
    ranked = scores.argsort(descending=True)
    label_by_label = torch.cat([mine[:n] for mine, n in zip(best_first, counts, strict=True)])
    within = [scores[m].topk(n).indices for m, n in zip(groups, counts, strict=True)]

    def of_counts(count: Callable[[int], int]) -> Tensor:
        return torch.cat([mine[: count(len(mine))] for mine in best_first]).sort().values

    one_for_all = (
        "you keep the best of all samples, whatever their label, and label 7, of which no sample "
        "scores high, is lost. Each label is ranked by itself."
    )
    inside = (
        "you return positions among the samples of a label. Return those among all samples: take "
        "them from `(y == label).nonzero()`."
    )
    down = "you round keep times the number down. `round` to the nearest, and keep one at least."

    def rounded_down(n: int) -> int:
        return int(keep * n)

    share = "The scores say which samples are kept. Return their indices."
    got = answer(scores, y, keep)
    faults = [
        *((value, one_for_all) for value in _sorted_or_not(ranked[: round(keep * len(y))])),
        *((value, one_for_all) for value in _sorted_or_not(ranked[: len(want)])),
        (_best(-scores, y, keep), "you keep those that score worst. Keep the best."),
        *((value, inside) for value in _sorted_or_not(torch.cat(within))),
        (
            (torch.arange(len(y))[:, None] == want).any(1),
            "you return a mask. Return the indices of what it keeps: `.nonzero()[:, 0]`.",
        ),
        *((value, f"you return scores. {share}") for value in _sorted_or_not(scores[want])),
        (scores[label_by_label], f"you return scores. {share}"),
        (y[want], f"you return labels. {share}"),
        (
            of_counts(lambda n: round(keep * n)),
            "label 2 has a single sample, of which the share rounds to none: the label is lost. "
            "Keep one at least.",
        ),
        *((of_counts(count), down) for count in (rounded_down, lambda n: max(1, rounded_down(n)))),
        (
            of_counts(lambda n: math.ceil(keep * n)),
            "you round keep times the number up. `round` to the nearest, and keep one at least.",
        ),
        (
            of_counts(lambda n: round(keep * len(y))),
            "of each label you keep as many as are the share of all samples. Take the share of "
            "its own.",
        ),
        (
            of_counts(lambda n: max(1, round((1 - keep) * n))),
            "you keep the share 1 - keep, as many as should go. `keep` is the share that stays.",
        ),
        (of_counts(lambda n: 1), "you keep the single best of each label. Keep the share `keep`."),
        (torch.arange(len(y)), "you keep all samples. Keep the share `keep` of each label."),
        *_unsorted(got, want),
    ]
    expect_indices(got, want, "the indices", [(value.double(), fault) for value, fault in faults])

    cases = {
        "of a single sample": (wave(1), torch.tensor([4]), 0.3),
        "where all are to be kept": (wave(7).abs(), torch.tensor([1, 0, 1, 2, 2, 1, 0]), 1.0),
        "where all have one label": (wave(8).abs(), torch.full((8,), 5), 0.3),
        "where no two have one label": (wave(4).abs(), torch.tensor([2, 0, 3, 1]), 0.05),
        "of negative scores": (-wave(9).abs() - 3, torch.tensor([0, 1, 0, 1, 1, 0, 2, 0, 1]), 0.6),
        "of labels up to 999": (90 * wave(6), torch.tensor([999, 0, 999, 0, 999, 999]), 0.6),
        "of many samples": (wave(67), (4 * wave(67, pace=0.9).abs()).long(), 0.24),
    }
    for what, args in cases.items():
        expect_indices(answer(*args), _best(*args), f"the indices {what}")


def _best(scores: Tensor, y: Tensor, keep: float) -> Tensor:
    kept = torch.zeros_like(y, dtype=torch.bool)
    for label in y.unique():
        mine = y == label
        least = scores[mine].topk(max(1, round(keep * int(mine.sum())))).values[-1]
        kept |= mine & (scores >= least)
    return kept.nonzero()[:, 0]


def _sorted_or_not(values: Tensor) -> tuple[Tensor, Tensor]:
    return values, values.sort().values


def _unsorted(got: object, want: Tensor) -> list[tuple[Tensor, str]]:
    """The result itself and its fault, if nothing but the order is wrong."""
    if not isinstance(got, Tensor) or (got.shape, got.dtype) != (want.shape, want.dtype):
        return []
    fault = "the samples are the right ones, but not in increasing order."
    return [(got, fault)] if torch.equal(got.sort().values, want) else []
