"""Network blocks that two or more papers share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from itertools import pairwise
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

__all__ = [
    "ClassEmbedding",
    "evaluates",
    "evaluating",
    "exact",
    "gate",
    "gaussian",
    "learning",
    "mlp",
    "through",
    "trains",
    "uniform",
    "without_autocast",
]

P = ParamSpec("P")
R = TypeVar("R")
M = TypeVar("M", bound=nn.Module)


def mlp(sizes: Sequence[int], activation: Callable[[], nn.Module] = nn.Tanh) -> nn.Sequential:
    """Linear layers with an activation between them, none behind the last.

    Args:
        sizes: features in, of each hidden layer, and out; ``(784, 500, 20)`` has one hidden
            layer.
        activation: makes the module that stands between two layers.

    Raises:
        ValueError: fewer than two sizes, or a size below 1.
    """
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(
            f"sizes must name at least two positive widths, (in, ..., out), got {tuple(sizes)}"
        )
    layers: list[nn.Module] = []
    for i, (width_in, width_out) in enumerate(pairwise(sizes)):
        layers += [activation()] if i else []
        layers.append(nn.Linear(width_in, width_out))
    return nn.Sequential(*layers)


def gate(x: Tensor) -> Tensor:
    """``tanh(a) * sigmoid(b)`` of the halves ``a``, ``b`` of the features: ``(B, 2p, ...)`` ->
    ``(B, p, ...)`` (equation 2 of 1606.05328 and of 1609.03499)."""
    a, b = x.chunk(2, 1)
    return torch.tanh(a) * torch.sigmoid(b)


class ClassEmbedding(nn.Embedding):
    """A learned vector for each class.

    Args:
        classes: how many there are.
        features: length of a vector.
    """

    def __init__(self, classes: int, features: int) -> None:
        super().__init__(classes, features)

    def forward(self, y: Tensor) -> Tensor:
        """int64 labels ``(B,)`` -> ``(B, features)``.

        Raises:
            ValueError: not a vector, another dtype than int64, or a label out of range.
        """
        if y.ndim != 1 or y.dtype != torch.int64:
            raise ValueError(
                f"y must be int64 labels of shape (B,), got {y.dtype} of shape {tuple(y.shape)}"
            )
        if y.numel() and not 0 <= int(y.min()) <= int(y.max()) < self.num_embeddings:
            raise ValueError(
                f"y must hold labels 0 to {self.num_embeddings - 1}, got {int(y.min())} to "
                f"{int(y.max())}"
            )
        return super().forward(y)


# Sixteen bits: networks may compute in them, densities and noise never


_HALVES = {torch.bfloat16, torch.float16}


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in _HALVES else dtype


def exact(value: Tensor) -> Tensor:
    """The same in 32 bits, if it has 16: what is summed over many dimensions, exponentiated or
    drawn needs them. Everything else comes back as it is."""
    return value.float() if value.dtype in _HALVES else value


def through(net: nn.Module, *inputs: Tensor) -> Any:
    """What a network makes of its inputs: it computes in the precision of its weights, or in that
    of ``torch.autocast``, and what it says is ``exact``."""
    dtype = _dtype_of(net)
    if dtype is not None and any(x.dtype != dtype for x in inputs):
        inputs = tuple(x.to(dtype) for x in inputs)
    out = net(*inputs)
    return exact(out) if isinstance(out, Tensor) else tuple(exact(part) for part in out)


def _dtype_of(net: nn.Module) -> torch.dtype | None:
    """That of the first of its parameters."""
    for parameter in net._parameters.values():
        if parameter is not None:
            return parameter.dtype
    for child in net._modules.values():
        if child is not None and (dtype := _dtype_of(child)) is not None:
            return dtype
    return None


def without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """Within, products of matrices are as exact as their factors, on the device of ``x``."""
    kind = x.device.type
    on = torch.is_autocast_enabled(kind)
    return torch.autocast(kind, enabled=False) if on else nullcontext()


def uniform(shape: Sequence[int], like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Uniform in [0, 1), on the device and in the precision of ``like``, 32 bits at least: rounded
    to the 8 digits of bfloat16 one number in 500 would be 1."""
    return torch.rand(shape, dtype=_wide(like.dtype), device=like.device, generator=generator)


def gaussian(
    shape: Sequence[int], like: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Standard normal, on the device and in the precision of ``like``, 32 bits at least."""
    return torch.randn(shape, dtype=_wide(like.dtype), device=like.device, generator=generator)


# Modes: who samples or evaluates need not think of them


_lock = threading.Lock()
_held: dict[nn.Module, int] = {}
"""Modules that are in train mode but for so many evaluations at hand."""
_learners: list[nn.Module] = []
"""Models whose loss is being computed."""


def _parts(model: nn.Module) -> list[nn.Module]:
    """The model and all modules in it, each once; ``modules()`` takes twice the time."""
    parts, seen = [model], {model}
    for part in parts:
        for child in part._modules.values():
            if child is not None and child not in seen:
                seen.add(child)
                parts.append(child)
    return parts


def _hold(model: nn.Module) -> list[nn.Module]:
    """Put all that is in train mode into eval mode, until as many calls of ``_release``."""
    if torch.compiler.is_compiling():  # which sees one thread, and no locks
        held = [part for part in _parts(model) if part.training]
        for part in held:
            part.training = False
        return held
    with _lock:
        held = [part for part in _parts(model) if part.training or part in _held]
        for part in held:
            _held[part] = _held.get(part, 0) + 1
            part.training = False
    return held


def _release(held: list[nn.Module]) -> None:
    if torch.compiler.is_compiling():
        for part in held:
            part.training = True
        return
    if not held:
        return
    with _lock:
        for part in held:
            _held[part] -= 1
            if not _held[part]:
                del _held[part]
                part.training = True


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """In eval mode within, and each module as before after it.

    Several threads may evaluate one model at a time; none can while another trains it.
    """
    held = _hold(model)
    try:
        yield
    finally:
        _release(held)


@contextmanager
def learning(model: nn.Module) -> Iterator[None]:
    """Within, what ``evaluates`` of the model, or of a part of it, leaves the modes as they are:
    a loss may be made of ``log_prob``, and trains it."""
    _learners.append(model)
    try:
        yield
    finally:
        _learners.remove(model)


def evaluates(method: Callable[Concatenate[M, P], R]) -> Callable[Concatenate[M, P], R]:
    """A method that runs in eval mode whatever mode the model is in, and leaves each module in its
    own: no batch statistics, no dropout, nothing that looks at its first batch.

    Gradients flow as ever. Within ``loss`` it runs in the modes that ``loss`` runs in.
    """

    @wraps(method)
    def evaluated(self: M, *args: P.args, **kwargs: P.kwargs) -> R:
        if _learners and any(self is part for model in _learners for part in _parts(model)):
            return method(self, *args, **kwargs)
        held = _hold(self)
        try:
            return method(self, *args, **kwargs)
        finally:
            _release(held)

    return evaluated


def trains(loss: Callable[Concatenate[M, P], R]) -> Callable[Concatenate[M, P], R]:
    """A loss, which alone may use a batch's statistics, move their averages and drop units out.

    What ``evaluates`` of the model and its parts then does so too.
    """

    @wraps(loss)
    def trained(self: M, *args: P.args, **kwargs: P.kwargs) -> R:
        _learners.append(self)
        try:
            return loss(self, *args, **kwargs)
        finally:
            _learners.remove(self)

    return trained
