"""What the models of the autoregressive family share: a product of conditionals in a fixed order.

The chain rule holds for any order of the entries of ``x`` (van den Oord et al. 2016, 1601.06759,
equations 1 and 2)::

    p(x) = prod_i p(x_i | x_1, ..., x_{i-1})

A network gives the parameters of all factors in one pass over known data. Sampling goes place by
place: a ``Rule`` makes the value of a ``Place`` from the parameters of its conditional.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gdm_lib._inputs import (
    a_tensor,
    batch_of,
    check,
    check_count,
    check_known,
    check_some,
    levels_of,
)
from gdm_lib.nn import check_condition, check_sizes, context_of, evaluates, trains
from gdm_lib.protocols import Likelihood

__all__ = ["Autoregressive", "Place", "Rule"]

Place = tuple[int, ...]
"""Where a conditional stands: it is that of ``x[..., *place]``."""

Rule = Callable[[Tensor, Place], Tensor]
"""``(parameters (n, P) of one conditional, its place) -> values for that place``, of the shape of
``x[..., *place]``: draws them, or knows them."""


class Autoregressive(nn.Module):
    """A product of conditionals, in a fixed order of places: what the models of this family share.

    A subclass has ``forward``, ``places`` and ``generate``.

    Args:
        data_shape: shape of one item; ``x`` holds int64 levels.
        likelihood: of all conditionals; its parameters are what ``forward`` returns.
        levels: values that an entry of ``x`` can take.
        context_dim: features of the context that conditions all places; 0 for none.
        embed: makes the context of ``y``; without it ``y`` is the context.
    """

    bound = False

    def __init__(
        self,
        data_shape: Sequence[int],
        likelihood: Likelihood,
        levels: int,
        *,
        context_dim: int = 0,
        embed: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_count("levels", levels, 2)
        check_condition(context_dim, embed)
        self.data_shape, self.levels = check_sizes("data_shape", data_shape), levels
        self.likelihood, self.context_dim, self.embed = likelihood, context_dim, embed

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Parameters of every conditional: levels ``(B, *data_shape)`` -> ``(B, P, *places)``."""
        raise NotImplementedError

    def places(self, shape: Sequence[int]) -> Iterator[Place]:
        """All places of an item of that shape, in order."""
        raise NotImplementedError

    def generate(self, rule: Rule, n: int, y: Tensor | None = None) -> Tensor:
        """Fill ``n`` items place by place with what ``rule`` makes of each conditional.

        What one place has in common with those before it is computed once. Returns int64 levels,
        ``(n, *data_shape)``.
        """
        raise NotImplementedError

    @torch.no_grad()
    @evaluates
    def generate_naive(self, rule: Rule, n: int, y: Tensor | None = None) -> Tensor:
        """What ``generate`` computes, by a whole pass for each place."""
        x = self.blank(n)
        for place in self.places(self.data_shape):
            at: Any = (..., *place)
            x[at] = rule(self(x, y)[at], place)
        return x

    @evaluates
    def log_prob(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """log p(x) in nats, exact: levels ``(B, *data_shape)`` -> ``(B,)``."""
        return self.likelihood.log_prob(self(x, y), x)

    @trains
    def loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """Negative log-likelihood: ``loss`` in nats per item, beside it bits per dimension.

        Raises:
            ValueError: ``x`` has no item.
        """
        nats = -self.log_prob(x, y).mean()
        check_some("x", x)
        bits = nats.detach() / (x[0].numel() * math.log(2))
        return {"loss": nats, "bits_per_dim": bits}

    @torch.no_grad()
    @evaluates
    def sample(
        self, n: int, y: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Ancestral sampling: int64 levels, ``(n, *data_shape)``.

        Raises:
            TypeError: ``n`` is no whole number.
            ValueError: ``n`` is negative, or ``y`` does not fit, see ``context``.
        """
        n = check_count("n", n)

        def draw(params: Tensor, _: Place) -> Tensor:
            return self.likelihood.sample(params, generator=generator)

        return self.generate(draw, n, y)

    @torch.no_grad()
    @evaluates
    def complete(
        self,
        x: Tensor,
        known: Tensor,
        y: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Keep ``x`` where ``known`` and draw the rest: ``(B, *data_shape)``.

        A drawn place sees what stands before it only, so this is a draw given the known places if
        they come before all others (as the upper half of an image does), and else an approximation.

        Args:
            x: levels; those at unknown places don't matter, but must be in range.
            known: bool, of a shape that broadcasts to that of ``x``.
            y: as in ``sample``.
            generator: as in ``sample``.
        """
        self.check(x)
        check_known("known", known, x.shape)
        known = known.expand(x.shape)

        def draw(params: Tensor, place: Place) -> Tensor:
            drawn = self.likelihood.sample(params, generator=generator)
            at: Any = (..., *place)
            return torch.where(known[at], x[at], drawn)

        return self.generate(draw, len(x), y)

    def blank(self, n: int) -> Tensor:
        """``n`` items of zeros."""
        n = check_count("n", n)
        device = next(self.parameters()).device
        return torch.zeros(n, *self.data_shape, dtype=torch.int64, device=device)

    def scaled(self, x: Tensor) -> Tensor:
        """Levels to ``[-1, 1]``, which the networks take in, in the dtype of the weights."""
        dtype = next(self.parameters()).dtype
        return x.to(dtype) * (2 / (self.levels - 1)) - 1

    def check(self, x: Tensor) -> None:
        """Refuse what isn't a batch of items.

        Raises:
            TypeError: no tensor.
            ValueError: another shape, another dtype than int64, or levels out of range.
        """
        check("x", x, a_tensor, batch_of(self.data_shape), levels_of(self.levels))

    def context(self, y: Tensor | None, n: int) -> Tensor | None:
        """What conditions ``n`` items: features ``(n, context_dim, ...)``, or None.

        Raises:
            ValueError: ``y`` came to a model without context or is missing for one that has it, or
                is not one for each item, or does not give ``context_dim`` features.
        """
        context = context_of(y, n, self.context_dim, self.embed, maps=True)
        return context if context is None else context.to(next(self.parameters()).dtype)
