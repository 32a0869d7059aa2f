"""Network blocks that two or more papers share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from itertools import pairwise
from numbers import Integral
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gdm_lib._inputs import (
    a_tensor,
    batch_of,
    check,
    check_count,
    check_counts,
    labels_of,
    real,
    rows,
)

__all__ = [
    "ClassEmbedding",
    "check_batch",
    "check_condition",
    "check_count",
    "check_image",
    "check_labels",
    "check_module",
    "check_sizes",
    "context_of",
    "evaluates",
    "evaluating",
    "exact",
    "gate",
    "gaussian",
    "in_dtype_of",
    "learning",
    "mlp",
    "moments",
    "seeded",
    "several_processes",
    "through",
    "trains",
    "uniform",
    "without_autocast",
]

P = ParamSpec("P")
R = TypeVar("R")
M = TypeVar("M", bound=nn.Module)


# What enters a model: counts, sizes, batches, conditions


def check_sizes(name: str, sizes: Sequence[int]) -> tuple[int, ...]:
    """The sizes of a shape or the widths of layers, as a tuple.

    Raises:
        TypeError: no sequence of ints.
        ValueError: one below 1.
    """
    if isinstance(sizes, Integral):
        raise TypeError(f"{name} must be a sequence of ints, got {sizes}; one alone is ({sizes},)")
    try:
        sizes = tuple(sizes)
    except TypeError:
        raise TypeError(
            f"{name} must be a sequence of ints, such as (64, 64), got {sizes!r}"
        ) from None
    for i, size in enumerate(sizes):
        check_count(f"{name}[{i}]", size, 1)
    return sizes


def check_image(
    name: str, shape: Sequence[int], multiple: int = 1, why: str = ""
) -> tuple[int, int, int]:
    """The shape of an image, as a tuple.

    Raises:
        TypeError: no sequence of ints.
        ValueError: no ``(C, H, W)``, or a height or width that is no multiple of ``multiple``,
            which it must be because of ``why``.
    """
    sizes = check_sizes(name, shape)
    if len(sizes) != 3:
        raise ValueError(f"{name} must be (C, H, W), got {sizes}; a grey image has C = 1")
    c, h, w = sizes
    if h % multiple or w % multiple:
        last = h % multiple == 0 and c % multiple == 0
        cure = f"channels come first: {(w, c, h)}" if last else "pad the images"
        raise ValueError(
            f"{name} must be (C, H, W) with height and width that are multiples of {multiple} for "
            f"{why}, got {sizes}; {cure}"
        )
    return c, h, w


def check_batch(
    name: str,
    x: Tensor,
    shape: Sequence[int],
    *,
    floating: bool = True,
    levels: int | None = None,
) -> None:
    """Refuse what isn't a batch of items.

    Args:
        name: what the caller calls the batch, ``"x"`` or ``"z"``.
        x: the batch.
        shape: one item's; -1 where any size of at least 1 will do.
        floating: whether its entries must be floating point.
        levels: where they are grey levels in [0, 1], how many.

    Raises:
        TypeError: no tensor.
        ValueError: another shape or dtype; names what was expected, what came and what to do.
    """
    check(name, x, a_tensor, batch_of(shape), *([real(levels)] if floating else []))


def check_module(name: str, value: nn.Module | None) -> None:
    """Refuse what isn't a module or None.

    Raises:
        TypeError: a class that makes modules, or anything else.
    """
    if value is None or isinstance(value, nn.Module):
        return
    got = f"the class {value.__name__}" if isinstance(value, type) else repr(value)
    cure = f"; make one of it, {value.__name__}(...)" if isinstance(value, type) else ""
    raise TypeError(f"{name} must be a module, got {got}{cure}")


def check_condition(context_dim: int, embed: nn.Module | None) -> None:
    """Refuse a condition that a model could not use.

    Raises:
        TypeError: ``embed`` is no module, ``context_dim`` no int.
        ValueError: ``embed`` without ``context_dim``.
    """
    check_count("context_dim", context_dim)
    check_module("embed", embed)
    if embed is not None and not context_dim:
        raise ValueError(
            "context_dim must be as many features as embed puts out, got 0; for OneHot(K) that is "
            "K, without a condition leave embed out"
        )


def in_dtype_of(module: nn.Module, x: Tensor) -> Tensor:
    """``x`` in the dtype of the module's weights, 32 bits at least; as it is if the module has no
    weights.

    So float64 from NumPy, and what was stored in 16 bits, can be given to every model.
    """
    dtype = _dtype_of(module)
    return x if dtype is None else x.to(_wide(dtype))


def check_labels(name: str, y: Tensor, classes: int) -> Tensor:
    """Labels ``(B,)`` of an integer dtype, as int64.

    Raises:
        TypeError: no tensor.
        ValueError: no vector, another dtype, or a label that isn't below ``classes``.
    """
    check(name, y, a_tensor, labels_of(classes))
    return y.long()


def context_of(
    y: Tensor | None,
    n: int,
    context_dim: int,
    embed: nn.Module | None,
    *,
    maps: bool = False,
) -> Tensor | None:
    """What the networks of a model get of the ``y`` that a caller has: here each ``y`` is checked.

    Args:
        y: labels ``(n,)`` or whatever else ``embed`` takes, or the context itself; one for each
            item. For ``k`` items of each of ``m`` conditions that is ``n = k m`` and
            ``y.repeat_interleave(k, 0)``.
        n: how many items it conditions.
        context_dim: features that the networks need; 0 for a model without condition.
        embed: makes the context of ``y``, or None.
        maps: whether the context may have further dimensions, a vector for each place.

    Returns:
        ``(n, context_dim)``, with ``maps`` perhaps more dimensions, or None without condition.

    Raises:
        TypeError: ``y`` is no tensor.
        ValueError: names ``y``, what was expected, what came and what to do.
    """
    if not context_dim:
        if y is None:
            return None
        got = f"{tuple(y.shape)}" if isinstance(y, Tensor) else repr(y)
        raise ValueError(
            f"y must be None, got {got}: this model is not conditional; leave y out, or make "
            "one with context_dim if it takes it"
        )
    if y is None:
        raise ValueError(
            f"y must have one row for each of {n} items, got None; this model was made with "
            f"context_dim={context_dim}"
        )
    if isinstance(y, Tensor) and y.ndim and len(y) != n:
        some = len(y) and n > len(y) and n % len(y) == 0
        k = n // len(y) if some else 0
        cure = f"; for {k} items of each condition take y.repeat_interleave({k}, 0)" if some else ""
        raise ValueError(f"y must have one row for each of {n} items, got {len(y)}{cure}")
    check("y", y, rows(n, labels=embed is not None))
    if embed is None and not y.is_floating_point():
        raise ValueError(
            f"y must be a context of floating point, ({n}, {context_dim}), got {y.dtype} of shape "
            f"{tuple(y.shape)}; for labels make the model with embed=OneHot({context_dim}), for "
            "other numbers take y.float()"
        )
    context = y if embed is None else embed(y)
    fits = context.ndim >= 2 if maps else context.ndim == 2
    if not fits or tuple(context.shape[:2]) != (n, context_dim):
        cure = "give such a context" if embed is None else "make embed put out as many features"
        raise ValueError(
            f"y must give a context of {context_dim} features, (B, {context_dim}), got "
            f"{tuple(context.shape)}; {cure}"
        )
    return cast(Tensor, context)


# Networks


def mlp(sizes: Sequence[int], activation: Callable[[], nn.Module] = nn.Tanh) -> nn.Sequential:
    """Linear layers with an activation between them, none behind the last.

    Args:
        sizes: features in, of each hidden layer, and out; ``(784, 500, 20)`` has one hidden
            layer.
        activation: makes the module that stands between two layers.

    Raises:
        ValueError: fewer than two sizes, or a size below 1.
    """
    sizes = check_sizes("sizes", sizes)
    if len(sizes) < 2:
        raise ValueError(
            f"sizes must name at least two positive widths, (in, ..., out), got {sizes}"
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
        check_counts(classes=classes, features=features)
        super().__init__(classes, features)

    def forward(self, y: Tensor) -> Tensor:
        """Integer labels ``(B,)`` -> ``(B, features)``.

        Raises:
            ValueError: no vector, no integers, or a label out of range.
        """
        return super().forward(check_labels("y", y, self.num_embeddings))


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


def seeded(seed: int) -> torch.Generator:
    """A new generator on the CPU that starts at ``seed``: what draws from it repeats, and draws
    nothing from the global one.

    Raises:
        TypeError: ``seed`` is no whole number.
        ValueError: it is negative.
    """
    return torch.Generator().manual_seed(check_count("seed", seed))


def uniform(shape: Sequence[int], like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Uniform in [0, 1), on the device and in the precision of ``like``, 32 bits at least: rounded
    to the 8 digits of bfloat16 one number in 500 would be 1."""
    return torch.rand(shape, dtype=_wide(like.dtype), device=like.device, **_drawn_by(generator))


