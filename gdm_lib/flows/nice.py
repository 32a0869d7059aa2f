"""NICE.

Laurent Dinh, David Krueger and Yoshua Bengio, *NICE: Non-linear Independent Components
Estimation*, 2014, https://arxiv.org/abs/1410.8516. Sections are the paper's.

A bijection ``h = f(x)`` is trained so that the components of ``h`` are independent under a fixed
prior (equation 3)::

    log p(x) = sum_d log p_H(f_d(x)) + log |det df/dx|

Its parts are additive couplings, which preserve volume whatever network they hold, and one
diagonal scaling at the top, the only part with a log-determinant.

Symbols: ``I1, I2`` are the two halves of the dimensions (even and odd), ``m`` the network of a
coupling, ``S = diag(exp(log_scale))``, ``D`` the dimension.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gdm_lib.bijections import Chain, Dequantise, Flatten, Flow, StandardNormal, check_inputs, join
from gdm_lib.nn import (
    check_condition,
    check_count,
    check_sizes,
    exact,
    gaussian,
    mlp,
    through,
    uniform,
)

__all__ = ["NICE", "AdditiveCoupling", "DiagonalScale", "StandardLogistic", "inpaint"]

ARXIV = "1410.8516"


# Section 3.2: additive coupling


class AdditiveCoupling(nn.Module):
    """``y_I1 = x_I1, y_I2 = x_I2 + m(x_I1)`` (section 3.2): its Jacobian is triangular with ones.

    Args:
        dim: ``D``, at least 2.
        net: ``m``, from ``ceil(D / 2) + context_dim`` features to the other ``floor(D / 2)`` (the
            even dimensions are the longer half), or the other way round if ``odd``.
        odd: whether ``I1``, which stays as it is, are the odd dimensions; layers alternate.
        context_dim: features of the context, further inputs of ``m``; 0 for none.
    """

    def __init__(
        self, dim: int, net: nn.Module, *, odd: bool = False, context_dim: int = 0
    ) -> None:
        super().__init__()
        if dim < 2:
            raise ValueError(
                f"dim must be at least 2, so that there are two halves, got {dim}; for one "
                "variable take MAF(1) or IAF(1)"
            )
        self.dim, self.net, self.odd, self.context_dim = dim, net, odd, context_dim

    def _halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``x_I1`` and ``x_I2``."""
        even, odd = x[:, ::2], x[:, 1::2]
        return (odd, even) if self.odd else (even, odd)

    def _merge(self, one: Tensor, two: Tensor) -> Tensor:
        even, odd = (two, one) if self.odd else (one, two)
        if self.dim % 2 == 0:
            return torch.stack([even, odd], 2).flatten(1)
        return torch.cat([torch.stack([even[:, :-1], odd], 2).flatten(1), even[:, -1:]], 1)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``(B, D)`` -> ``(B, D)``, and zeros ``(B,)``."""
        check_inputs("x", x, (self.dim,), context, self.context_dim)
        one, two = self._halves(x)
        return self._merge(one, two + through(self.net, join(one, context))), x.new_zeros(len(x))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``x_I2 = y_I2 - m(y_I1)``: as cheap as the forward direction."""
        check_inputs("z", z, (self.dim,), context, self.context_dim)
        one, two = self._halves(z)
        return self._merge(one, two - through(self.net, join(one, context))), z.new_zeros(len(z))


# Section 3.3: allowing rescaling


