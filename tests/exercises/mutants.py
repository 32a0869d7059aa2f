"""Mutants of right answers: each differs from the answer by one small change that makes it suspect.

A checker that lets a mutant through, although it returns something else than the answer, has a
hole. A mutant may also be an answer just as right, in other words; ``same`` finds that out on
inputs drawn at random.
"""

from __future__ import annotations

import ast
import copy
import random
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from gdm_lib.exercises import check
from gdm_lib.exercises._check import _convert

SWAPS: dict[type, tuple[type, ...]] = {
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div, ast.Add),
    ast.Div: (ast.Mult,),
    ast.Pow: (ast.Mult,),
    ast.FloorDiv: (ast.Mult,),
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
}
RENAMES = {
    "sum": ("mean", "prod", "cumsum"),
    "mean": ("sum",),
    "amax": ("amin", "mean"),
    "amin": ("amax",),
    "max": ("min",),
    "min": ("max",),
    "maximum": ("minimum",),
    "minimum": ("maximum",),
    "exp": ("expm1",),
    "expm1": ("exp",),
    "log": ("log2", "log1p", "log10"),
    "log1p": ("log",),
    "log2": ("log",),
    "sigmoid": ("tanh",),
    "tanh": ("sigmoid", "sin"),
    "logsigmoid": ("sigmoid", "softplus"),
    "softplus": ("relu",),
    "elu": ("relu", "selu"),
    "cat": ("stack",),
    "stack": ("cat",),
    "log_softmax": ("softmax",),
    "logsumexp": ("sum", "mean", "amax"),
    "std": ("var",),
    "var": ("std",),
    "sqrt": ("square",),
    "tril": ("triu",),
    "triu": ("tril",),
    "zeros_like": ("ones_like",),
    "zeros": ("ones",),
    "new_zeros": ("new_ones",),
    "inv": ("pinv",),
    "argsort": ("sort",),
    "unbind": ("flip",),
    "flatten": ("ravel",),
}
# Calls whose removal leaves what they were called on, or with.
SHAPES = {"len", "range", "enumerate", "zip", "reversed"}


def parameters(tree: ast.Module) -> list[str]:
    (function,) = (s for s in tree.body if isinstance(s, ast.FunctionDef))
    return [a.arg for a in function.args.args]


def _module(node: ast.expr) -> bool:
    return (isinstance(node, ast.Name) and node.id in {"torch", "F", "math", "np"}) or (
        isinstance(node, ast.Attribute) and _module(node.value)
    )


