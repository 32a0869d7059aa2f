"""What models refuse, said by name: the argument, what was expected, what came, and a cure.

A refusal ends in an expression, ``take (x.movedim(-1, 1) / 255 * 15).round().long()``, that turns
what came into what was expected. It is made step by step from the value itself (see ``Step``), so
that who follows it is not refused again for the next fault. Where no expression is right, none is
given.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "Step",
    "a_tensor",
    "batch_of",
    "check",
    "check_count",
    "check_counts",
    "check_known",
    "check_some",
    "grey_levels",
    "labels_of",
    "levels_of",
    "not_finite",
    "real",
    "rows",
]

SHOWN = 60
Step = Callable[[Any, str], tuple[str, Any, str]]
"""``(value, an expression for it) -> (fault, mended value, an expression for that)``. Without a
fault, "", the rest stays as it is. A fault that cannot be mended has the expression ""."""


def check(name: str, value: Any, *steps: Step) -> None:
    """Refuse what one of the steps finds at fault.

    Args:
        name: what the caller calls the value.
        value: what came.
        steps: in turn, each on what those before it mended.

    Raises:
        TypeError: no tensor.
        ValueError: another fault; the message says the first, and what mends it and all others.
    """
    kind = ValueError if isinstance(value, Tensor) else TypeError
    said, expression = "", name
    for step in steps:
        fault, value, mended = step(value, expression)
        if not fault:
            continue
        said, expression = said or fault, mended
        if not mended:
            break
    if said:
        raise kind(f"{name} {said}{f'; take {expression}' if expression else ''}")


def check_count(name: str, value: Any, least: int = 0) -> int:
    """A whole number as an int.

    Args:
        name: what the caller calls it.
        value: Python's, NumPy's, or a tensor with one integer.
        least: the smallest that will do.

    Raises:
        TypeError: something else.
        ValueError: a smaller one.
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except (TypeError, RuntimeError):
        number = None
    if number is not None:
        if number >= least:
            return number
        raise ValueError(f"{name} must be at least {least}, got {number}")
    cure = ""
    if isinstance(value, float) and value.is_integer() and value >= least:
        cure = f"; take int({name})"
    if isinstance(value, tuple | list) and len(value) == 1:
        cure = f"; take {name}[0]"
    raise TypeError(f"{name} must be a whole number of at least {least}, got {_kind(value)}{cure}")


def check_counts(least: int = 1, **values: Any) -> None:
    """``check_count`` of each of several arguments, given by their names."""
    for name, value in values.items():
        check_count(name, value, least)


def check_some(name: str, value: Tensor) -> None:
    """Refuse a batch without items where a mean over them is asked for.

    Raises:
        ValueError: there is none.
    """
    if not len(value):
        raise ValueError(
            f"{name} must have at least one item, got none: a loss is a mean over them"
        )


def check_known(name: str, value: Any, shape: Sequence[int]) -> None:
    """Refuse what isn't a mask that broadcasts to ``shape``.

    Raises:
        TypeError: no tensor.
        ValueError: another dtype than bool, or another shape.
    """
    check(name, value, a_tensor)
    sizes = zip(reversed(value.shape), reversed(shape), strict=False)
    if value.ndim > len(shape) or any(size not in (1, want) for size, want in sizes):
        raise ValueError(
            f"{name} must broadcast to the shape {tuple(shape)}, got {tuple(value.shape)}"
        )
    if value.dtype != torch.bool:
        raise ValueError(f"{name} must be bool, got {value.dtype}; take {name}.bool()")


# Steps: what a value must be


def a_tensor(value: Any, expression: str) -> tuple[str, Any, str]:
    """A tensor, and not an array, a list or a number."""
    if isinstance(value, Tensor):
        return "", value, expression
    fault = f"must be a tensor, got {_kind(value)}"
    parts = list(value) if isinstance(value, tuple | list) else []
    try:
        if parts and all(isinstance(part, Tensor) for part in parts):
            return fault, torch.stack(parts), f"torch.stack({expression})"
        if parts and all(hasattr(part, "__array__") for part in parts):
            whole = torch.stack([torch.tensor(part) for part in parts])
            return fault, whole, f"torch.stack([torch.as_tensor(part) for part in {expression}])"
        # A copy, since torch warns of what shares an array that is read-only.
        return fault, torch.tensor(value), f"torch.as_tensor({expression})"
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return fault, None, ""


