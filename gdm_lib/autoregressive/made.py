"""MADE.

Mathieu Germain, Karol Gregor, Iain Murray and Hugo Larochelle, *MADE: Masked Autoencoder for
Distribution Estimation*, 2015, https://arxiv.org/abs/1502.03509. Equation numbers below are the
paper's.

Any density factorises along any order of its variables (equation 2)::

    p(x) = prod_d p(x_d | x_<d)

One network gives all ``D`` conditionals in one pass if no path leads from ``x_d`` to an output
before or at ``d``. Masks on the weights cut the others: each unit has a degree, how many variables
of the order it may see, and is fed only by units of no higher degree (equations 8 and 9).

Symbols: ``m(k)`` degree of unit ``k``, ``D`` variables, ``K`` orders, ``P`` parameters of a
conditional, ``B`` the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gdm_lib.autoregression import Place, sequential
from gdm_lib.bijections import check_inputs
from gdm_lib.likelihoods import Bernoulli
from gdm_lib.nn import evaluates, exact, trains
from gdm_lib.protocols import Likelihood

__all__ = [
    "MADE",
    "Degrees",
    "MaskedMLP",
    "mask",
    "natural",
    "random_degrees",
    "random_orders",
    "spread_degrees",
]

ARXIV = "1502.03509"


# Section 4: masked autoencoders

Degrees = Callable[[int, int, int, torch.Generator | None], Tensor]
"""``(units, lowest, highest, generator)`` -> a degree for each unit of a hidden layer."""


def mask(inputs: Tensor, outputs: Tensor, *, strict: bool) -> Tensor:
    """1 where a unit of degree ``outputs[k]`` may see one of degree ``inputs[j]``: equation 8 for
    hidden units (``>=``), equation 9 for the output (``>``, strict)."""
    seen = outputs[:, None] > inputs if strict else outputs[:, None] >= inputs
    return seen.to(torch.get_default_dtype())


def random_degrees(
    units: int, lowest: int, highest: int, generator: torch.Generator | None = None
) -> Tensor:
    """The paper's: uniform from the lowest degree of the layer before to ``D - 1``."""
    return torch.randint(lowest, highest + 1, (units,), generator=generator)


def spread_degrees(
    units: int, lowest: int, highest: int, generator: torch.Generator | None = None
) -> Tensor:
    """Every degree equally often, in order; the usual choice since, and the same every time."""
    return lowest + torch.arange(units) * (highest + 1 - lowest) // units


def natural(dim: int) -> tuple[range]:
    """One order, as the variables stand."""
    return (range(dim),)


def random_orders(dim: int, count: int, generator: torch.Generator | None = None) -> Tensor:
    """``count`` permutations, for order-agnostic training (section 4.2): ``(count, dim)``."""
    return torch.stack([torch.randperm(dim, generator=generator) for _ in range(count)])


class MaskedMLP(nn.Module):
    """The network: ``P`` parameters for each variable, computed from those before it.

    With a context some units have degree 0 and see nothing else; without them the first
    conditional, which sees no variable, could not depend on the context either.

    Args:
        dim: ``D``.
        hidden: widths of the hidden layers.
        params: ``P``.
        orders: ``K`` orders, each lists the variables from first to last; ``natural(dim)`` if left
            out. Several share the weights, each with masks of its own (section 4.2).
        degrees: of hidden units, ``spread_degrees`` or the paper's ``random_degrees``.
        context_dim: features of the context, seen by all; 0 for none.
        activation: makes the elementwise activation between layers; the paper's is ReLU.
        generator: of random degrees.
    """

    def __init__(
        self,
        dim: int,
        hidden: Sequence[int],
        params: int = 1,
        *,
        orders: Sequence[Sequence[int]] | Tensor | None = None,
        degrees: Degrees = spread_degrees,
        context_dim: int = 0,
        activation: Callable[[], nn.Module] = nn.ReLU,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        every = torch.as_tensor([list(o) for o in (natural(dim) if orders is None else orders)])
        fits = every.ndim == 2 and every.shape[1] == dim
        if not fits or not bool((every.sort(1).values == torch.arange(dim)).all()):
            raise ValueError(
                f"orders must be permutations of 0..{dim - 1}, got {every.tolist()}; "
                "one order alone is [order]"
            )
        self.dim, self.params, self.context_dim, self.orders = dim, params, context_dim, len(every)
        widths = (dim, *hidden, params * dim)
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(widths))
        self.activations = nn.ModuleList(activation() for _ in hidden)
        if context_dim:
            self.from_context = nn.Linear(context_dim, widths[1], bias=False)
        lowest = 0 if context_dim else 1
        found: list[list[Tensor]] = [[] for _ in range(len(hidden) + 1)]
        for order in every:
            layer = order.argsort() + 1  # a variable's place in the order, from 1
            found[0].append(layer)
            for i, units in enumerate(hidden):
                low = lowest if i == 0 else int(layer.min())
                layer = degrees(units, low, max(dim - 1, low), generator)
                found[i + 1].append(layer)
        for i, layers in enumerate(found):
            self.register_buffer(f"degrees{i}", torch.stack(layers))
        self._make_masks()
        # A checkpoint holds the degrees; masks of other degrees would let information leak.
        self.register_load_state_dict_post_hook(lambda module, _: module._make_masks())

    def degrees(self, layer: int, order: int = 0) -> Tensor:
        """Degrees of the variables (layer 0: their places from 1) or of a hidden layer's units."""
        return cast(Tensor, getattr(self, f"degrees{layer}"))[order]

    def _make_masks(self) -> None:
        last = len(self.layers) - 1
        for i, layer in enumerate(self.layers):
            masks = []
            for k in range(self.orders):
                outputs = self.degrees(0 if i == last else i + 1, k)
                outputs = outputs.repeat(self.params) if i == last else outputs
                masks.append(mask(self.degrees(i, k), outputs, strict=i == last))
            weight = cast(nn.Linear, layer).weight
            self.register_buffer(f"mask{i}", torch.stack(masks).to(weight), persistent=False)

    def forward(self, x: Tensor, context: Tensor | None = None, order: int = 0) -> Tensor:
        """``(B, D)`` -> ``(B, P, D)``: for each variable, what those before it say of it."""
        check_inputs("x", x, (self.dim,), context, self.context_dim)
        h = x.to(cast(nn.Linear, self.layers[0]).weight.dtype)
        for i, layer in enumerate(self.layers):
            masked = getattr(self, f"mask{i}")[order] * layer.weight
            h = F.linear(h, masked, cast(Tensor, layer.bias))
            if i == 0 and context is not None:
                h = h + self.from_context(context.to(h.dtype))
            if i < len(self.activations):
                h = self.activations[i](h)
        return exact(h).unflatten(1, (self.params, self.dim))