def _replacements(node: ast.AST, names: list[str]) -> Iterator[ast.AST]:
    """What could stand in a node's place, by each operator of mutation."""
    match node:
        case ast.BinOp(left, op, right):
            for other in SWAPS.get(type(op), ()):
                yield ast.BinOp(left, other(), right)
            yield left
            yield right
            if not isinstance(op, ast.Add | ast.Mult):
                yield ast.BinOp(right, op, left)
        case ast.UnaryOp(ast.USub(), operand):
            yield operand
        case ast.Compare(left, [op], [right]):
            for other in SWAPS.get(type(op), ()):
                yield ast.Compare(left, [other()], [right])
            yield ast.Compare(right, [op], [left])
        case ast.Constant(bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(int(value) | float(value)):
            yield from (ast.Constant(v) for v in (value + 1, value - 1, 2 * value) if v != value)
            if value:
                yield ast.UnaryOp(ast.USub(), ast.Constant(value))
        case ast.IfExp(_, body, other):
            yield body
            yield other
        case ast.Tuple(items, ast.Load()) | ast.List(items, ast.Load()):
            kind = type(node)
            for i in range(len(items)):
                if len(items) > 1:
                    yield kind([*items[:i], *items[i + 1 :]], ast.Load())
                if i:
                    swapped = [*items[: i - 1], items[i], items[i - 1], *items[i + 1 :]]
                    yield kind(swapped, ast.Load())
        case ast.Slice(lower, upper, step):
            for part in ("lower", "upper", "step"):
                if getattr(node, part) is not None:
                    fields = {"lower": lower, "upper": upper, "step": step, part: None}
                    yield ast.Slice(**fields)
        case ast.Subscript(value, _, ast.Load()):
            yield value
        case ast.Call(function, arguments, keywords):
            for i in range(len(keywords)):
                yield ast.Call(function, arguments, keywords[:i] + keywords[i + 1 :])
            for i in range(len(arguments)):
                yield ast.Call(function, arguments[:i] + arguments[i + 1 :], keywords)
                if i:
                    swapped = [*arguments[: i - 1], arguments[i], arguments[i - 1]]
                    yield ast.Call(function, swapped + arguments[i + 1 :], keywords)
            name = ""
            if isinstance(function, ast.Attribute):
                name = function.attr
                for other in RENAMES.get(name, ()):
                    renamed = ast.Attribute(function.value, other, ast.Load())
                    yield ast.Call(renamed, arguments, keywords)
                if not _module(function.value):
                    yield function.value
                elif arguments:
                    yield arguments[0]
            elif isinstance(function, ast.Name) and function.id not in SHAPES and arguments:
                yield arguments[0]
        case ast.Name(name, ast.Load()) if name in names:
            yield from (ast.Name(n, ast.Load()) for n in names if n != name)
        case ast.Return(value) if value is not None:
            parts = value.elts if isinstance(value, ast.Tuple) else [value]
            for i, part in enumerate(parts):
                for change in (
                    ast.UnaryOp(ast.USub(), part),
                    _method(part, "float"),
                    _method(part, "detach"),
                    _method(part, "abs"),
                    _method(part, "squeeze"),
                    _method(part, "sum"),
                    ast.Subscript(part, ast.Constant(None), ast.Load()),
                ):
                    changed = [*parts[:i], change, *parts[i + 1 :]]
                    yield ast.Return(ast.Tuple(changed, ast.Load()) if len(parts) > 1 else change)


def _method(value: ast.expr, name: str) -> ast.Call:
    return ast.Call(ast.Attribute(value, name, ast.Load()), [], [])


def _statements(tree: ast.Module, names: list[str]) -> Iterator[ast.Module]:
    """The answer without one of its statements, or with a statement that spoils an input."""
    for number, node in enumerate(ast.walk(tree)):
        body = getattr(node, "body", None)
        if not isinstance(body, list) or isinstance(node, ast.Module):
            continue
        for i, statement in enumerate(body):
            if isinstance(statement, ast.Return):
                for name in names:
                    spoil = ast.parse(
                        f"def spoil():\n _ = {ast.unparse(statement.value)}\n"
                        f" {name}.data.mul_(2).sub_(1)\n return _"
                    ).body[0]
                    yield _with_body(tree, number, [*body[:i], *spoil.body, *body[i + 1 :]])
                continue
            if len(body) > 1:
                yield _with_body(tree, number, body[:i] + body[i + 1 :])
            if isinstance(statement, ast.For):
                for lines in (
                    statement.body,
                    [statement, statement],
                ):
                    yield _with_body(tree, number, [*body[:i], *lines, *body[i + 1 :]])


def _with_body(tree: ast.Module, number: int, body: list[ast.stmt]) -> ast.Module:
    made = copy.deepcopy(tree)
    list(ast.walk(made))[number].body = copy.deepcopy(body)
    return made


class _Put(ast.NodeTransformer):
    """Replace the node of one number, counted as ``ast.walk`` does."""

    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return self.new if node is self.old else self.generic_visit(node)


def mutants(source: str, sizes: dict[str, list[Any]] | None = None) -> list[str]:
    """The sources of all mutants of a function's source, each once.

    Args:
        source: One function.
        sizes: Parameter name or expression of a size -> the value that the checker first used:
            an answer that has it fixed is a mutant too.
    """
    tree = ast.parse(source)
    names = parameters(tree)
    found: dict[str, None] = {}

    def add(made: ast.Module) -> None:
        try:
            text = ast.unparse(ast.fix_missing_locations(made))
            compile(text, "mutant", "exec")
        except (SyntaxError, ValueError, TypeError, AttributeError):
            return
        if text != ast.unparse(tree):
            found.setdefault(text)

    for number, node in enumerate(ast.walk(tree)):
        for new in _replacements(node, names):
            made = copy.deepcopy(tree)
            old = list(ast.walk(made))[number]
            add(_Put(old, copy.deepcopy(new)).visit(made))
        if isinstance(node, ast.expr) and sizes:
            text = ast.unparse(node)
            if text in sizes and isinstance(getattr(node, "ctx", ast.Load()), ast.Load):
                made = copy.deepcopy(tree)
                old = list(ast.walk(made))[number]
                add(_Put(old, ast.Constant(sizes[text])).visit(made))
    for made in _statements(tree, names):
        add(made)
    return list(found)


def build(source: str, scope: dict[str, Any]) -> Callable[..., Any]:
    """The function of a source, among the names of the module that the source is from."""
    own = dict(scope)
    exec(compile(source, "<mutant>", "exec"), own)
    (function,) = (s for s in ast.parse(source).body if isinstance(s, ast.FunctionDef))
    return own[function.name]


def first_sizes(source: str, scope: dict[str, Any], checker: Callable[..., None]) -> dict[str, Any]:
    """What an answer's numbers are where the checker calls it first.

    They are its parameters that are numbers, ``len(...)`` and ``....shape[...]``.
    """
    tree = ast.parse(source)
    names = parameters(tree)
    wanted = {ast.unparse(n) for n in ast.walk(tree) if _is_size(n, names)}
    calls: list[tuple] = []
    answer = build(source, scope)

    def watched(*args: Any) -> Any:
        calls.append(args)
        return answer(*args)

    check(checker, watched)
    sizes = {}
    if calls:
        given = dict(zip(names, calls[0], strict=True))
        for text in wanted:
            try:
                value = eval(text, dict(scope), given)
            except (NameError, AttributeError):  # it is of a variable of the answer's own
                continue
            if isinstance(value, int | float):
                sizes[text] = value
    return sizes


def _is_size(node: ast.AST, names: list[str]) -> bool:
    match node:
        case ast.Call(ast.Name("len")) | ast.Subscript(ast.Attribute(attr="shape")):
            return True
        case ast.Name(name, ast.Load()):
            return name in names
    return False


def same(
    answer: Callable[..., Any],
    right: Callable[..., Any],
    draws: list[tuple],
    *,
    gradients: bool = False,
) -> str:
    """Say where an answer differs from the right one on inputs, or "" if it does nowhere."""
    for args in draws:
        want = _outcome(right, args, gradients)
        got = _outcome(answer, args, gradients)
        if len(got) != len(want) or not all(map(_close, got, want)):
            return f"{_short(args)} -> {_short(got)} where {_short(want)} is right"
    return ""


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) < 300 else text[:300] + " …"


