"""Assertions to build checkers from. Each raises ``Wrong`` with a sentence for the reader.

The sentence should name the fault, not only the gap. So a checker hands ``expect_close`` the
results of the mistakes that readers are known to make, each with its description: an answer that
equals one of them is told which.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gdm_lib.exercises._check import Wrong, describe, given_dtypes, rounding

__all__ = [
    "expect_agreement",
    "expect_close",
    "expect_finite",
    "expect_gradient",
    "expect_gradients",
    "expect_indices",
    "expect_pair",
    "expect_shape",
    "expect_tensor",
    "wave",
]


def wave(*shape: int, pace: float = 1.7) -> Tensor:
    """Fixed numbers between -1 and 1, in double precision, no two alike.

    Args:
        shape: Their shape.
        pace: Another pace gives other numbers.

    Returns:
        A tensor of that shape.
    """
    count = torch.Size(shape).numel()
    return (torch.arange(count, dtype=torch.float64) * pace + 0.3).sin().view(shape)


def expect_tensor(got: object, like: Tensor, name: str) -> Tensor:
    """Assert a tensor of the dtype and on the device of ``like``.

    Args:
        got: What the answer returned.
        like: A tensor of the right dtype, on the right device.
        name: What it is, for the message: "the result".

    Returns:
        ``got``, known to be a tensor.

    Raises:
        Wrong: Another type, dtype or device.
    """
    if not isinstance(got, Tensor):
        hint = ""
        if isinstance(got, int | float) or hasattr(got, "__array__"):
            hint = " Stay in torch: `float()`, `.item()` and `.numpy()` cut the gradient."
        raise Wrong(
            f"{name} should be a tensor of shape {tuple(like.shape)}, but {_verbs(name)[0]} "
            f"{describe(got)}.{hint}"
        )
    is_, has = _verbs(name)
    if got.dtype != like.dtype:
        given = given_dtypes() or [like.dtype]
        if like.dtype in given and got.dtype not in given:
            raise Wrong(
                f"{name} {has} dtype {_short(got.dtype)}, but the inputs have "
                f"{_short(like.dtype)}. Let the dtype follow the inputs, e.g. with "
                "`torch.zeros_like` or `x.new_zeros`."
            )
        raise Wrong(
            f"{name} {has} dtype {_short(got.dtype)}, expected {_short(like.dtype)}. Convert the "
            f"result: `.to(torch.{_short(like.dtype)})`."
        )
    if got.device != like.device:
        raise Wrong(
            f"{name} {is_} on {got.device}, but the inputs are on {like.device}. Create tensors "
            "with `device=x.device`."
        )
    return got


def expect_pair(result: object, names: str) -> tuple[Any, Any]:
    """Assert a tuple or list of two.

    Args:
        result: What the answer returned.
        names: What the two are, for the message: "`y` and the log-determinant".

    Returns:
        The two.

    Raises:
        Wrong: It is no such thing.
    """
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise Wrong(f"return two tensors, {names}, not {describe(result)}.")
    return result[0], result[1]


def expect_finite(got: object, want: Tensor, name: str, fault: str) -> None:
    """Assert that nothing is NaN or infinite.

    Args:
        got: What the answer returned.
        want: What is right.
        name: What it is, for the message: "the result".
        fault: The sentence for a result that is not finite.

    Raises:
        Wrong: It isn't a tensor of the right dtype, or not finite.
    """
    if not expect_tensor(got, want, name).isfinite().all():
        raise Wrong(fault)


def expect_shape(got: Tensor, shape: tuple[int, ...], name: str) -> None:
    """Assert a shape.

    Args:
        got: The tensor.
        shape: The right shape.
        name: What it is, for the message: "the result".

    Raises:
        Wrong: Another shape.
    """
    if tuple(got.shape) != tuple(shape):
        found = describe(got).partition("of shape ")[2]
        raise Wrong(f"{name} {_verbs(name)[1]} shape {found}, expected {tuple(shape)}.")


def expect_close(
    got: object,
    want: Tensor,
    name: str,
    *,
    faults: Iterable[tuple[Tensor, str]] = (),
    rtol: float = 1e-4,
    atol: float = 1e-6,
) -> None:
    """Assert type, dtype, shape and values, and name the fault where it is a known one.

    Args:
        got: What the answer returned.
        want: What is right.
        name: What it is, for the message: "the result".
        faults: Known mistakes: what the answer that makes it returns (its shape may differ from
            that of ``want``, and NaN equals NaN), and a sentence that names the mistake. The first
            that fits is told.
        rtol: Relative tolerance, of the right values and of the known mistakes.
        atol: Absolute tolerance.

    Raises:
        Wrong: The first that holds: not a tensor of the right dtype; equal to a known mistake; a
            wrong shape; NaN or infinite values; a constant factor or offset; another difference.
    """
    rtol = max(rtol, rounding())
    tensor = expect_tensor(got, want, name).detach()
    want = want.detach()

    def equal(a: Tensor, b: Tensor) -> bool:
        return a.shape == b.shape and torch.allclose(a, b, rtol=rtol, atol=atol, equal_nan=True)

    if equal(tensor, want):
        return
    for value, fault in faults:
        if equal(tensor, value.detach()):
            raise Wrong(fault)
    if tensor.numel() == want.numel() and equal(tensor.reshape(want.shape), want):
        raise Wrong(
            f"{name} {_verbs(name)[1]} the right values, but shape {tuple(tensor.shape)} where "
            f"{tuple(want.shape)} is expected."
        )
    expect_shape(tensor, tuple(want.shape), name)
    for what, bad in (("NaN", tensor.isnan()), ("infinite", tensor.isinf())):
        if bad.any():
            places = (
                f" in {int(bad.sum())} of {bad.numel()} entries, where all should be finite"
                if bad.numel() > 1
                else ""
            )
            raise Wrong(f"{name} {_verbs(name)[0]} {what}{places}.")
    raise Wrong(f"{name} {_difference(tensor, want, name)}")


def expect_indices(
    got: object, want: Tensor, name: str, faults: Sequence[tuple[Tensor, str]] = ()
) -> None:
    """Assert indices, as numbers first: who returns distances isn't told about the dtype.

    Args:
        got: what the reader's function returned.
        want: the right indices, int64.
        name: of the result, in messages.
        faults: wrong results that are foreseen, and what to say of each.

    Raises:
        Wrong: the first fault found.
    """
    if isinstance(got, Tensor) and not got.is_complex():
        known = [(value.double(), fault) for value, fault in faults]
        expect_close(got.double(), want.double(), name, faults=known)
    expect_tensor(got, want, name)


def _difference(got: Tensor, want: Tensor, name: str) -> str:
    is_, has = _verbs(name)
    they, differ = ("it", "differs") if has == "has" else ("they", "differ")
    if want.numel() > 1:
        ratio, offset = (got / want)[want != 0], got - want
        factor = float(ratio.double().mean())
        if (
            (factor or (want != 0).all())
            and abs(factor - 1) > 1e-3
            and torch.allclose(got, factor * want, rtol=1e-4, atol=1e-9)
        ):
            return (
                f"{is_} {factor:.4g} times what {they} should be, in every entry: look for "
                "a missing or a spare factor."
            )
        if torch.allclose(offset, offset.mean(), rtol=1e-4, atol=0):
            return (
                f"{differ} from what {they} should be by {float(offset.mean()):.4g}, in every "
                "entry: look for a missing or a spare term."
            )
    worst = int((got - want).abs().argmax())
    index = tuple(int(i) for i in torch.unravel_index(torch.tensor(worst), want.shape))
    where = f" at [{', '.join(map(str, index))}]" if index else ""
    return f"{is_} wrong{where}: expected {float(want[index]):.6g}, got {float(got[index]):.6g}."


def expect_gradient(result: object, wrt: Tensor, name: str, what: str = "the result") -> Tensor:
    """Assert that a gradient flows, and return that of the result's sum.

    Args:
        result: What the answer returned.
        wrt: The input, which requires a gradient.
        name: The input's name, for the message: "mu".
        what: What the result is, for the message.

    Returns:
        The gradient, of ``wrt``'s shape.

    Raises:
        Wrong: The result is no tensor, no gradient reaches ``wrt``, or the backward pass fails.
    """
    fault = (
        f"no gradient reaches `{name}`: {what} is cut off from it. Look for `.detach()`, "
        "`.data`, `.item()`, `torch.no_grad()`, or a tensor made anew."
    )
    result = expect_tensor(result, wrt, what)
    if not result.requires_grad:
        raise Wrong(fault)
    try:
        (gradient,) = torch.autograd.grad(result.sum(), wrt, retain_graph=True, allow_unused=True)
    except RuntimeError as error:
        raise Wrong(f"the backward pass to `{name}` failed: {error}") from error
    if gradient is None:
        raise Wrong(fault)
    return gradient


def expect_agreement(
    answer: Callable[..., Any],
    right: Callable[..., Any],
    name: str | tuple[str, str],
    cases: Mapping[str, tuple[Any, ...]],
) -> None:
    """Assert that an answer agrees with the right one on further inputs.

    One set of inputs leaves too much open: a size that is written into the answer, an axis that
    ``squeeze`` takes away, a maximum over all columns where each has its own. The cases should
    have other sizes and numbers, axes of size one among them, and the extremes that are allowed.

    Args:
        answer: The reader's function.
        right: A function that is right.
        name: What is returned, for the message: "the result"; or the two that are.
        cases: What is special about a case ("of a single item") -> the arguments.

    Raises:
        Wrong: The first case in which they differ.
    """
    for what, args in cases.items():
        got, want = _parts(answer(*args), name), _parts(right(*args), name)
        for part, a, b in zip(_names(name), got, want, strict=True):
            expect_close(a, b, f"{part} {what}")


def expect_gradients(
    answer: Callable[..., Any],
    right: Callable[..., Any],
    name: str | tuple[str, str],
    args: tuple[Any, ...],
    wrt: Mapping[int, str],
) -> None:
    """Assert that gradients flow from each result to some of the arguments, and are right.

    Args:
        answer: The reader's function.
        right: A function that is right, and differentiable.
        name: What is returned, for the message: "the result"; or the two that are.
        args: The arguments.
        wrt: Position of an argument -> its name.

    Raises:
        Wrong: No gradient reaches one, or it is another.
    """
    leaves = [a.detach().clone().requires_grad_() if i in wrt else a for i, a in enumerate(args)]
    got, want = _parts(answer(*leaves), name), _parts(right(*leaves), name)
    for part, a, b in zip(_names(name), got, want, strict=True):
        expect_close(a, b, part)
        weights = wave(*b.shape).to(b)
        for i, argument in wrt.items():
            total = (b * weights).sum()
            (slope,) = torch.autograd.grad(total, leaves[i], retain_graph=True, allow_unused=True)
            if slope is not None:
                found = expect_gradient(a * weights, leaves[i], argument, part)
                expect_close(found, slope, f"the gradient of {part} with respect to `{argument}`")


def _verbs(name: str) -> tuple[str, str]:
    """ "is" and "has", or "are" and "have" of what has a name in the plural."""
    head = re.split(r" (?:of|for|from|with|without|where|at|in|to|near|under|per)\b", name)[0]
    last = head.split()[-1]
    plural = " and " in head or (len(last) > 3 and re.search(r"[^sui]s$", last) is not None)
    return ("are", "have") if plural else ("is", "has")


def _names(name: str | tuple[str, str]) -> tuple[str, ...]:
    return (name,) if isinstance(name, str) else name


def _parts(result: Any, name: str | tuple[str, str]) -> tuple[Any, ...]:
    return (result,) if isinstance(name, str) else expect_pair(result, " and ".join(name))


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
