"""Tensors on disk: safetensors files that are never half-written and explain what is wrong."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

__all__ = ["encode", "load_state", "read", "replacing", "write"]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its place if the block ends without error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # mkstemp's own 0600 would hide shared weights from others
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def encode(tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> bytes:
    """The content of a safetensors file."""
    # One storage per tensor: safetensors refuses tied weights, and views would drag their base.
    own = {
        name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()
    }
    return save(own, metadata)


def write(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write ``tensors`` with ``metadata`` to ``path``: all of it, or nothing."""
    content = encode(tensors, metadata)
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read what ``write`` wrote.

    Raises:
        ValueError: the file is truncated, or isn't safetensors.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a whole safetensors file ({error}); delete it and make it again"
        ) from error


def load_state(module: nn.Module, state: Mapping[str, Tensor], source: Path) -> None:
    """Copy ``state`` into ``module``, each tensor cast to the module's own dtype.

    Raises:
        ValueError: a name is missing, left over, or of another shape. Nothing is loaded then.
    """
    own = module.state_dict()
    faults = [f"{name} is missing" for name in own if name not in state]
    faults += [f"{name} is not in the model" for name in state if name not in own]
    faults += [
        f"{name} has shape {tuple(state[name].shape)}, the model's is {tuple(t.shape)}"
        for name, t in own.items()
        if name in state and state[name].shape != t.shape
    ]
    if faults:
        more = f", and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise ValueError(
            f"{source} does not fit {type(module).__name__}: {'; '.join(faults[:5])}{more}. "
            "Build the model with the arguments that the file was made with"
        )
    with torch.no_grad():
        module.load_state_dict(dict(state))
