"""Network blocks that two or more papers share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from numbers import Integral
from typing import Any, cast

import torch
from torch import Tensor, nn

from gdm_lib._inputs import a_tensor, batch_of, check, check_count, labels_of, real, rows

__all__ = [
    "ClassEmbedding",
    "check_batch",
    "check_count",
    "check_image",
    "check_labels",
    "check_sizes",
    "context_of",
    "evaluating",
    "gate",
    "in_dtype_of",
    "mlp",
    "normal",
    "uniform",
]


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


def check_image(name: str, shape: Sequence[int], multiple: int, why: str) -> tuple[int, int, int]:
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


def in_dtype_of(module: nn.Module, x: Tensor, least: torch.dtype | None = None) -> Tensor:
    """``x`` in the dtype of the module's weights, or in ``least`` if that has more bits; as it is
    if the module has no weights.

    So float64 from NumPy, and what was stored in 16 bits, can be given to every model.
    """
    weight = next((p for p in module.parameters() if p.is_floating_point()), None)
    if weight is None:
        return x
    return x.to(weight.dtype if least is None else torch.promote_types(weight.dtype, least))


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


# Noise


def normal(shape: Sequence[int], like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Standard normal numbers, of the dtype and on the device of ``like``."""
    # A compiler that has seen two batch sizes can't follow the argument, even if it is None.
    options: dict[str, Any] = {} if generator is None else {"generator": generator}
    return torch.randn(tuple(shape), dtype=like.dtype, device=like.device, **options)


def uniform(shape: Sequence[int], like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Uniform numbers in [0, 1), of the dtype and on the device of ``like``."""
    options: dict[str, Any] = {} if generator is None else {"generator": generator}
    return torch.rand(tuple(shape), dtype=like.dtype, device=like.device, **options)


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
        super().__init__(classes, features)

    def forward(self, y: Tensor) -> Tensor:
        """Integer labels ``(B,)`` -> ``(B, features)``.

        Raises:
            ValueError: no vector, no integers, or a label out of range.
        """
        return super().forward(check_labels("y", y, self.num_embeddings))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """In eval mode within, and each module as before after it."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
