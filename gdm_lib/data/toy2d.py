"""Densities on the plane whose answers are known.

Each has an exact, normalised ``log_prob``, an exact sampler of that same density, and its
``entropy`` H = -E[log p(x)] in nats. No model can do better than -H nats per point on average, so
``-H - E[log q(x)]`` is a model's KL divergence from the truth, KL(p || q), with nothing hidden.

Where the entropy has no closed form it is a fixed quadrature, good to 1e-6 at the defaults. Two
rules do all of them: Gauss-Legendre on an interval, and, for a smooth function that has died out
at the edge of a box, the trapezoid rule, which then converges faster than any power of its
step (Trefethen and Weideman, "The exponentially convergent trapezoidal rule", SIAM Review 2014).

``DENSITIES`` names them all at their defaults.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "DENSITIES",
    "Banana",
    "Bounds",
    "Checkerboard",
    "Density",
    "GaussianMixture",
    "NoisyCurves",
    "Pinwheel",
    "RingEnergy",
    "StripEnergy",
    "banana",
    "checkerboard",
    "energy_1",
    "energy_2",
    "energy_3",
    "energy_4",
    "mixture_grid",
    "mixture_ring",
    "pinwheel",
    "swiss_roll",
    "two_moons",
]

Bounds = tuple[float, float, float, float]
"""A window of the plane: ``(x_min, x_max, y_min, y_max)``."""

LOG_2PI = math.log(2 * math.pi)
GAUSSIAN_REACH = 9.0  # standard deviations; a Gaussian has 1e-18 of its mass beyond


class Density(ABC):
    """A probability density on the plane.

    Attributes:
        bounds: a window for plots, ``(x_min, x_max, y_min, y_max)``, with at least 99.9 % of the
            mass. The density itself may reach beyond it.
    """

    bounds: Bounds

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) in nats: ``(B, 2)`` -> ``(B,)``; minus infinity outside the support.

        Raises:
            ValueError: ``x`` isn't ``(B, 2)``, or isn't floating point.
        """
        if x.ndim != 2 or x.shape[1] != 2 or not x.is_floating_point():
            raise ValueError(
                "x must be floating point of shape (B, 2), a point in each row, "
                f"got {x.dtype} of shape {tuple(x.shape)}"
            )
        return self._log_prob(x)

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw ``n`` points, ``(n, 2)``, in torch's default dtype.

        Raises:
            ValueError: ``n`` is negative.
        """
        if n < 0:
            raise ValueError(f"n must be 0 or more, got {n}")
        return self._sample(n, generator)

    @property
    @abstractmethod
    def entropy(self) -> float:
        """H = -E[log p(x)], in nats."""

    @abstractmethod
    def _log_prob(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def _sample(self, n: int, generator: torch.Generator | None) -> Tensor: ...


class GaussianMixture(Density):
    """Round Gaussians of one width: p(x) = sum_k w_k N(x; m_k, std^2 I).

    Args:
        means: the centres m_k, ``(K, 2)``.
        std: the standard deviation along each axis.
        weights: w_k, ``(K,)``, made to sum to one; equal by default.

    Raises:
        ValueError: a shape doesn't fit, ``std`` isn't positive, or a weight is negative.
    """

    def __init__(self, means: Tensor, std: float, weights: Tensor | None = None) -> None:
        if means.ndim != 2 or means.shape[1] != 2 or len(means) == 0:
            raise ValueError(f"means must have shape (K, 2), got {tuple(means.shape)}")
        _check_positive("std", std)
        weights = torch.ones(len(means)) if weights is None else weights
        if weights.shape != means.shape[:1] or bool((weights < 0).any()) or not weights.sum() > 0:
            raise ValueError(
                f"weights must be {len(means)} numbers, none negative, not all zero, got {weights}"
            )
        self.means = means.double()
        self.std = std
        self.weights = weights.double() / weights.double().sum()
        low, high = self.means.amin(0) - 4 * std, self.means.amax(0) + 4 * std
        self.bounds = (float(low[0]), float(high[0]), float(low[1]), float(high[1]))

    @cached_property
    def entropy(self) -> float:
        """H in nats: each component's mean of -log p, by the trapezoid rule over its own noise."""
        noise, mass = _gaussian_plane(step=0.1)
        each = [torch.dot(mass, self._log_prob(mean + self.std * noise)) for mean in self.means]
        return float(-torch.dot(self.weights, torch.stack(each)))

    def _log_prob(self, x: Tensor) -> Tensor:
        return _round_mixture(x, self.means, self.weights, self.std)

    def _sample(self, n: int, generator: torch.Generator | None) -> Tensor:
        k = _choice(self.weights, n, generator)
        return self.means.to(torch.get_default_dtype())[k] + self.std * _randn(n, generator)


