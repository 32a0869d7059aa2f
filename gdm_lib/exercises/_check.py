"""Judge a reader's answer: run it, and turn whatever happens into a sentence."""

from __future__ import annotations

import dis
import html
import inspect
import linecache
import math
import re
import sysconfig
import textwrap
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gdm_lib._console import legible
from gdm_lib.exercises import _sandbox

__all__ = ["Verdict", "Wrong", "check", "describe"]


class Wrong(Exception):
    """The first fault that a checker found. Its text is what the reader is shown."""


class _Unfinished(Exception):
    """A part of the answer is still the stub's."""


class _MixedPrecision(Wrong):
    """The answer makes tensors in single precision, and was given others in double."""


@dataclass(frozen=True, repr=False)
class Verdict:
    """What ``check`` found. Shows itself as text, and as a framed note in a notebook.

    Attributes:
        passed: True for a correct answer, False for a wrong one, None for one not yet attempted.
        message: The exercise's name and what to know about the answer, in plain text.
    """

    passed: bool | None
    message: str

    def __repr__(self) -> str:
        mark, _ = _LOOK[self.passed]
        return legible(f"{mark} {self.message}")

    def _repr_html_(self) -> str:
        mark, colour = _LOOK[self.passed]
        name, _, rest = html.escape(self.message).partition(":")
        rest = re.sub(r"`([^`\n]+)`", r"<code>\1</code>", rest)
        # Text keeps the page's own colour, so that it is legible on light and on dark.
        return (
            f'<div role="status" style="border-left: 4px solid {colour}; padding: 0.4em 0.8em; '
            'margin: 0.4em 0; background: rgba(128, 128, 128, 0.1); white-space: pre-wrap">'
            f"<strong>{mark} {name}</strong>:{rest}</div>"
        )


_LOOK = {
    True: ("✓", "#009E73"),
    False: ("✗", "#D55E00"),
    None: ("○", "#888888"),
}


def check(
    checker: Callable[[Callable[..., Any]], None], answer: object, *, seconds: float = 30
) -> Verdict:
    """Judge an answer to an exercise.

    Nothing that the answer does escapes: an exception, ``exit()``, a loop without end, a wrong
    signature or a wrong type is a verdict like any other. Only ``KeyboardInterrupt`` passes
    through. What the answer changes about the process (random generators, default dtype, grad
    mode, number of threads, functions of torch or Python that it replaces) is the same afterwards
    as before; within, random generators are seeded and torch is as it was imported, so that the
    same answer gets the same verdict, whatever was run before it.

    Args:
        checker: The exercise's checker, from the chapter's module of ``gdm_lib.exercises``.
        answer: The reader's function (or class), not called.
        seconds: How long the answer may take, in all of the checker's calls together.

    Returns:
        The verdict. As the last expression of a notebook's cell it shows itself.

    Raises:
        ValueError: ``seconds`` is not positive and finite.
    """
    if not 0 < seconds < math.inf:
        raise ValueError(f"seconds: expected a positive and finite number, got {seconds}")
    name = getattr(checker, "__name__", "answer")
    try:
        with _sandbox.isolated(seconds) as isolation:
            return _judge(checker, name, answer, isolation)
    except _sandbox.TimeUp as stopped:
        line = _readers_line(stopped)
        return Verdict(
            False,
            f"{name}: your code was stopped, since it ran for more than {seconds:g} "
            f"second{'s' * (seconds != 1)}. An answer takes far less: look for a loop that never "
            "ends." + (f"\n  It was at {line}." if line else ""),
        )
    finally:
        _GIVEN.clear()
        _ROUNDING[0] = 0.0


