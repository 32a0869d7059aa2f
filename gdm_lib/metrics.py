"""What a trained model is measured with: ground truths and the field's usual numbers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gdm_lib.likelihoods import LOG_2PI
from gdm_lib.nn import check_batch, check_count, evaluates, seeded
from gdm_lib.protocols import Likelihood

__all__ = [
    "Density",
    "ImageClassifier",
    "active_units",
    "bits_per_dim",
    "dependence",
    "kl_estimate",
    "least_seconds",
    "log_prob_by_quadrature",
    "ppca_log_likelihood",
    "standard_error",
]


def bits_per_dim(log_prob: Tensor, data_shape: Sequence[int]) -> Tensor:
    """``-log p(x) / (dimensions * log 2)``: nats per item -> bits per dimension, same shape.

    Only a probability of discrete data (or of data dequantised to unit-wide bins) can be read
    as a code length; for the density of continuous data the number depends on its unit.
    """
    return -log_prob / (math.prod(data_shape) * math.log(2))


class Density(Protocol):
    """What ``kl_estimate`` asks of a distribution: every model with a density has it."""

    def log_prob(self, x: Tensor) -> Tensor:
        """Nats, ``(N,)``, of ``x (N, *data_shape)``."""
        ...


def standard_error(values: Tensor) -> float:
    """The standard error of the mean of independent ``values (N,)``, in their unit.

    Raises:
        ValueError: ``values`` has another shape, is not of real numbers, or has fewer than two:
            one doesn't tell how much they vary.
    """
    if values.ndim != 1 or len(values) < 2 or not values.is_floating_point():
        raise ValueError(
            "values must be two or more real numbers, (N,), "
            f"got {tuple(values.shape)} of {values.dtype}"
        )
    return float(values.std() / math.sqrt(len(values)))


@torch.no_grad()
def kl_estimate(truth: Density, model: Density, x: Tensor) -> tuple[float, float]:
    """KL(truth || model) in nats: the mean of ``log p(x) - log q(x)`` over samples of the truth.

    Args:
        truth: ``p``, with ``log_prob(x)`` in nats, ``(N,)``.
        model: ``q``, likewise.
        x: samples of ``p`` that the model has not seen, ``(N, *data_shape)``.

    Returns:
        The estimate, which chance can make negative, and its standard error.

    Raises:
        ValueError: the two log-densities are not one number for each item, or ``N < 2``.
    """
    log_p, log_q = truth.log_prob(x), model.log_prob(x)
    if log_p.shape != (len(x),) or log_q.shape != (len(x),):
        raise ValueError(
            f"log_prob must give one number for each of {len(x)} items, got "
            f"{tuple(log_p.shape)} of truth and {tuple(log_q.shape)} of model"
        )
    each = log_p - log_q
    return float(each.mean()), standard_error(each)


def dependence(
    function: Callable[[Tensor], Tensor], x: Tensor, at: Sequence[int] | None = None
) -> Tensor:
    """How much each place of the output depends on each place of the input, by derivative.

    Entry ``(i, *place)`` is ``|d r_i / d x[n, c, *place]|``, summed over items and channels, where
    ``r_i`` mixes the features of output place ``i`` with fixed random weights, so that they don't
    cancel. Where it is above 0 lies the receptive field. A unit that is shut at one item, such as a
    ReLU's, may be open at another: give several items, and 64 bits.

    Args:
        function: ``(N, C, *S)`` to ``(N, P, *T)``, item by item, such as ``model.features``.
        x: where to differentiate, ``(N, C, *S)``.
        at: places of the output, counted row by row; by default all of them, each of which takes a
            backward pass.

    Returns:
        ``(len(at), *S)``, in the precision of ``x``.

    Raises:
        ValueError: a shape doesn't fit, a place is not in the output, or the output is a constant.
    """
    if x.ndim < 3 or not x.is_floating_point():
        raise ValueError(f"x must be real numbers (N, C, *S), got {tuple(x.shape)} of {x.dtype}")
    given = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        out = function(given)
        if out.ndim < 3 or len(out) != len(x):
            raise ValueError(
                f"function must give (N, P, *T) with N = {len(x)}, got {tuple(out.shape)}"
            )
        if not out.requires_grad:
            raise ValueError("function must give an output that depends on x, got a constant")
        mix = torch.randn(out.shape[1], generator=seeded(0)).to(out)
        read = torch.einsum("p,npt->t", mix, out.flatten(2)).unbind()
    places = range(len(read)) if at is None else at
    if not len(places) or not all(0 <= place < len(read) for place in places):
        raise ValueError(f"at must be places from 0 to {len(read) - 1}, got {list(places)}")
    slopes = [torch.autograd.grad(read[i], given, retain_graph=True)[0] for i in places]
    return torch.stack([slope.abs().sum((0, 1)) for slope in slopes])


def least_seconds(job: Callable[[], object], repeats: int = 3) -> float:
    """Seconds that ``job()`` takes by the wall clock, the least of ``repeats`` runs.

    What else the machine does only ever adds time, so the least is nearest to the job's own.

    Raises:
        ValueError: ``repeats`` is below 1.
    """
    times = []
    for _ in range(check_count("repeats", repeats, 1)):
        start = time.perf_counter()
        job()
        times.append(time.perf_counter() - start)
    return min(times)


def active_units(mu: Tensor, threshold: float = 0.01) -> Tensor:
    """Which latent units carry information: variance over the data of the posterior mean.

    ``A_u = Var_x(E_q(u|x)[u]) > threshold`` (Burda et al. 2015, 1509.00519, section 5.2).

    Args:
        mu: posterior means of a data set, ``(N, D)``, with ``N >= 2``.
        threshold: in squared units of the latent.

    Returns:
        Booleans, ``(D,)``.
    """
    if mu.ndim != 2 or mu.shape[0] < 2:
        raise ValueError(f"mu must have shape (N, D) with N >= 2, got {tuple(mu.shape)}")
    return mu.var(0) > threshold


def ppca_log_likelihood(x: Tensor, latent_dim: int) -> tuple[float, float]:
    """The best mean log-likelihood that a linear Gaussian model can have, in closed form.

    Probabilistic PCA, ``x = W z + m + noise`` with ``z ~ N(0, I)`` and noise of one variance
    ``s2`` in every dimension. At the maximum ``s2`` is the mean of the discarded eigenvalues
    of the covariance, and the mean log-likelihood is ``-1/2 [D log 2 pi + sum_i<=q log l_i +
    (D - q) log s2 + D]`` (Tipping and Bishop 1999, *Probabilistic principal component
    analysis*, section 3.2 and appendix A).

    Args:
        x: data, ``(N, D)``.
        latent_dim: ``q``, from 0 to ``D - 1``.

    Returns:
        The mean log-likelihood in nats per item, and ``s2``.

    Raises:
        ValueError: the shapes don't fit, or the discarded variance is zero, so that the
            likelihood has no maximum.
    """
    if x.ndim != 2 or not 0 <= latent_dim < x.shape[1]:
        raise ValueError(
            f"x must have shape (N, D) and latent_dim must be in [0, D - 1], "
            f"got {tuple(x.shape)} and {latent_dim}"
        )
    centred = x.double() - x.double().mean(0)
    eigenvalues = torch.linalg.eigvalsh(centred.T @ centred / x.shape[0]).flip(0)
    kept, discarded = eigenvalues[:latent_dim], eigenvalues[latent_dim:]
    s2 = float(discarded.mean())
    if s2 <= 1e-12 * float(eigenvalues.sum()):
        raise ValueError(
            f"x has no variance outside its first {latent_dim} components, so the likelihood "
            "is unbounded; take a smaller latent_dim"
        )
    dim = x.shape[1]
    log_det = float(kept.log().sum()) + (dim - latent_dim) * math.log(s2)
    return -0.5 * (dim * LOG_2PI + log_det + dim), s2


@torch.no_grad()
def log_prob_by_quadrature(
    decoder: Callable[[Tensor], Tensor],
    likelihood: Likelihood,
    x: Tensor,
    *,
    latent_dim: int,
    points: int = 400,
    radius: float = 6.0,
    chunk: int = 1000,
) -> Tensor:
    """log p(x) of a latent-variable model with a standard normal prior, by integration.

    The trapezoidal rule on a grid over ``[-radius, radius]^latent_dim``. The integrand is
    smooth and vanishes at the border, so the error falls faster than any power of the
    spacing once the grid resolves the posterior: check by doubling ``points``.

    Args:
        decoder: ``z (B, latent_dim)`` to the likelihood's parameters.
        likelihood: of ``x`` given those.
        x: items, ``(B, *data_shape)``.
        latent_dim: 1 or 2; a grid in more is out of reach.
        points: per latent dimension.
        radius: where to cut the prior.
        chunk: values (grid points x items x data dimensions) to hold at a time, in thousands.

    Returns:
        Nats, ``(B,)``.
    """
    if latent_dim not in (1, 2):
        raise ValueError(f"latent_dim must be 1 or 2, got {latent_dim}")
    axis = torch.linspace(-radius, radius, points, dtype=x.dtype, device=x.device)
    grid = torch.cartesian_prod(*[axis] * latent_dim).reshape(-1, latent_dim)
    log_prior = -0.5 * (latent_dim * LOG_2PI + grid.square().sum(1))
    batch = x.shape[0]
    total = x.new_full((batch,), -math.inf)
    step = max(1, chunk * 1000 // max(1, batch * math.prod(x.shape[1:])))
    for z, log_pz in zip(grid.split(step), log_prior.split(step), strict=True):
        params = decoder(z)
        log_px_z = likelihood.log_prob(
            params.repeat_interleave(batch, 0), x.repeat(len(z), *[1] * (x.ndim - 1))
        )
        log_joint = log_px_z.reshape(len(z), batch) + log_pz[:, None]
        total = torch.logaddexp(total, log_joint.logsumexp(0))
    return total + latent_dim * math.log(2 * radius / (points - 1))


class ImageClassifier(nn.Module):
    """A judge of pictures: which class is it, and how sure is that?

    Three convolutions of stride 2 and two linear layers. It is trained on the data alone, apart
    from the models that it judges; ``pretrained.load("metrics/letters")`` is one that has been.

    Args:
        classes: how many there are.
        size: height and width of the images, a multiple of 8.
    """

    def __init__(self, classes: int, size: int = 32) -> None:
        super().__init__()
        check_count("classes", classes, 2)
        check_count("size", size, 8)
        if size % 8:
            raise ValueError(f"size must be a multiple of 8 (three strides of 2), got {size}")
        self.classes, self.size = classes, size

        def layer(features_in: int, features_out: int) -> list[nn.Module]:
            convolution = nn.Conv2d(features_in, features_out, 3, 2, 1)
            return [convolution, nn.BatchNorm2d(features_out), nn.ReLU()]

        self.features = nn.Sequential(
            *(layer(3, 32) + layer(32, 64) + layer(64, 96)),
            nn.Flatten(),
            nn.Linear(96 * (size // 8) ** 2, 64),
            nn.ReLU(),
        )
        self.last = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits: images in [0, 1], ``(B, 1 or 3, size, size)``, -> ``(B, classes)``."""
        grey = x.ndim == 4 and x.shape[1] == 1
        check_batch("x", x, (1 if grey else 3, self.size, self.size))
        return self.last(self.features(2 * x.expand(-1, 3, -1, -1) - 1))

    def loss(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Cross-entropy in nats, and the share of errors."""
        logits = self(x)
        error = (logits.detach().argmax(1) != y).to(logits.dtype).mean()
        return {"loss": F.cross_entropy(logits, y), "error": error}

    @torch.no_grad()
    @evaluates
    def read(self, x: Tensor) -> Tensor:
        """The probability of each class: images ``(B, 1 or 3, size, size)`` -> ``(B, classes)``.

        What leaves [0, 1], as the mean of a Gaussian may, is cut off there, since it would be shown
        so.
        """
        return torch.cat([self(part.clamp(0, 1)).softmax(1) for part in x.split(500)])
