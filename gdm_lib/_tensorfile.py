"""Tensors on disk: safetensors files that are never half-written and explain what is wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from gdm_lib._files import read_plain, replacing

__all__ = ["decode", "encode", "load_state", "read", "replacing", "write"]


def encode(tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> bytes:
    """The content of a safetensors file."""
    # One storage per tensor: safetensors refuses tied weights, and views would drag their base.
    own = {
        name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()
    }
    return save(own, metadata)


def decode(content: bytes, source: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata that ``encode`` was given.

    Args:
        content: what it made.
        source: the file that has this content, for messages.

    Raises:
        ValueError: the content is cut off, or isn't that of a safetensors file.
    """
    try:
        tensors = load(content)
        # Sound, since the tensors were found through it: its length, and that many bytes of JSON.
        length = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + length]).get("__metadata__") or {}
    except (SafetensorError, *_UNKNOWN_DTYPE, RuntimeError, ValueError) as error:
        raise ValueError(
            f"{source} is not a whole safetensors file ({type(error).__name__}: {error}); delete "
            "it and make it again"
        ) from error
    return tensors, metadata


# What its reader raises on a dtype that the format has and torch lacks.
_UNKNOWN_DTYPE = (AssertionError, AttributeError, LookupError, TypeError)


def write(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write ``tensors`` with ``metadata`` to ``path``: all of it, or nothing."""
    content = encode(tensors, metadata)
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def read(path: Path, most: int | None = None) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read what ``write`` wrote.

    Args:
        path: the file.
        most: how many bytes it may have; any number if left out.

    Raises:
        OSError: the file can't be read; FileNotFoundError if it isn't there.
        ValueError: it is cut off, isn't safetensors, isn't a plain file, or is too long.
    """
    return decode(read_plain(path, most), path)


def load_state(module: nn.Module, state: Mapping[str, Tensor], source: Path) -> None:
    """Copy ``state`` into ``module``, each tensor cast to the module's own dtype.

    Raises:
        ValueError: a name is missing, left over, of another shape, or of another kind of numbers.
            Nothing is loaded then.
    """
    own = module.state_dict()
    faults = [f"{name} is missing" for name in own if name not in state]
    faults += [f"{name} is not in the model" for name in state if name not in own]
    faults += [
        f"{name} has shape {tuple(state[name].shape)}, the model's is {tuple(t.shape)}"
        for name, t in own.items()
        if name in state and state[name].shape != t.shape
    ]
    faults += [
        f"{name} holds {state[name].dtype}, the model {t.dtype}"
        for name, t in own.items()
        if name in state and not _same_kind(state[name], t)
    ]
    if faults:
        more = f", and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise ValueError(
            f"{source} does not fit {type(module).__name__}: {'; '.join(faults[:5])}{more}. "
            "Build the model with the arguments that the file was made with"
        )
    with torch.no_grad():
        module.load_state_dict(dict(state))


def _same_kind(one: Tensor, other: Tensor) -> bool:
    """Whether only the precision differs, and that in floating point alone."""
    return one.dtype == other.dtype or (one.is_floating_point() and other.is_floating_point())