def _outcome(function: Callable[..., Any], args: tuple, gradients: bool) -> list[Any]:
    inputs = [
        a.detach().clone().requires_grad_(gradients and a.is_floating_point())
        if isinstance(a, Tensor)
        else a
        for a in args
    ]
    before = [a.detach().clone() if isinstance(a, Tensor) else a for a in inputs]
    try:
        result = function(*inputs)
    except Exception as error:
        return [f"{type(error).__name__}: {error}"]
    found: list[Any] = list(result) if isinstance(result, tuple | list) else [result]
    changed = [
        not torch.equal(a.detach().nan_to_num(), b.nan_to_num())
        for a, b in zip(inputs, before, strict=True)
        if isinstance(a, Tensor)
    ]
    if gradients:
        leaves = [a for a in inputs if isinstance(a, Tensor) and a.requires_grad]
        total = torch.zeros((), dtype=torch.float64)
        for part in found:
            if isinstance(part, Tensor) and part.requires_grad:
                weights = torch.arange(part.numel(), dtype=torch.float64).add(1).cos()
                total = total + (part.double().flatten() * weights).sum()
        if total.requires_grad:
            slopes = torch.autograd.grad(total, leaves, allow_unused=True)
            found += [
                torch.zeros_like(a) if s is None else s for a, s in zip(leaves, slopes, strict=True)
            ]
        else:
            found += [torch.zeros_like(a) for a in leaves]
    return [*found, any(changed)]


def _close(got: Any, want: Any) -> bool:
    if isinstance(got, Tensor) and isinstance(want, Tensor):
        return (
            got.shape == want.shape
            and got.dtype == want.dtype
            and torch.allclose(got, want, rtol=1e-4, atol=1e-6, equal_nan=True)
        )
    return type(got) is type(want) and got == want


class Draw:
    """Inputs drawn at random, of sizes and magnitudes that vary."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.random = random.Random(seed)

    def size(self, low: int = 1, high: int = 5) -> int:
        return self.random.randint(low, high)

    def choose(self, *options: Any) -> Any:
        return self.random.choice(options)

    def number(self, low: float, high: float) -> float:
        return self.random.uniform(low, high)

    def normal(self, *shape: int, scale: float = 1) -> Tensor:
        return scale * torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def uniform(self, *shape: int, low: float = 0, high: float = 1) -> Tensor:
        unit = torch.rand(shape, generator=self.generator, dtype=torch.float64)
        return low + (high - low) * unit

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """Integers from ``low`` to ``high``, both included."""
        return torch.randint(low, high + 1, shape, generator=self.generator)

    def order(self, n: int) -> Tensor:
        return torch.randperm(n, generator=self.generator)


def holes(
    checker: Callable[..., None],
    answers: list[tuple[str, dict[str, Any]]],
    draws: list[tuple],
    *,
    gradients: bool = False,
    limit: int | None = None,
) -> tuple[int, list[str]]:
    """Try a checker on the mutants of right answers.

    Args:
        checker: The checker.
        answers: Source of a right answer, and the names that it may use.
        draws: Inputs on which a mutant that passes is compared with the answer.
        gradients: Whether the gradients are compared too.
        limit: How many mutants to try, drawn at random; all without.

    Returns:
        How many were tried, and of each that passed and isn't as right what it is and where it
        differs.
    """
    made = [
        (mutant, source, scope)
        for source, scope in answers
        for mutant in mutants(source, first_sizes(source, scope, checker))
    ]
    if limit is not None and len(made) > limit:
        made = random.Random(checker.__name__).sample(made, limit)
    found = []
    for mutant, source, scope in made:
        answer = build(mutant, scope)
        verdict = check(checker, answer, seconds=5)
        if verdict.passed:
            right, inputs = build(source, scope), draws
            if "for float32" in verdict.message:
                inputs = [
                    tuple(_convert(a, torch.float64, torch.float32) for a in d) for d in draws
                ]
            gap = same(answer, right, inputs, gradients=gradients)
            if gap:
                found.append(f"{mutant}\n  passes, but {gap}")
    return len(made), found
