"""The contract that every model of the book keeps. Typing only: nothing here runs.

Shapes are written as tuples: ``B`` is the batch, ``*data_shape`` one item's own shape,
``(64,)`` for a vector and ``(1, 28, 28)`` for a grey image. Log-probabilities are in nats.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

__all__ = [
    "AdversarialModel",
    "Bijection",
    "GenerativeModel",
    "Likelihood",
    "LikelihoodModel",
]


@runtime_checkable
class GenerativeModel(Protocol):
    """A model that draws data. Every model is also an ``nn.Module``."""

    def sample(
        self, n: int, y: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw ``n`` items, shape ``(n, *data_shape)``; ``y`` (``(n,)``) conditions, if it can."""
        ...


@runtime_checkable
class LikelihoodModel(GenerativeModel, Protocol):
    """A model that also says how probable data is, exactly or by a bound."""

    bound: bool
    """True: ``log_prob`` is a lower bound. False: it is exact."""

    def log_prob(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """log p(x), or a lower bound on it, in nats: ``(B, *data_shape)`` -> ``(B,)``."""
        ...

    def loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """What training minimises, under ``"loss"`` (a scalar), beside scalar terms to log."""
        ...


@runtime_checkable
class AdversarialModel(GenerativeModel, Protocol):
    """A generator and a discriminator, each with a loss of its own."""

    generator: nn.Module
    discriminator: nn.Module

    def discriminator_loss(self, real: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """The discriminator's ``"loss"`` on real data and on as many samples."""
        ...

    def generator_loss(self, n: int, y: Tensor | None = None) -> dict[str, Tensor]:
        """The generator's ``"loss"`` on ``n`` samples."""
        ...


@runtime_checkable
class Bijection(Protocol):
    """An invertible map with a tractable Jacobian. ``logdet`` has shape ``(B,)``."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Data to latent: ``(z, log |det dz/dx|)``."""
        ...

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Latent to data: ``(x, log |det dx/dz|)``."""
        ...


@runtime_checkable
class Likelihood(Protocol):
    """A distribution of one item given a network's output (see ``gdm_lib.likelihoods``)."""

    def params_shape(self, data_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of one item's parameters, without the batch."""
        ...

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        """log p(x | params) in nats, ``(B,)``."""
        ...

    def sample(self, params: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """One draw per row of ``params``, ``(B, *data_shape)``."""
        ...

    def mean(self, params: Tensor) -> Tensor:
        """The expectation, ``(B, *data_shape)``."""
        ...
