"""Reference weights, and the recipes that made them.

A recipe is a module-level ``Recipe`` in ``gdm_lib/pretrained/<family>.py``; its name is
``<family>/<variable>``. In ``gdm_lib/pretrained/vae.py``::

    def _train(model: nn.Module) -> dict[str, object]:
        history = fit(model, mnist().x, epochs=50)
        return {"data": "MNIST, 60,000 training images", "epochs": 50}

    def _evaluate(model: nn.Module) -> dict[str, float]:
        return {"test_elbo": ...}

    mnist_2d = Recipe(lambda: VAE.mlp((1, 28, 28), 2), _train, _evaluate)

``gdm train vae/mnist_2d`` then makes the weights, and ``load("vae/mnist_2d")`` the model.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import pkgutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import gdm_lib
from gdm_lib import _tensorfile

__all__ = [
    "MAX_BYTES",
    "Recipe",
    "identify",
    "load",
    "names",
    "recipe",
    "record",
    "save",
    "train",
    "where",
]

MAX_BYTES = 2_000_000
"""The largest file of weights that the book ships."""


@dataclass(frozen=True)
class Recipe:
    """How a set of reference weights is made. Run once by its maker, and by any doubter."""

    build: Callable[[], nn.Module]
    """Makes the untrained model; the reader's ``load`` calls it too."""
    train: Callable[[nn.Module], dict[str, Any]]
    """Trains the model in place; returns what the record should say of it (data, steps)."""
    evaluate: Callable[[nn.Module], dict[str, float]]
    """Measures the model with its weights as they are stored, rounding included."""
    seed: int = 0
    """Of the global generator, before ``build``."""
    half: bool = True
    """Store floating-point weights in 16 bits."""


def where() -> Path:
    """The folder of the weights: ``data/weights`` of a checkout, else inside the package."""
    package = Path(gdm_lib.__file__).parent
    checkout = package.parent
    if (checkout / "pyproject.toml").is_file():
        return checkout / "data" / "weights"
    return package / "_weights"


def names() -> list[str]:
    """All recipes, as ``family/name``."""
    families = sorted(info.name for info in pkgutil.iter_modules(__path__))
    return [
        f"{family}/{name}"
        for family in families
        for name, value in vars(importlib.import_module(f"{__name__}.{family}")).items()
        if isinstance(value, Recipe)
    ]


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
        directory: the folder of all weights; ``where()`` if left out.

    Returns:
        The record.
    """
    made = recipe(name)
    with torch.random.fork_rng([]):
        torch.manual_seed(made.seed)
        model = made.build()
        start = time.perf_counter()
        facts = made.train(model)
        seconds = time.perf_counter() - start
        # What is measured is what is stored.
        model.load_state_dict(_stored(model, made.half))
        metrics = made.evaluate(model.eval())
    facts = {"seed": made.seed, **facts, "seconds": round(seconds, 1), "metrics": metrics}
    save(model, name, facts, half=made.half, directory=directory)
    return record(name, directory=directory)


def save(
    model: nn.Module,
    name: str,
    record: dict[str, Any],
    *,
    half: bool = True,
    directory: Path | None = None,
) -> Path:
    """Store a model's weights, and beside them a JSON record of how they were made.

    Args:
        model: whose ``state_dict`` is stored.
        name: ``family/name``.
        record: JSON values. Added to it: name, command, parameters, size and SHA-256 of the file,
            versions of torch and of this library.
        half: store floating-point tensors in 16 bits.
        directory: the folder of all weights; ``where()`` if left out.

    Returns:
        The path of the weights.

    Raises:
        ValueError: the file would be larger than ``MAX_BYTES``, a weight is too large for
            16 bits, or the record isn't JSON. Nothing is written then.
    """
    weights, beside = _paths(name, directory)
    stored = _tensorfile.encode(_stored(model, half), {})
    if len(stored) > MAX_BYTES:
        raise ValueError(
            f"the weights of {name} take {len(stored):,} bytes, more than {MAX_BYTES:,}; "
            + ("make the model smaller" if half else "store them with half=True")
        )
    record = {
        "name": name,
        "command": f"gdm train {name}",
        **record,
        "parameters": sum(p.numel() for p in model.parameters()),
        "bytes": len(stored),
        "sha256": hashlib.sha256(stored).hexdigest(),
        "torch": torch.__version__,
        "gdm_lib": gdm_lib.__version__,
    }
    try:
        text = json.dumps(record, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    except (TypeError, ValueError) as error:
        raise ValueError(f"record must hold finite JSON values only: {error}") from error
    with _tensorfile.replacing(weights) as temporary:
        temporary.write_bytes(stored)
    with _tensorfile.replacing(beside) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return weights


def record(name: str, *, directory: Path | None = None) -> dict[str, Any]:
    """What is known of stored weights: how they were made, and what they measured.

    Raises:
        FileNotFoundError: there are none; the message names the command that makes them.
    """
    return json.loads(_existing(_paths(name, directory)[1], name).read_text(encoding="utf-8"))


def load(name: str, *, directory: Path | None = None) -> nn.Module:
    """The trained model, in eval mode, on the CPU, its weights in its own dtype.

    Args:
        name: the recipe, ``family/name``.
        directory: the folder of all weights; ``where()`` if left out.

    Raises:
        ValueError: there is no such recipe, or the file is damaged or of another architecture.
        FileNotFoundError: there are no weights; the message names the command that makes them.
    """
    made = recipe(name)
    weights = _existing(_paths(name, directory)[0], name)
    expected = record(name, directory=directory)["sha256"]
    if hashlib.sha256(weights.read_bytes()).hexdigest() != expected:
        raise ValueError(
            f"{weights} is not the file that its record describes: it is damaged, or one of the "
            f"two was replaced alone; get both again, or make both with: gdm train {name}"
        )
    with torch.random.fork_rng([]):
        model = made.build()
    _tensorfile.load_state(model, _tensorfile.read(weights)[0], weights)
    return model.eval()


def identify(model: nn.Module, *, directory: Path | None = None) -> str | None:
    """The name of the reference weights that ``model`` has, bit by bit; None if it has none.

    Only values are compared: a model of the same shapes with another activation is not told apart.

    Args:
        model: in any mode, on any device.
        directory: the folder of all weights; ``where()`` if left out.
    """
    digests = set()
    for half in (True, False):
        try:
            stored = _stored(model, half)
        except ValueError:  # beyond 16 bits
            continue
        if all(torch.equal(stored[k].to(t.dtype), t) for k, t in model.state_dict().items()):
            digests.add(hashlib.sha256(_tensorfile.encode(stored, {})).hexdigest())
    for name in names():
        known = _paths(name, directory)[1].is_file()
        if known and record(name, directory=directory)["sha256"] in digests:
            return name
    return None


def _paths(name: str, directory: Path | None) -> tuple[Path, Path]:
    family, slash, variable = name.partition("/")
    if not (slash and family.isidentifier() and variable.isidentifier()):
        raise ValueError(f"name must be family/name, such as vae/mnist_2d, got {name!r}")
    stem = (directory or where()) / family / variable
    return stem.with_suffix(".safetensors"), stem.with_suffix(".json")


def _existing(path: Path, name: str) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; make it with: gdm train {name}")
    return path


def _stored(model: nn.Module, half: bool) -> dict[str, Tensor]:
    state = {}
    for name, tensor in model.state_dict().items():
        state[name] = tensor.half() if half and tensor.is_floating_point() else tensor
        if half and not torch.equal(state[name].isfinite(), tensor.isfinite()):
            raise ValueError(f"{name} holds values beyond 16 bits (65,504); store with half=False")
    return state
