"""Grey values as levels: what a picture in [0, 1] is to a model of discrete data.

Autoregressive models take the levels 0 to L - 1 themselves, flows their places in [0, 1], which
``gdm_lib.bijections.Dequantise`` then spreads over bins. Both come from the same rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["from_levels", "quantise", "to_levels"]


def to_levels(x: Tensor, levels: int) -> Tensor:
    """The nearest of ``levels`` even steps: values in [0, 1] -> int64 from 0 to ``levels - 1``.

    Args:
        x: floating-point values of any shape.
        levels: how many, at least 2.

    Raises:
        ValueError: ``levels`` is below 2, or ``x`` holds values outside [0, 1].
    """
    if levels < 2:
        raise ValueError(f"levels must be at least 2, got {levels}")
    # Not "below 0 or above 1", which a nan is neither.
    if not (x.is_floating_point() and bool(((x >= 0) & (x <= 1)).all())):
        seen = f"{float(x.min()):g} to {float(x.max()):g}, {x.dtype}" if x.numel() else x.dtype
        raise ValueError(f"x must hold floating-point values in [0, 1], got {seen}")
    return (x * (levels - 1)).round().long()


def from_levels(x: Tensor, levels: int, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """Where levels lie in [0, 1]: integers ``k`` -> ``k / (levels - 1)``, in ``dtype``."""
    return x.to(dtype) / (levels - 1)


def quantise(x: Tensor, levels: int) -> Tensor:
    """Values in [0, 1] moved to the nearest multiple of ``1 / (levels - 1)``, in their own dtype.

    Args:
        x: as for ``to_levels``, whose result it is, put back on the interval.
        levels: how many, at least 2.

    Raises:
        ValueError: as ``to_levels`` does.
    """
    return from_levels(to_levels(x, levels), levels, dtype=x.dtype)
