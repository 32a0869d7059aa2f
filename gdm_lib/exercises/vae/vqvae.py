"""Checkers for the exercises of ``chapters/vae/vqvae`` (van den Oord et al. 2017, 1711.00937)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gdm_lib.exercises._check import Wrong, describe
from gdm_lib.exercises.expect import (
    expect_agreement,
    expect_close,
    expect_gradient,
    expect_gradients,
    expect_indices,
    wave,
)

__all__ = [
    "bound_in_bits",
    "ema_update",
    "nearest",
    "perplexity",
    "straight_through",
    "vq_loss",
]

# Inputs are fixed and in double precision. No two sizes are equal, so that a wrong axis shows.


def nearest(answer: Callable[..., Tensor]) -> None:
    """Check ``nearest(z, codebook)``: the codes of vectors.

    ``z`` is ``(N, D)``, ``codebook`` ``(K, D)``; the result is int64, ``(N,)``: the index of the
    entry at the least distance, the first of those that are equally near (1711.00937, equation 1).
    No tensor of ``N K D`` numbers is made.

    Args:
        answer: The reader's function.

    Raises:
        Wrong: The first fault found.
    """
    # Enough vectors, and entries of lengths so different, that no two mistakes give the same codes.
    lengths = torch.tensor([0.6, 2.2, 1.0, 1.6, 0.9], dtype=torch.float64)
    z, codebook = 2 * wave(17, 3), lengths[:, None] * wave(5, 3, pace=1.1)
    apart = z[:, None] - codebook
    squares = apart.square().sum(2)
    want = squares.argmin(1)
    product, norms = z @ codebook.T, codebook.square().sum(1)
    cosine = product / norms.sqrt()
    faults = [
        (squares.argmax(1), "you return the farthest entry. The nearest is asked for: `argmin`."),
        (
            product.argmax(1),
            "the squared norm of the entries is missing: z.e alone favours long entries. "
            "|z - e|^2 = |z|^2 - 2 z.e + |e|^2, and |z|^2 alone is the same for all entries.",
        ),
        (
            product.argmin(1),
            "you take the entry with the smallest z.e, which points away from z. "
            "|z - e|^2 = |z|^2 - 2 z.e + |e|^2.",
        ),
        (
            (norms + 2 * product).argmin(1),
            "z.e has the wrong sign: |z - e|^2 = |z|^2 - 2 z.e + |e|^2.",
        ),
        (
            (norms - product).argmin(1),
            "the factor 2 of z.e is missing: |z - e|^2 = |z|^2 - 2 z.e + |e|^2.",
        ),
        (
            (norms + 2 * product).argmax(1),
            "the squared norm of the entries has the wrong sign: the nearest has the largest "
            "2 z.e - |e|^2, since |z - e|^2 = |z|^2 - 2 z.e + |e|^2.",
        ),
        (
            cosine.argmax(1),
            "you compare directions (the cosine). The distance is asked for.",
        ),
        (
            apart.abs().sum(2).argmin(1),
            "you add up absolute differences. The distance of the paper is Euclidean: squares.",
        ),
        (
            apart.sum(2).argmin(1),
            "you add up the differences with their signs, without squaring them.",
        ),
        (
            squares.argmin(0),
            "you return the nearest vector of each entry. The nearest entry of each vector is "
            "asked for: take the minimum over the entries.",
        ),
        (squares.argmin(), "you take the minimum over all pairs. Each vector has its own: dim 1."),
        (codebook[want], "you return the entries themselves. Return their indices, int64, (N,)."),
        (squares.amin(1), "you return the squared distance. Return the index: `argmin`."),
        (squares.amin(1).sqrt(), "you return the distance. Return the index: `argmin`."),
        (squares, "you return all distances. Return the index of the smallest: `argmin(1)`."),
        (
            torch.eye(5, dtype=torch.float64)[want],
            "you return one-hot vectors. Return the indices themselves, int64, (N,).",
        ),
    ]
    got = answer(z, codebook)
    if isinstance(got, tuple):
        raise Wrong(
            f"you return {describe(got)}: what `min` gives is the values and where they are. "
            "Return the indices alone."
        )
    expect_indices(got, want, "the codes", faults)

    # Small integers, of which sums and products are exact: what is equally near stays so.
    grid = torch.tensor([[0, 0], [2, 0], [1, 1], [-1, 0]], dtype=torch.float64)
    entries = torch.tensor([[3, 3], [1, 0], [-1, 0], [1, 0]], dtype=torch.float64)
    squares = (grid[:, None] - entries).square().sum(2)
    want = squares.argmin(1)
    last = 3 - squares.flip(1).argmin(1)
    of_last = [(last, "of entries that are equally near you return the last. Return the first.")]
    expect_indices(answer(grid, entries), want, "the codes where entries are equally near", of_last)

    def right(z: Tensor, codebook: Tensor) -> Tensor:
        return torch.cdist(z, codebook).argmin(1)

    cases = {
        "of a single vector": (wave(1, 3), wave(6, 3, pace=0.9)),
        "for a codebook of one entry": (wave(4, 2), wave(1, 2, pace=0.9)),
        "of vectors of one feature": (3 * wave(6, 1), 2 * wave(4, 1, pace=0.9)),
        "of as many vectors as entries and features": (wave(4, 4), wave(4, 4, pace=0.9)),
        "of large vectors": (300 * wave(9, 2), 200 * wave(8, 2, pace=0.9)),
    }
    for what, args in cases.items():
        expect_indices(answer(*args), right(*args), f"the codes {what}")

    z, codebook = wave(2100, 3), wave(6, 3, pace=0.9)
    with _Largest() as made:
        got = answer(z, codebook)
    expect_indices(got, right(z, codebook), "the codes of many vectors")
    if made.count >= len(z) * codebook.numel():
        raise Wrong(
            "the codes are right, but you make a tensor of N x K x D numbers, the differences of "
            "all pairs. Of 128 images with 8 x 8 codes each, 512 entries and 64 features these "
            "would be 268 million numbers, a gigabyte. Expand the square, |z - e|^2 = |z|^2 - "
            "2 z.e + |e|^2: the products z.e are one matrix product, of shape (N, K)."
        )


class _Largest(TorchFunctionMode):
    """Count the numbers of the largest tensor that is made meanwhile.

    Of what happens within a function of torch it sees the result alone.
    """

    count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.layout == torch.strided:
            expanded = 0 in result.stride()  # it takes no memory
            self.count = max(self.count, 0 if expanded else result.numel())
        return result

    def __exit__(self, *error: object) -> None:
        with suppress(RuntimeError):  # it is over already: the sandbox ends what is in force
            super().__exit__(*error)


def straight_through(answer: Callable[..., Tensor]) -> None:
    """Check ``straight_through(z_e, z_q)``: the value of ``z_q``, and a gradient for ``z_e``.

    Both have one shape. The gradient of the result goes to ``z_e`` as it comes, and none to
    ``z_q`` (1711.00937, section 3.2).

    Args:
        answer: The reader's function.

    Raises:
        Wrong: The first fault found.
    """
    z_e, z_q = wave(2, 3, 4), wave(2, 3, 4, pace=0.9)
    faults = [
        (z_e, "the value is that of z_e: nothing is quantised. The decoder must see z_q."),
        (
            2 * z_e - z_q,
            "the difference has the wrong sign: the value is 2 z_e - z_q. Add z_q - z_e to z_e.",
        ),
        (
            2 * z_q - z_e,
            "the difference has the wrong sign: the value is 2 z_q - z_e. Add z_q - z_e to z_e.",
        ),
        (z_e + z_q, "the value is z_e + z_q. What lends its gradient must add 0 to the value."),
        (z_q - z_e, "the value is z_q - z_e. Add z_e: the decoder must see z_q."),
        (z_e - z_q, "the value is z_e - z_q. The decoder must see z_q."),
        ((z_e + z_q) / 2, "the value is the average of the two. The decoder must see z_q."),
    ]
    expect_close(answer(z_e, z_q), z_q, "the result", faults=faults)
    cases = {
        "of vectors": (wave(4, 2), wave(4, 2, pace=0.9)),
        "of feature maps": (wave(2, 3, 1, 2), wave(2, 3, 1, 2, pace=0.9)),
        "of single numbers": (wave(1, 1), wave(1, 1, pace=0.9)),
    }
    for what, args in {"": (z_e, z_q), **cases}.items():
        e, q = (value.clone().requires_grad_() for value in args)
        weights = wave(*e.shape, pace=0.6)
        result = answer(e, q)
        expect_close(result, q, f"the result {what}".strip())
        _expect_slopes(
            _slopes((result * weights).sum(), {"z_e": e, "z_q": q}),
            {"z_e": weights, "z_q": weights},
            (1, 0),
            {
                (0, 0): "the value is right, but no gradient comes out at all: what would carry it "
                "is cut off, or cancels. In z_e + (z_q - z_e), which part may `.detach()` cut?",
                (0, 1): "the gradient goes to z_q and none to z_e, the wrong way round: cut off "
                "z_q, not z_e.",
                (1, 1): "the gradient goes to both. Cut off z_q as well: the codebook learns by a "
                "term of its own.",
                (-1, 0): "the gradient that reaches z_e has the wrong sign.",
            },
            what,
        )
    for which, (e, q) in {
        "z_e": (z_e.clone().requires_grad_(), z_q),
        "z_q": (z_e, z_q.clone().requires_grad_()),
    }.items():
        got = answer(e, q)
        expect_close(got, q, f"the result where `{which}` alone requires a gradient")


def vq_loss(answer: Callable[..., Tensor]) -> None:
    """Check ``vq_loss(nats, z_e, z_q, beta)``: the three terms of the loss, a scalar.

    ``nats``, a scalar, is the first term; ``z_e`` and ``z_q`` are ``(B, D, h, w)``, ``z_q`` being
    the entries as they come from the codebook. The other terms are squared distances, sums over
    the features, averaged over items and cells (1711.00937, equation 3 and the footnote to it).

    Args:
        answer: The reader's function.

    Raises:
        Wrong: The first fault found.
    """
    nats = torch.tensor(3.7, dtype=torch.float64)
    z_e, z_q = wave(2, 3, 4, 5), wave(2, 3, 4, 5, pace=0.9)
    beta = 0.3
    squares = (z_e - z_q).square()
    cells = squares.sum(1)
    term = cells.mean()
    both = (1 + beta) * term
    features, numbers = z_e.shape[1], z_e.shape[2] * z_e.shape[3]
    of_items = nats + (1 + beta) * cells.mean((1, 2))
    faults = [
        (
            nats + both / features,
            "you average over the features too, as `F.mse_loss` does. A squared norm is a sum over "
            "the features (dim 1): average over items and cells only.",
        ),
        (
            nats + both * len(z_e) * numbers,
            "you sum over items and cells. Average over both: only the features are summed.",
        ),
        (
            nats + both * numbers,
            "you sum over the cells of an item. Average over items and cells.",
        ),
        (
            nats + both * len(z_e),
            "you sum over the items. Average over items and cells.",
        ),
        (
            nats + (1 + beta) * squares.sum(3).mean(),
            "you sum over the last axis. The features are axis 1.",
        ),
        (
            nats + (1 + beta) * cells.sqrt().mean(),
            "the norm is not squared: you average distances.",
        ),
        (nats + 2 * term, "beta is not used: it weighs the third term."),
        (nats + 2 * beta * term, "beta weighs both distances. It weighs the third term only."),
        (
            nats + (1 + 1 / beta) * term,
            "you divide by beta. The third term is multiplied by it.",
        ),
        (nats + (1 - beta) * term, "the third term has the wrong sign. All three are added."),
        (beta * (nats + 2 * term), "beta weighs everything. It weighs the third term only."),
        (-nats + both, "nats has the wrong sign. It is -log p(x|z) already, and is added."),
        (both, "nats, the first term, is missing."),
        (nats + term, "one distance is missing, that with beta: commitment is the third term."),
        (
            nats + beta * term,
            "the second term, which moves the codebook, is missing: you have that with beta only.",
        ),
        (of_items, "you return one value for each item. The loss is a scalar: average over items."),
        (
            nats + (1 + beta) * cells,
            "you return one value for each cell. Average over items and cells.",
        ),
    ]
    expect_close(answer(nats, z_e, z_q, beta), nats + both, "the loss", faults=faults)

    leaves = {"nats": nats, "z_e": z_e, "z_q": z_q}
    leaves = {name: value.clone().requires_grad_() for name, value in leaves.items()}
    result = answer(*leaves.values(), beta)
    expect_close(result, nats + both, "the loss")
    slope = expect_gradient(result, leaves.pop("nats"), "nats", "the loss")
    expect_close(slope, torch.ones_like(slope), "the gradient with respect to `nats`")
    toward = 2 * (z_e - z_q) / cells.numel()
    exchanged = (
        "the value is right, but the gradients are exchanged: z_e gets the whole pull and z_q the "
        "part with beta. Either the stop-gradients are swapped, or beta stands before the wrong "
        "term. The term of z_q is ||sg[z_e] - z_q||^2, and beta belongs to ||z_e - sg[z_q]||^2."
    )
    _expect_slopes(
        _slopes(result, leaves),
        {"z_e": toward, "z_q": -toward},
        (beta, 1),
        {
            (1, beta): exchanged,
            (1 + beta, 1 + beta): "the value is right, but there is no stop-gradient: both terms "
            "pull at both. `.detach()` z_e in the second term and z_q in the third.",
            (1 + beta, 1): "the value is right, but the second term pulls at z_e as well: its "
            "stop-gradient is missing. It is ||sg[z_e] - z_q||^2.",
            (beta, 1 + beta): "the value is right, but the third term pulls at z_q as well: its "
            "stop-gradient is missing. It is ||z_e - sg[z_q]||^2.",
            (beta - 1, 0): "the value is right, but the codebook gets no gradient, and z_e is "
            "pushed away from its entry. That is what the straight-through output does in the "
            "second term: it hands z_q's gradient to z_e. Take z_q as it comes from the codebook.",
            (-1, 0): "the value is right, but the codebook gets no gradient, and nothing commits "
            "the encoder: you use the straight-through output in both terms. Take z_q as it comes "
            "from the codebook.",
            (0, 0): "the value is right, but no gradient reaches z_e or z_q: in each term one of "
            "the two is cut off, not both.",
            (0, 1 + beta): "the value is right, but z_e is cut off in both terms, so that nothing "
            "commits the encoder. In the third term cut off z_q.",
            (1 + beta, 0): "the value is right, but z_q is cut off in both terms, so that the "
            "codebook never moves. In the second term cut off z_e.",
            (beta, 0): "the value is right, but both are cut off in the second term, so that the "
            "codebook never moves. Cut off z_e only, and take z_q as it comes from the codebook.",
            (0, 1): "the value is right, but both are cut off in the third term, so that nothing "
            "commits the encoder. Cut off z_q only.",
        },
    )

    def right(nats: Tensor, z_e: Tensor, z_q: Tensor, beta: float) -> Tensor:
        second = (z_e.detach() - z_q).square().sum(1).mean()
        third = (z_e - z_q.detach()).square().sum(1).mean()
        return nats + second + beta * third

    def of(*shape: int) -> tuple[Tensor, Tensor, Tensor]:
        return 5 * wave(1)[0], 3 * wave(*shape), wave(*shape, pace=0.9)

    cases = {
        "of one cell with one feature": (*of(1, 1, 1, 1), 0.25),
        "of one item": (*of(1, 4, 2, 3), 2.0),
        "without commitment (beta = 0)": (*of(3, 2, 2, 2), 0.0),
        "of a row of cells": (*of(4, 2, 1, 3), 0.25),
        "where nats is negative, as a density allows": (-90 * wave(1)[0], *of(2, 1, 3, 1)[1:], 0.5),
    }
    expect_agreement(answer, right, "the loss", cases)
    wrt = {0: "nats", 1: "z_e", 2: "z_q"}
    expect_gradients(answer, right, "the loss", (*of(3, 2, 1, 2), 1.5), wrt)


def _slopes(total: Tensor, leaves: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The gradients of a scalar, 0 where there is none."""
    if not total.requires_grad:
        return {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    try:
        found = torch.autograd.grad(total, [*leaves.values()], allow_unused=True)
    except RuntimeError as error:
        raise Wrong(f"the backward pass failed: {error}") from error
    return {
        name: torch.zeros_like(leaf) if slope is None else slope
        for (name, leaf), slope in zip(leaves.items(), found, strict=True)
    }


def _expect_slopes(
    got: Mapping[str, Tensor],
    units: Mapping[str, Tensor],
    right: tuple[float, float],
    faults: Mapping[tuple[float, float], str],
    what: str = "",
) -> None:
    """Assert gradients that are multiples of what is known.

    Args:
        got: Name -> gradient, of two arguments.
        units: Name -> what the gradient is a multiple of.
        right: The right multiples.
        faults: The multiples of a known mistake -> a sentence that names it.
        what: What is special about the case, for the message.

    Raises:
        Wrong: The gradients are others.
    """
    for multiples, fault in faults.items():
        if all(
            torch.allclose(got[name], m * units[name], rtol=1e-3, atol=1e-6)
            for name, m in zip(units, multiples, strict=True)
        ):
            raise Wrong(fault)
    for name, m in zip(units, right, strict=True):
        said = f"the gradient with respect to `{name}` {what}".strip()
        expect_close(got[name], m * units[name], said)


def ema_update(answer: Callable[..., Any]) -> None:
    """Check ``ema_update(sizes, sums, vectors, codes, decay)``: a codebook of moving averages.

    ``sizes`` is ``(K,)``, all positive, ``sums`` ``(K, D)``, ``vectors`` ``(N, D)``, and ``codes``,
    ``(N,)``, the entries that they chose. The result is the new sizes, the new sums and the
    codebook, ``(K, D)`` (1711.00937, appendix A.1, equations 6 to 8).

    Args:
        answer: The reader's function.

    Raises:
        Wrong: The first fault found.
    """
    # Entry 2 is chosen by nobody, entry 0 by three.
    sizes = torch.tensor([2.5, 1.2, 0.8, 3.1], dtype=torch.float64)
    sums, vectors = 2 * wave(4, 3), wave(6, 3, pace=0.9)
    codes, decay = torch.tensor([0, 3, 0, 1, 3, 0]), 0.9
    chosen = torch.bincount(codes, minlength=4).double()[:, None]
    total = torch.zeros_like(sums).index_add_(0, codes, vectors)
    last = torch.zeros_like(sums)
    for code, vector in zip(codes.tolist(), vectors, strict=True):
        last[code] = vector
    old = sizes[:, None]
    used = chosen > 0
    new_sizes, new_sums = decay * old + 0.1 * chosen, decay * sums + 0.1 * total
    codebook = new_sums / new_sizes
    turned = "the decay is turned round: decay weighs the old value, and 1 - decay the new one."
    unscaled = "what comes in is not scaled: decay times the old value and (1 - decay) times new."
    kept = (
        "an entry that no vector chose keeps what it had. Its average decays like all others: what "
        "comes in is 0."
    )

    def averages(old: Tensor, new: Tensor) -> list[tuple[Tensor, str]]:
        right = decay * old + 0.1 * new
        return [
            (0.1 * old + decay * new, turned),
            (decay * old + new, unscaled),
            (torch.where(used, right, old), kept),
            (decay * old, "nothing comes in: you only let the old value decay."),
            (old + new, "nothing decays: you add what comes in to the old value."),
            (old + 0.1 * new, "the old value does not decay: multiply it by decay."),
            (old, "you return the old value."),
            (new, "you return the value of this batch alone. The old one decays, with it."),
        ]

    sizes_faults = [
        *((value.squeeze(1), f"`sizes`: {fault}") for value, fault in averages(old, chosen)),
        (
            (decay * old + 0.1 * used.double()).squeeze(1),
            "`sizes`: an entry that several vectors chose is counted once. `n[codes] += 1` does "
            "not accumulate: use `torch.bincount` or `index_add`.",
        ),
        (
            (decay * old + 0.1 * chosen / len(codes)).squeeze(1),
            "`sizes`: you average shares, n / N. What comes in is the number of vectors.",
        ),
    ]
    means = total / chosen
    safe = total / chosen.clamp(min=1)
    mean = "`sums`: what comes in is the mean of an entry's vectors. It is their sum."
    sums_faults = [
        *((value, f"`sums`: {fault}") for value, fault in averages(sums, total)),
        (decay * sums + 0.1 * means, f"{mean} (Where nobody chose, your mean is 0/0, NaN.)"),
        (decay * sums + 0.1 * safe, mean),
        (
            decay * sums + 0.1 * last,
            "`sums`: of several vectors that chose the same entry only one counts. "
            "`sums[codes] += vectors` does not accumulate: use `index_add`.",
        ),
        (
            decay * sums + 0.1 * vectors.sum(0),
            "`sums`: each entry gets the sum of all vectors. It gets that of the vectors that "
            "chose it.",
        ),
        (codebook, "`sums`: you return the codebook in the place of the sums."),
    ]
    codebook_faults = [
        (
            new_sums / chosen,
            "`codebook`: you divide by the number of vectors of this batch, which is 0 for an "
            "entry that nobody chose. Divide by the new sizes.",
        ),
        (
            new_sums / chosen.clamp(min=1),
            "`codebook`: you divide by the number of vectors of this batch. Divide by the new "
            "sizes.",
        ),
        (new_sums / old, "`codebook`: you divide by the old sizes. Divide by the new ones."),
        (sums / old, "`codebook`: you divide the old sums by the old sizes. Take the new of both."),
        (sums / new_sizes, "`codebook`: you divide the old sums. Divide the new ones."),
        (new_sums, "`codebook`: you return the sums. Divide them by the sizes."),
        (new_sums * new_sizes, "`codebook`: you multiply by the sizes. Divide by them."),
        (means, "`codebook`: the means of this batch alone. Divide the new sums by the new sizes."),
        (safe, "`codebook`: the means of this batch alone. Divide the new sums by the new sizes."),
        *(
            (
                decay * sums / old + 0.1 * batch,
                "`codebook`: you average the entries themselves, so that one vector moves an entry "
                "as far as a hundred do. Divide the new sums by the new sizes.",
            )
            for batch in (means, safe)
        ),
    ]
    names = ("sizes", "sums", "codebook")
    wants = (new_sizes.squeeze(1), new_sums, codebook)
    faults = (sizes_faults, sums_faults, codebook_faults)
    got = _three(answer(sizes, sums, vectors, codes, decay))
    for part, want, name, known in zip(got, wants, names, faults, strict=True):
        expect_close(part, want, f"`{name}`", faults=known)

    few = torch.tensor([0, 2, 0])
    cases = {
        "where the last entries are chosen by nobody": (
            wave(5, pace=0.5) + 2, wave(5, 2), wave(3, 2, pace=0.9), few, 0.7
        ),
        "for a codebook of one entry": (
            wave(1) + 2, wave(1, 4), wave(2, 4, pace=0.9), torch.zeros(2, dtype=torch.int64), 0.99
        ),
        "of one feature": (wave(3, pace=0.5) + 2, wave(3, 1), wave(3, 1, pace=0.9), few, 0.5),
        "of as many entries as features and vectors": (
            wave(3, pace=0.5) + 2, 3 * wave(3, 3), wave(3, 3, pace=0.9), few, 0.2
        ),
        "of one vector": (wave(4) + 2, wave(4, 2), wave(1, 2, pace=0.9), few[1:2], 0.8),
    }  # fmt: skip
    for what, args in cases.items():
        got = _three(answer(*args))
        for part, want, name in zip(got, _ema_update(*args), names, strict=True):
            expect_close(part, want, f"`{name}` {what}")


def _ema_update(
    sizes: Tensor, sums: Tensor, vectors: Tensor, codes: Tensor, decay: float
) -> tuple[Tensor, Tensor, Tensor]:
    chose = (codes == torch.arange(len(sizes))[:, None]).to(vectors.dtype)
    sizes = decay * sizes + (1 - decay) * chose.sum(1)
    sums = decay * sums + (1 - decay) * chose @ vectors
    return sizes, sums, sums / sizes[:, None]


def _three(result: Any) -> Any:
    if not isinstance(result, tuple | list) or len(result) != 3:
        raise Wrong(
            "return three tensors, the new sizes, the new sums and the codebook, not "
            f"{describe(result)}."
        )
    return result


def perplexity(answer: Callable[..., Tensor]) -> None:
    """Check ``perplexity(codes, count)``: of how many entries a batch makes use, a scalar.

    ``codes`` is int64, of any shape, from 0 to ``count - 1``. The result is exp of the entropy of
    their frequencies in nats, where 0 log 0 is 0.

    Args:
        answer: The reader's function.

    Raises:
        Wrong: The first fault found.
    """
    count = 6  # of which two are used by nobody
    codes = torch.tensor([[[0, 2, 2, 5], [2, 0, 5, 2]], [[2, 4, 2, 2], [0, 2, 2, 0]]])
    chosen = torch.bincount(codes.flatten(), minlength=count).double()
    share = chosen / chosen.sum()
    entropy = torch.special.entr(share).sum()
    want = entropy.exp()
    items = torch.stack(
        [torch.special.entr(torch.bincount(c.flatten()) / c.numel()).sum().exp() for c in codes]
    )
    zero = (
        "the result is NaN, since two entries are chosen by nobody: 0 times log 0 is 0 times minus "
        "infinity to a computer. It counts as 0: see `torch.special.entr`, or leave these entries "
        "out."
    )
    faults = [
        (torch.tensor(math.nan), zero),
        (
            (entropy / math.log(2)).exp(),
            "the entropy is in bits, but you take exp of it. Take exp of nats, or 2 to the power "
            "of bits.",
        ),
        (
            2**entropy,
            "the entropy is in nats, but you raise 2 to it. Take exp of nats, or 2 to the power of "
            "bits.",
        ),
        (entropy, "you return the entropy in nats, without its exp."),
        (entropy / math.log(2), "you return the entropy in bits. Take 2 to the power of it."),
        (-entropy, "the sign is flipped, and exp is missing: this is minus the entropy."),
        (
            1 / want,
            "the sign is flipped: the entropy is -sum p log p, and you take exp of +sum p log p.",
        ),
        (
            (chosen > 0).sum().double(),
            "you count the entries that are used at all. The perplexity is lower if some are used "
            "more than others.",
        ),
        (torch.tensor(float(count)), "you return K, whatever the codes are."),
        (
            want / count,
            "you divide by K. The perplexity itself is asked for, not its share.",
        ),
        (
            (entropy / count).exp(),
            "you average -p log p over the entries. The entropy is the sum.",
        ),
        (
            (entropy / codes.numel()).exp(),
            "you divide the entropy by the number of codes. It is the sum of -p log p.",
        ),
        (
            1 / share.square().sum(),
            "you return 1 / sum p^2, another way to count. The perplexity is exp of the entropy.",
        ),
        (
            torch.special.entr(chosen / count).sum().exp(),
            "you divide the counts by K. The frequencies add up to 1: divide by the number of "
            "codes.",
        ),
        (
            (-(chosen[chosen > 0].log() * chosen[chosen > 0]).sum()).exp(),
            "you take the entropy of the counts. Divide them by the number of codes first.",
        ),
        (
            (-(share[share > 0].log().mean())).exp(),
            "each entry that is used counts alike. In the entropy -log p is weighted by p.",
        ),
        (items, "you return one value for each item. Take the frequencies over all codes."),
        (
            items.mean(),
            "you average the perplexities of the items. Take the frequencies over all codes: items "
            "may use different entries.",
        ),
        (torch.special.entr(share), "you return one value for each entry. Sum over the entries."),
    ]
    _expect_perplexity(answer(codes, count), want, "the perplexity", faults)

    def right(codes: Tensor) -> Tensor:
        _, chosen = torch.unique(codes, return_counts=True)
        return torch.distributions.Categorical(chosen.double()).entropy().exp()

    cases = {
        "of one code alone": (torch.tensor([3]), 5),
        "where all choose the same entry": (torch.full((4, 2, 3), 2), 4),
        "where all entries are used alike": (torch.arange(8).repeat(3).view(2, 3, 4), 8),
        "for a codebook of one entry": (torch.zeros(5, dtype=torch.int64), 1),
        "of a row of codes": (torch.tensor([1, 0, 1, 1, 2, 1, 6]), 9),
        "of many codes": ((wave(40, 25).abs() * 16).long(), 16),
    }
    for what, args in cases.items():
        _expect_perplexity(answer(*args), right(args[0]), f"the perplexity {what}")


def _expect_perplexity(
    got: object, want: Tensor, name: str, faults: list[tuple[Tensor, str]] | None = None
) -> None:
    """Counts have no precision of their own to follow: torch's default is right, double as well."""
    if isinstance(got, Tensor) and got.dtype == torch.float64:
        got = got.float()
    known = [(value.float(), fault) for value, fault in faults or []]
    expect_close(got, want.float(), name, faults=known)


def bound_in_bits(answer: Callable[..., Tensor]) -> None:
    """Check ``bound_in_bits(log_p_x, log_p_z, pixels)``: bits per pixel of a VQ-VAE.

    ``log_p_x`` is log p(x|z) and ``log_p_z`` log p(z), at the codes z that the encoder chooses, in
    nats and ``(B,)`` each; ``pixels`` is the number of pixels of an item. The result, ``(B,)``, is
    an upper bound on -log2 p(x) per pixel (1711.00937, section 3.2).

    Args:
        answer: The reader's function.

    Raises:
        Wrong: The first fault found.
    """
    log_p_x, log_p_z = 90 * wave(5) - 400, 30 * wave(5, pace=0.9) - 150
    pixels = 64
    nats = -(log_p_x + log_p_z)
    scale = pixels * math.log(2)
    want = nats / scale
    faults = [
        (
            -log_p_x / scale,
            "log p(z) is missing: whoever is to draw x must be told the codes first, which costs "
            "bits too.",
        ),
        (-log_p_z / scale, "log p(x|z) is missing: these are the bits of the codes alone."),
        (nats / pixels, "the result is in nats. Divide by log 2 for bits."),
        (
            nats * math.log(2) / pixels,
            "you multiply by log 2. A nat is more than a bit: divide by log 2.",
        ),
        (
            nats / pixels / math.log10(2),
            "you divide by the logarithm of 2 to base 10. The natural one is meant: `math.log(2)`.",
        ),
        (-want, "the sign is flipped: bits are minus the logarithm, so both terms are negated."),
        (
            (log_p_z - log_p_x) / scale,
            "log p(z) has the wrong sign: both logarithms are negated.",
        ),
        (
            (log_p_x - log_p_z) / scale,
            "log p(x|z) has the wrong sign: both logarithms are negated.",
        ),
        (
            nats / math.log(2),
            "you return the bits of the whole item. Divide by the number of pixels.",
        ),
        (
            nats * pixels / math.log(2),
            "you multiply by the number of pixels. Divide by it: bits per pixel.",
        ),
        (
            -log_p_x / scale - log_p_z / math.log(2),
            "the bits of the codes are not divided by the number of pixels. The pixels share them.",
        ),
        (
            -log_p_x / math.log(2) - log_p_z / scale,
            "the bits of x given the codes are not divided by the number of pixels.",
        ),
        (-log_p_x / scale - log_p_z / pixels, "the codes are in nats still, and x in bits."),
        (-log_p_x / pixels - log_p_z / scale, "x is in nats still, and the codes in bits."),
        (want.mean(), "you average over the items. Return one value for each, (B,)."),
        (want.sum(), "you sum over the items. Return one value for each, (B,)."),
    ]
    expect_close(answer(log_p_x, log_p_z, pixels), want, "the bound", faults=faults)

    def right(log_p_x: Tensor, log_p_z: Tensor, pixels: int) -> Tensor:
        return -(log_p_x + log_p_z) / (pixels * math.log(2))

    cases = {
        "of one item of one pixel": (9 * wave(1) - 5, wave(1, pace=0.9) - 6, 1),
        "of a density above 1": (300 * wave(4) + 900, 20 * wave(4, pace=0.9) - 50, 100),
        "of as many items as pixels": (9 * wave(4) - 50, wave(4, pace=0.9) - 20, 4),
    }
    expect_agreement(answer, right, "the bound", cases)
