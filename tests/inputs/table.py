"""Every model against every input: a value, or an error that names the argument.

``python -m tests.inputs`` prints it. A value is compared with the right one where there is one,
and the code that an error advises is tried: it must be accepted.
"""

from __future__ import annotations

import inspect
import math
import re
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import gdm_lib
from gdm_lib.autoregressive.wavenet import mu_law_encode
from tests.zoo import ZOO, grey, made

LIBRARY = Path(gdm_lib.__file__).parent
ARGUMENTS = ("x", "y", "n", "z", "samples", "chunk", "length", "known", "context", "order")
N = 4


@dataclass(frozen=True)
class Cell:
    """What came of one input to one model."""

    outcome: str
    """"value", "ValueError x" and the like, or "OBSCURE"."""
    detail: str = ""

    @property
    def obscure(self) -> bool:
        return self.outcome == "OBSCURE"


@dataclass(frozen=True)
class Try:
    """One call, and what its value must be if it has one."""

    call: Callable[..., Any]
    came: dict[str, Any]
    """The arguments in question, by name."""
    right: Callable[[Any], bool] = lambda _: True


# -- running one of them


def run(call: Callable[[], Any]) -> Any:
    """With the same random numbers each time."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        return call()


def judged(attempt: Try) -> Cell:
    """The cell of one call."""
    try:
        value = run(lambda: attempt.call(**attempt.came))
    except Exception as error:
        return refused(attempt, error)
    try:
        right = attempt.right(value)
    except Exception as error:
        return Cell("OBSCURE", f"the plain call fails: {error!r:.200}")
    if not right:
        return Cell("OBSCURE", f"a wrong value: {value!r:.200}")
    return Cell("value")


def refused(attempt: Try, error: Exception) -> Cell:
    """The cell of an error: raised by the library, named, and with advice that is accepted."""
    kind, said = type(error).__name__, str(error)
    if not isinstance(error, ValueError | TypeError | RuntimeError):
        return Cell("OBSCURE", f"{kind}: {said:.200}")
    raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    if LIBRARY not in raised_in.parents:
        return Cell("OBSCURE", f"{kind} raised in {raised_in.name}: {said:.200}")
    named = re.match(rf"({'|'.join(ARGUMENTS)})\b", said)
    if not named:
        return Cell("OBSCURE", f"{kind} names no argument: {said:.200}")
    argument = named[1]
    advice = re.search(r"; take ([^;]*)$", said)
    if advice and argument in attempt.came:
        names = {"torch": torch, "mu_law_encode": mu_law_encode, **attempt.came}
        try:
            mended = {**attempt.came, argument: eval(advice[1], names)}
            value = run(lambda: attempt.call(**mended))
        except SyntaxError:
            pass  # advice in words
        except Exception as again:
            return Cell(
                "OBSCURE", f"following {said!r} gives {type(again).__name__}: {again!s:.200}"
            )
        else:
            if not attempt.right(value):
                return Cell("OBSCURE", f"following {said!r} gives a wrong value: {value!r:.200}")
    return Cell(f"{kind} {argument}", said)


def number(value: Any) -> Tensor:
    """A loss, the first of several results, or the one result, as doubles."""
    value = value["loss"] if isinstance(value, dict) else value
    return (value[0] if isinstance(value, tuple) else value).double()


def as_plain(plain: Callable[[], Any], tolerance: float = 1e-5) -> Callable[[Any], bool]:
    """Whether a value is that of a call whose arguments are as the model wants them."""

    def compare(value: Any) -> bool:
        got, wanted = number(value), number(run(plain))
        return got.shape == wanted.shape and torch.allclose(
            got, wanted, rtol=tolerance, atol=tolerance, equal_nan=True
        )

    return compare


def anything(_: Any) -> bool:
    """Whatever it is."""
    return True


def never(_: Any) -> bool:
    """There is no right value."""
    return False


def shaped(*shape: int) -> Callable[[Any], bool]:
    """Whether a value has a shape and is finite."""

    def compare(value: Any) -> bool:
        value = value[0] if isinstance(value, tuple) else value
        return tuple(value.shape) == shape and bool(value.isfinite().all())

    return compare


# -- the inputs

TAKES_X = ("log_prob", "loss", "encode", "importance_log_prob", "complete")
OF_COMPLETE = ("float64", "NumPy array", "single item", "wrong size", "None")
"""Of what goes through the same check, since to complete is slow."""


def x_tries(name: str) -> Iterator[tuple[str, Try]]:
    """Data in all guises."""
    model = made(name).eval()
    for method, call in x_methods(model):
        for guise, attempt in guises(name, call):
            if method != "complete" or guise in OF_COMPLETE:
                yield guise, attempt


def x_methods(model: Any) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Methods of ``(x, y)``, each as a function of these."""
    for name in TAKES_X:
        method = getattr(model, name, None)
        if method is None:
            continue
        takes_y = "y" in inspect.signature(method).parameters

        def call(
            x: Any, y: Any = None, *, name: str = name, method: Any = method, by_y: bool = takes_y
        ) -> Any:
            if name == "complete":
                return method(x, torch.tensor(True), y)
            if name == "importance_log_prob":
                return method(x, 3)
            return method(x, y) if by_y else method(x)

        yield name, call


