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
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gdm_lib._inputs import check_some
from gdm_lib.autoregression import Place, sequential
from gdm_lib.bijections import check_inputs
from gdm_lib.likelihoods import Bernoulli, check_items
from gdm_lib.nn import (
    check_condition,
    check_count,
    check_module,
    check_sizes,
    context_of,
    evaluates,
    exact,
    in_dtype_of,
    trains,
)
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
    """True where a unit of degree ``outputs[k]`` may see one of degree ``inputs[j]``: equation 8
    for hidden units (``>=``), equation 9 for the output (``>``, strict)."""
    return outputs[:, None] > inputs if strict else outputs[:, None] >= inputs


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


def _permutations(dim: int, orders: Sequence[Sequence[int]] | Tensor | None) -> Tensor:
    """Orders as a tensor ``(K, dim)``."""
    found = natural(dim) if orders is None else orders
    try:
        every = torch.as_tensor([list(order) for order in found])
    except (TypeError, ValueError):
        every = torch.zeros(0)
    fits = every.ndim == 2 and len(every) > 0 and every.shape[1] == dim
    if not fits or not bool((every.sort(1).values == torch.arange(dim)).all()):
        got = found.tolist() if isinstance(found, Tensor) else found
        raise ValueError(
            f"orders must be permutations of 0..{dim - 1}, got {got}; one order alone is [order]"
        )
    return every


class MaskedMLP(nn.Module):
    """The network: ``P`` parameters for each variable, computed from those before it.

    A context reaches the first hidden layer, in which some units then have degree 0 and see nothing
    else, and, with hidden layers, the output as well. The first conditional sees no variable: it
    could depend on the context by nothing but those units, and few units of ReLU may all be dead.

    Args:
        dim: ``D``.
        hidden: widths of the hidden layers.
        params: ``P``.
        orders: ``K`` orders, each lists the variables from first to last; ``natural(dim)`` if left
            out. Several share the weights, each with masks of its own (section 4.2).
        degrees: of hidden units, ``spread_degrees`` or the paper's ``random_degrees``.
        direct: whether there are weights from the input straight to the output too, masked as
            equation 9 says; the authors' code has them.
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
        direct: bool = False,
        context_dim: int = 0,
        activation: Callable[[], nn.Module] = nn.ReLU,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_count("dim", dim, 1)
        check_count("context_dim", context_dim)
        hidden = check_sizes("hidden", hidden)
        every = _permutations(dim, orders)
        self.dim, self.params, self.context_dim, self.orders = dim, params, context_dim, len(every)
        widths = (dim, *hidden, params * dim)
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(widths))
        self.activations = nn.ModuleList(activation() for _ in hidden)
        self.direct = nn.Linear(dim, params * dim, bias=False) if direct else None
        if context_dim:
            self.from_context = nn.Linear(context_dim, widths[1], bias=False)
        self.context_to_output = (
            nn.Linear(context_dim, params * dim, bias=False) if context_dim and hidden else None
        )
        lowest = 0 if context_dim else 1
        found: list[list[Tensor]] = [[] for _ in range(len(hidden) + 1)]
        for order in every:
            layer = order.argsort() + 1  # a variable's place in the order, from 1
            found[0].append(layer)
            for i, units in enumerate(hidden):
                low = lowest if i == 0 else int(layer.min())
                layer = degrees(units, low, max(dim - 1, low), generator)
                if context_dim:
                    layer[layer.argmin()] = 0
                found[i + 1].append(layer)
        for i, layers in enumerate(found):
            self.register_buffer(f"degrees{i}", torch.stack(layers).int())
        self._keep_masks()

    def degrees(self, layer: int, order: int = 0) -> Tensor:
        """Degrees of the variables (layer 0: their places from 1) or of a hidden layer's units."""
        return cast(Tensor, getattr(self, f"degrees{layer}"))[order].long()

    def mask(self, layer: int, order: int = 0) -> Tensor:
        """Which weights of a layer stay, ``(out, in)``; made of the degrees if there are several
        orders, because so many masks would be larger than the weights."""
        if self.orders == 1:
            return cast(Tensor, getattr(self, f"mask{layer}"))
        return self._made_mask(layer, order)

    def _made_mask(self, layer: int, order: int) -> Tensor:
        last = layer == len(self.layers) - 1
        outputs = getattr(self, f"degrees{0 if last else layer + 1}")[order]
        outputs = outputs.repeat(self.params) if last else outputs
        return mask(getattr(self, f"degrees{layer}")[order], outputs, strict=last)

    def _direct_mask(self, order: int) -> Tensor:
        places = cast(Tensor, self.degrees0)[order]
        return mask(places, places.repeat(self.params), strict=True)

    def _keep_masks(self) -> None:
        if self.orders == 1:
            for i in range(len(self.layers)):
                self.register_buffer(f"mask{i}", self._made_mask(i, 0), persistent=False)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        # What was stored before the context reached the output is the network with zeros there.
        if self.context_to_output is not None:
            weight = self.context_to_output.weight
            state_dict.setdefault(f"{prefix}context_to_output.weight", torch.zeros_like(weight))
        super()._load_from_state_dict(state_dict, prefix, *args)
        # A checkpoint holds the degrees; masks of other degrees would let information leak.
        self._keep_masks()

    def forward(self, x: Tensor, context: Tensor | None = None, order: int = 0) -> Tensor:
        """``(B, D)`` -> ``(B, P, D)``: for each variable, what those before it say of it."""
        check_inputs("x", x, (self.dim,), context, self.context_dim)
        h = x.to(cast(nn.Linear, self.layers[0]).weight.dtype)
        for i, layer in enumerate(self.layers):
            masked = cast(Tensor, layer.weight) * self.mask(i, order)
            h = F.linear(h, masked, cast(Tensor, layer.bias))
            if i == 0 and context is not None:
                h = h + self.from_context(context.to(h.dtype))
            if i < len(self.activations):
                h = self.activations[i](h)
        if self.direct is not None:
            weight = self.direct.weight * self._direct_mask(order)
            h = h + F.linear(x.to(weight.dtype), weight)
        if context is not None and self.context_to_output is not None:
            h = h + self.context_to_output(context.to(self.context_to_output.weight.dtype))
        return exact(h).unflatten(1, (self.params, self.dim))


