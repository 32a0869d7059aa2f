"""Reference weights: where they are, which there are, and the models that have them.

A set of weights is named ``<family>/<name>``. In ``gdm_lib/pretrained/<family>.py`` a function of
that name, listed in ``__all__``, builds its untrained model::

    from torch import nn

    def mnist_2d() -> nn.Module:
        from gdm_lib.vae.vae import VAE

        return VAE.mlp((1, 28, 28), 2, hidden=(500,))

It imports the paper when it is called, so that ``load("vae/mnist_2d")`` brings in no other. How the
weights were made, ``gdm_lib.recipes`` knows, and whoever loads them need not.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import pkgutil
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

import gdm_lib
from gdm_lib import _files, _tensorfile

__all__ = [
    "MAX_BYTES",
    "as_stored",
    "build",
    "check_writable",
    "identify",
    "load",
    "names",
    "record",
    "save",
    "verify",
    "where",
]

MAX_BYTES = 2_000_000
"""The largest file of weights that the book ships."""

MAX_RECORD = 100_000  # bytes


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
    family, function = _parts(name)
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
            versions of torch and of this library, and a SHA-256 of the record's other entries.
        half: store floating-point tensors in 16 bits.
        directory: the folder of all weights; ``where()`` if left out.

    Returns:
        The path of the weights.

    Raises:
        ValueError: the file would be larger than ``MAX_BYTES``, a weight is too large for
            16 bits or not finite, or the record isn't JSON or says what no record may. Nothing is
            written then.
        OSError: the folder can't be written.
    """
    weights, beside = _paths(name, directory)
    if unsound := _not_finite(model.state_dict()):
        raise ValueError(f"{unsound[0]} holds nan or infinite values, which no use can be made of")
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
        told = json.loads(json.dumps(record, allow_nan=False))  # tuples are lists from here on
        told["record_sha256"] = _digest(told)
        content = (json.dumps(told, indent=2, ensure_ascii=False) + "\n").encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"record must hold finite JSON values only: {error}") from error
    if faults := _faults(told, name, len(content)):
        raise ValueError(f"record can't be kept: {faults}")
    with _tensorfile.replacing(weights) as temporary:
        temporary.write_bytes(stored)
    with _tensorfile.replacing(beside) as temporary:
        temporary.write_bytes(content)
    return weights


def check_writable(name: str, *, directory: Path | None = None) -> None:
    """Try whether ``save`` could write its files, and leave everything as it is.

    Args:
        name: ``family/name``.
        directory: the folder of all weights; ``where()`` if left out.

    Raises:
        ValueError: the name can't be one of weights.
        OSError: the files can't be written.
    """
    for path in _paths(name, directory):
        try:
            _files.check_writable(path)
        except OSError as error:
            raise OSError(
                f"{path} can't be written ({error.strerror or error}); mend the folder's "
                "permissions, or choose another folder"
            ) from error


def record(name: str, *, directory: Path | None = None) -> dict[str, Any]:
    """What is known of stored weights: how they were made, and what they measured.

    Args:
        name: ``family/name``.
        directory: the folder of all weights; ``where()`` if left out.

    Raises:
        ValueError: there is no such set, or its record is damaged.
        FileNotFoundError: it isn't stored; the message names the command that makes it.
        OSError: the file can't be read.
    """
    path = _paths(name, directory)[1]
    return _parsed(_content(path, name, MAX_RECORD), path, name)


def verify(name: str, *, directory: Path | None = None) -> dict[str, Any]:
    """The record of stored weights, after a look whether the weights are those that it describes.

    Args:
        name: ``family/name``.
        directory: the folder of all weights; ``where()`` if left out.

    Raises:
        ValueError: there is no such set, or a file is damaged.
        FileNotFoundError: it isn't stored; the message names the command that makes it.
        OSError: a file can't be read.
    """
    return _verified(name, directory)[0]


def load(name: str, *, directory: Path | None = None) -> nn.Module:
    """The trained model, in eval mode, on the CPU, its weights in its own dtype.

    Args:
        name: ``family/name``.
        directory: the folder of all weights; ``where()`` if left out.

    Raises:
        ValueError: there is no such set, or a file is damaged, of another architecture, or holds
            weights that aren't finite.
        FileNotFoundError: it isn't stored; the message names the command that makes it.
        OSError: a file can't be read.
    """
    weights = _paths(name, directory)[0]
    state = _tensorfile.decode(_verified(name, directory)[1], weights)[0]
    with torch.random.fork_rng([]):
        model = build(name)
    _tensorfile.load_state(model, state, weights)
    if unsound := _not_finite(model.state_dict()):
        raise ValueError(
            f"{weights} holds nan or infinite values in {unsound[0]}, as of a training that "
            f"diverged; make it anew with: gdm train {name}"
        )
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
    folder = Path(directory or where())
    for path in sorted(folder.glob("*/*.json")):
        name = path.relative_to(folder).with_suffix("").as_posix()
        try:
            stored_digest = _parsed(_files.read_plain(path, MAX_RECORD), path, name)["sha256"]
        except (OSError, ValueError):  # ``load`` tells what is wrong; the weights tell theirs too
            try:
                content = _files.read_plain(path.with_suffix(".safetensors"), MAX_BYTES)
            except (OSError, ValueError):
                continue
            stored_digest = hashlib.sha256(content).hexdigest()
        if stored_digest in digests:
            return name
    return None


