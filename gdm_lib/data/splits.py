"""What the data sets return: their items in two parts that share none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

__all__ = ["Labelled", "Splits", "drawn"]

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Labelled:
    """Items and their classes. What is made from factors has these too, in a subclass.

    Attributes:
        x: float32, ``(N, ...)``; images ``(N, C, H, W)`` in [0, 1].
        y: int64, the class of each, ``(N,)``.
    """

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True, eq=False)
class Splits(Generic[T]):
    """A data set in its two parts; what a part is, its module says.

    Attributes:
        train: what a model may learn from.
        test: what it is measured on, and never sees before.
    """

    train: T
    test: T


def drawn(
    part: Callable[[int, torch.Generator], T], n_train: int, n_test: int, seed: int
) -> Splits[T]:
    """Both parts of a data set that is made of random numbers, each from a stream of its own.

    Training sets have the even streams and test sets the odd ones. So the parts of one seed share
    no item, nor does the test part of one with the training part of another.

    Args:
        part: makes as many items as it is told from the generator.
        n_train: items to train on.
        n_test: items to test on.
        seed: of both.

    Raises:
        ValueError: one of the three is negative.
    """
    if n_train < 0 or n_test < 0 or seed < 0:
        raise ValueError(
            f"n_train, n_test and seed must be 0 or more, got {n_train}, {n_test} and {seed}"
        )
    streams = ((n_train, 2 * seed), (n_test, 2 * seed + 1))
    return Splits(*(part(n, torch.Generator().manual_seed(stream)) for n, stream in streams))