def gaussian(
    shape: Sequence[int], like: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Standard normal, on the device and in the precision of ``like``, 32 bits at least."""
    return torch.randn(shape, dtype=_wide(like.dtype), device=like.device, **_drawn_by(generator))


def _drawn_by(generator: torch.Generator | None) -> dict[str, Any]:
    # A compiler that has seen two sizes of batch can't follow the argument, even where it is None.
    return {} if generator is None else {"generator": generator}


# Several processes


def several_processes() -> bool:
    """Whether this is one of several processes of ``torch.distributed``."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each feature of ``x (B, features, ...)``: two tensors ``(features,)``.

    Where several processes share a batch it is those of the whole, on each of them, and gradients
    reach the items of all. Then each process must call it.
    """
    over = [0, *range(2, x.ndim)]
    total = _summed(torch.cat([x.sum(over), x.new_tensor([x.numel() / x.shape[1]])]))
    mean, count = total[:-1] / total[-1], total[-1]
    squares = (x - mean.view(-1, *[1] * (x.ndim - 2))).square().sum(over)
    return mean, _summed(squares) / count


class _Sum(torch.autograd.Function):
    """Over the processes. Each one's loss depends on the sum, so the gradient is summed as well."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].clone()
        dist.all_reduce(total)
        return total


def _summed(values: Tensor) -> Tensor:
    return cast(Tensor, _Sum.apply(values)) if several_processes() else values


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