DTYPES: dict[str, Callable[[Tensor], Any]] = {
    "float64": lambda x: x.double(),
    "float16": lambda x: x.half(),
    "bfloat16": lambda x: x.bfloat16(),
    "int64": lambda x: x.long(),
    "int32": lambda x: x.int(),
    "uint8": lambda x: x.clamp(min=0).byte(),
    "bool": lambda x: x > 0,
    "complex": lambda x: x + 0j,
}
"""Of another dtype: if it is taken, then as the same numbers."""
WRAPPED: dict[str, Callable[[Tensor], Any]] = {
    "NumPy array": lambda x: x.numpy(),
    "NumPy array of float64": lambda x: x.double().numpy(),
    "list": lambda x: x.tolist(),
    "list of tensors": lambda x: list(x),
    "channels last": lambda x: x.movedim(1, -1),
    "single item": lambda x: x[0],
    "dimension too many": lambda x: x[:, None],
}
"""The same items in another form."""
REFUSED: dict[str, Callable[[Tensor], Any]] = {
    "wrong size": lambda x: x[..., :-1],
    "twice the size": lambda x: torch.cat([x, x], -1),
    "no entries": lambda x: x[..., :0],
    "0-dim": lambda x: x.flatten()[0],
    "number": lambda x: 1.0,
    "None": lambda x: None,
    "text": lambda x: "x",
}
"""What no model can take."""


def guises(name: str, call: Callable[..., Any]) -> Iterator[tuple[str, Try]]:
    """Data in all guises, to one method."""
    animal = ZOO[name]
    x, y = animal.data(N)
    given = {} if y is None else {"y": y}
    for guise, change in DTYPES.items():
        came = change(x)
        real = came.real if came.is_complex() else came
        plain = real.to(x.dtype)
        if guise == "bool" and not torch.equal(plain, x):
            continue
        # Rounded grey values are levels still; numbers that integers can't hold are others.
        same = torch.allclose(plain.double(), x.double(), atol=0.02)
        as_given = x if same and animal.draw is grey else plain
        right = as_plain(lambda call=call, v=as_given: call(v, y))
        whole = not real.is_floating_point() and not torch.equal(plain, x)
        yield guise, Try(call, {"x": came, **given}, anything if whole else right)
    for guise, change in WRAPPED.items():
        came = change(x)
        if guise == "channels last" and len(animal.shape) < 3:
            continue
        if isinstance(came, Tensor) and came.shape == x.shape:
            continue  # no other form
        alone = guise == "single item"
        of = slice(0, 1) if alone else slice(None)
        own = {} if y is None else {"y": y[of]}
        plain_ = as_plain(lambda call=call, of=of, own=own: call(x[of], own.get("y")))
        yield guise, Try(call, {"x": came, **own}, plain_)
    for guise, change in REFUSED.items():
        if guise in ("wrong size", "twice the size") and name == "wavenet":
            continue  # of any length
        yield guise, Try(call, {"x": change(x), **given}, never)


def special_tries(name: str) -> Iterator[tuple[str, Try]]:
    """NaN, infinity, and no item at all."""
    animal, model = ZOO[name], made(name).eval()
    x, y = animal.data(N)
    given = {} if y is None else {"y": y}
    none = {} if y is None else {"y": y[:0]}
    for method, call in x_methods(model):
        # NaN spoils its own item and no other.
        for guise, odd in (("NaN", math.nan), ("infinity", math.inf)):
            spoilt = x.float() if not x.is_floating_point() else x.clone()
            spoilt[1, ..., 0] = odd

            def right(
                value: Any, call: Any = call, method: str = method, guise: str = guise
            ) -> bool:
                got = number(value)
                if method == "loss":
                    return not bool(got.isfinite())
                rest = torch.arange(N) != 1
                wanted = number(run(lambda: call(x, y)))[rest]
                # A latent of infinity may be finite: tanh has an end.
                finite = bool(got[1].isfinite().all())
                spoiled = not finite or (guise == "infinity" and method == "encode")
                return spoiled and torch.allclose(got[rest], wanted, rtol=1e-5, atol=1e-5)

            yield guise, Try(call, {"x": spoilt, **given}, right)

        def empty(value: Any, call: Any = call, method: str = method) -> bool:
            full = number(run(lambda: call(x, y)))
            return method != "loss" and number(value).shape == (0, *full.shape[1:])

        guise = "loss of no item" if method == "loss" else "empty batch"
        yield guise, Try(call, {"x": x[:0], **none}, empty)
    yield "sample(0)", Try(model.sample, {"n": 0, **none}, shaped(0, *animal.shape))


