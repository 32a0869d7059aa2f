"""Reference weights: where they are, which there are, and the models that have them.

A set of weights is named ``<family>/<name>``. In ``gdm_lib/pretrained/<family>.py`` a function of
that name, listed in ``__all__``, builds its untrained model::

    def mnist_2d() -> VAE:
        from gdm_lib.vae.vae import VAE

        return VAE.mlp((1, 28, 28), 2, hidden=(500,))

It imports the paper when it is called, so that ``load("vae/mnist_2d")`` brings in no other. How the
weights were made, ``gdm_lib.recipes`` knows, and whoever loads them need not.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

import gdm_lib
from gdm_lib import _tensorfile

__all__ = [
    "MAX_BYTES",
    "as_stored",
    "build",
    "identify",
    "load",
    "names",
    "record",
    "save",
    "where",
]

MAX_BYTES = 2_000_000
"""The largest file of weights that the book ships."""


def where() -> Path:
    """The folder of the weights: ``data/weights`` of a checkout, else inside the package."""
    package = Path(gdm_lib.__file__).parent
    checkout = package.parent
    if (checkout / "pyproject.toml").is_file():
        return checkout / "data" / "weights"
    return package / "_weights"


def names() -> list[str]:
    """All sets of weights that can be loaded or made, as ``family/name``. Imports no paper."""
    families = sorted(info.name for info in pkgutil.iter_modules(__path__))
    return [f"{family}/{name}" for family in families for name in _family(family).__all__]


def build(name: str) -> nn.Module:
    """The untrained model of a set of weights, with parameters from the global generator.

    Args:
        name: ``family/name``.

    Raises:
        ValueError: there is no such set.
    """
    family, _, function = name.partition("/")
    known = {info.name for info in pkgutil.iter_modules(__path__)}
    if family not in known or function not in _family(family).__all__:
        raise _unknown(name)
    return getattr(_family(family), function)()


def as_stored(model: nn.Module, *, half: bool = True) -> dict[str, Tensor]:
    """The model's ``state_dict`` as its file holds it.

    Args:
        model: whose state it is.
        half: floating-point tensors in 16 bits.

    Raises:
        ValueError: a weight is too large for 16 bits.
    """
    state = {}
    for name, tensor in model.state_dict().items():
        state[name] = tensor.half() if half and tensor.is_floating_point() else tensor
        if half and not torch.equal(state[name].isfinite(), tensor.isfinite()):
            raise ValueError(f"{name} holds values beyond 16 bits (65,504); store with half=False")
    return state


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
    stored = _tensorfile.encode(as_stored(model, half=half), {})
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

    Args:
        name: ``family/name``.
        directory: the folder of all weights; ``where()`` if left out.

    Raises:
        ValueError: there is no such set.
        FileNotFoundError: it isn't stored; the message names the command that makes it.
    """
    return json.loads(_existing(_paths(name, directory)[1], name).read_text(encoding="utf-8"))


def load(name: str, *, directory: Path | None = None) -> nn.Module:
    """The trained model, in eval mode, on the CPU, its weights in its own dtype.

    Args:
        name: ``family/name``.
        directory: the folder of all weights; ``where()`` if left out.

    Raises:
        ValueError: there is no such set, or the file is damaged or of another architecture.
        FileNotFoundError: it isn't stored; the message names the command that makes it.
    """
    weights = _existing(_paths(name, directory)[0], name)
    expected = record(name, directory=directory)["sha256"]
    if hashlib.sha256(weights.read_bytes()).hexdigest() != expected:
        raise ValueError(
            f"{weights} is not the file that its record describes: it is damaged, or one of the "
            f"two was replaced alone; get both again, or make both with: gdm train {name}"
        )
    with torch.random.fork_rng([]):
        model = build(name)
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
            stored = as_stored(model, half=half)
        except ValueError:  # beyond 16 bits
            continue
        if all(torch.equal(stored[k].to(t.dtype), t) for k, t in model.state_dict().items()):
            digests.add(hashlib.sha256(_tensorfile.encode(stored, {})).hexdigest())
    # From what is stored, so that nothing is imported to recognise a model.
    folder = directory or where()
    for path in sorted(folder.glob("*/*.json")):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if record(name, directory=folder)["sha256"] in digests:
            return name
    return None


def _paths(name: str, directory: Path | None) -> tuple[Path, Path]:
    family, slash, variable = name.partition("/")
    if not (slash and family.isidentifier() and variable.isidentifier()):
        raise ValueError(f"name must be family/name, such as vae/mnist_2d, got {name!r}")
    stem = (directory or where()) / family / variable
    return stem.with_suffix(".safetensors"), stem.with_suffix(".json")


def _family(name: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{name}")


def _unknown(name: str) -> ValueError:
    known = ", ".join(names()) or "none yet"
    return ValueError(f"there are no reference weights {name!r}; those there are: {known}")


def _existing(path: Path, name: str) -> Path:
    if not path.is_file():
        if name not in names():
            raise _unknown(name)
        raise FileNotFoundError(f"{path} does not exist; make it with: gdm train {name}")
    return path