class NoisyCurves(Density):
    """Points spread evenly along the parameter of a curve, blurred by a round Gaussian.

    p(x) = (1/K) sum_k integral over t in [0, 1] of N(x; c_k(t), noise^2 I) dt.

    The sampler draws t and the noise. ``log_prob`` does the integral by Gauss-Legendre, with nodes
    packed densely against the noise: its error in log p is below 1e-9 within 30 standard
    deviations of the noise from the curve, far below the rounding of float32.

    Args:
        curves: functions c_k from t, any shape, to points, that shape with a last dimension of 2.
        noise: the standard deviation of the blur along each axis.

    Raises:
        ValueError: there is no curve, or ``noise`` isn't positive.
    """

    def __init__(self, curves: Sequence[Callable[[Tensor], Tensor]], noise: float) -> None:
        if not curves:
            raise ValueError("curves must hold at least one function, got none")
        _check_positive("noise", noise)
        self.curves = tuple(curves)
        self.noise = noise
        t = torch.linspace(0, 1, 1025, dtype=torch.float64)
        steps = torch.stack([curve(t).diff(dim=0).norm(dim=1).max() for curve in self.curves])
        speed = 1024 * float(steps.max())
        t, w = _gauss_legendre(max(32, math.ceil(5 * speed / noise)), 0.0, 1.0)
        self.nodes = torch.cat([curve(t) for curve in self.curves])
        self.weights = w.repeat(len(self.curves)) / len(self.curves)
        low, high = self.nodes.amin(0) - 4 * noise, self.nodes.amax(0) + 4 * noise
        self.bounds = (float(low[0]), float(high[0]), float(low[1]), float(high[1]))

    @cached_property
    def entropy(self) -> float:
        """H in nats, by the trapezoid rule with steps of a quarter of the noise."""
        margin = GAUSSIAN_REACH * self.noise
        low, high = self.nodes.amin(0) - margin, self.nodes.amax(0) + margin
        return _entropy_on_plane(self._log_prob, low, high, self.noise / 4)

    def _log_prob(self, x: Tensor) -> Tensor:
        return _round_mixture(x, self.nodes, self.weights, self.noise)

    def _sample(self, n: int, generator: torch.Generator | None) -> Tensor:
        k = torch.randint(len(self.curves), (n,), generator=generator)
        t = torch.rand(n, generator=generator)
        points = torch.stack([curve(t) for curve in self.curves])
        return points[k, torch.arange(n)] + self.noise * _randn(n, generator)