# Section 4: the model


class MADE(nn.Module):
    """A density whose conditionals a masked network gives.

    Training under one order and one set of degrees among many, drawn for each step, makes the
    network agnostic of them (sections 4.2 and 4.3); the density is the average over all. For
    connectivity alone give ``masks``, for order too ``orders=random_orders(D, K)``. The authors'
    code has ``direct=True, degrees=random_degrees``, and goes through a finite number of sets too.

    Args:
        data_shape: shape of one item; its variables are taken row by row.
        hidden: widths of the hidden layers; the paper has one or two of 500 to 8000 for MNIST.
        likelihood: one variable's conditional: ``Bernoulli()`` if left out, as in the paper, or
            ``Gaussian()``. One of levels, such as ``Categorical``, takes int64 levels for ``x``.
        orders: see ``MaskedMLP``. Of several one is drawn for each step of training, and the
            density is the average of theirs (section 4.2).
        degrees: see ``MaskedMLP``.
        masks: sets of degrees for each order, of which too one is drawn for each step (section
            4.3). More than 1 need degrees that are drawn, ``random_degrees``.
        direct: see ``MaskedMLP``.
        context_dim: features of the context, see ``MaskedMLP``.
        embed: makes the context of ``y``, ``OneHot`` for labels; without it ``y`` is the context.
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
        masks: int = 1,
        direct: bool = False,
        context_dim: int = 0,
        embed: nn.Module | None = None,
        activation: Callable[[], nn.Module] = nn.ReLU,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_count("masks", masks, 1)
        if masks > 1 and degrees is spread_degrees:
            raise ValueError(
                f"masks must be 1 with spread_degrees, which are the same every time, got {masks}; "
                "take degrees=random_degrees"
            )
        check_module("likelihood", cast(Any, likelihood))
        check_condition(context_dim, embed)
        self.likelihood = Bernoulli() if likelihood is None else likelihood
        self.data_shape = check_sizes("data_shape", data_shape)
        self.context_dim, self.embed = context_dim, embed
        dim = math.prod(self.data_shape)
        try:
            params_shape = self.likelihood.params_shape((1, 1))
        except ValueError as error:
            raise ValueError(
                "likelihood must be of one variable, because MADE takes the colours of a pixel one "
                "by one; make it with channels=1"
            ) from error
        self.net = MaskedMLP(
            dim,
            hidden,
            math.prod(params_shape),
            orders=_permutations(dim, orders).repeat(masks, 1),
            degrees=degrees,
            direct=direct,
            context_dim=context_dim,
            activation=activation,
            generator=generator,
        )

    def _context(self, y: Tensor | None, n: int) -> Tensor | None:
        context = context_of(y, n, self.context_dim, self.embed)
        return context if context is None else in_dtype_of(self, context)

    def _seen(self, x: Tensor) -> Tensor:
        """What the network sees of variables: levels scaled to [-1, 1], all else as it is."""
        x, levels = in_dtype_of(self, x), getattr(self.likelihood, "levels", 0)
        return 2 * x / (levels - 1) - 1 if levels else x

    @evaluates
    def log_prob_of_order(self, x: Tensor, order: int, y: Tensor | None = None) -> Tensor:
        """log p(x) under one of the orders, in nats: ``(B, *data_shape)`` -> ``(B,)``."""
        levels = getattr(self.likelihood, "levels", 0)
        check_items("x", x, self.data_shape, self.likelihood)
        x = x.reshape(len(x), 1, self.net.dim)
        seen = self._seen(x)
        params = self.net(seen[:, 0], self._context(y, len(x)), order)
        shape = self.likelihood.params_shape((1, self.net.dim))
        return self.likelihood.log_prob(params.reshape(len(x), *shape), x if levels else seen)

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
        loss = -self.log_prob_of_order(x, order, y).mean()
        check_some("x", x)
        return {"loss": loss}

    @torch.no_grad()
    @evaluates
    def sample(
        self, n: int, y: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Ancestral sampling, each item in an order of its own: ``(n, *data_shape)``."""
        check_count("n", n)
        weight = cast(nn.Linear, self.net.layers[0]).weight
        x, context = exact(weight.new_empty(n, self.net.dim)), self._context(y, n)
        shape = self.likelihood.params_shape((1, 1))

        def rule(params: Tensor, _: Place) -> Tensor:
            draw = self.likelihood.sample(params.reshape(-1, *shape), generator=generator)
            return self._seen(draw.flatten())

        which = torch.randint(self.net.orders, (n,), generator=generator).to(weight.device)
        for k in which.unique().tolist():
            rows = which == k
            own = None if context is None else context[rows]
            x[rows] = sequential(self.net, rule, x[rows], own, k)
        levels = getattr(self.likelihood, "levels", 0)
        x = (0.5 * (x + 1) * (levels - 1)).round().long() if levels else x
        return x.reshape(n, *self.data_shape)
