"""What the recipes of several families say of their models."""

from __future__ import annotations

import math

from torch import Tensor

__all__ = ["bits"]


def bits(nats: Tensor, x: Tensor) -> dict[str, float]:
    """Bits per dimension and their standard error, from ``-log p(x)`` in nats of held-out items.

    Args:
        nats: one for each item, ``(N,)``.
        x: the items, ``(N, ...)``.
    """
    each = nats / (x[0].numel() * math.log(2))
    return {
        "test bits per dimension": round(float(each.mean()), 4),
        "its standard error": round(float(each.std() / math.sqrt(len(each))), 4),
    }