class Pinwheel(Density):
    """Blades around the origin, bent by a rotation that grows with the radius.

    A blade is a Gaussian with mean (1, 0) and standard deviations ``radial`` and ``tangential``,
    turned to the angle 2 pi k / K. All are then twisted by ``x -> R(twist * exp(|x|)) x`` and
    scaled. The twist keeps every circle in place and so preserves area: the density is exact,
    and the entropy is that of the straight blades. Johnson et al. 2016 (1603.06277) let the
    twist depend on the coordinate along the blade instead of the radius, which looks the same but
    has no inverse in closed form.

    Args:
        blades: their number K.
        radial: standard deviation along a blade.
        tangential: standard deviation across a blade.
        twist: the rotation's rate, in radians.
        scale: a last factor on all lengths.
    """

    def __init__(
        self,
        blades: int = 5,
        radial: float = 0.3,
        tangential: float = 0.1,
        twist: float = 0.25,
        scale: float = 2.0,
    ) -> None:
        if blades < 1:
            raise ValueError(f"blades must be 1 or more, got {blades}")
        _check_positive("radial", radial)
        _check_positive("tangential", tangential)
        _check_positive("scale", scale)
        self.blades = blades
        self.radial = radial
        self.tangential = tangential
        self.twist = twist
        self.scale = scale
        reach = scale * (1 + 3.5 * radial)
        self.bounds = (-reach, reach, -reach, reach)

    @cached_property
    def entropy(self) -> float:
        """H in nats, by the trapezoid rule over the straight blades."""
        reach = torch.full((2,), 1 + GAUSSIAN_REACH * max(self.radial, self.tangential)).double()
        step = min(self.radial, self.tangential) / 4
        return _entropy_on_plane(self._log_straight, -reach, reach, step) + 2 * math.log(self.scale)

    def _log_straight(self, x: Tensor) -> Tensor:
        angles = 2 * math.pi * torch.arange(self.blades, dtype=x.dtype) / self.blades
        cos, sin = angles.cos().to(x.device), angles.sin().to(x.device)
        along = x[:, :1] * cos + x[:, 1:] * sin
        across = x[:, 1:] * cos - x[:, :1] * sin
        squares = ((along - 1) / self.radial) ** 2 + (across / self.tangential) ** 2
        log_norm = LOG_2PI + math.log(self.radial * self.tangential * self.blades)
        return torch.logsumexp(-0.5 * squares, 1) - log_norm

    def _log_prob(self, x: Tensor) -> Tensor:
        x = x / self.scale
        # The gradient of a norm is NaN at zero, where the density has a perfectly good one.
        radius = x.square().sum(1).clamp_min(torch.finfo(x.dtype).tiny).sqrt()
        straight = _rotate(x, -self.twist * radius.exp())
        return self._log_straight(straight) - 2 * math.log(self.scale)

    def _sample(self, n: int, generator: torch.Generator | None) -> Tensor:
        k = torch.randint(self.blades, (n,), generator=generator)
        widths = torch.tensor([self.radial, self.tangential])
        straight = torch.tensor([1.0, 0.0]) + widths * _randn(n, generator)
        angle = 2 * math.pi * k / self.blades + self.twist * straight.norm(dim=1).exp()
        return self.scale * _rotate(straight, angle)