def _judge(
    checker: Callable[[Callable[..., Any]], None],
    name: str,
    answer: object,
    isolation: _sandbox.Isolation,
) -> Verdict:
    if answer is None or answer is ...:
        return _not_attempted(name)
    if not callable(answer):
        return Verdict(
            False,
            f"{name}: expected your function itself, got {describe(answer)}. "
            "Pass its name without calling it.",
        )
    stub = _find_stub(answer)
    if stub is not None:
        return _not_attempted(name, stub)
    try:
        try:
            checker(_guard(name, answer, isolation))
        except _MixedPrecision as mixed:
            try:
                checker(_guard(name, answer, isolation, single=True))
            except Wrong:
                raise mixed from None
            return Verdict(
                True,
                f"{name}: correct, for float32. With float64 inputs it raises an error, since it "
                "makes tensors of torch's default dtype. With `dtype=x.dtype`, or "
                "`torch.zeros_like` and `x.new_zeros`, they follow the inputs.",
            )
    except _Unfinished as unfinished:
        return _not_attempted(name, str(unfinished))
    except Wrong as fault:
        return Verdict(False, f"{name}: {fault}")
    except (KeyboardInterrupt, _sandbox.TimeUp):
        raise
    except BaseException as error:
        if _readers_line(error):  # a method of the reader's class, say, or a backward pass
            try:
                return Verdict(False, f"{name}: {_explain(error)}")
            except _Unfinished as unfinished:
                return _not_attempted(name, str(unfinished))
        last = traceback.extract_tb(error.__traceback__)[-1]
        return Verdict(
            False,
            f"{name}: could not be judged, which is the book's fault and not yours. The "
            f"checker raised {_headline(error)} ({Path(last.filename).name}, "
            f"line {last.lineno}). Please report it with your code.",
        )
    return Verdict(True, f"{name}: correct.")


def _not_attempted(name: str, what: str = "") -> Verdict:
    detail = f" {what}" if what else ""
    return Verdict(
        None,
        f"{name}: not attempted yet.{detail} Replace the `...` by your code and run the cell "
        "again.",
    )


def _guard(
    name: str, answer: Callable[..., Any], isolation: _sandbox.Isolation, *, single: bool = False
) -> Callable[..., Any]:
    """The answer as the checker calls it: faults of any call at all are named here.

    With ``single`` the answer is given float32 where the checker gives float64, and what it
    returns is converted back.
    """

    def call(*args: Any, **kwargs: Any) -> Any:
        converted = single and torch.float64 in [a.dtype for a in args if isinstance(a, Tensor)]
        _ROUNDING[0] = 1e-3 if converted else 0.0
        if converted:
            args = tuple(_convert(arg, torch.float64, torch.float32) for arg in args)
        try:
            bound = inspect.signature(answer).bind(*args, **kwargs).arguments
        except TypeError as error:
            given = [*args, *kwargs.values()]
            raise Wrong(
                f"your function does not take the {len(given)} argument"
                f"{'s' * (len(given) != 1)} it is called with "
                f"({', '.join(map(describe, given))}): {error}. "
                "Keep the signature that the exercise gives."
            ) from None
        except ValueError:  # a built-in without a signature
            bound = {f"argument {i}": arg for i, arg in enumerate([*args, *kwargs.values()], 1)}
        before = {
            key: (value.detach().clone(), value.requires_grad)
            for key, value in _tensors(bound).items()
        }
        _GIVEN[:] = [value.dtype for value in _tensors(bound).values()]
        called = f"{name}({', '.join(f'{k}: {describe(v)}' for k, v in bound.items())})"
        try:
            result = isolation.run(answer, args, kwargs)
        except (KeyboardInterrupt, _sandbox.TimeUp):
            raise
        except BaseException as error:
            mixed = isinstance(error, RuntimeError) and _MIXED.search(_text(error)) is not None
            raise (_MixedPrecision if mixed else Wrong)(_explain(error, called)) from error
        for key, value in _tensors(bound).items():
            values, required = before[key]
            if not _same(value.detach(), values):
                raise Wrong(
                    f"your function changes its input `{key}` in place, so that the caller's "
                    "tensor is no longer what it was. Compute a new tensor: `x = x + 1`, not "
                    "`x += 1` or `x.add_(1)`."
                )
            if value.requires_grad != required and value.is_leaf:
                value.requires_grad_(required)
        result = _plain(result)
        if result is None:
            raise Wrong(
                "your function returned None. Is a `return` missing at its end?\n"
                f"  It was called as {called}."
            )
        if result is ... or (isinstance(result, tuple) and any(item is ... for item in result)):
            raise _Unfinished
        return _convert(result, torch.float32, torch.float64) if converted else result

    return call


# Of the last call of the answer: dtypes of the tensors it was given, and how well it can do.
_GIVEN: list[torch.dtype] = []
_ROUNDING = [0.0]
_MIXED = re.compile(r"\bfloat\b.*\bdouble\b|\bdouble\b.*\bfloat\b", re.IGNORECASE | re.DOTALL)