def _parts(name: str) -> tuple[str, str]:
    family, slash, variable = name.partition("/") if isinstance(name, str) else ("", "", "")
    if not (slash and family.isidentifier() and variable.isidentifier()):
        raise ValueError(f"name must be family/name, such as vae/mnist_2d, got {name!r}")
    return family, variable


def _paths(name: str, directory: Path | None) -> tuple[Path, Path]:
    family, variable = _parts(name)
    stem = Path(directory or where()) / family / variable
    return stem.with_suffix(".safetensors"), stem.with_suffix(".json")


def _content(path: Path, name: str, most: int) -> bytes:
    try:
        return _files.read_plain(path, most)
    except ValueError as error:
        raise ValueError(f"{error}; delete it and make it anew with: gdm train {name}") from error
    except OSError as error:
        if name not in names():
            raise _unknown(name) from error
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            raise FileNotFoundError(
                f"{path} does not exist; make it with: gdm train {name}"
            ) from error
        raise OSError(
            f"{path} can't be read ({error.strerror or error}); mend its permissions, or make it "
            f"anew with: gdm train {name}"
        ) from error


def _verified(name: str, directory: Path | None) -> tuple[dict[str, Any], bytes]:
    """The record, and the very bytes that have its digest."""
    weights, beside = _paths(name, directory)
    content = _content(weights, name, MAX_BYTES)
    told = _parsed(_content(beside, name, MAX_RECORD), beside, name)
    if len(content) != told["bytes"] or hashlib.sha256(content).hexdigest() != told["sha256"]:
        raise ValueError(
            f"{weights} is not the file that its record describes: it is damaged, or one of the "
            f"two was replaced alone; get both again, or make both with: gdm train {name}"
        )
    return told, content


# -- records

_SHA256 = re.compile(r"[0-9a-f]{64}")


def _parsed(content: bytes, path: Path, name: str) -> dict[str, Any]:
    """The record that a file holds, if it is what ``save`` wrote."""
    try:
        # What can't be written again, a lone surrogate or a number beyond all bounds, is refused.
        told = json.loads(content.decode())
        json.dumps(told, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        faults = f"it isn't JSON of finite values ({type(error).__name__}: {error})"
    else:
        faults = _faults(told, name, len(content))
        if not faults:
            return told
    raise ValueError(
        f"the record {path} is damaged: {faults}. Get it and its weights again, or make both with: "
        f"gdm train {name}"
    )


def _faults(told: Any, name: str, size: int) -> str:
    """What is wrong with a record; nothing if it is sound."""
    if size > MAX_RECORD:
        return f"it takes {size:,} bytes, more than {MAX_RECORD:,}"
    if not isinstance(told, dict):
        return f"it should hold named entries, but holds a {type(told).__name__}"
    wanted = {
        "name": (told.get("name") == name, repr(name)),
        "command": (_is_text(told.get("command")), "a text"),
        "parameters": (_is_count(told.get("parameters")), "a whole number from 0"),
        "bytes": (
            _is_count(told.get("bytes")) and told["bytes"] <= MAX_BYTES,
            f"a whole number to {MAX_BYTES:,}",
        ),
        "sha256": (_is_digest(told.get("sha256")), "64 hexadecimal digits"),
        "torch": (_is_text(told.get("torch")), "a text"),
        "gdm_lib": (_is_text(told.get("gdm_lib")), "a text"),
        # What recipes add, where they do.
        "seed": (_is_count(told.get("seed", 0)), "a whole number from 0"),
        "steps": (_is_count(told.get("steps", 0)), "a whole number from 0"),
        "seconds": (
            _is_number(told.get("seconds", 0)) and told.get("seconds", 0) >= 0,
            "a number from 0",
        ),
        "metrics": (_are_metrics(told.get("metrics", {})), "finite numbers, each with its name"),
        "record_sha256": (_is_digest(told.get("record_sha256")), "64 hexadecimal digits"),
    }
    faults = [
        f"{key} should be {expected}, got {_shown(told, key)}"
        for key, (sound, expected) in wanted.items()
        if not sound
    ]
    if not faults and told["record_sha256"] != _digest(told):
        return "its entries are not those that record_sha256 was computed of"
    return "; ".join(faults)


def _digest(told: dict[str, Any]) -> str:
    """SHA-256 of a record's other entries, in an order and a spelling that are always the same."""
    others = {key: value for key, value in told.items() if key != "record_sha256"}
    text = json.dumps(others, sort_keys=True, allow_nan=False, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable() and 0 < len(value) <= 1000


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf


def _are_metrics(value: Any) -> bool:
    return isinstance(value, dict) and all(
        _is_text(key) and _is_number(number) for key, number in value.items()
    )


def _shown(told: dict[str, Any], key: str) -> str:
    shown = repr(told[key]) if key in told else "nothing"
    return shown if len(shown) <= 80 else f"{shown[:80]}..."


def _not_finite(state: dict[str, Tensor]) -> list[str]:
    return [name for name, tensor in state.items() if not bool(tensor.isfinite().all())]


# -- models


def _family(name: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{name}")


def _unknown(name: str) -> ValueError:
    known = ", ".join(names()) or "none yet"
    return ValueError(f"there are no reference weights {name!r}; those there are: {known}")
