"""Names that mean something else once the whole notebook has run.

A reader runs a cell again after *Run All*, perhaps changed. It then finds what later cells left: if
one of them gave another meaning to a name that this cell reads, the cell fails, or shows something
else in silence. So a name that a cell reads and does not bind itself may not be bound anew by a
later one.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator, Sequence

from IPython.core.inputtransformer2 import TransformerManager

__all__ = ["reused"]

Scope = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


class _Names(set[str]):
    """The names of a scope within a cell."""

    of_comprehension = False


class _Cell(ast.NodeVisitor):
    """What one cell reads before it binds it, and what it binds, in the order of execution."""

    def __init__(self, source: str) -> None:
        self.reads: set[str] = set()
        self.binds: set[str] = set()
        self.outer: set[str] = set()
        self.local: list[_Names] = []
        self.later: list[tuple[Scope, list[_Names]]] = []
        self.visit(ast.parse(TransformerManager().transform_cell(source)))
        # What a function reads, it looks up when it is called: at the end of its cell at least.
        while self.later:
            function, self.local = self.later.pop()
            self.outer = _globals(function)
            body = function.body if isinstance(function.body, list) else [function.body]
            for part in body:
                self.visit(part)
        self.local, self.outer = [], set()

    def visit_Name(self, node: ast.Name) -> None:
        known = any(node.id in names for names in self.local)
        if isinstance(node.ctx, ast.Load):
            if not known and node.id not in self.binds:
                self.reads.add(node.id)
        elif not known:
            self._bind(node.id)

    def _bind(self, name: str) -> None:
        scope = self.local[-1] if self.local else self.binds
        (self.binds if name in self.outer else scope).add(name)

    def _in_order(self, *parts: ast.AST | Sequence[ast.AST | None] | None) -> None:
        for part in parts:
            for node in part if isinstance(part, Sequence) else [part]:
                if node is not None:
                    self.visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        self._in_order(node.value, node.targets)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self._in_order(node.value, node.target if node.value else None)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self.visit(node.value)
        inner = self.local
        while self.local and self.local[-1].of_comprehension:
            self.local = self.local[:-1]
        self.visit(node.target)
        self.local = inner

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if isinstance(node.target, ast.Name):
            self.visit(ast.Name(node.target.id, ast.Load()))
        self._in_order(node.value, node.target)

    def visit_For(self, node: ast.For) -> None:
        self._in_order(node.iter, node.target, node.body, node.orelse)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        if node.name:
            self._bind(node.name)
        self.generic_visit(node)

    def visit_Import(self, node: ast.Import | ast.ImportFrom) -> None:
        for alias in node.names:
            self._bind(alias.asname or alias.name.partition(".")[0])

    visit_ImportFrom = visit_Import

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._in_order(node.decorator_list)
        self._function(node)
        self._bind(node.name)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._function(node)

    def _function(self, node: Scope) -> None:
        given = node.args
        self._in_order(given.defaults, given.kw_defaults)
        names = _Names(a.arg for a in (*given.posonlyargs, *given.args, *given.kwonlyargs))
        names |= {a.arg for a in (given.vararg, given.kwarg) if a}
        names |= set(_bound_within(node)) - _globals(node)
        self.later.append((node, [*self.local, names]))

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._in_order(node.decorator_list, node.bases, [word.value for word in node.keywords])
        self.local.append(_Names())
        self._in_order(node.body)
        self.local.pop()
        self._bind(node.name)

    def _comprehension(
        self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp
    ) -> None:
        self.visit(node.generators[0].iter)
        self.local.append(_Names())
        self.local[-1].of_comprehension = True
        for number, part in enumerate(node.generators):
            self._in_order(None if number == 0 else part.iter, part.target, part.ifs)
        self._in_order(*([node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]))
        self.local.pop()

    visit_ListComp = visit_SetComp = visit_GeneratorExp = visit_DictComp = _comprehension


def _bound_within(function: Scope) -> Iterator[str]:
    """The names that a function's own body binds."""
    waiting: list[ast.AST] = list(ast.iter_child_nodes(function))
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from (a.asname or a.name.partition(".")[0] for a in node.names)
        elif not isinstance(node, ast.Lambda):
            waiting += ast.iter_child_nodes(node)


def _globals(function: Scope) -> set[str]:
    nodes = ast.walk(function)
    return {name for node in nodes if isinstance(node, ast.Global) for name in node.names}


def reused(cells: Sequence[str]) -> list[tuple[int, str, int]]:
    """The names that a cell reads and that it or a later cell binds anew.

    Args:
        cells: the sources of a notebook's code cells.

    Returns:
        For each the place of the cell that reads it, the name, and the place that binds it last.
    """
    read = [_Cell(source) for source in cells]
    found = []
    for place, cell in enumerate(read):
        for name in sorted(cell.reads - set(dir(builtins))):
            known = any(name in earlier.binds for earlier in read[: place + 1])
            anew = [later for later in range(place, len(read)) if name in read[later].binds]
            if known and anew:
                found.append((place, name, anew[-1]))
    return found
