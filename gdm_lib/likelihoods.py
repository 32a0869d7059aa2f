"""Output distributions p(x | parameters), shared by every model that has a decoder.

A likelihood turns what a network puts out into a distribution over one item ``x`` whose
dimensions are independent given the parameters; those of whole pixels have colours that depend
on each other. It says which shape of parameters it needs
(``params_shape``), how probable ``x`` is (``log_prob``, in nats, summed over the dimensions
of an item), and draws or averages. A likelihood is an ``nn.Module`` because some have a
parameter of their own, like the shared variance of ``IsotropicGaussian``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gdm_lib._inputs import (
    a_tensor,
    batch_of,
    check,
    check_count,
    check_counts,
    levels_of,
    not_finite,
    real,
)
from gdm_lib.nn import exact, gaussian, uniform
from gdm_lib.protocols import Likelihood

__all__ = [
    "Bernoulli",
    "Categorical",
    "DiscretizedLogisticMixture",
    "Gaussian",
    "IsotropicGaussian",
    "MixtureOfGaussians",
    "Softmax",
    "check_items",
    "check_levels",
]

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
    check(name, values, a_tensor, levels_of(levels))


def check_items(name: str, x: Tensor, shape: Sequence[int], likelihood: Likelihood) -> None:
    """Refuse what isn't a batch of the items that a likelihood is of.

    Args:
        name: what the caller calls the batch.
        x: the batch.
        shape: one item's.
        likelihood: of levels, if it has such an attribute; of bits; or of any real numbers.

    Raises:
        TypeError: no tensor.
        ValueError: another shape or dtype, or levels out of range.
    """
    levels = getattr(likelihood, "levels", None)
    bits = isinstance(likelihood, Bernoulli)
    of = real(2 if bits else None) if levels is None else levels_of(levels)
    check(name, x, a_tensor, batch_of(shape), of)


def _sum_item(values: Tensor) -> Tensor:
    """``(B, *data_shape)`` -> ``(B,)``."""
    return values.flatten(1).sum(1)


def _check_real(x: Tensor) -> None:
    """Refuse integers: bytes would be taken for numbers up to 255."""
    if not x.is_floating_point():
        dtype = torch.get_default_dtype()
        bytes_ = x.dtype == torch.uint8 and bool((x > 1).any())
        cure = "x / 255" if bytes_ else f"x.to({dtype})"
        raise ValueError(f"x must be floating point, got {x.dtype}; take {cure}")


def _not_bits(x: Tensor) -> str:
    """What to say of values that aren't all 0 or 1."""
    if where := not_finite(x):
        return f"x must hold only 0 and 1 for a Bernoulli likelihood, got {where}"
    lowest, highest = float(x.min()), float(x.max())
    said = (
        "x must hold only 0 and 1 for a Bernoulli likelihood, got values from "
        f"{lowest:.3g} to {highest:.3g}"
    )
    bytes_ = 16 < highest <= 255 and bool((x % 1 == 0).all())
    if lowest < 0 or (highest > 1 and not bytes_):
        return f"{said}; take another likelihood, such as Gaussian()"
    grey = "x / 255" if bytes_ else "x"
    dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
    return (
        f"{said}; binarise it, ({grey} > 0.5).to({dtype}) or torch.bernoulli({grey}), or take "
        "another likelihood"
    )


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
            raise ValueError(_not_bits(x))
        _check_real(x)
        params, x = exact(params), exact(x)
        return -_sum_item(F.binary_cross_entropy_with_logits(params, x, reduction="none"))

    def sample(self, params: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw bits, ``(B, *data_shape)``."""
        return torch.bernoulli(torch.sigmoid(exact(params)), generator=generator)

    def mean(self, params: Tensor) -> Tensor:
        """Probability of a one, ``(B, *data_shape)``."""
        return torch.sigmoid(exact(params))


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
        mean, raw = exact(params).unbind(1)
        return mean, self.min_log_var + F.softplus(raw - self.min_log_var)

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        """log p(x) in nats, ``(B,)``.

        Raises:
            ValueError: ``params`` doesn't have the shape ``(B, 2, *data_shape)``.
        """
        _check_shapes(params, (x.shape[0], 2, *x.shape[1:]), x)
        _check_real(x)
        mean, log_var = self._split(params)
        return -0.5 * _sum_item(LOG_2PI + log_var + (x - mean).square() * torch.exp(-log_var))

    def sample(self, params: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw items, ``(B, *data_shape)``."""
        mean, log_var = self._split(params)
        return mean + torch.exp(0.5 * log_var) * gaussian(mean.shape, mean, generator)

    def mean(self, params: Tensor) -> Tensor:
        """The mean, ``(B, *data_shape)``."""
        return exact(params[:, 0])


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
        _check_real(x)
        log_scale = exact(self.log_scale)
        squares = (x - exact(params)).square() * torch.exp(-2 * log_scale)
        return -0.5 * _sum_item(LOG_2PI + 2 * log_scale + squares)

    def sample(self, params: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw items, ``(B, *data_shape)``."""
        params = exact(params)
        return params + torch.exp(exact(self.log_scale)) * gaussian(params.shape, params, generator)

    def mean(self, params: Tensor) -> Tensor:
        """The mean, ``(B, *data_shape)``."""
        return exact(params)


class Categorical(nn.Module):
    """Independent levels 0 to ``levels - 1``. Parameters ``(B, levels, *data_shape)``: logits.

    Args:
        levels: how many values a dimension can take, at least 2.
    """

    def __init__(self, levels: int) -> None:
        super().__init__()
        check_count("levels", levels, 2)
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
        return -_sum_item(F.cross_entropy(exact(params), x, reduction="none"))

    def sample(self, params: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw int64 levels, ``(B, *data_shape)``."""
        last = exact(params).movedim(1, -1)
        flat = torch.softmax(last, -1).reshape(-1, self.levels)
        return torch.multinomial(flat, 1, generator=generator).reshape(last.shape[:-1])

    def mean(self, params: Tensor) -> Tensor:
        """Expected level, a float in [0, levels - 1], ``(B, *data_shape)``."""
        params = exact(params)
        levels = torch.arange(self.levels, dtype=params.dtype, device=params.device)
        return torch.softmax(params, 1).movedim(1, -1) @ levels


class MixtureOfGaussians(nn.Module):
    """Each variable a mixture of ``C`` Gaussians, as MADE MoG's ``likelihood`` (1705.07057,
    section 4).

    Parameters ``(B, 3C, *data_shape)``: logits of the weights, means, log standard deviations.

    Args:
        components: ``C``; the paper's 10.
    """

    def __init__(self, components: int = 10) -> None:
        super().__init__()
        check_count("components", components, 1)
        self.components = components

    def params_shape(self, data_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of one item's parameters: ``(3C, *data_shape)``."""
        return (3 * self.components, *data_shape)

    def _split(self, params: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits, mean, alpha = exact(params).chunk(3, dim=1)
        return F.log_softmax(logits, 1), mean, alpha

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        """log p(x) in nats, ``(B,)``."""
        expected = (x.shape[0], 3 * self.components, *x.shape[1:])
        if params.shape != expected:
            raise ValueError(
                f"params must have shape {expected} for x of shape {tuple(x.shape)}, "
                f"got {tuple(params.shape)}; give the network as many outputs as params_shape names"
            )
        _check_real(x)
        log_weight, mean, alpha = self._split(params)
        u = (x[:, None] - mean) * (-alpha).exp()
        each = log_weight - alpha - 0.5 * (u.square() + LOG_2PI)
        return each.logsumexp(1).flatten(1).sum(1)

    def sample(self, params: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """A component, then a draw from it: ``(B, *data_shape)``."""
        log_weight, mean, alpha = self._split(params)
        flat = log_weight.exp().movedim(1, -1)
        pick = torch.multinomial(flat.reshape(-1, self.components), 1, generator=generator)
        pick = pick.view(flat.shape[:-1])[:, None]
        mean, alpha = mean.gather(1, pick)[:, 0], alpha.gather(1, pick)[:, 0]
        return mean + alpha.exp() * gaussian(mean.shape, mean, generator)

    def mean(self, params: Tensor) -> Tensor:
        """The expectation, ``(B, *data_shape)``."""
        log_weight, mean, _ = self._split(params)
        return (log_weight.exp() * mean).sum(1)


# Whole pixels, all colours together


def _check_channels(data_shape: tuple[int, ...], channels: int) -> None:
    if data_shape[0] != channels:
        raise ValueError(
            f"data_shape must start with {channels} channels, got {data_shape}; make the "
            f"likelihood with channels={data_shape[0]}"
        )


class DiscretizedLogisticMixture(nn.Module):
    """Levels of a pixel: a mixture of logistics, each rounded to the nearest level.

    PixelCNN++'s (1701.05517, sections 2.1 and 2.2; equation numbers here are that paper's). Levels
    are taken to ``[-1, 1]``, and means and scales are of that range. The lowest level has all the
    mass below it too, the highest all above. A pixel's colours share the component. Given it, their
    means depend linearly on the colours before (equation 3)::

        mu_G = mu_G + alpha x_R        mu_B = mu_B + beta x_R + gamma x_G

    Parameters: ``(B, P, ...)`` with ``P = K (1 + 2 C + C (C - 1) / 2)``, that is for each of ``K``
    components in turn: a logit; then ``C`` means; ``C`` log-scales; and the coefficients before
    their tanh, alpha, beta, gamma.

    Args:
        levels: ``L``, at least 2.
        components: ``K``; the paper's is 10.
        channels: ``C``.
        min_log_scale: the floor of the log-scales, as in the authors' code, but smooth, so that
            the gradient never dies.
    """

    def __init__(
        self, levels: int, components: int = 10, channels: int = 1, *, min_log_scale: float = -7.0
    ) -> None:
        super().__init__()
        check_count("levels", levels, 2)
        check_counts(components=components, channels=channels)
        self.levels, self.components, self.channels = levels, components, channels
        self.min_log_scale = min_log_scale
        self.parts = (1, channels, channels, channels * (channels - 1) // 2)
        self.half_bin = 1 / (levels - 1)

    def params_shape(self, data_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of one item's parameters: ``(P, ...)`` for ``(C, ...)``.

        Raises:
            ValueError: another number of colours.
        """
        _check_channels(data_shape, self.channels)
        return (self.components * sum(self.parts), *data_shape[1:])

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        """log p(x) in nats: int64 levels ``(B, C, ...)`` -> ``(B,)``.

        Raises:
            ValueError: the shapes don't fit, ``x`` isn't int64, or a level is out of range.
        """
        expected = (len(x), *self.params_shape(tuple(x.shape[1:])))
        if params.shape != expected:
            raise ValueError(
                f"params must have shape {expected} for x of shape {tuple(x.shape)}, got "
                f"{tuple(params.shape)}; give the network as many outputs as params_shape names"
            )
        check_levels("x", x, self.levels)
        logits, means, log_scales, coefficients = self._split(params)
        seen = self._scaled(x, means).unsqueeze(2).unbind(1)
        masses = torch.log_softmax(logits[:, 0], 1)
        for c in range(self.channels):
            mean = _depend(means[:, c], coefficients, seen[:c])
            masses = masses + self._log_mass(x[:, c].unsqueeze(1), mean, log_scales[:, c])
        return masses.logsumexp(1).reshape(len(x), math.prod(x.shape[2:])).sum(1)

    def sample(self, params: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw int64 levels: ``(B, P, ...)`` -> ``(B, C, ...)``. A colour depends on the rounded
        ones before it, as in ``log_prob``."""
        parts = exact(params).unflatten(1, (sum(self.parts), self.components)).movedim(2, -1)
        flat = torch.softmax(parts[:, 0], -1).reshape(-1, self.components)
        drawn = torch.multinomial(flat, 1, generator=generator)
        index = drawn.reshape(*parts[:, :1].shape[:-1], 1)
        chosen = parts.take_along_dim(index, -1).movedim(-1, 2)
        _, means, log_scales, coefficients = self._floor(chosen)
        levels, seen = list[Tensor](), list[Tensor]()
        for c in range(self.channels):
            mean = _depend(means[:, c], coefficients, seen)
            noise = torch.logit(uniform(mean.shape, mean, generator))
            value = mean + log_scales[:, c].exp() * noise
            level = ((value + 1) / (2 * self.half_bin)).round().clamp(0, self.levels - 1)
            levels.append(level.squeeze(1).long())
            seen.append(self._scaled(level, mean))
        return torch.stack(levels, 1)

    def mean(self, params: Tensor) -> Tensor:
        """Expected levels, floats in [0, L - 1]: ``(B, P, ...)`` -> ``(B, C, ...)``.

        One colour's is a sum of ``K (L - 1)`` sigmoids, as E x = sum_l P(x >= l). A later colour's
        is averaged over all levels of those before it: rounding and clipping leave no shorter
        formula, and the time grows as ``L^C``.
        """
        logits, means, log_scales, coefficients = self._split(params)
        found = torch.zeros_like(means)
        like = means.new_zeros(())
        edges = self._scaled(torch.arange(1, self.levels, device=like.device), like)
        edges = edges - self.half_bin

        def add(c: int, seen: tuple[Tensor, ...], mass: Tensor) -> None:
            mean, log_scale = _depend(means[:, c], coefficients, seen), log_scales[:, c]
            over = (mean[..., None] - edges) * torch.exp(-log_scale)[..., None]
            found[:, c] += mass * torch.sigmoid(over).sum(-1)
            for level in range(self.levels if c + 1 < self.channels else 0):
                x = torch.tensor(level, device=like.device)
                here = mass * self._log_mass(x, mean, log_scale).exp()
                add(c + 1, (*seen, self._scaled(x, like)), here)

        add(0, (), torch.softmax(logits[:, 0], 1))
        return found.sum(2)

    def _scaled(self, x: Tensor, like: Tensor) -> Tensor:
        return x.to(like.dtype) * (2 * self.half_bin) - 1

    def _split(self, params: Tensor) -> tuple[Tensor, ...]:
        return self._floor(exact(params).unflatten(1, (sum(self.parts), self.components)))

    def _floor(self, parts: Tensor) -> tuple[Tensor, ...]:
        """Logits ``(B, 1, K, ...)``, means and bounded log-scales ``(B, C, K, ...)``, bounded
        coefficients."""
        logits, means, raw, coefficients = parts.split(self.parts, 1)
        log_scales = self.min_log_scale + F.softplus(raw - self.min_log_scale)
        return logits, means, log_scales, torch.tanh(coefficients)

    def _log_mass(self, x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
        """Logarithm of a summand of equation 2 for level ``x``.

        With a > b the ends of the bin, sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b)
        (1 - exp(b - a)). Nothing here cancels, so the tails need no case of their own. At the
        edges an end is infinite: the factor with the other end is what remains.
        """
        precision = torch.exp(-log_scale)
        centred = self._scaled(x, mean) - mean
        below_upper = F.logsigmoid((centred + self.half_bin) * precision)
        above_lower = F.logsigmoid((self.half_bin - centred) * precision)
        width = torch.log(-torch.expm1(-2 * self.half_bin * precision))
        inside = below_upper + above_lower + width
        above_lowest = torch.where(x == self.levels - 1, above_lower, inside)
        return torch.where(x == 0, below_upper, above_lowest)


def _depend(mean: Tensor, coefficients: Tensor, seen: Sequence[Tensor]) -> Tensor:
    """Equation 3 of 1701.05517: the mean of colour ``len(seen)``, given those before it."""
    first = len(seen) * (len(seen) - 1) // 2
    for k, value in enumerate(seen):
        mean = mean + coefficients[:, first + k] * value
    return mean


class Softmax(nn.Module):
    """A softmax over all that a whole pixel can be, ``L^C`` colours, to compare the mixture with.

    For a grey image it is the 256-way softmax of PixelCNN. Parameters: logits ``(B, L^C, ...)``,
    the last colour's level running fastest.

    Args:
        levels: ``L``.
        channels: ``C``.
    """

    def __init__(self, levels: int, channels: int = 1) -> None:
        super().__init__()
        check_count("levels", levels, 2)
        check_counts(channels=channels)
        self.levels, self.channels = levels, channels
        self.whole = Categorical(levels**channels)

    def params_shape(self, data_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of one item's parameters: ``(L^C, ...)`` for ``(C, ...)``.

        Raises:
            ValueError: another number of colours.
        """
        _check_channels(data_shape, self.channels)
        return self.whole.params_shape(tuple(data_shape[1:]))

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        """log p(x) in nats: int64 levels ``(B, C, ...)`` -> ``(B,)``.

        Raises:
            ValueError: the shapes don't fit, ``x`` isn't int64, or a level is out of range.
        """
        self.params_shape(tuple(x.shape[1:]))
        check_levels("x", x, self.levels)
        index = torch.zeros_like(x[:, 0])
        for level in x.unbind(1):
            index = index * self.levels + level
        return self.whole.log_prob(params.unsqueeze(2), index.unsqueeze(1))

    def sample(self, params: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw int64 levels: ``(B, L^C, ...)`` -> ``(B, C, ...)``."""
        return self._colours(self.whole.sample(params, generator=generator), 1)

    def mean(self, params: Tensor) -> Tensor:
        """Expected levels, floats in [0, L - 1]: ``(B, L^C, ...)`` -> ``(B, C, ...)``."""
        every = self._colours(torch.arange(params.shape[1], device=params.device), 0)
        params = exact(params)
        return torch.einsum("bl...,cl->bc...", torch.softmax(params, 1), every.to(params))

    def _colours(self, index: Tensor, dim: int) -> Tensor:
        places = [self.levels**c for c in reversed(range(self.channels))]
        return torch.stack([index // place % self.levels for place in places], dim)
