"""Prove a checker: that it accepts the solution and names the fault of each wrong answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from gdm_lib.exercises._check import Verdict, check

__all__ = ["assert_checker"]


def assert_checker(
    checker: Callable[[Callable[..., Any]], None],
    solution: Callable[..., Any],
    wrong: Mapping[str, Callable[..., Any]],
    *,
    min_wrong: int = 3,
) -> None:
    """Assert that a checker does its work.

    The solution passes, twice alike. Stubs are not attempted yet. Answers that raise, exit, take
    no argument, forget ``return``, change an input, or return text, NaN or another shape get a
    readable verdict. Each planted wrong answer fails with a message that its own pattern matches
    and no other's does.

    Args:
        checker: The checker to prove.
        solution: An answer that is right.
        wrong: Regular expression that names a fault -> an answer with that fault.
        min_wrong: How many wrong answers there must be at least.

    Raises:
        AssertionError: The checker fails in one of these, and which.
    """
    name = checker.__name__
    _require(
        len(wrong) >= min_wrong,
        f"{name}: {len(wrong)} wrong answers planted, at least {min_wrong} are needed",
    )
    returned: list[Any] = []

    def watched(*args: Any) -> Any:
        returned.append(solution(*args))
        return returned[-1]

    verdict = check(checker, watched)
    _require(verdict.passed is True, f"{name}: the solution does not pass: {verdict}")
    _require(verdict == check(checker, solution), f"{name}: two checks give two verdicts")
    for stub in _STUBS:
        verdict = check(checker, stub)
        _require(verdict.passed is None, f"{name}: a stub counts as attempted: {verdict}")
    faulty = _faulty(solution)
    if all(isinstance(result, Tensor) for result in returned):
        faulty |= _faulty_tensors(solution)
    for pattern, answer in faulty.items():
        _require_fault(check(checker, answer), pattern, name)
    messages = {}
    for pattern, answer in wrong.items():
        verdict = check(checker, answer)
        _require_fault(verdict, pattern, name)
        messages[pattern] = verdict.message
    for pattern in wrong:
        matched = [message for message in messages.values() if re.search(pattern, message)]
        _require(
            len(matched) == 1,
            f"{name}: the pattern {pattern!r} does not single out a fault, it matches {matched}",
        )


def _empty(*args: Any) -> Any: ...


def _not_implemented(*args: Any) -> Any:
    """Say what to write here."""
    raise NotImplementedError("your code")


def _returns_ellipsis(*args: Any) -> Any:
    result = ...
    return result


_STUBS = (_empty, _not_implemented, _returns_ellipsis)


def _faulty(solution: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    """Answers that are wrong in any exercise, by what their verdict must say."""

    def raises(*args: Any) -> Any:
        return 1 / 0

    def exits(*args: Any) -> Any:
        raise SystemExit("planted")

    def no_argument() -> Any:
        return solution()

    def forgets_return(*args: Any) -> Any:
        result = solution(*args)
        del result

    return {
        r"raised ZeroDivisionError: division by zero\n  at line \d+.*`return 1 / 0`": raises,
        r"raised SystemExit: planted": exits,
        r"does not take the \d argument": no_argument,
        r"returned None.*`return`": forgets_return,
    }


def _faulty_tensors(solution: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    """Answers that are wrong in any exercise whose answer returns a tensor."""

    def changes_its_input(*args: Any) -> Any:
        result = solution(*args)
        for arg in args:
            if isinstance(arg, Tensor):
                arg.data.add_(1)
        return result

    def text(*args: Any) -> Any:
        return "planted"

    def array(*args: Any) -> Any:
        return solution(*args).detach().numpy()

    def rounded(*args: Any) -> Any:
        return solution(*args).to(torch.float16)

    def not_a_number(*args: Any) -> Any:
        return solution(*args) * torch.nan

    def spare_axis(*args: Any) -> Any:
        return solution(*args)[None]

    return {
        r"changes its input `.*` in place": changes_its_input,
        r"should be a tensor.*'planted'": text,
        r"should be a tensor.*numpy": array,
        r"dtype float16": rounded,
        r"NaN": not_a_number,
        r"shape \(1,.*expected": spare_axis,
    }


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise AssertionError(message)


def _require_fault(verdict: Verdict, pattern: str, name: str) -> None:
    _require(
        verdict.passed is False, f"{name}: the answer for {pattern!r} is let through: {verdict}"
    )
    _require(
        re.search(pattern, verdict.message) is not None,
        f"{name}: the verdict should match {pattern!r}: {verdict}",
    )
    _require(
        "could not be judged" not in verdict.message,
        f"{name}: the checker itself fails on the answer for {pattern!r}: {verdict}",
    )
