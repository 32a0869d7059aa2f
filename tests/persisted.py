"""What a spawned process runs for ``test_persistence.py``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def density(model: nn.Module, x: Tensor, y: Tensor | None) -> Tensor:
    """The model's ``log_prob``, in eval mode, with noise that is the same each time."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        values: Tensor = model.eval().log_prob(x, y)
    return values


def answer(models: dict[str, tuple[nn.Module, Tensor, Tensor | None]], queue: Any) -> None:
    """Put the densities of all models that came, as numbers."""
    torch.set_num_threads(1)
    queue.put({name: density(*asked).tolist() for name, asked in models.items()})
