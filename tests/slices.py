"""What the widgets of a chapter need: the backward slice of its statements, found without running.

A statement is needed if it binds a name that a needed statement uses, or may change what that name
stands for in between; the cells that show a widget are needed to begin with. A function uses what
its body does, wherever it is used. A statement may change

- what it assigns an attribute or an item of;
- what it calls a method of for the effect alone, ``model.eval()``, or one whose name ends in ``_``;
  or what it replaces by itself, ``model = model.float()``;
- what it gives to a function of the chapter that does any of this to it, and the first thing that
  it gives to a function imported from elsewhere, ``fit(model, x)``. Classes, models that are
  called, and the modules of ``PURE`` leave what they are given as it is;
- what is outside a function that it uses and that does any of this to it.

What was taken from a name changes with it: ``parts = model.parts``, ``for part in parts``. Seeds,
other settings and magics are kept with what is needed of their cell.

Python allows changes that are not found so. If one is missed, a widget shows another picture than
in the chapter, or a cell fails and is seen.

A sliced notebook may train for a few steps only: its widgets are to be driven, and their controls
move the picture of a model that has learned little as well. That a chapter runs as a whole, and
trains as it says, is nbval's to prove.
"""

from __future__ import annotations

import ast
import symtable
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import nbformat
from IPython.core.inputtransformer2 import TransformerManager

__all__ = [
    "BRIEFLY",
    "STEPS",
    "WIDGET",
    "slice_cells",
    "slice_notebook",
    "statements_of",
    "widget_cells",
]

WIDGET = "application/vnd.jupyter.widget-view+json"
PURE = ("torch", "math", "numpy", "matplotlib", "json", "itertools", "functools", "time")
PURE += tuple(f"gdm_lib.{name}" for name in ("viz", "metrics", "data", "pretrained", "widgets"))
SETTINGS = {"manual_seed", "use_style", "set_num_threads", "set_default_dtype"}
SETTINGS |= {"run_line_magic", "run_cell_magic"}
# Calls that give out what they were given, or a part of it, and not something new.
HANDS_ON = {"zip", "enumerate", "reversed", "list", "tuple", "dict", "set", "sorted", "next"}
VIEWS = {"items", "values", "get", "parameters", "modules", "children", "state_dict", "view"}
VIEWS |= {"eval", "train", "to", "float", "double", "flatten", "reshape", "requires_grad_"}

STEPS = 30  # of each training in a sliced notebook
BRIEFLY = f"""\
import gdm_lib.training as _training
_fit = _training.fit
_training.fit = lambda *given, steps, **named: _fit(*given, steps=min(steps, {STEPS}), **named)
"""

Binding = tuple[str, int]  # a name, and the place of the statement that bound it
Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
BRANCHES = (ast.If, ast.While, ast.Try, ast.Match)


@dataclass
class Statement:
    """One statement of a cell, and which of the chapter's names it binds and uses."""

    cell: int
    tree: ast.stmt
    line: int
    text: str
    binds: set[str] = field(default_factory=set)
    uses: set[str] = field(default_factory=set)
    inner: set[str] = field(default_factory=set)
    """What the functions that it defines use."""

    @property
    def is_setting(self) -> bool:
        call = self.tree.value if isinstance(self.tree, ast.Expr) else None
        return isinstance(call, ast.Call) and _called(call) in SETTINGS


def widget_cells(cells: Iterable[nbformat.NotebookNode]) -> list[int]:
    """The places of the cells that show a widget."""
    return [
        number
        for number, cell in enumerate(cells)
        if any(WIDGET in out.get("data", {}) for out in cell.get("outputs", []))
    ]