class DiagonalScale(nn.Module):
    """``z = S x`` with ``S_ii = exp(log_scale_i) > 0`` (section 3.3).

    The log-determinant is the sum of the log-scales, so training stretches each dimension until
    the prior complains. The larger ``S_ii``, the less the data vary along it: ``1 / S_ii`` reads
    like a spectrum of principal components.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.log_scale = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``(B, D)`` -> ``(B, D)``, and ``sum_i log S_ii`` for each item."""
        check_inputs("x", x, (self.dim,), context)
        log_scale = exact(self.log_scale)
        return x * log_scale.exp(), log_scale.sum().expand(len(x))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Division by ``S``."""
        check_inputs("z", z, (self.dim,), context)
        log_scale = exact(self.log_scale)
        return z * (-log_scale).exp(), -log_scale.sum().expand(len(z))


# Section 3.4: prior distribution


class StandardLogistic(StandardNormal):
    """``log p(h_d) = -log(1 + exp(h_d)) - log(1 + exp(-h_d))`` (section 3.4).

    The other prior of the paper is ``StandardNormal``. A model samples from the one that it was
    trained on: the logistic's standard deviation is ``pi / sqrt(3)``, 1.8 times as large.
    """

    def log_prob(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Nats, ``(B, *shape)`` -> ``(B,)``."""
        check_inputs("x", x, self.shape, y)
        x = exact(x)
        return (F.logsigmoid(x) + F.logsigmoid(-x)).flatten(1).sum(1)

    def sample(
        self, n: int, y: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """``log u - log(1 - u)`` of uniform ``u``: ``(n, *shape)``."""
        check_count("n", n)
        u = uniform((n, *self.shape), self.anchor, generator)
        return torch.logit(u, eps=torch.finfo(u.dtype).tiny)


# Section 5: the model of the experiments


class NICE(Flow):
    """Alternating additive couplings and a diagonal scaling (section 5.1).

    Args:
        data_shape: shape of one item; images are flattened.
        couplings: how many; the paper's 4. At least 3 are needed for every dimension to act on
            every other.
        hidden: widths of each coupling network's hidden layers; the paper has 5 layers of 1000
            for MNIST, here the default is what a laptop trains in a minute.
        activation: makes the activation between layers; the paper's is ReLU.
        prior: makes the prior of a shape, ``StandardLogistic`` (the paper's for all but TFD) or
            ``StandardNormal``.
        dequantise: for grey levels.
        context_dim: features of the context, see ``Flow``; the paper has none. All couplings see
            it, and the scaling does not.
        embed: makes the context of ``y``, see ``Flow``.
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        *,
        couplings: int = 4,
        hidden: Sequence[int] = (256, 256),
        activation: Callable[[], nn.Module] = nn.ReLU,
        prior: Callable[[Sequence[int]], nn.Module] = StandardLogistic,
        dequantise: Dequantise | None = None,
        context_dim: int = 0,
        embed: nn.Module | None = None,
    ) -> None:
        data_shape, hidden = check_sizes("data_shape", data_shape), check_sizes("hidden", hidden)
        check_condition(context_dim, embed)
        check_count("couplings", couplings)
        dim = math.prod(data_shape)
        if dim < 2:
            raise ValueError(
                f"data_shape must have at least 2 variables, so that there are two halves, got "
                f"{data_shape}; for one variable take MAF(1) or IAF(1)"
            )
        sizes = (dim - dim // 2, dim // 2)  # even dimensions, odd ones
        layers: list[nn.Module] = [Flatten(data_shape)]
        for i in range(couplings):
            odd = i % 2 == 1
            net = mlp((sizes[odd] + context_dim, *hidden, sizes[not odd]), activation)
            layers.append(AdditiveCoupling(dim, net, odd=odd, context_dim=context_dim))
        super().__init__(
            Chain(*layers, DiagonalScale(dim)),
            prior((dim,)),
            dequantise=dequantise,
            embed=embed,
            data_shape=data_shape,
        )


# Section 5.2: inpainting


def inpaint(
    model: Flow,
    x: Tensor,
    observed: Tensor,
    y: Tensor | None = None,
    *,
    steps: int = 100,
    bounds: tuple[float, float] = (0.0, 1.0),
    step_size: Callable[[int], float] = lambda i: 10 / (100 + i),
    generator: torch.Generator | None = None,
) -> Tensor:
    """Fill in what was not observed by noisy gradient ascent on ``log p(x)`` (section 5.2)::

        x_H <- clip(x_H + a_i (d log p(x_O, x_H) / d x_H + eps)),  eps ~ N(0, I)

    Args:
        model: a flow; it is taken without its dequantisation, which has no gradient.
        x: ``(B, *data_shape)``; unobserved values are where the ascent starts.
        observed: booleans that broadcast to ``x``, True for what stays fixed.
        y: what the flow is conditioned on, if it is conditional.
        steps: iterations.
        bounds: of the values, to which each step is projected.
        step_size: ``a_i`` at iteration ``i``; the paper's is ``10 / (100 + i)``.
        generator: of the noise.

    Returns:
        ``x`` with its unobserved part replaced, ``(B, *data_shape)``.
    """
    density, x = Flow(model.bijection, model.base, embed=model.embed), exact(x)
    observed = observed.expand_as(x)
    for i in range(steps):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(density.log_prob(x, y).sum(), x)
        noise = gaussian(x.shape, x, generator)
        moved = (x + step_size(i) * (slope + noise)).clamp(*bounds)
        x = torch.where(observed, x, moved)
    return x.detach()
