"""What the labelled data sets return."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["Labelled", "Splits"]


@dataclass(frozen=True, eq=False)
class Labelled:
    """Items and their classes.

    Attributes:
        x: float32 in [0, 1], images ``(N, C, H, W)``.
        y: int64, the class of each, ``(N,)``.
    """

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True, eq=False)
class Splits:
    """A data set in its two fixed parts.

    Attributes:
        train: what a model may learn from.
        test: what it is measured on, and never sees before.
    """

    train: Labelled
    test: Labelled