def batch_of(shape: Sequence[int], written: str = "") -> Step:
    """A batch of items.

    Args:
        shape: of an item; -1 where any size of at least 1 will do.
        written: how a message writes the shape of a batch; ``(B, ...)`` with numbers if left out.
    """
    wanted = tuple(shape)

    def fits(value: Tensor) -> bool:
        return value.ndim == len(wanted) + 1 and all(
            size == want if want >= 0 else size > 0
            for size, want in zip(value.shape[1:], wanted, strict=True)
        )

    def step(value: Tensor, expression: str) -> tuple[str, Any, str]:
        if fits(value):
            return "", value, expression
        # Not before, since a compiler has no text for a size that it leaves open.
        sizes = ", ".join("any" if size == -1 else str(size) for size in wanted)
        form = written or (f"(B, {sizes})" if wanted else "(B,)")
        fault = f"must be a batch of shape {form}, got {tuple(value.shape)}"
        # No reshape of anything but flat items: it would scramble them.
        tries: list[tuple[str, Callable[[], Tensor]]] = [
            ("[None]", lambda: value[None]),
            (".unsqueeze(1)", lambda: value.unsqueeze(1)),
            (".squeeze(1)", lambda: value.squeeze(1)),
            ("[None, None]", lambda: value[None, None]),
            (".flatten(1)", lambda: value.flatten(1)),
        ]
        if len(wanted) == 3:
            channels = (".movedim(-1, 1)", lambda: value.movedim(-1, 1))
            single = (".movedim(-1, 0)[None]", lambda: value.movedim(-1, 0)[None])
            tries = [channels, *tries, single]
        if not value.ndim:
            tries = []
        if value.ndim == 2 and min(wanted, default=0) > 0:
            tries.append((f".unflatten(1, ({sizes}))", lambda: value.unflatten(1, wanted)))
        for mended, mend in tries:
            try:
                better = mend()
            except (IndexError, RuntimeError):
                continue
            if fits(better):
                return fault, better, f"{expression}{mended}"
        return fault, None, ""

    return step


def _grey(value: Tensor, expression: str, levels: int) -> str:
    """Grey values in [0, 1] or [-1, 1], or bytes: an expression for their levels, or ""."""
    lowest, highest = _ends(value)
    last = levels - 1
    if not value.is_floating_point():
        bytes_ = lowest >= 0 and highest <= 255
        return f"({expression} / 255 * {last}).round().long()" if bytes_ else ""
    if lowest < -1 or highest > 1:
        return ""
    unit = expression if lowest >= 0 else f"({expression} + 1) / 2"
    return f"({unit} * {last}).round().long()"


def levels_of(levels: int, encode: Callable[[Tensor, str, int], str] = _grey) -> Step:
    """int64 levels from 0 to ``levels - 1``.

    Args:
        levels: how many values an entry can take.
        encode: ``(what came, an expression for it, levels) ->`` the expression for its levels, or
            "" if there is none; by default that of grey values.
    """

    def step(value: Tensor, expression: str) -> tuple[str, Any, str]:
        wanted = f"levels 0 to {levels - 1}"
        if value.dtype == torch.int64:
            if torch.compiler.is_exporting():  # a graph has no values to look at
                return "", value, expression
            lowest, highest = _ends(value)
            if lowest >= 0 and highest < levels:
                return "", value, expression
            return f"must hold {wanted}, got {lowest} to {highest}", None, ""
        fault = f"must hold int64 {wanted}, got {value.dtype}"
        if value.is_complex():
            return fault, None, ""
        if where := not_finite(value):
            return f"{fault} with {where}", None, ""
        lowest, highest = _ends(value)
        whole = not value.is_floating_point() or (highest > 1 and bool((value % 1 == 0).all()))
        if whole and lowest >= 0 and highest < levels:
            return fault, value.long(), f"{expression}.long()"
        return fault, None, encode(value, expression, levels)

    return step


def real(levels: int | None = None) -> Step:
    """Floating-point numbers, of any precision.

    Args:
        levels: where they are levels as multiples of ``1 / (levels - 1)``, how many.
    """

    def step(value: Tensor, expression: str) -> tuple[str, Any, str]:
        if value.is_floating_point():
            return "", value, expression
        fault = f"must be floating point, got {value.dtype}"
        lowest, highest = (0, 0) if value.is_complex() else _ends(value)
        if value.is_complex():
            return fault, None, ""
        if levels is not None:
            mended = _as_grey(expression, lowest, highest, levels)
            return fault, None, mended
        if value.dtype == torch.uint8 and highest > 1:
            return fault, value / 255, f"{expression} / 255"
        return fault, value.float(), f"{expression}.float()"

    return step