def given_dtypes() -> list[torch.dtype]:
    """The dtypes of the tensors that the answer was last called with."""
    return list(_GIVEN)


def rounding() -> float:
    """The relative error that is due to the precision in which the answer was last called."""
    return _ROUNDING[0]


def _convert(value: Any, old: torch.dtype, new: torch.dtype) -> Any:
    """A value with its tensors of one dtype in another, and functions of such tensors likewise."""
    if isinstance(value, Tensor):
        return value.to(new) if value.dtype == old else value
    if isinstance(value, tuple | list):
        return type(value)([_convert(item, old, new) for item in value])
    if inspect.isfunction(value):

        def in_another(*args: Any) -> Any:
            return _convert(value(*[_convert(arg, new, old) for arg in args]), old, new)

        return in_another
    return value


def _plain(result: Any) -> Any:
    """What the answer returned, without what it could pretend by a class of its own.

    Raises:
        Wrong: It only pretends to be a tensor, or is one of a kind that holds no plain numbers.
    """
    kind = type(result)
    if kind in (tuple, list):
        return kind([_plain_tensor(item) for item in result])
    if issubclass(kind, tuple):
        return tuple(_plain_tensor(item) for item in tuple.__iter__(result))
    if issubclass(kind, list):
        return [_plain_tensor(item) for item in list.__iter__(result)]
    return _plain_tensor(result)


def _plain_tensor(value: Any) -> Any:
    kind = type(value)
    if not issubclass(kind, Tensor):
        if isinstance(value, Tensor):
            raise Wrong(
                f"your function returned {describe(value)}, which says that it is a tensor and is "
                "none. Return a tensor."
            )
        if isinstance(value, tuple | list) and not issubclass(kind, tuple | list):
            raise Wrong(f"your function returned {describe(value)}. Return tensors.")
        return value
    if kind not in (Tensor, torch.nn.Parameter):
        raise Wrong(
            f"your function returned a tensor of a class of its own, `{kind.__name__}`. Return a "
            "plain `torch.Tensor`."
        )
    if value.layout != torch.strided or value.is_nested or value.is_quantized:
        raise Wrong(
            "your function returned a tensor that is not dense "
            f"(its layout is {str(value.layout).removeprefix('torch.')}). Return a dense one: "
            "`.to_dense()`."
        )
    # An attribute of the instance could stand before a method of the class.
    return torch.ops.aten.alias(value) if vars(value) else value