# Section 4: the model


class MADE(nn.Module):
    """A density whose conditionals a masked network gives.

    Args:
        data_shape: shape of one item; its variables are taken row by row.
        hidden: widths of the hidden layers; the paper has one or two of 500 to 8000 for MNIST.
        likelihood: one variable's conditional: ``Bernoulli()`` if left out, as in the paper, or
            ``Gaussian()``.
        orders: see ``MaskedMLP``. Of several one is drawn for each step of training, and the
            density is the average of theirs (section 4.2).
        degrees: see ``MaskedMLP``.
        context_dim: features of the context, see ``MaskedMLP``.
        embed: makes the context of ``y``; without it ``y`` is the context.
        activation: see ``MaskedMLP``.
        generator: of random degrees.
    """

    bound = False

    def __init__(
        self,
        data_shape: Sequence[int],
        hidden: Sequence[int] = (500,),
        *,
        likelihood: Likelihood | None = None,
        orders: Sequence[Sequence[int]] | Tensor | None = None,
        degrees: Degrees = spread_degrees,
        context_dim: int = 0,
        embed: nn.Module | None = None,
        activation: Callable[[], nn.Module] = nn.ReLU,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.likelihood = Bernoulli() if likelihood is None else likelihood
        self.data_shape, self.context_dim, self.embed = tuple(data_shape), context_dim, embed
        dim = math.prod(data_shape)
        self.net = MaskedMLP(
            dim,
            hidden,
            math.prod(self.likelihood.params_shape((1,))),
            orders=orders,
            degrees=degrees,
            context_dim=context_dim,
            activation=activation,
            generator=generator,
        )

    def _context(self, y: Tensor | None) -> Tensor | None:
        return y if y is None or self.embed is None else self.embed(y)

    @evaluates
    def log_prob_of_order(self, x: Tensor, order: int, y: Tensor | None = None) -> Tensor:
        """log p(x) under one of the orders, in nats: ``(B, *data_shape)`` -> ``(B,)``."""
        check_inputs("x", x, self.data_shape)
        flat = x.flatten(1)
        params = self.net(flat, self._context(y), order)
        shape = self.likelihood.params_shape((self.net.dim,))
        return self.likelihood.log_prob(params.reshape(len(x), *shape), flat)

    @evaluates
    def log_prob(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The log of the average of the orders' densities, in nats, ``(B,)``."""
        each = [self.log_prob_of_order(x, k, y) for k in range(self.net.orders)]
        return torch.stack(each).logsumexp(0) - math.log(len(each))

    @trains
    def loss(
        self, x: Tensor, y: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Negative log-likelihood in nats per item (equation 3) under one order, drawn anew."""
        order = int(torch.randint(self.net.orders, (), generator=generator))
        return {"loss": -self.log_prob_of_order(x, order, y).mean()}

    @torch.no_grad()
    @evaluates
    def sample(
        self, n: int, y: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Ancestral sampling, each item in an order of its own: ``(n, *data_shape)``."""
        weight = cast(nn.Linear, self.net.layers[0]).weight
        x, context = exact(weight.new_empty(n, self.net.dim)), self._context(y)
        shape = self.likelihood.params_shape((1,))

        def rule(params: Tensor, _: Place) -> Tensor:
            draw = self.likelihood.sample(params.reshape(-1, *shape), generator=generator)
            return draw.squeeze(1)

        which = torch.randint(self.net.orders, (n,), generator=generator).to(weight.device)
        for k in which.unique().tolist():
            rows = which == k
            own = None if context is None else context[rows]
            x[rows] = sequential(self.net, rule, x[rows], own, k)
        return x.unflatten(1, self.data_shape)
