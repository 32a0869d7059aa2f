"""Network blocks that two or more papers share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor, nn

__all__ = ["ClassEmbedding", "evaluating", "gate", "mlp"]


def mlp(sizes: Sequence[int], activation: Callable[[], nn.Module] = nn.Tanh) -> nn.Sequential:
    """Linear layers with an activation between them, none behind the last.

    Args:
        sizes: features in, of each hidden layer, and out; ``(784, 500, 20)`` has one hidden
            layer.
        activation: makes the module that stands between two layers.

    Raises:
        ValueError: fewer than two sizes, or a size below 1.
    """
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(
            f"sizes must name at least two positive widths, (in, ..., out), got {tuple(sizes)}"
        )
    layers: list[nn.Module] = []
    for i, (width_in, width_out) in enumerate(pairwise(sizes)):
        layers += [activation()] if i else []
        layers.append(nn.Linear(width_in, width_out))
    return nn.Sequential(*layers)


def gate(x: Tensor) -> Tensor:
    """``tanh(a) * sigmoid(b)`` of the halves ``a``, ``b`` of the features: ``(B, 2p, ...)`` ->
    ``(B, p, ...)`` (equation 2 of 1606.05328 and of 1609.03499)."""
    a, b = x.chunk(2, 1)
    return torch.tanh(a) * torch.sigmoid(b)


class ClassEmbedding(nn.Embedding):
    """A learned vector for each class.

    Args:
        classes: how many there are.
        features: length of a vector.
    """

    def __init__(self, classes: int, features: int) -> None:
        super().__init__(classes, features)

    def forward(self, y: Tensor) -> Tensor:
        """int64 labels ``(B,)`` -> ``(B, features)``.

        Raises:
            ValueError: not a vector, another dtype than int64, or a label out of range.
        """
        if y.ndim != 1 or y.dtype != torch.int64:
            raise ValueError(
                f"y must be int64 labels of shape (B,), got {y.dtype} of shape {tuple(y.shape)}"
            )
        if y.numel() and not 0 <= int(y.min()) <= int(y.max()) < self.num_embeddings:
            raise ValueError(
                f"y must hold labels 0 to {self.num_embeddings - 1}, got {int(y.min())} to "
                f"{int(y.max())}"
            )
        return super().forward(y)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """In eval mode within, and each module as before after it."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