def _tensors(arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    flat: dict[str, Any] = {}
    for key, value in arguments.items():
        if isinstance(value, tuple):  # what ``*args`` gathered
            flat |= {f"{key}[{i}]": item for i, item in enumerate(value)}
        elif isinstance(value, dict):  # what ``**kwargs`` gathered
            flat |= value
        else:
            flat[key] = value
    return {key: value for key, value in flat.items() if isinstance(value, Tensor)}


def _same(a: Tensor, b: Tensor) -> bool:
    return (
        a.shape == b.shape
        and a.dtype == b.dtype
        and torch.equal(a.isnan(), b.isnan())
        and (torch.equal(a.nan_to_num(), b.nan_to_num()))
    )


def _find_stub(answer: Callable[..., Any]) -> str | None:
    """Say which part of the answer is unwritten ("" for all of it), or None if none is."""
    if isinstance(answer, type):
        methods = {k: v for k, v in vars(answer).items() if inspect.isfunction(v)}
        names = [f"`{key}`" for key, method in methods.items() if _is_stub(method)]
        return f"{' and '.join(names)} of your class is still empty." if names else None
    try:
        function = inspect.unwrap(answer)
    except ValueError:  # it wraps itself
        return None
    return "" if inspect.isfunction(function) and _is_stub(function) else None


def _is_stub(function: Callable[..., Any]) -> bool:
    """Whether the body is nothing but a docstring, ``...``, ``pass`` or ``return ...``.

    Read from the bytecode: the source of a notebook's cell is not always to be had. A stub that
    raises ``NotImplementedError`` is recognised when it does.
    """
    quiet = {"RESUME", "NOP", "LOAD_CONST", "RETURN_VALUE", "RETURN_CONST"}
    return all(
        step.opname in quiet
        and ("CONST" not in step.opname or step.argval is None or step.argval is ...)
        for step in dis.get_instructions(function)
    )


def _explain(error: BaseException, called: str = "") -> str:
    """Put an exception from the reader's code in words, or find that the code is unfinished."""
    line = _readers_line(error)
    if isinstance(error, NotImplementedError) and _raised_by_reader(error):
        raise _Unfinished
    if isinstance(error, TypeError | AttributeError) and "ellipsis" in _text(error).lower():
        raise _Unfinished(f"A `...` is left over; see {line}." if line else "")
    text = f"your code raised {_headline(error)}"
    if line:
        text += f"\n  at {line}"
    if called:
        text += f"\n  when called as {called}"
    if "leaf Variable that requires grad" in _text(error):
        text += (
            "\n  This is torch's way to say that you change an input in place (`x += 1`, "
            "`x.mul_(2)`, `x[0] = 0`). Compute a new tensor instead."
        )
    return text


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # the reader's class has a text that raises
        return ""


def _headline(error: BaseException) -> str:
    text = textwrap.shorten(_text(error)[:1000], 300, placeholder=" …")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


# Frames in these places are the library's, never the reader's, but for the planted answers.
_PROOFS = str(Path(__file__).with_name("testing.py"))
_LIBRARIES = tuple(
    {
        str(Path(__file__).parents[1]),
        str(Path(torch.__file__).parent),
        *(sysconfig.get_path(key) for key in ("stdlib", "purelib", "platlib")),
    }
)


def _is_readers(filename: str) -> bool:
    return filename == _PROOFS or not filename.startswith((*_LIBRARIES, "<frozen"))


def _readers_line(error: BaseException) -> str:
    """The innermost line of the reader's own code that the exception went through, or ""."""
    frames = [
        (frame.f_code, number)
        for frame, number in traceback.walk_tb(error.__traceback__)
        if _is_readers(frame.f_code.co_filename)
    ]
    if not frames:
        return ""
    code, number = frames[-1]
    source = linecache.getline(code.co_filename, number).strip()
    return f"line {number}, in {code.co_name}" + (f": `{source}`" if source else "")


def _raised_by_reader(error: BaseException) -> bool:
    """Whether the reader wrote the ``raise``: torch also says NotImplementedError, of a dtype."""
    step = error.__traceback__
    if step is None:
        return False
    while step.tb_next is not None:
        step = step.tb_next
    code = step.tb_frame.f_code
    return (
        _is_readers(code.co_filename) and dis.opname[code.co_code[step.tb_lasti]] == "RAISE_VARARGS"
    )


def describe(value: object) -> str:
    """Name a value as a reader would: a tensor by dtype and shape, a number by itself."""
    try:
        return _describe(value)
    except Exception:  # a value whose own methods raise
        return f"an object of type {type(value).__name__}"


def _describe(value: Any, depth: int = 2) -> str:
    kind = type(value)
    if issubclass(kind, Tensor):
        shape = textwrap.shorten(str(tuple(value.shape)), 60, placeholder=" …)")
        return f"a {str(value.dtype).removeprefix('torch.')} tensor of shape {shape}"
    if issubclass(kind, tuple | list):
        items = ""
        if depth and len(value):
            shown = ", ".join(_describe(item, depth - 1) for item in value[:4])
            items = f" ({shown}{', …' if len(value) > 4 else ''})"
        return f"a {kind.__name__} of {len(value)}{items}"
    if value is None:
        return "None"
    if kind is str:
        shown = repr(value) if len(value) <= 60 else repr(value[:58]) + " …"
        return f"the str {shown}"
    if kind in (bool, float, complex):
        return f"the {kind.__name__} {value!r}"
    if kind is int:
        shown = repr(value) if value.bit_length() < 200 else f"of {value.bit_length()} bits"
        return f"the int {shown}"
    if inspect.isgenerator(value):
        return "a generator (your function says `yield` where it should `return`)"
    if inspect.isfunction(value):
        return f"the function `{value.__name__}`"
    module = kind.__module__.partition(".")[0]
    if module == "numpy" and hasattr(value, "shape"):
        return f"a numpy array of shape {tuple(value.shape)}"
    return f"an object of type {kind.__name__}"