def y_tries(name: str) -> Iterator[tuple[str, Try]]:
    """Conditions of all kinds, with data and for samples."""
    animal, model = ZOO[name], made(name).eval()
    x, y = animal.data(N)
    calls = list[Callable[..., Any]]()
    for method, call in x_methods(model):
        by_y = "y" in inspect.signature(getattr(model, method)).parameters
        if by_y and method not in ("importance_log_prob", "complete"):
            calls.append(lambda y, call=call: call(x, y))
    calls.append(lambda y: model.sample(N, y))
    for call in calls:
        if y is None:
            for guise, came in {
                "y given though unconditional": torch.zeros(N, dtype=torch.int64),
                "a list as y though unconditional": [0] * N,
            }.items():
                if "y" in inspect.signature(model.sample).parameters:
                    yield guise, Try(call, {"y": came}, never)
            continue

        def right(y: Tensor, call: Any = call) -> Callable[[Any], bool]:
            return as_plain(lambda: call(y))

        ones = torch.ones(N, dtype=torch.int64)
        for guise, came, wanted in [
            ("y missing", None, never),
            ("y a list", y.tolist(), right(y)),
            ("y an int", 1, right(ones)),
            ("y 0-dim", torch.tensor(1), right(ones)),
            ("y an array", y.numpy(), right(y)),
            ("y of int32", y.int(), right(y)),
            ("y of uint8", y.byte(), right(y)),
            ("y a column", y[:, None], right(y)),
            ("y of whole floats", y.float(), right(y)),
            ("y of floats", y + 0.5, never),
            ("y of NaN", y * math.nan, never),
            ("y short", y[:-1], never),
            ("y one row", y[:1], never),
            ("y long", torch.cat([y, y]), never),
            ("y out of range", y + animal.classes, never),
            ("y negative", y - animal.classes, never),
            ("y a text", "one", never),
        ]:
            yield guise, Try(call, {"y": came}, wanted)


COUNTS: dict[str, Any] = {
    "-1": -1,
    "2.0": 2.0,
    "2.5": 2.5,
    "(32,)": (32,),
    "True": True,
    "None": None,
    "text": "2",
    "nan": math.nan,
    "float tensor": torch.tensor(2.0),
}


def count_tries(name: str) -> Iterator[tuple[str, Try]]:
    """How many: of samples, latents, items at a time."""
    animal, model = ZOO[name], made(name).eval()
    x, y = animal.data(N)

    def sample(n: Any) -> Any:
        count = n if isinstance(n, int) and not isinstance(n, bool) and n > 0 else 2
        return model.sample(n, None if y is None else y.repeat(16)[:count])

    for guise, came in COUNTS.items():
        yield f"n = {guise}", Try(sample, {"n": came}, _follows(animal.shape))
    yield (
        "n = NumPy's 2",
        Try(
            lambda n: model.sample(n, None if y is None else y[:2]),
            {"n": np.int64(2)},
            shaped(2, *animal.shape),
        ),
    )
    for method in ("log_prob", "importance_log_prob", "sample"):
        known = inspect.signature(getattr(model, method, lambda: 0)).parameters
        for parameter in ("samples", "chunk", "length"):
            if parameter not in known:
                continue
            for guise, came in {"0": 0, **COUNTS}.items():
                if came is None and parameter == "length":
                    continue  # its default

                def call(method: str = method, **given: Any) -> Any:
                    first = (2, None if y is None else y[:2]) if method == "sample" else (x,)
                    return getattr(model, method)(*first, **given)

                followed = anything if guise in ("2.0", "(32,)") else never
                yield f"{parameter} = {guise}", Try(call, {parameter: came}, followed)


def _follows(shape: tuple[int, ...]) -> Callable[[Any], bool]:
    def compare(value: Any) -> bool:
        return tuple(value.shape[1:]) == shape and len(value) in (2, 32)

    return compare


TRIES = (x_tries, special_tries, y_tries, count_tries)


def rank(cell: Cell) -> int:
    """Which of two cells says more."""
    return 2 if cell.obscure else int(cell.outcome != "value")


def row(name: str) -> dict[str, Cell]:
    """All inputs of one model; of several methods the worst counts."""
    found: dict[str, Cell] = {}
    for tries in TRIES:
        for guise, attempt in tries(name):
            cell = judged(attempt)
            before = found.get(guise)
            if (
                before is None
                or (cell.obscure and not before.obscure)
                or (before.outcome == "value" and cell.outcome != "value")
            ):
                found[guise] = cell
    return found