def slice_notebook(
    notebook: nbformat.NotebookNode, *, briefly: bool = False
) -> nbformat.NotebookNode:
    """A notebook whose code is what the widgets in its outputs need.

    Args:
        notebook: with its outputs. A cell that isn't needed becomes raw text.
        briefly: whether each training takes ``STEPS`` steps at most.
    """
    notebook = nbformat.from_dict(notebook)
    places = [i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    shown = [places.index(place) for place in widget_cells(notebook.cells)]
    kept = slice_cells([notebook.cells[place].source for place in places], shown)
    for place, source in zip(places, kept, strict=True):
        cell = notebook.cells[place]
        if source is None:
            raw = nbformat.v4.new_raw_cell(cell.source, id=cell.id)
            notebook.cells[place] = raw
        else:
            cell.source = source
    first = next((cell for cell in notebook.cells if cell.cell_type == "code"), None)
    if briefly and first is not None:
        first.source = BRIEFLY + first.source
    return notebook


def slice_cells(cells: Sequence[str], shown: Iterable[int]) -> list[str | None]:
    """The statements that some cells need.

    Args:
        cells: the sources of a notebook's code cells.
        shown: the places of the cells that are needed to begin with.

    Returns:
        For each cell what to run of it, None where that is nothing.
    """
    shown = set(shown)
    statements = [s for s in statements_of(cells) if s.cell <= max(shown, default=-1)]
    needs, changed = _trace(statements)
    needed: set[int] = set()
    waiting = [i for i, statement in enumerate(statements) if statement.cell in shown]
    last_use: dict[Binding, int] = {}
    while waiting:
        i = waiting.pop()
        if i in needed:
            continue
        needed.add(i)
        for version in needs[i]:
            last_use[version] = max(i, last_use.get(version, 0))
            waiting.append(version[1])
        # A change counts if what it changes is used after it.
        waiting += [
            j
            for j, versions in enumerate(changed)
            if j not in needed and any(j < last_use.get(version, 0) for version in versions)
        ]
    result: list[str | None] = []
    for number, source in enumerate(cells):
        mine = [
            (i, statement) for i, statement in enumerate(statements) if statement.cell == number
        ]
        if number in shown:
            result.append(source)
        elif any(i in needed for i, _ in mine):
            # By line, as there may be several statements on one.
            kept = {s.line: s.text for i, s in mine if i in needed or s.is_setting}
            result.append("\n".join(kept.values()))
        else:
            result.append(None)
    return result


# -- names over time


def _trace(statements: Sequence[Statement]) -> tuple[list[set[Binding]], list[set[Binding]]]:
    """For each statement the bindings that it uses, and those whose things it may change."""
    effects = _Effects(statements)
    now: dict[str, Binding] = {}
    held: dict[Binding, set[Binding]] = {}  # what a thing may be, hold or be a part of
    holders: dict[Binding, set[Binding]] = {}
    needs, changed = [], []
    for i, statement in enumerate(statements):
        # A function's names are looked up when it is called.
        used, waiting = set(), list(statement.uses)
        while waiting:
            name = waiting.pop()
            if name in now and name not in used:
                used.add(name)
                waiting += statements[now[name][1]].inner
        if isinstance(statement.tree, BRANCHES):
            used |= statement.binds & now.keys()  # it may leave them as they were
        needs.append({now[name] for name in used})
        mine = statement.uses | statement.binds
        changes = effects.of(_but_filling(statement.tree), deferred=False) & mine
        if not isinstance(statement.tree, (*FUNCTIONS, ast.ClassDef)):
            for name in used:
                changes |= effects.outside.get(name, set())
        old = dict(now)
        now.update({name: (name, i) for name in statement.binds})
        for name, parts, same in _aliases([statement.tree]):
            if name not in now or name in effects.imported:
                continue
            for part in {old[n] for n in parts if n in old and n not in effects.imported}:
                held.setdefault(now[name], set()).add(part)
                holders.setdefault(part, set()).add(now[name])
                if same:
                    held.setdefault(part, set()).add(now[name])
                    holders.setdefault(now[name], set()).add(part)
        things = {names[name] for name in changes for names in (old, now) if name in names}
        # To put something in a place changes the thing with the place, not what it holds.
        filled = {now[name] for name in _filled(statement.tree) if name in now}
        changed.append(_reach(things, held) | _reach(things | filled, holders))
    return needs, changed


def _filled(tree: ast.stmt) -> set[str]:
    """The things in places of which an assignment puts something."""
    targets = tree.targets if isinstance(tree, ast.Assign) else []
    return {
        _root(target) for target in targets if isinstance(target, (ast.Attribute, ast.Subscript))
    }


def _but_filling(tree: ast.stmt) -> list[ast.AST]:
    """A statement; of an assignment to a place, what it computes."""
    return [tree.value] if _filled(tree) else [tree]


def _reach(start: set[Binding], edges: dict[Binding, set[Binding]]) -> set[Binding]:
    found, waiting = set(start), list(start)
    while waiting:
        for other in edges.get(waiting.pop(), set()) - found:
            found.add(other)
            waiting.append(other)
    return found


def statements_of(cells: Sequence[str]) -> Iterator[Statement]:
    """The statements of cells, with the names that they bind and use."""
    for number, source in enumerate(cells):
        text = TransformerManager().transform_cell(source)
        lines = text.splitlines()
        for tree in ast.parse(text).body:
            first = min(node.lineno for node in (tree, *getattr(tree, "decorator_list", [])))
            own = "\n".join(lines[first - 1 : tree.end_lineno])
            statement = Statement(number, tree, first, own)
            tables = [symtable.symtable(ast.unparse(tree), "cell", "exec")]
            for table in tables:
                tables += table.get_children()
                outer = table.get_type() == "module"
                for symbol in table.get_symbols():
                    if not outer and not symbol.is_global():
                        continue
                    if symbol.is_assigned() or symbol.is_imported() or symbol.is_namespace():
                        statement.binds.add(symbol.get_name())
                    if symbol.is_referenced():
                        (statement.uses if outer else statement.inner).add(symbol.get_name())
            if isinstance(tree, ast.AugAssign):  # symtable takes x += 1 for a mere assignment
                statement.uses.add(_root(tree.target))
            statement.uses |= statement.inner
            yield statement


# -- what a piece of code may change


def _called(call: ast.Call) -> str:
    """The last part of what is called."""
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _root(node: ast.expr) -> str:
    """The name that something is an attribute, item or method's result of; "" if there is none."""
    while not isinstance(node, ast.Name):
        match node:
            case ast.Attribute() | ast.Subscript() | ast.Starred():
                node = node.value
            case ast.Call(func=ast.Attribute()):
                node = node.func
            case _:
                return ""
    return node.id


def _taken(value: ast.AST) -> Iterator[str]:
    """The names that a value is, holds or is a part of."""
    match value:
        case ast.Name():
            yield value.id
        case ast.Call():
            name = _called(value)
            if name in HANDS_ON or name[:1].isupper():
                for part in (*value.args, *(keyword.value for keyword in value.keywords)):
                    yield from _taken(part)
            elif isinstance(value.func, ast.Attribute) and name in VIEWS:
                yield from _taken(value.func.value)
        case ast.Attribute() | ast.Subscript() | ast.Starred() | ast.NamedExpr():
            yield from _taken(value.value)
        case ast.Tuple() | ast.List() | ast.Set():
            for part in value.elts:
                yield from _taken(part)
        case ast.Dict():
            for part in value.values:
                yield from _taken(part)
        case ast.IfExp():
            yield from (*_taken(value.body), *_taken(value.orelse))
        case ast.DictComp() | ast.ListComp() | ast.SetComp() | ast.GeneratorExp():
            yield from _taken(value.value if isinstance(value, ast.DictComp) else value.elt)
            for loop in value.generators:
                yield from _taken(loop.iter)


class Alias(NamedTuple):
    """A name, and what it may be, hold or be a part of."""

    name: str
    parts: list[str]
    same: bool
    """Whether it may be the very thing, and does not only hold it."""


def _aliases(body: Iterable[ast.AST]) -> Iterator[Alias]:
    for tree in body:
        for node in ast.walk(tree):
            match node:
                case ast.Assign():
                    for target in node.targets:
                        yield from _pairs(target, node.value)
                case ast.NamedExpr() | ast.AnnAssign() if node.value is not None:
                    yield from _pairs(node.target, node.value)
                case ast.For() | ast.comprehension():
                    yield from _loops(node.target, node.iter)
                case ast.Expr(value=ast.Call(func=ast.Attribute())):  # films.append(film)
                    for part in node.value.args:
                        yield Alias(_root(node.value.func), [*_taken(part)], same=False)


def _pairs(target: ast.expr, value: ast.expr) -> Iterator[Alias]:
    """What an assignment makes of its targets, one by one where both sides are written out."""
    if isinstance(target, (ast.Tuple, ast.List)):
        values = getattr(value, "elts", ())
        one_by_one = len(values) == len(target.elts)
        for i, part in enumerate(target.elts):
            yield from _pairs(part, values[i] if one_by_one else value)
    else:
        parts = [*_taken(value)]
        same = isinstance(target, ast.Name) and parts == [_root(value)]
        yield Alias(_root(target), parts, same)


def _loops(target: ast.expr, over: ast.expr) -> Iterator[Alias]:
    """What a loop makes of its targets."""
    if isinstance(over, ast.Call) and isinstance(target, ast.Tuple):
        given = {"zip": over.args, "enumerate": [ast.Constant(0), *over.args]}.get(_called(over))
        if given and len(given) == len(target.elts):
            for part, value in zip(target.elts, given, strict=True):
                yield from _loops(part, value)
            return
    for node in ast.walk(target):
        if isinstance(node, ast.Name):
            yield from _pairs(node, over)


class _Effects:
    """What the functions of a chapter do to what they are given, and to what is outside them."""

    def __init__(self, statements: Sequence[Statement]) -> None:
        self.imported: dict[str, str] = {}
        functions: dict[str, Function] = {}
        for statement in statements:
            for node in ast.walk(statement.tree):
                match node:
                    case ast.Import():
                        for alias in node.names:
                            name = alias.asname or alias.name.partition(".")[0]
                            self.imported[name] = alias.name
                    case ast.ImportFrom():
                        for alias in node.names:
                            origin = f"{node.module}.{alias.name}"
                            self.imported[alias.asname or alias.name] = origin
                    case ast.FunctionDef() | ast.AsyncFunctionDef():
                        functions[node.name] = node
                    case ast.Assign(targets=[ast.Name(id=name)], value=ast.Lambda()):
                        functions[name] = node.value
        self.parameters = {name: _parameters(tree) for name, tree in functions.items()}
        self.given: dict[str, set[str]] = {name: set() for name in functions}
        """The parameters that a function may change."""
        while True:
            found = {
                name: self.of([tree]) & set(self.parameters[name])
                for name, tree in functions.items()
            }
            if found == self.given:
                break
            self.given = found
        self.outside: dict[str, set[str]] = {}
        """What else a definition may change once it is used."""
        for statement in statements:
            if statement.inner:
                changes = self.of([statement.tree]) & statement.inner
                for name in statement.binds:
                    self.outside[name] = self.outside.get(name, set()) | changes

    def of(self, body: Iterable[ast.AST], deferred: bool = True) -> set[str]:
        """The names whose things code may change.

        Args:
            body: the code.
            deferred: whether what functions do that it defines counts, too.
        """
        body = list(body)
        found: set[str] = set()
        waiting: list[ast.AST] = list(body)
        while waiting:
            node = waiting.pop()
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not deferred:
                continue
            waiting += ast.iter_child_nodes(node)
            match node:
                case ast.Attribute(ctx=ast.Store() | ast.Del()):
                    found.add(_root(node))
                case ast.Subscript(ctx=ast.Store() | ast.Del()):
                    found.add(_root(node))
                case ast.AugAssign():
                    found.add(_root(node.target))
                case ast.Expr(value=ast.Call(func=ast.Attribute())):
                    found.add(_root(node.value.func))
                case ast.Assign(targets=[ast.Name(id=name)], value=ast.Call() as call) if (
                    _called(call) in VIEWS and _root(call) == name
                ):  # flow = flow.float(), which changes a module in place
                    found.add(name)
                case ast.Call():
                    if isinstance(node.func, ast.Attribute) and node.func.attr.endswith("_"):
                        found.add(_root(node.func))
                    for part in self._at_risk(node):
                        found |= {_root(part), *_taken(part)}
                    continue
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
                continue
        found -= self.imported.keys()
        aliases = list(_aliases(body))
        for _ in aliases:
            for name, parts, _ in aliases:
                if name in found:
                    found |= set(parts)
        return found - self.imported.keys()

    def _at_risk(self, call: ast.Call) -> list[ast.expr]:
        """Those of a call's arguments that may be changed by it."""
        name, root = _called(call), _root(call.func)
        if isinstance(call.func, ast.Name) and name in self.given:
            names = self.parameters[name]
            placed = list(zip(names, call.args, strict=False))
            placed += [(word.arg, word.value) for word in call.keywords if word.arg]
            if any(isinstance(part, ast.Starred) for part in call.args):
                return list(call.args) if self.given[name] else []
            return [part for parameter, part in placed if parameter in self.given[name]]
        origin = self.imported.get(root, "")
        if not origin or not call.args or name[:1].isupper():
            return []
        pure = any(origin == module or origin.startswith(f"{module}.") for module in PURE)
        return [] if pure and not name.endswith("_") else [call.args[0]]


def _parameters(function: Function) -> list[str]:
    given = function.args
    return [part.arg for part in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
