"""How the reference weights were made: one recipe for each set, made anew by ``gdm train``.

A recipe is a module-level ``Recipe`` in ``gdm_lib/recipes/<family>.py``, with the name of the
function of ``gdm_lib.pretrained`` that builds its model. In ``gdm_lib/recipes/vae.py``::

    def _train(model: nn.Module) -> dict[str, Any]:
        fit(model, mnist.load().train.x, epochs=50)
        return {"data": "MNIST, 60,000 training images", "epochs": 50}

    def _evaluate(model: nn.Module) -> dict[str, float]:
        return {"test ELBO (nats)": ...}

    mnist_2d = Recipe(_train, _evaluate)

``gdm train vae/mnist_2d`` then makes the weights. Nothing that loads them imports this package.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gdm_lib import pretrained

__all__ = ["Recipe", "names", "recipe", "train"]


@dataclass(frozen=True)
class Recipe:
    """How a set of reference weights is made. Run once by its maker, and by any doubter."""

    train: Callable[[nn.Module], dict[str, Any]]
    """Trains the model in place; returns what the record should say of it (data, steps)."""
    evaluate: Callable[[nn.Module], dict[str, float]]
    """Measures the model with its weights as they are stored, rounding included."""
    seed: int = 0
    """Of the global generator, before the model is built."""
    half: bool = True
    """Store floating-point weights in 16 bits."""
    examples: Callable[[nn.Module], dict[str, str]] | None = None
    """What the model makes of a few named test items, such as their codes, as text. The record
    keeps it, for those who have the weights and not the data."""


def names() -> list[str]:
    """All recipes, as ``family/name``: one for each set of weights that ``pretrained`` knows."""
    return pretrained.names()


def recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in (known := names()):
        listed = ", ".join(known) or "none yet"
        raise ValueError(f"there is no recipe {name!r}; the recipes are: {listed}")
    family, _, variable = name.partition("/")
    return getattr(importlib.import_module(f"{__name__}.{family}"), variable)


def train(name: str, *, directory: Path | None = None) -> dict[str, Any]:
    """Make the weights of a recipe anew and store them with their record.

    Args:
        name: the recipe, ``family/name``.
        directory: the folder of all weights; ``pretrained.where()`` if left out.

    Returns:
        The record.

    Raises:
        ValueError: there is no such recipe, or what it makes can't be stored.
        OSError: the folder can't be written, which is tried before anything is trained.
    """
    made = recipe(name)
    pretrained.check_writable(name, directory=directory)
    with torch.random.fork_rng([]):
        torch.manual_seed(made.seed)
        model = pretrained.build(name)
        start = time.perf_counter()
        facts = made.train(model)
        seconds = time.perf_counter() - start
        # What is measured is what is stored.
        model.load_state_dict(pretrained.as_stored(model, half=made.half))
        metrics = made.evaluate(model.eval())
    facts = {"seed": made.seed, **facts, "seconds": round(seconds, 1), "metrics": metrics}
    if made.examples is not None:
        facts["examples"] = made.examples(model)
    pretrained.save(model, name, facts, half=made.half, directory=directory)
    return pretrained.record(name, directory=directory)
