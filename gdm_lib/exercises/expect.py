"""Assertions to build checkers from. Each raises ``Wrong`` with a sentence for the reader.

The sentence should name the fault, not only the gap. So a checker hands ``expect_close`` the
results of the mistakes that readers are known to make, each with its description: an answer that
equals one of them is told which.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from gdm_lib.exercises._check import Wrong, describe

__all__ = ["expect_close", "expect_gradient", "expect_shape", "expect_tensor"]


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
            f"{name} should be a tensor of shape {tuple(like.shape)}, but is {describe(got)}.{hint}"
        )
    if got.dtype != like.dtype:
        raise Wrong(
            f"{name} has dtype {_short(got.dtype)}, but the inputs have {_short(like.dtype)}. Let "
            "the dtype follow the inputs, e.g. with `torch.zeros_like` or `x.new_zeros`."
        )
    if got.device != like.device:
        raise Wrong(
            f"{name} is on {got.device}, but the inputs are on {like.device}. Create tensors with "
            "`device=x.device`."
        )
    return got


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
        raise Wrong(f"{name} has shape {tuple(got.shape)}, expected {tuple(shape)}.")


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
            f"{name} has the right values, but shape {tuple(tensor.shape)} where "
            f"{tuple(want.shape)} is expected."
        )
    expect_shape(tensor, tuple(want.shape), name)
    for what, bad in (("NaN", tensor.isnan()), ("infinite", tensor.isinf())):
        if bad.any():
            raise Wrong(
                f"{name} is {what} in {int(bad.sum())} of {bad.numel()} entries, "
                "where all should be finite."
            )
    raise Wrong(f"{name} {_difference(tensor, want)}")


def _difference(got: Tensor, want: Tensor) -> str:
    if want.numel() > 1:
        ratio, offset = got / want, got - want
        factor = float(ratio.mean())
        if abs(factor - 1) > 1e-3 and torch.allclose(ratio, ratio.mean(), rtol=1e-4, atol=0):
            return (
                f"is {factor:.4g} times what it should be, in every entry: look for "
                "a missing or a spare factor."
            )
        if torch.allclose(offset, offset.mean(), rtol=1e-4, atol=0):
            return (
                f"differs from what it should be by {float(offset.mean()):.4g}, in every entry: "
                "look for a missing or a spare term."
            )
    worst = int((got - want).abs().argmax())
    index = tuple(int(i) for i in torch.unravel_index(torch.tensor(worst), want.shape))
    where = f" at [{', '.join(map(str, index))}]" if index else ""
    return f"is wrong{where}: expected {float(want[index]):.6g}, got {float(got[index]):.6g}."


def expect_gradient(result: object, wrt: Tensor, name: str) -> Tensor:
    """Assert that a gradient flows, and return that of the result's sum.

    Args:
        result: What the answer returned.
        wrt: The input, which requires a gradient.
        name: The input's name, for the message: "mu".

    Returns:
        The gradient, of ``wrt``'s shape.

    Raises:
        Wrong: The result is no tensor, no gradient reaches ``wrt``, or the backward pass fails.
    """
    fault = (
        f"no gradient reaches `{name}`: the result is cut off from it. Look for `.detach()`, "
        "`.data`, `.item()`, `torch.no_grad()`, or a tensor made anew."
    )
    result = expect_tensor(result, wrt, "the result")
    if not result.requires_grad:
        raise Wrong(fault)
    try:
        (gradient,) = torch.autograd.grad(result.sum(), wrt, retain_graph=True, allow_unused=True)
    except RuntimeError as error:
        raise Wrong(f"the backward pass to `{name}` failed: {error}") from error
    if gradient is None:
        raise Wrong(fault)
    return gradient


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