class Checkerboard(Density):
    """Uniform on the dark squares of a board centred on the origin. H = log(their area).

    Args:
        squares: squares along a side, an even number so that half of them are dark.
        side: the side of one square.
    """

    def __init__(self, squares: int = 4, side: float = 2.0) -> None:
        if squares < 2 or squares % 2:
            raise ValueError(f"squares must be an even number of at least 2, got {squares}")
        _check_positive("side", side)
        self.squares = squares
        self.side = side
        reach = squares * side / 2
        self.bounds = (-reach, reach, -reach, reach)

    @property
    def entropy(self) -> float:
        """log(squares^2 side^2 / 2), in nats."""
        return math.log(self.squares**2 * self.side**2 / 2)

    def _log_prob(self, x: Tensor) -> Tensor:
        cell = torch.floor(x / self.side + self.squares / 2)
        inside = ((cell >= 0) & (cell < self.squares)).all(1)
        dark = inside & (cell.sum(1) % 2 == 0)
        return torch.where(dark, -self.entropy, -math.inf).to(x.dtype)

    def _sample(self, n: int, generator: torch.Generator | None) -> Tensor:
        row = torch.randint(self.squares, (n,), generator=generator)
        pair = torch.randint(self.squares // 2, (n,), generator=generator)
        cell = torch.stack([2 * pair + row % 2, row], 1)
        return (cell + torch.rand(n, 2, generator=generator) - self.squares / 2) * self.side


class Banana(Density):
    """A Gaussian bent along a parabola (Haario et al. 1999).

    x_1 ~ N(0, width^2), x_2 | x_1 ~ N(bend (x_1^2 - width^2), noise^2). The map that bends has
    Jacobian one, so H = 1 + log(2 pi) + log(width * noise), whatever the bend.

    Args:
        width: standard deviation of x_1.
        bend: curvature of the parabola.
        noise: standard deviation of x_2 around it.
    """

    def __init__(self, width: float = 1.0, bend: float = 0.5, noise: float = 0.4) -> None:
        _check_positive("width", width)
        _check_positive("noise", noise)
        self.width = width
        self.bend = bend
        self.noise = noise
        tip = bend * width**2 * (3.4**2 - 1)
        ends = sorted((-bend * width**2, tip))
        self.bounds = (-3.4 * width, 3.4 * width, ends[0] - 4 * noise, ends[1] + 4 * noise)

    @property
    def entropy(self) -> float:
        """1 + log(2 pi) + log(width * noise), in nats."""
        return 1 + LOG_2PI + math.log(self.width * self.noise)

    def _log_prob(self, x: Tensor) -> Tensor:
        along = x[:, 0] / self.width
        across = (x[:, 1] - self.bend * (x[:, 0] ** 2 - self.width**2)) / self.noise
        return -0.5 * (along**2 + across**2) - LOG_2PI - math.log(self.width * self.noise)

    def _sample(self, n: int, generator: torch.Generator | None) -> Tensor:
        noise = _randn(n, generator)
        x1 = self.width * noise[:, 0]
        x2 = self.bend * (x1**2 - self.width**2) + self.noise * noise[:, 1]
        return torch.stack([x1, x2], 1)


class RingEnergy(Density):
    """U_1 of 1505.05770, table 1: a ring of radius 2 with its mass near (2, 0) and (-2, 0).

    U_1(z) = ((norm(z) - 2) / 0.4)^2 / 2
             - log(exp(-((z_1 - 2) / 0.6)^2 / 2) + exp(-((z_1 + 2) / 0.6)^2 / 2))

    p(z) = exp(-U_1(z)) / Z on the whole plane, with Z and H by quadrature in polar coordinates.
    The sampler rejects from a proposal in polar coordinates and is exact.
    """

    bounds = (-4.0, 4.0, -4.0, 4.0)
    _radius, _thickness, _spread = 2.0, 0.4, 0.6

    def energy(self, z: Tensor) -> Tensor:
        """U_1(z), ``(B, 2)`` -> ``(B,)``; the density is exp(-U_1) up to its constant."""
        ring = 0.5 * ((z.norm(dim=1) - self._radius) / self._thickness) ** 2
        return ring - self._log_sides(z[:, 0])

    def _log_sides(self, z1: Tensor) -> Tensor:
        right = -0.5 * ((z1 - self._radius) / self._spread) ** 2
        left = -0.5 * ((z1 + self._radius) / self._spread) ** 2
        return torch.logaddexp(right, left)

    @cached_property
    def _log_z_and_entropy(self) -> tuple[float, float]:
        far = self._radius + GAUSSIAN_REACH * self._thickness
        radius, w = _gauss_legendre(200, 0.0, far)
        angle = 2 * math.pi * torch.arange(400, dtype=torch.float64) / 400
        r, a = torch.meshgrid(radius, angle, indexing="ij")
        energy = self.energy(torch.stack([r * a.cos(), r * a.sin()], -1).flatten(0, 1))
        mass = (w * radius)[:, None].expand_as(r).flatten() * torch.exp(-energy)
        mass = mass * (2 * math.pi / len(angle))
        z = mass.sum()
        return math.log(z), float(torch.dot(mass, energy) / z + z.log())

    @property
    def entropy(self) -> float:
        """H = log Z + E[U_1], in nats, by Gauss-Legendre in the radius and trapezoids around."""
        return self._log_z_and_entropy[1]

    def _log_prob(self, x: Tensor) -> Tensor:
        return -self.energy(x) - self._log_z_and_entropy[0]

    def _sample(self, n: int, generator: torch.Generator | None) -> Tensor:
        # In polar coordinates the ring is r exp(-((r - 2) / 0.4)^2 / 2). As r <= c exp(r / c - 1)
        # for any c > 0, a Gaussian with its mean moved by 0.4^2 / c lies above it; c near the mode
        # of r wastes almost nothing. The two sides add up to at most 1 + exp(-(2 / 0.6)^2 / 2).
        c = self._radius
        mean = self._radius + self._thickness**2 / c
        ceiling = math.log1p(math.exp(-0.5 * (self._radius / self._spread) ** 2))
        kept, missing = [torch.empty(0, 2)], n
        while missing > 0:
            tries = 4 * missing + 16
            r = mean + self._thickness * torch.randn(tries, generator=generator)
            angle = 2 * math.pi * torch.rand(tries, generator=generator)
            z = torch.stack([r * angle.cos(), r * angle.sin()], 1)
            log_accept = torch.log(r.clamp_min(0) / c) - (r / c - 1)
            log_accept = log_accept + self._log_sides(z[:, 0]) - ceiling
            accepted = z[torch.rand(tries, generator=generator).log() < log_accept][:missing]
            kept.append(accepted)
            missing -= len(accepted)
        return torch.cat(kept)


class StripEnergy(Density):
    """U_2, U_3 and U_4 of 1505.05770, table 1: waves along z_1, one branch or two.

    Each is U(z) = -log sum_k exp(-((z_2 - b_k(z_1)) / s_k)^2 / 2), whose exponential doesn't
    fade along z_1, so that on the whole plane it has no normaliser. The paper shows the range
    (-4, 4)^2 (figure 3) and says no more. Here z_1 is held to [-4, 4] and z_2 is free, since
    cutting z_2 too would cut the lower branch of U_4 along its middle. So z_1 is uniform,
    z_2 given z_1 is a mixture of Gaussians around the branches with weights s_k / sum s,
    log Z = log(8) + log(2 pi) / 2 + log(sum s), and the sampler is exact. ``energy`` is the
    paper's function, untruncated, for a flow to be trained on.

    Args:
        branches: the functions b_k, from z_1 ``(B,)`` to ``(B,)``.
        widths: s_k, one for each.
        bounds: the window for plots.
    """

    half_width = 4.0

    def __init__(
        self,
        branches: Sequence[Callable[[Tensor], Tensor]],
        widths: Sequence[float],
        bounds: Bounds,
    ) -> None:
        if len(branches) != len(widths) or not branches:
            raise ValueError(
                f"widths must be one for each of the {len(branches)} branches, got {len(widths)}"
            )
        for width in widths:
            _check_positive("widths", width)
        self.branches = tuple(branches)
        self.widths = tuple(widths)
        self.bounds = bounds
        self._log_z = math.log(2 * self.half_width) + 0.5 * LOG_2PI + math.log(sum(widths))

    def energy(self, z: Tensor) -> Tensor:
        """U(z) as the paper has it, on the whole plane, ``(B, 2)`` -> ``(B,)``."""
        squares = [
            ((z[:, 1] - branch(z[:, 0])) / width) ** 2
            for branch, width in zip(self.branches, self.widths, strict=True)
        ]
        return -torch.logsumexp(-0.5 * torch.stack(squares), 0)

    @cached_property
    def entropy(self) -> float:
        """H = log 8 + E[H(z_2 | z_1)], in nats: Gauss-Legendre along z_1, trapezoids along z_2."""
        if len(self.branches) == 1:
            return math.log(2 * self.half_width) + 0.5 * (1 + LOG_2PI) + math.log(self.widths[0])
        z1, w = _gauss_legendre(400, -self.half_width, self.half_width)
        heights = torch.stack([branch(z1) for branch in self.branches])
        margin = GAUSSIAN_REACH * max(self.widths)
        step = min(self.widths) / 8
        z2 = torch.arange(
            float(heights.min()) - margin, float(heights.max()) + margin, step, dtype=torch.float64
        )
        log_p = self._log_prob(torch.cartesian_prod(z1, z2)).reshape(len(z1), len(z2))
        return float(-torch.dot(w, (log_p.exp() * log_p).sum(1)) * step)

    def _log_prob(self, x: Tensor) -> Tensor:
        outside = x[:, 0].abs() > self.half_width
        return (-self.energy(x) - self._log_z).masked_fill(outside, -math.inf)

    def _sample(self, n: int, generator: torch.Generator | None) -> Tensor:
        widths = torch.tensor(self.widths)
        k = _choice(widths, n, generator)
        z1 = self.half_width * (2 * torch.rand(n, generator=generator) - 1)
        centre = torch.stack([branch(z1) for branch in self.branches])[k, torch.arange(n)]
        z2 = centre + widths[k] * torch.randn(n, generator=generator)
        return torch.stack([z1, z2], 1)


def mixture_ring(modes: int = 8, radius: float = 2.0, std: float = 0.2) -> GaussianMixture:
    """``modes`` equal Gaussians evenly on a circle, the first at angle 0."""
    angle = 2 * math.pi * torch.arange(modes, dtype=torch.float64) / modes
    return GaussianMixture(radius * torch.stack([angle.cos(), angle.sin()], 1), std)


def mixture_grid(side: int = 5, spacing: float = 2.0, std: float = 0.1) -> GaussianMixture:
    """``side * side`` equal Gaussians on a square grid centred on the origin."""
    ticks = spacing * (torch.arange(side, dtype=torch.float64) - (side - 1) / 2)
    return GaussianMixture(torch.cartesian_prod(ticks, ticks).reshape(-1, 2), std)


def two_moons(noise: float = 0.1) -> NoisyCurves:
    """Two interleaved half circles: scikit-learn's ``make_moons`` with the angle drawn evenly."""

    def outer(t: Tensor) -> Tensor:
        return torch.stack([(math.pi * t).cos(), (math.pi * t).sin()], -1)

    def inner(t: Tensor) -> Tensor:
        return torch.stack([1 - (math.pi * t).cos(), 0.5 - (math.pi * t).sin()], -1)

    return NoisyCurves([outer, inner], noise)


def swiss_roll(noise: float = 0.2, turns: float = 1.5) -> NoisyCurves:
    """A spiral (s cos s, s sin s) / 5 from s = 1.5 pi, over ``turns`` turns of 2 pi.

    The plane of scikit-learn's ``make_swiss_roll``, divided by 5 as in FFJORD (1810.01367).
    """
    start, stretch = 1.5 * math.pi, 2 * math.pi * turns

    def spiral(t: Tensor) -> Tensor:
        s = start + stretch * t
        return torch.stack([s * s.cos(), s * s.sin()], -1) / 5

    return NoisyCurves([spiral], noise)


def pinwheel() -> Pinwheel:
    """Five blades, with the widths and the twist of 1603.06277."""
    return Pinwheel()


def checkerboard() -> Checkerboard:
    """A board of 4 by 4 squares on (-4, 4)^2."""
    return Checkerboard()


def banana() -> Banana:
    """The parabola x_2 = (x_1^2 - 1) / 2, blurred."""
    return Banana()


def energy_1() -> RingEnergy:
    """U_1 of 1505.05770, table 1: a ring with two heavy sides."""
    return RingEnergy()


def energy_2() -> StripEnergy:
    """U_2 of 1505.05770, table 1: one sine wave."""
    return StripEnergy([_wave], [0.4], (-4.0, 4.0, -4.0, 4.0))


def energy_3() -> StripEnergy:
    """U_3 of 1505.05770, table 1: a wave that splits around z_1 = 1 and joins again."""
    return StripEnergy([_wave, lambda z1: _wave(z1) - _bump(z1)], [0.35, 0.35], (-4, 4, -4, 4))


def energy_4() -> StripEnergy:
    """U_4 of 1505.05770, table 1: a wave that splits at z_1 = 1 and stays split."""
    return StripEnergy([_wave, lambda z1: _wave(z1) - _step(z1)], [0.4, 0.35], (-4, 4, -5.5, 2.5))


DENSITIES: dict[str, Callable[[], Density]] = {
    "mixture_ring": mixture_ring,
    "mixture_grid": mixture_grid,
    "two_moons": two_moons,
    "pinwheel": pinwheel,
    "swiss_roll": swiss_roll,
    "checkerboard": checkerboard,
    "banana": banana,
    "energy_1": energy_1,
    "energy_2": energy_2,
    "energy_3": energy_3,
    "energy_4": energy_4,
}
"""Every density of this module at its defaults, by name."""


def _wave(z1: Tensor) -> Tensor:
    return torch.sin(2 * math.pi * z1 / 4)  # w_1


def _bump(z1: Tensor) -> Tensor:
    return 3 * torch.exp(-0.5 * ((z1 - 1) / 0.6) ** 2)  # w_2


def _step(z1: Tensor) -> Tensor:
    return 3 * torch.sigmoid((z1 - 1) / 0.3)  # w_3


def _check_positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be positive and finite, got {value}")


def _randn(n: int, generator: torch.Generator | None) -> Tensor:
    return torch.randn(n, 2, generator=generator)


def _choice(weights: Tensor, n: int, generator: torch.Generator | None) -> Tensor:
    edges = weights.double().cumsum(0) / weights.double().sum()
    # The last edge is left out: rounding could put it below a uniform draw.
    return torch.bucketize(torch.rand(n, generator=generator).double(), edges[:-1], right=True)


def _rotate(x: Tensor, angle: Tensor) -> Tensor:
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([cos * x[:, 0] - sin * x[:, 1], sin * x[:, 0] + cos * x[:, 1]], 1)


def _round_mixture(x: Tensor, means: Tensor, weights: Tensor, std: float) -> Tensor:
    """log sum_k w_k N(x; m_k, std^2 I), ``(B,)``."""
    means, log_weights = means.to(x), weights.log().to(x)
    rows = []
    for block in x.split(8192):  # bounds the memory: (block, K) at a time
        squares = (block[:, :1] - means[:, 0]) ** 2 + (block[:, 1:] - means[:, 1]) ** 2
        rows.append(torch.logsumexp(log_weights - squares / (2 * std**2), 1))
    return torch.cat(rows) - LOG_2PI - 2 * math.log(std)


def _gauss_legendre(n: int, low: float, high: float) -> tuple[Tensor, Tensor]:
    nodes, weights = np.polynomial.legendre.leggauss(n)
    half = (high - low) / 2
    return torch.from_numpy(low + half * (nodes + 1)), torch.from_numpy(half * weights)


def _gaussian_plane(step: float) -> tuple[Tensor, Tensor]:
    """Trapezoid nodes ``(M, 2)`` and masses ``(M,)`` of a standard normal on the plane."""
    count = math.ceil(GAUSSIAN_REACH / step)
    ticks = step * torch.arange(-count, count + 1, dtype=torch.float64)
    mass = step * torch.exp(-0.5 * ticks**2) / math.sqrt(2 * math.pi)
    return torch.cartesian_prod(ticks, ticks), torch.outer(mass, mass).flatten()


def _entropy_on_plane(
    log_prob: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, step: float
) -> float:
    """-integral of p log p by the trapezoid rule over a box at whose edge p has died out."""
    x = torch.arange(float(low[0]), float(high[0]) + step, step, dtype=torch.float64)
    y = torch.arange(float(low[1]), float(high[1]) + step, step, dtype=torch.float64)
    log_p = log_prob(torch.cartesian_prod(x, y))
    return float(-torch.dot(log_p.exp(), log_p) * step**2)
