"""What the papers on adversarial networks share: the game's base class and its objectives.

A generator turns noise ``z`` into data; a discriminator gives real and made items a score each, a
logit where it is to be read as a probability. An objective says what both minimise, as functions of
these scores.

Symbols: ``z`` latent noise, ``r`` scores of real items and ``f`` of made ones, each ``(B,)``, ``B``
the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gdm_lib.nn import evaluating

__all__ = [
    "Adversarial",
    "Objective",
    "hinge",
    "non_saturating",
    "saturating",
    "truncated_normal",
    "wasserstein",
]


# Objectives: what each side minimises


class Objective(NamedTuple):
    """What the two sides minimise, each a mean over the batch."""

    discriminator: Callable[[Tensor, Tensor], Tensor]
    """Of scores ``r`` and ``f``."""
    generator: Callable[[Tensor], Tensor]
    """Of scores ``f``."""


def _cross_entropy(r: Tensor, f: Tensor) -> Tensor:
    """``-log D(x) - log(1 - D(G(z)))``, ``D = sigmoid(score)``, without a logarithm of 0."""
    return F.softplus(-r).mean() + F.softplus(f).mean()


saturating = Objective(_cross_entropy, lambda f: -F.softplus(f).mean())
"""The game as it is defined, ``min_G max_D E[log D(x)] + E[log(1 - D(G(z)))]`` (1406.2661,
equation 1). Where D is sure of itself, G's gradient vanishes."""

non_saturating = Objective(_cross_entropy, lambda f: F.softplus(-f).mean())
"""What the paper trains instead: G maximises ``E[log D(G(z))]`` (1406.2661, section 3)."""

wasserstein = Objective(lambda r, f: f.mean() - r.mean(), lambda f: -f.mean())
"""The critic's estimate of the earth mover's distance, up to its Lipschitz constant, which must be
bounded elsewhere (1701.07875, equation 3 and algorithm 1)."""

hinge = Objective(lambda r, f: F.relu(1 - r).mean() + F.relu(1 + f).mean(), lambda f: -f.mean())
"""Scores beyond the margin don't count for the discriminator (Lim and Ye, 1705.02894; 1805.08318,
equation 4)."""


# The game


def truncated_normal(
    shape: tuple[int, ...],
    threshold: float | None,
    *,
    generator: torch.Generator | None = None,
    like: Tensor | None = None,
) -> Tensor:
    """N(0, I), each entry drawn again until it lies in ``[-threshold, threshold]`` (1809.11096,
    section 3.1).

    Drawn again, not clipped: clipping would heap up probability at both ends. Computed without a
    loop, as the quantile of a uniform number between the quantiles' ends.

    Args:
        shape: of the result.
        threshold: None for no truncation.
        generator: of the random numbers.
        like: gives dtype and device.

    Raises:
        ValueError: ``threshold`` isn't positive.
    """
    like = torch.empty(0) if like is None else like
    kind: dict[str, Any] = {"dtype": like.dtype, "device": like.device}
    if threshold is None:
        return torch.randn(shape, generator=generator, **kind)
    if not threshold > 0:
        raise ValueError(f"truncation must be positive, or None for none, got {threshold}")
    u = torch.rand(shape, generator=generator, device=like.device, dtype=torch.float64)
    below = torch.special.ndtr(torch.tensor(-threshold, dtype=torch.float64, device=like.device))
    z = torch.special.ndtri(below + u * (1 - 2 * below))
    return z.clamp(-threshold, threshold).to(like.dtype)  # only against rounding


class Adversarial(nn.Module):
    """Two networks that play against each other: what the models of this family share.

    The generator is called as ``generator(z)`` and the discriminator as ``discriminator(x)``, or
    with labels ``y`` behind it where a caller gives them. Both losses put made and real items
    under the same labels.

    Args:
        generator: latents ``(B, latent_dim)`` to items ``(B, *data_shape)``.
        discriminator: items to scores ``(B,)``.
        latent_dim: length of ``z``.
        objective: what both minimise, one of this module's or your own.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        latent_dim: int,
        *,
        objective: Objective = non_saturating,
    ) -> None:
        super().__init__()
        if latent_dim < 1:
            raise ValueError(f"latent_dim must be at least 1, got {latent_dim}")
        self.generator, self.discriminator = generator, discriminator
        self.latent_dim, self.objective = latent_dim, objective

    def latent(
        self,
        n: int,
        *,
        truncation: float | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """``n`` latents, ``(n, latent_dim)``, truncated if asked; see ``truncated_normal``."""
        like = next(self.generator.parameters())
        return truncated_normal((n, self.latent_dim), truncation, generator=generator, like=like)

    def discriminator_loss(self, real: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """The discriminator's loss on real items and on as many made ones, and the mean scores.

        Args:
            real: ``(B, *data_shape)``.
            y: ``(B,)`` labels of both, in a model that takes them.
        """
        with torch.no_grad():
            made = self._make(self.latent(len(real)), y)
        r, f = self.score(real, y), self.score(made, y)
        loss = self.objective.discriminator(r, f)
        return {"loss": loss, "real": r.detach().mean(), "made": f.detach().mean()}

    def generator_loss(self, n: int, y: Tensor | None = None) -> dict[str, Tensor]:
        """The generator's loss on ``n`` made items.

        Args:
            n: how many.
            y: ``(n,)``, their labels, in a model that takes them.
        """
        scores = self.score(self._make(self.latent(n), y), y)
        return {"loss": self.objective.generator(scores)}

    def score(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """What the discriminator says of items, ``(B, *data_shape)`` -> ``(B,)``.

        Raises:
            ValueError: the discriminator gives something else than one score an item.
        """
        scores: Tensor = self.discriminator(x) if y is None else self.discriminator(x, y)
        if scores.shape not in ((len(x),), (len(x), 1)):
            raise ValueError(
                f"discriminator must give one score an item, ({len(x)},) or ({len(x)}, 1), got "
                f"{tuple(scores.shape)}"
            )
        return scores.flatten()

    def _make(self, z: Tensor, y: Tensor | None) -> Tensor:
        made: Tensor = self.generator(z) if y is None else self.generator(z, y)
        return made

    @torch.no_grad()
    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """The items that latents stand for, in eval mode: ``(n, latent_dim)`` -> ``(n, ...)``.

        Raises:
            ValueError: ``z`` isn't a batch of latents.
        """
        if z.ndim != 2 or z.shape[1] != self.latent_dim:
            raise ValueError(f"z must have shape (n, {self.latent_dim}), got {tuple(z.shape)}")
        with evaluating(self):
            return self._make(z, y)

    def sample(
        self,
        n: int,
        y: Tensor | None = None,
        *,
        truncation: float | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw ``n`` items, ``(n, *data_shape)``, in eval mode.

        Args:
            n: how many.
            y: ``(n,)``, their labels, in a model that takes them.
            truncation: the largest entry that a latent may have; smaller means more typical items
                and fewer kinds of them. None for no truncation.
            generator: of the latents.
        """
        return self.decode(self.latent(n, truncation=truncation, generator=generator), y)
