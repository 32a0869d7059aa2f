"""Output distributions p(x | parameters), shared by every model that has a decoder.

A likelihood turns what a network puts out into a distribution over one item ``x`` whose
dimensions are independent given the parameters. It says which shape of parameters it needs
(``params_shape``), how probable ``x`` is (``log_prob``, in nats, summed over the dimensions
of an item), and draws or averages. A likelihood is an ``nn.Module`` because some have a
parameter of their own, like the shared variance of ``IsotropicGaussian``.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Bernoulli", "Categorical", "Gaussian", "IsotropicGaussian", "check_levels"]

LOG_2PI = math.log(2 * math.pi)


def _check_shapes(params: Tensor, expected: tuple[int, ...], x: Tensor) -> None:
    if params.shape != expected:
        raise ValueError(
            f"params must have shape {tuple(expected)} for x of shape {tuple(x.shape)}, "
            f"got {tuple(params.shape)}; give the network the output shape that "
            "params_shape(data_shape) names"
        )


def check_levels(name: str, values: Tensor, levels: int) -> None:
    """Refuse what isn't int64 levels from 0 to ``levels - 1``.

    Args:
        name: what the caller calls them.
        values: of any shape.
        levels: how many values an entry can take.

    Raises:
        ValueError: names the argument, what was expected, what came and what to do.
    """
    if values.dtype != torch.int64:
        raise ValueError(
            f"{name} must hold int64 levels 0 to {levels - 1}, got {values.dtype}; "
            "for grey values in [0, 1] take (x * (levels - 1)).round().long()"
        )
    if values.numel() and not 0 <= int(values.min()) <= int(values.max()) < levels:
        raise ValueError(
            f"{name} must hold levels 0 to {levels - 1}, got {int(values.min())} to "
            f"{int(values.max())}"
        )


def _sum_item(values: Tensor) -> Tensor:
    """``(B, *data_shape)`` -> ``(B,)``."""
    return values.flatten(1).sum(1)


def _noise_like(values: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(values.shape, dtype=values.dtype, device=values.device, generator=generator)


class Bernoulli(nn.Module):
    """Independent bits. Parameters: logits of shape ``(B, *data_shape)``.

    log p(x) = sum_i x_i log y_i + (1 - x_i) log(1 - y_i), y = sigmoid(logits)
    (1312.6114, equation 11).

    Grey values are refused: on [0, 1] this sum is not the logarithm of any density, so a
    likelihood computed from it can't be compared with anything.
    """

    def params_shape(self, data_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of one item's parameters: that of the item."""
        return tuple(data_shape)

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        """log p(x) in nats: logits and bits ``(B, *data_shape)`` -> ``(B,)``.

        Raises:
            ValueError: the shapes differ, or ``x`` holds something else than 0 and 1.
        """
        _check_shapes(params, x.shape, x)
        if not bool(((x == 0) | (x == 1)).all()):
            raise ValueError(
                "x must hold only 0 and 1 for a Bernoulli likelihood, got values from "
                f"{float(x.min()):.3g} to {float(x.max()):.3g}; binarise it, "
                "(x > 0.5).float() or torch.bernoulli(x), or take another likelihood"
            )
        return -_sum_item(F.binary_cross_entropy_with_logits(params, x, reduction="none"))

    def sample(self, params: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw bits, ``(B, *data_shape)``."""
        return torch.bernoulli(torch.sigmoid(params), generator=generator)

    def mean(self, params: Tensor) -> Tensor:
        """Probability of a one, ``(B, *data_shape)``."""
        return torch.sigmoid(params)


class Gaussian(nn.Module):
    """Independent Gaussians. Parameters ``(B, 2, *data_shape)``: mean and log-variance.

    log p(x) = -1/2 sum_i [log 2 pi + log s_i^2 + (x_i - m_i)^2 / s_i^2]
    (1312.6114, equation 12).

    A density without a floor on the variance is unbounded: a pixel that is constant in the
    data drives its variance to zero. ``min_log_var`` bounds it (smoothly, so that the
    gradient never dies).

    Args:
        min_log_var: the floor of the log-variance.
    """

    def __init__(self, min_log_var: float = -10.0) -> None:
        super().__init__()
        self.min_log_var = min_log_var

    def params_shape(self, data_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of one item's parameters: ``(2, *data_shape)``."""
        return (2, *data_shape)

    def _split(self, params: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw = params.unbind(1)
        return mean, self.min_log_var + F.softplus(raw - self.min_log_var)

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        """log p(x) in nats, ``(B,)``.

        Raises:
            ValueError: ``params`` doesn't have the shape ``(B, 2, *data_shape)``.
        """
        _check_shapes(params, (x.shape[0], 2, *x.shape[1:]), x)
        mean, log_var = self._split(params)
        return -0.5 * _sum_item(LOG_2PI + log_var + (x - mean).square() * torch.exp(-log_var))

    def sample(self, params: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw items, ``(B, *data_shape)``."""
        mean, log_var = self._split(params)
        return mean + torch.exp(0.5 * log_var) * _noise_like(mean, generator)

    def mean(self, params: Tensor) -> Tensor:
        """The mean, ``(B, *data_shape)``."""
        return params[:, 0]


class IsotropicGaussian(nn.Module):
    """Gaussians that share one variance. Parameters: means ``(B, *data_shape)``.

    The likelihood of probabilistic PCA, and, with the scale fixed at 1, the one that a
    squared-error loss assumes silently.

    Args:
        scale: the standard deviation to start from, in units of the data.
        learn: whether the scale is a parameter, trained with the rest.
    """

    log_scale: Tensor

    def __init__(self, scale: float = 1.0, *, learn: bool = True) -> None:
        super().__init__()
        if not scale > 0:
            raise ValueError(f"scale must be positive, got {scale}")
        log_scale = torch.tensor(math.log(scale))
        if learn:
            self.log_scale = nn.Parameter(log_scale)
        else:
            self.register_buffer("log_scale", log_scale)

    def params_shape(self, data_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of one item's parameters: that of the item."""
        return tuple(data_shape)

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        """log p(x) in nats, ``(B,)``.

        Raises:
            ValueError: ``params`` and ``x`` differ in shape.
        """
        _check_shapes(params, x.shape, x)
        squares = (x - params).square() * torch.exp(-2 * self.log_scale)
        return -0.5 * _sum_item(LOG_2PI + 2 * self.log_scale + squares)

    def sample(self, params: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw items, ``(B, *data_shape)``."""
        return params + torch.exp(self.log_scale) * _noise_like(params, generator)

    def mean(self, params: Tensor) -> Tensor:
        """The mean, ``(B, *data_shape)``."""
        return params


class Categorical(nn.Module):
    """Independent levels 0 to ``levels - 1``. Parameters ``(B, levels, *data_shape)``: logits.

    Args:
        levels: how many values a dimension can take, at least 2.
    """

    def __init__(self, levels: int) -> None:
        super().__init__()
        if levels < 2:
            raise ValueError(f"levels must be at least 2, got {levels}")
        self.levels = levels

    def params_shape(self, data_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of one item's parameters: ``(levels, *data_shape)``."""
        return (self.levels, *data_shape)

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        """log p(x) in nats for integer levels ``x`` of shape ``(B, *data_shape)`` -> ``(B,)``.

        Raises:
            ValueError: the shapes don't fit, ``x`` isn't int64, or a level is out of range.
        """
        _check_shapes(params, (x.shape[0], self.levels, *x.shape[1:]), x)
        check_levels("x", x, self.levels)
        return -_sum_item(F.cross_entropy(params, x, reduction="none"))

    def sample(self, params: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw int64 levels, ``(B, *data_shape)``."""
        last = params.movedim(1, -1)
        flat = torch.softmax(last, -1).reshape(-1, self.levels)
        return torch.multinomial(flat, 1, generator=generator).reshape(last.shape[:-1])

    def mean(self, params: Tensor) -> Tensor:
        """Expected level, a float in [0, levels - 1], ``(B, *data_shape)``."""
        levels = torch.arange(self.levels, dtype=params.dtype, device=params.device)
        return torch.softmax(params, 1).movedim(1, -1) @ levels