def _as_grey(expression: str, lowest: float, highest: float, levels: int) -> str:
    """Levels or bytes as multiples of ``1 / (levels - 1)``: an expression for them, or ""."""
    if lowest >= 0 and highest < levels:
        return f"{expression} / {levels - 1}" if levels > 2 else f"{expression}.float()"
    if lowest < 0 or highest > 255:
        return ""
    return _rounded(f"{expression} / 255", levels) if levels != 256 else f"{expression} / 255"


def _rounded(unit: str, levels: int) -> str:
    return f"({unit} * {levels - 1}).round() / {levels - 1}" if levels > 2 else f"({unit}).round()"


def grey_levels(value: Tensor, expression: str, levels: int) -> str:
    """Numbers that aren't multiples of ``1 / (levels - 1)``: an expression for those, or ""."""
    if not_finite(value):
        return ""
    lowest, highest = _ends(value)
    if highest > 1:
        whole = bool((value % 1 == 0).all())
        return _as_grey(expression, lowest, highest, levels) if whole else ""
    if lowest >= -1:
        return _rounded(expression if lowest >= 0 else f"({expression} + 1) / 2", levels)
    return ""


def rows(n: int, labels: bool) -> Step:
    """A condition for each of ``n`` items.

    Args:
        n: how many.
        labels: whether one number may stand for all.
    """

    def step(value: Any, expression: str) -> tuple[str, Any, str]:
        fault = f"must have one row for each of {n} items, got "
        if isinstance(value, int) and not isinstance(value, bool):
            mended = f"torch.full(({n},), {expression})" if labels else ""
            return f"{fault}{value}", torch.full((n,), value), mended
        if not isinstance(value, Tensor):
            fault, value, mended = a_tensor(value, expression)
            further = step(value, mended) if mended else ("", value, mended)
            return fault, *further[1:]
        if value.ndim == 0:
            mended = f"{expression}.expand({n})" if labels else ""
            return f"{fault}one without a batch", value.expand(n), mended
        if len(value) != n:
            return f"{fault}{len(value)}", None, ""
        return "", value, expression

    return step


def labels_of(classes: int) -> Step:
    """Labels ``(B,)`` of an integer type, from 0 to ``classes - 1``."""

    def step(value: Tensor, expression: str) -> tuple[str, Any, str]:
        kind = f"{value.dtype} of shape {tuple(value.shape)}"
        fault = f"must be int64 labels of shape (B,), got {kind}"
        if value.is_complex() or value.dtype == torch.bool:
            return fault, None, ""
        if value.ndim == 2 and value.shape[1] == 1:
            whole, mended = value[:, 0], f"{expression}.squeeze(1)"
        elif value.ndim == 1:
            whole, mended = value, expression
        else:
            return fault, None, ""
        if value.is_floating_point():
            if not bool((value % 1 == 0).all()):  # nor is NaN
                return fault, None, ""
            whole, mended = whole.long(), f"{mended}.long()"
        lowest, highest = _ends(whole)
        if lowest < 0 or (highest >= classes and whole.numel()):
            return f"must hold labels 0 to {classes - 1}, got {lowest} to {highest}", None, ""
        return (fault, whole, mended) if mended != expression else ("", value, expression)

    return step


def not_finite(value: Tensor) -> str:
    """The first NaN or infinity and where it stands, or ""."""
    if not value.is_floating_point() or bool(value.isfinite().all()):
        return ""
    first = tuple(int(i) for i in (~value.isfinite()).nonzero()[0])
    return f"{float(value[first]):g} at [{', '.join(map(str, first))}]"


def _ends(value: Tensor) -> tuple[Any, Any]:
    """The smallest value and the largest; zeros if there is none."""
    if not value.numel():
        return 0, 0
    if not value.is_floating_point():
        value = value.long()  # of some integers torch knows no minimum
    return value.min().item(), value.max().item()


def _kind(value: Any) -> str:
    """What isn't a tensor, as a message says it."""
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        of = type(value)
        module = "" if isinstance(value, Tensor) else f"{of.__module__}."
        return f"{module}{of.__name__} of {value.dtype} and shape {tuple(value.shape)}"
    text = repr(value)
    return text if len(text) <= SHOWN else f"{type(value).__name__} {text[:SHOWN]}..."
