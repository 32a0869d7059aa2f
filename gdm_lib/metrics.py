"""What a trained model is measured with: ground truths and the field's usual numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gdm_lib.likelihoods import LOG_2PI
from gdm_lib.protocols import Likelihood

__all__ = ["active_units", "bits_per_dim", "log_prob_by_quadrature", "ppca_log_likelihood"]


def bits_per_dim(log_prob: Tensor, data_shape: Sequence[int]) -> Tensor:
    """``-log p(x) / (dimensions * log 2)``: nats per item -> bits per dimension, same shape.

    Only a probability of discrete data (or of data dequantised to unit-wide bins) can be read
    as a code length; for the density of continuous data the number depends on its unit.
    """
    return -log_prob / (math.prod(data_shape) * math.log(2))


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
