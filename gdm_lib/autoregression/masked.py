"""Vectors variable by variable, through a network whose masks order its units: MADE's.

Each unit of such a network has a degree, how many variables of the order it may see (Germain et
al. 2015, 1502.03509, section 4), so that a unit is final as soon as those variables are known.
"""

from __future__ import annotations

from copy import copy
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from gdm_lib.autoregression.base import Rule
from gdm_lib.bijections import check_inputs
from gdm_lib.nn import exact

__all__ = ["MaskedNetwork", "sequential", "sequential_naive"]


class MaskedNetwork(Protocol):
    """What ``sequential`` needs to know of a network, which is ``made.MaskedMLP``."""

    dim: int
    """Variables, ``D``."""
    params: int
    """Parameters of each conditional, ``P``."""
    context_dim: int
    """Features of the context; 0 for none."""
    layers: nn.ModuleList
    """Linear, hidden ones and the top."""
    activations: nn.ModuleList
    """Behind each hidden layer."""
    direct: nn.Linear | None
    """From the variables straight to the top."""
    from_context: nn.Linear
    """To the first layer, if there is a context."""
    context_to_output: nn.Linear | None
    """To the top, if there is a context and that is not the first layer."""

    def degrees(self, layer: int, order: int = 0) -> Tensor:
        """Of the variables (layer 0: their places from 1) or of a hidden layer's units."""
        ...

    def __call__(self, x: Tensor, context: Tensor | None, order: int) -> Tensor:
        """``(B, D)`` -> ``(B, P, D)``."""
        ...


# A compiler would unroll both, and again for each size of batch, for steps that differ in shape.


@torch.compiler.disable
def sequential_naive(
    net: MaskedNetwork, rule: Rule, start: Tensor, context: Tensor | None = None, order: int = 0
) -> Tensor:
    """``D`` passes, of which each is used for one variable. Gradients flow through all of them.

    Args:
        net: gives the parameters.
        rule: makes a variable of them; variable ``i`` stands at the place ``(i,)``.
        start: a batch whose shape, ``(B, D)``, dtype and device the result has.
        context: ``(B, context_dim)``.
        order: which of the network's orders.
    """
    columns = list(exact(torch.zeros_like(start)).unbind(1))
    for i in net.degrees(0, order).argsort().tolist():
        columns[i] = rule(net(torch.stack(columns, 1), context, order)[:, :, i], (i,))
    return torch.stack(columns, 1)


def _in_place(activation: nn.Module) -> nn.Module:
    """The same activation, in place if it can be."""
    if not hasattr(activation, "inplace"):
        return activation
    activation = copy(activation)
    cast(Any, activation).inplace = True
    return activation


@torch.compiler.disable
@torch.no_grad()
def sequential(
    net: MaskedNetwork, rule: Rule, start: Tensor, context: Tensor | None = None, order: int = 0
) -> Tensor:
    """What ``sequential_naive`` computes, with the arithmetic of one pass in all.

    With a new variable of place ``d`` the units of degree ``d`` can be computed, once and for all:
    they see nothing later. Sorted by degree they are consecutive rows, and so is all that they
    see. Each weight that a mask leaves is used once; nothing is multiplied by zero.
    """
    check_inputs("start", start, (net.dim,), context, net.context_dim)
    degrees = [net.degrees(i, order) for i in range(len(net.layers))]
    sort = [degree.argsort() for degree in degrees]
    counts = [torch.bincount(degree, minlength=net.dim + 1) for degree in degrees]
    upto = [count.cumsum(0).tolist() for count in counts]  # units of a degree of at most d
    *hidden, top = (cast(nn.Linear, layer) for layer in net.layers)
    rows = [layer.weight[sort[i + 1][:, None], sort[i]] for i, layer in enumerate(hidden)]
    biases = [layer.bias[sort[i + 1], None] for i, layer in enumerate(hidden)]
    by_variable = top.weight.unflatten(0, (net.params, net.dim))
    top_rows = by_variable[:, sort[0][:, None], sort[-1]].unbind(1)
    if net.direct is not None:
        by_variable = net.direct.weight.unflatten(0, (net.params, net.dim))
        direct_rows = by_variable[:, sort[0][:, None], sort[0]].unbind(1)
    top_bias = top.bias.view(net.params, net.dim)[:, sort[0], None]
    if context is not None:
        shift = net.from_context(context.to(top.weight.dtype)).T.to(top.weight.dtype)
        if hidden:
            biases[0] = biases[0] + shift[sort[1]]
        else:
            top_bias = top_bias + shift.view(net.params, net.dim, -1)[:, sort[0]]
    if context is not None and net.context_to_output is not None:
        shift = net.context_to_output(context.to(top.weight.dtype)).T.to(top.weight.dtype)
        top_bias = top_bias + shift.view(net.params, net.dim, -1)[:, sort[0]]
    # Features first, so that a layer's units of one degree are consecutive rows: blocks, all made
    # beforehand, because with few units in each what costs is the number of small operations.
    units = [top.weight.new_empty(len(s), len(start)) for s in sort]
    blocks = [
        list(zip(*(part.split(count.tolist()) for part in parts), strict=True))
        for *parts, count in zip(rows, biases, units[1:], counts[1:], strict=True)
    ]
    # What the network is given of a variable may have fewer digits than the variable.
    found = units[0] if exact(start).dtype == top.weight.dtype else exact(torch.empty_like(start)).T
    solved, tops = found.unbind(0), top_bias.unbind(1)
    activations = [_in_place(activation) for activation in net.activations]
    for d, i in enumerate([-1, *sort[0].tolist()]):
        if d:
            seen = upto[-1][d - 1]
            above, below = top_rows[d - 1].narrow(1, 0, seen), units[-1].narrow(0, 0, seen)
            params = torch.addmm(tops[d - 1], above, below)
            if net.direct is not None:
                above, below = direct_rows[d - 1].narrow(1, 0, d - 1), units[0].narrow(0, 0, d - 1)
                params = torch.addmm(params, above, below)
            params = exact(params)
            solved[d - 1].copy_(rule(params.T, (i,)))
            if found is not units[0]:
                units[0][d - 1] = solved[d - 1]
        for layer, block in enumerate(blocks):
            weight, bias, new = block[d]
            if new.numel():
                seen = upto[layer][d]
                below = units[layer].narrow(0, 0, seen)
                torch.addmm(bias, weight.narrow(1, 0, seen), below, out=new)
                active = activations[layer](new)
                if active is not new:
                    new.copy_(active)
    return found[degrees[0] - 1].T.contiguous()
