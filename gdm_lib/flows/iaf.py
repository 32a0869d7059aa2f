"""Inverse autoregressive flow.

Diederik P. Kingma, Tim Salimans, Rafal Jozefowicz, Xi Chen, Ilya Sutskever and Max Welling,
*Improving Variational Inference with Inverse Autoregressive Flow*, 2016,
https://arxiv.org/abs/1606.04934. Equation numbers below are the paper's.

Each variable is shifted and scaled by what an autoregressive network says of those before it, all
at once (equation 10)::

    z_t = mu_t(z_t-1, h) + sigma_t(z_t-1, h) * z_t-1,    log |det dz_t/dz_t-1| = sum_i log sigma_t,i

The input is known, so this direction is one pass; the other has to go variable by variable.
``forward`` is the paper's direction, from noise to latent: fast samples with their density, which
is what the posterior of a VAE needs (``planar_radial.FlowVAE`` holds one).

Symbols: ``m, s`` outputs of the network, ``h`` the context from the encoder, ``D`` the dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gdm_lib.autoregression import Place, sequential, sequential_naive
from gdm_lib.autoregressive.made import MaskedMLP
from gdm_lib.bijections import Chain, Flow, Inverse, StandardNormal, check_inputs
from gdm_lib.nn import check_count

__all__ = ["IAF", "AutoregressiveStep", "Update", "gated", "iaf_chain", "shift_and_scale"]

ARXIV = "1606.04934"


# Section 3: the transformation, and its numerically stable form

Update = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""``(m, s)`` -> log-scale and shift of ``z' = exp(log_scale) * z + shift``, all of one shape."""


def shift_and_scale(m: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """``z' = m + exp(s) z``: equation 10 as it stands, with a scale that has no bound."""
    return s, m


def gated(m: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """``z' = sigma z + (1 - sigma) m, sigma = sigmoid(s)`` (equations 13 and 14, algorithm 1).

    A gate as an LSTM has: the update is a weighted mean of old value and new, so lies between them.
    ``1 - sigma`` is computed as ``sigmoid(-s)``, which keeps its digits where sigma is near 1.
    """
    return F.logsigmoid(s), torch.sigmoid(-s) * m


class AutoregressiveStep(nn.Module):
    """One step: ``forward`` in one pass, ``inverse`` in ``D`` steps that together cost one pass.

    Args:
        net: an autoregressive network with two outputs for each variable, ``m`` and ``s``.
        update: what they do to a variable.
        s_bias: added to ``s``. The paper wants ``s`` to start at +1 or +2, so that a gated step
            begins by keeping most of the old value.
    """

    def __init__(self, net: MaskedMLP, update: Update = gated, *, s_bias: float = 0.0) -> None:
        super().__init__()
        if net.params != 2:
            raise ValueError(f"net must give 2 parameters for each variable, got {net.params}")
        self.net, self.update = net, update
        self.context_dim = net.context_dim
        if s_bias:
            with torch.no_grad():
                cast(nn.Linear, net.layers[-1]).bias[net.dim :] += s_bias

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``(B, D)`` -> ``(B, D)``, ``(B,)`` (algorithm 1)."""
        log_scale, shift = self.update(*self.net(x, context).unbind(1))
        return torch.addcmul(shift, log_scale.exp(), x), log_scale.sum(1)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Variable by variable: the parameters of each need those before it.

        Where gradients are recorded it is the naive algorithm, ``D`` passes, which they can follow;
        under ``torch.no_grad`` the fast one.
        """
        check_inputs("z", z, (self.net.dim,), context, self.context_dim)
        columns, log_scales = z.unbind(1), []

        def rule(params: Tensor, place: Place) -> Tensor:
            log_scale, shift = self.update(*params.unbind(1))
            log_scales.append(log_scale)
            return (columns[place[0]] - shift) / log_scale.exp()

        solve = sequential_naive if torch.is_grad_enabled() else sequential
        x = solve(self.net, rule, z, context)
        return x, -torch.stack(log_scales).sum(0)


# Section 4 and appendix: a chain of steps, the order reversed from each to the next


def iaf_chain(
    dim: int,
    *,
    steps: int = 2,
    hidden: Sequence[int] = (64,),
    update: Update = gated,
    s_bias: float = 1.5,
    context_dim: int = 0,
    activation: Callable[[], nn.Module] = nn.ELU,
) -> Chain:
    """The flow of algorithm 1, for ``FlowVAE`` with the encoder's ``h`` as context, or for ``IAF``.

    Args:
        dim: ``D``.
        steps: ``T``.
        hidden: widths of each network's hidden layers.
        update: ``gated``, or ``shift_and_scale`` with ``s_bias=0``.
        s_bias: where ``s`` starts, between the paper's +1 and +2.
        context_dim: features of ``h``; 0 for none.
        activation: makes the activation; the paper's is ELU.
    """
    check_count("dim", dim, 1)
    check_count("steps", steps)
    natural, parts = list(range(dim)), []
    for t in range(steps):
        # Instead of reversing the vector between steps, the networks' orders alternate.
        order = natural if t % 2 == 0 else natural[::-1]
        net = MaskedMLP(
            dim, hidden, 2, orders=[order], context_dim=context_dim, activation=activation
        )
        parts.append(AutoregressiveStep(net, update, s_bias=s_bias))
    return Chain(*parts)


class IAF(Flow):
    """IAF as a density of its own: samples in one pass, ``log_prob`` of given data in ``D`` steps.

    Takes what ``iaf_chain`` takes, and ``embed``, see ``Flow``.
    """

    def __init__(
        self,
        dim: int,
        *,
        steps: int = 2,
        hidden: Sequence[int] = (64,),
        update: Update = gated,
        s_bias: float = 1.5,
        context_dim: int = 0,
        activation: Callable[[], nn.Module] = nn.ELU,
        embed: nn.Module | None = None,
    ) -> None:
        chain = iaf_chain(
            dim,
            steps=steps,
            hidden=hidden,
            update=update,
            s_bias=s_bias,
            context_dim=context_dim,
            activation=activation,
        )
        super().__init__(Inverse(chain), StandardNormal((dim,)), embed=embed, data_shape=(dim,))
