"""Masked autoregressive flow.

George Papamakarios, Theo Pavlakou and Iain Murray, *Masked Autoregressive Flow for Density
Estimation*, 2017, https://arxiv.org/abs/1705.07057. Equation numbers below are the paper's.

An autoregressive density with Gaussian conditionals is a flow that carries noise ``u`` to data
(equations 2 and 3)::

    x_i = u_i exp(alpha_i) + mu_i,    mu_i = f_mu_i(x_1:i-1),    alpha_i = f_alpha_i(x_1:i-1)

Its inverse needs only known data, so density is one pass of a MADE (equations 4 and 5)::

    u_i = (x_i - mu_i) exp(-alpha_i),    log |det du/dx| = -sum_i alpha_i

The noise of one model is modelled by the next. Sampling goes variable by variable: this is IAF with
the two directions exchanged, and is made of the same step.

Symbols: ``x`` data, ``u`` noise, ``mu`` mean, ``alpha`` log standard deviation, ``y`` what is
conditioned on, ``C`` components of the base's mixture, ``D`` the dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from gdm_lib.autoregressive.made import MADE, Degrees, MaskedMLP, spread_degrees
from gdm_lib.bijections import BatchNorm, Chain, Flow, StandardNormal
from gdm_lib.flows.iaf import AutoregressiveStep, Update
from gdm_lib.likelihoods import MixtureOfGaussians
from gdm_lib.nn import check_count, check_sizes

__all__ = ["MAF", "bounded_scale", "exp_scale", "maf_mog"]

ARXIV = "1705.07057"


# Section 3.1: autoregressive models as normalizing flows


def exp_scale(mu: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """``u = (x - mu) exp(-alpha)`` (equation 4): log-scale ``-alpha``, shift ``-mu exp(-alpha)``.

    An ``iaf.Update``: the ``forward`` of an ``AutoregressiveStep`` with it maps data to noise. The
    same step with the same weights, read as noise to data, is an IAF (section 3.2).
    """
    log_scale = -alpha
    return log_scale, -mu * log_scale.exp()


def bounded_scale(mu: Tensor, alpha: Tensor, limit: float = 3.0) -> tuple[Tensor, Tensor]:
    """``exp_scale`` with ``limit * tanh(alpha / limit)`` for ``alpha``, which is ``alpha`` near 0.

    The paper's scale has no bound: where one point lies far out, ``exp(-alpha)`` can carry it
    beyond all numbers, and the loss is NaN. That is the rule rather than the exception on tables
    with heavy tails; there take this one. A layer still scales by 1/20 to 20 with a limit of 3, and
    layers multiply. It is not in the paper.
    """
    return exp_scale(mu, limit * torch.tanh(alpha / limit))


def _layers(
    dim: int,
    layers: int,
    hidden: Sequence[int],
    order: Sequence[int],
    batch_norm: bool,
    context_dim: int,
    degrees: Degrees,
    direct: bool,
    activation: Callable[[], nn.Module],
    update: Update,
) -> tuple[Chain, list[int]]:
    """The chain, and the order that the next layer would have."""
    check_count("layers", layers)
    hidden = check_sizes("hidden", hidden)
    parts: list[nn.Module] = []
    try:
        order = [*order]
        fits = sorted(order) == list(range(dim))
    except TypeError:
        fits = False
    if not fits:
        raise ValueError(f"order must be a permutation of 0..{dim - 1}, got {order}")
    for _ in range(layers):
        net = MaskedMLP(
            dim,
            hidden,
            2,
            orders=[order],
            degrees=degrees,
            direct=direct,
            context_dim=context_dim,
            activation=activation,
        )
        parts.append(AutoregressiveStep(net, update))
        parts += [BatchNorm(dim, affine=True)] if batch_norm else []
        order = [*reversed(order)]
    return Chain(*parts), [*order]


class MAF(Flow):
    """Layers of MADE with Gaussian conditionals, the order reversed from each to the next.

    Conditional (section 3.4) with ``context_dim``: every layer's network sees ``y`` too.

    Args:
        dim: ``D``.
        layers: how many; the paper's 5 or 10.
        hidden: widths of each network's hidden layers; the paper's is one or two of 100 to 1024.
        order: of the first layer; natural if left out. One layer is sensitive to it (figure 1).
        batch_norm: whether a ``BatchNorm`` with learned scale and shift follows each layer, as in
            the paper.
        context_dim: features of the context; 0 for none.
        embed: makes the context of ``y``, ``OneHot`` for labels.
        degrees: of hidden units, see ``MaskedMLP``.
        direct: whether the networks have weights from input to output too, see ``MaskedMLP``.
        activation: makes the activation; the paper's is ReLU, and tanh for one data set.
        update: ``exp_scale``, the paper's, or ``bounded_scale`` for data with heavy tails.
    """

    def __init__(
        self,
        dim: int,
        *,
        layers: int = 5,
        hidden: Sequence[int] = (100,),
        order: Sequence[int] | None = None,
        batch_norm: bool = True,
        context_dim: int = 0,
        embed: nn.Module | None = None,
        degrees: Degrees = spread_degrees,
        direct: bool = False,
        activation: Callable[[], nn.Module] = nn.ReLU,
        update: Update = exp_scale,
    ) -> None:
        check_count("dim", dim, 1)
        first = range(dim) if order is None else order
        chain, _ = _layers(
            dim,
            layers,
            hidden,
            first,
            batch_norm,
            context_dim,
            degrees,
            direct,
            activation,
            update,
        )
        super().__init__(chain, StandardNormal((dim,)), embed=embed, data_shape=(dim,))


# Section 4: a MAF on top of mixture conditionals


def maf_mog(
    dim: int,
    *,
    layers: int = 5,
    hidden: Sequence[int] = (100,),
    components: int = 10,
    batch_norm: bool = True,
    context_dim: int = 0,
    embed: nn.Module | None = None,
    degrees: Degrees = spread_degrees,
    direct: bool = False,
    activation: Callable[[], nn.Module] = nn.ReLU,
    update: Update = exp_scale,
) -> Flow:
    """MAF MoG: a MAF whose base is not a normal but a MADE MoG. Takes what ``MAF`` takes.

    Args:
        components: ``C`` of the base.
    """
    check_count("dim", dim, 1)
    chain, order = _layers(
        dim,
        layers,
        hidden,
        range(dim),
        batch_norm,
        context_dim,
        degrees,
        direct,
        activation,
        update,
    )
    base = MADE(
        (dim,),
        hidden,
        likelihood=MixtureOfGaussians(components),
        orders=[order],
        degrees=degrees,
        direct=direct,
        context_dim=context_dim,
        activation=activation,
    )
    return Flow(chain, base, embed=embed, data_shape=(dim,))
