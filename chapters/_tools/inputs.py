"""What a notebook's outputs were made from, and which of it has changed since.

``recorder.py`` notes which modules of the library a kernel loaded and which files of the checkout
it read. Files count whole. Of a module only the definitions count that the chapter can reach: those
that its cells name, those that these name, and so on, across modules. Reach goes by names: a class
counts whole, with its bases, and a method is reached with its class. Statements that bind no name
run whenever their module is loaded and always count. A module that was imported by a name made at
run time counts with all its definitions. Comments, docstrings and layout don't count, unless the
source was shown: then the file was read, and counts whole.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

__all__ = ["LIBRARY", "Record", "changes", "reach", "take"]

LIBRARY = "gdm_lib"
GONE = "gone"
CELLS = "__main__"
TOP = ""
"""In place of a name: the statements of a module that always count."""

DOCSTRINGS = {"__doc__", "getdoc", "help"}
ALWAYS = {"__getattr__", "__dir__", "_"}
ANY_NAME = {"eval", "exec", "globals"}
TYPES_ONLY = {"TYPE_CHECKING", "typing.TYPE_CHECKING"}
MOST = 4
"""So many names or files are listed in one message."""


@dataclass(frozen=True)
class Record:
    """What a kernel loaded and read, as paths below the checkout."""

    modules: Sequence[str] = ()
    """Of the library, loaded."""
    dynamic: Sequence[str] = ()
    """Those of them that were imported by a name made at run time."""
    files: Sequence[str] = ()
    """Read, among them Python files whose source was shown."""


# -- the definitions of a module


@dataclass(frozen=True)
class Import:
    """A name bound to a module (``attribute`` None), or to what a module calls ``attribute``."""

    alias: str
    module: str
    attribute: str | None
    loads: tuple[str, ...]


@dataclass(frozen=True)
class Definition:
    """Statements: their digest, and the names (with attributes, ``a.b.c``) that they use."""

    digest: str
    chains: tuple[tuple[str, ...], ...] = ()
    imports: tuple[Import, ...] = ()
    is_import: bool = False


@dataclass
class Module:
    """The text of a module, taken apart."""

    names: dict[str, list[Definition]] = field(default_factory=dict)
    top: list[Definition] = field(default_factory=list)
    stars: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    future: str = ""

    def digest(self, name: str) -> str:
        """Of what a name means here (or the statements that always count), with the imports that
        it uses: each by itself would make the stored list twice as long."""
        parts = self.top if name == TOP else self.names[name]
        used = {chain[0] for part in parts for chain in part.chains}
        imports = [p for own in sorted(used) for p in self.names.get(own, []) if p.is_import]
        return _sha(self.future + "".join(part.digest for part in [*parts, *imports]))[:6]


def _sha(data: str | bytes) -> str:
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


def _is_text(statement: ast.AST) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _canonical(node: object) -> str:
    """The meaning of a tree as text: no positions, no docstrings, and nothing of those fields that
    some versions of Python have and others lack, as long as they are empty."""
    if isinstance(node, ast.AST):
        fields = (
            f"{name}={_canonical(value)}"
            for name, value in ast.iter_fields(node)
            if value not in (None, []) and name not in ("ctx", "kind", "type_comment")
        )
        return f"{type(node).__name__}({','.join(fields)})"
    if isinstance(node, list):
        return f"[{','.join(_canonical(item) for item in node if not _is_text(item))}]"
    return repr(node)


def _chains(node: ast.AST) -> Iterator[tuple[str, ...]]:
    """Every name in the tree, with the attributes that are taken of it."""
    attributes: list[str] = []
    inner = node
    while isinstance(inner, ast.Attribute):
        attributes.append(inner.attr)
        inner = inner.value
    if isinstance(inner, ast.Name):
        yield (inner.id, *reversed(attributes))
        return
    if attributes:
        yield ("", *reversed(attributes))
    for child in ast.iter_child_nodes(inner):
        yield from _chains(child)


def _imports(node: ast.Import | ast.ImportFrom, package: str) -> Iterator[Import]:
    for alias in node.names:
        name = alias.name
        if isinstance(node, ast.Import):
            bound = name if alias.asname else name.partition(".")[0]
            yield Import(alias.asname or bound, bound, None, (name,))
        else:
            module = node.module or ""
            if node.level:
                parts = package.split(".")
                base = ".".join(parts[: len(parts) - node.level + 1])
                module = f"{base}.{module}" if module else base
            loads = (module, f"{module}.{name}")  # the second, if that is a module
            yield Import(alias.asname or name, module, name, loads)


def _definition(node: ast.AST, package: str) -> Definition:
    inner = [n for n in ast.walk(node) if isinstance(n, ast.Import | ast.ImportFrom)]
    return Definition(
        _sha(_canonical(node)),
        tuple(dict.fromkeys(_chains(node))),
        tuple(made for statement in inner for made in _imports(statement, package)),
    )


def _defines(node: ast.stmt) -> list[str]:
    """The names that a statement binds, if it does nothing else."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    if not isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
        return []
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    flat = [t for target in targets for t in getattr(target, "elts", [target])]
    names = [target.id for target in flat if isinstance(target, ast.Name)]
    return names if len(names) == len(flat) else []


def _binds(node: ast.AST) -> Iterator[str]:
    """The names that a statement binds among other things."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
            yield inner.id
        elif isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield inner.name


def _registers(node: ast.stmt) -> bool:
    """Whether a decorator makes a function known to others, so that nobody need name it."""
    decorators = getattr(node, "decorator_list", [])
    return any(chain[-1].startswith("register") for d in decorators for chain in _chains(d))


def _offers(node: ast.stmt) -> ast.Dict | None:
    """What a lazy package offers: ``__getattr__, __dir__ = lazily(__name__, {module: names})``."""
    call = node.value if isinstance(node, ast.Assign) else None
    if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "lazily":
        offered = call.args[1] if len(call.args) > 1 else None
        # Only what can be read without running it; else the package counts whole.
        if isinstance(offered, ast.Dict) and not list(_chains(offered)):
            return offered
    return None


@lru_cache(maxsize=1000)
def _take_apart(text: str, package: str, what: str) -> Module:
    """Parse a module of ``package``, or a cell, without the notebook's own commands (``%``, ``!``).

    Raises:
        SyntaxError: it can't be parsed; the message says ``what``.
    """
    lines = ["" if line.lstrip()[:1] in ("%", "!") else line for line in text.splitlines()]
    try:
        tree = ast.parse("\n".join(lines) if what.startswith("code cell") else text)
    except SyntaxError as error:
        raise SyntaxError(f"{what}: {error}") from None
    found = Module()
    _sort(tree.body, package, found, loading=True)
    return found


def _sort(body: Sequence[ast.stmt], package: str, found: Module, loading: bool) -> None:
    def bind(name: str, definition: Definition) -> None:
        found.names.setdefault(name, []).append(definition)

    def bind_imports(node: ast.Import | ast.ImportFrom) -> None:
        for alias, made in zip(node.names, _imports(node, package), strict=True):
            bind(made.alias, Definition(_sha(_canonical(alias) + made.module), (), (made,), True))
            if loading:
                found.loads.extend(made.loads)

    for node in body:
        if _is_text(node):
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            if getattr(node, "module", "") == "__future__":
                found.future += _canonical(node)
                continue
            bind_imports(node)
            if node.names[0].name == "*":
                found.stars.append(next(_imports(node, package)).module)
                found.top.append(Definition(_sha(_canonical(node))))
        elif isinstance(node, ast.If) and ast.unparse(node.test) in TYPES_ONLY:
            _sort(node.body, package, found, loading=False)
            _sort(node.orelse, package, found, loading)
        elif offered := _offers(node):
            for module, theirs in ast.literal_eval(offered).items():
                for name in theirs:
                    made = Import(name, f"{package}.{module}", name, ())
                    bind(name, Definition(_sha(f"{module}.{name}"), (), (made,), True))
            offered.keys, offered.values = [], []
            found.top.append(_definition(node, package))
        elif names := _defines(node):
            definition = _definition(node, package)
            for name in names:
                bind(name, definition)
            if ALWAYS.intersection(names) or _registers(node):
                found.top.append(definition)
        else:
            definition = _definition(node, package)
            found.top.append(definition)
            for name in dict.fromkeys(_binds(node)):
                bind(name, definition)
            for inner in ast.walk(node):
                if isinstance(inner, ast.Import | ast.ImportFrom):
                    bind_imports(inner)


# -- what a chapter reaches


def _mine(part: Definition) -> bool:
    """Whether a definition is the library's, not an import from elsewhere."""
    return not part.is_import or part.imports[0].module.split(".")[0] == LIBRARY


class _Reach:
    """Follows names from a chapter's cells through the modules that were loaded."""

    def __init__(self, modules: Mapping[str, Module]) -> None:
        self.modules = modules
        self.reached: set[tuple[str, str]] = set()
        self.explained: set[str] = set()
        self.whole: set[str] = set()
        self.docstrings = False
        self.known: dict[tuple[str, str, tuple[str, ...] | None, bool], bool] = {}
        self.waiting: list[tuple[str, Definition]] = []

    def run(self) -> None:
        """Follow whatever waits."""
        while self.waiting:
            self._follow(*self.waiting.pop())

    def load(self, name: str) -> None:
        """A module is imported: its packages run, its top, and the imports there."""
        for end in range(1, name.count(".") + 2):
            part = ".".join(name.split(".")[:end])
            if part in self.modules and part not in self.explained:
                self.explained.add(part)
                module = self.modules[part]
                self._reach(part, TOP, module.top)
                for other in module.loads:
                    self.load(other)

    def take_whole(self, name: str) -> None:
        """Anything of a module may be used. Modules that it imports are not its own, though."""
        self.load(name)
        if name in self.modules and name not in self.whole:
            self.whole.add(name)
            for own, parts in self.modules[name].names.items():
                if any(_mine(part) for part in parts):
                    self._name(name, own, [] if name == CELLS else None)
            for other in self.modules[name].stars:
                self.take_whole(other)

    def _reach(self, module: str, name: str, parts: Iterable[Definition]) -> None:
        if (module, name) not in self.reached:
            self.reached.add((module, name))
            self.waiting += [(module, part) for part in parts]

    def _follow(self, module: str, definition: Definition) -> None:
        local: dict[str, list[Import]] = {}
        for made in definition.imports:
            if not definition.is_import:
                local.setdefault(made.alias, []).append(made)
                for other in made.loads:
                    self.load(other)
        for chain in definition.chains:
            name, attributes = chain[0], list(chain[1:])
            self.docstrings |= not DOCSTRINGS.isdisjoint(chain)
            if name in ANY_NAME:
                self.take_whole(module)
            for made in local.get(name, []):
                self._import(made, attributes)
            self._name(module, name, attributes, listed=False)

    def _name(
        self, module: str, name: str, attributes: list[str] | None, listed: bool = True
    ) -> bool:
        """A name of a module is used, and attributes of it; None: not itself, if it's a module.

        An import is listed only for those who use it from outside.

        Returns:
            Whether the module has the name.
        """
        key = (module, name, None if attributes is None else tuple(attributes), listed)
        if module not in self.modules or key in self.known:
            return self.known.get(key, False)
        own = self.modules[module]
        parts = own.names.get(name, [])
        self.known[key] = bool(parts)  # for those that come back here; modules import in circles
        if parts and (listed or not all(part.is_import for part in parts)):
            self._reach(module, name, parts)
        for part in parts:
            if part.is_import:
                self._import(part.imports[0], attributes)
        for star in own.stars:
            self.known[key] |= self._name(star, name, attributes)
        return self.known[key]

    def _import(self, made: Import, attributes: list[str] | None) -> None:
        if made.attribute is not None:
            self._attribute(made.module, made.attribute, attributes)
        elif made.module in self.modules:
            self._module(made.module, attributes)

    def _module(self, name: str, attributes: list[str] | None) -> None:
        self.load(name)
        if attributes:
            self._attribute(name, attributes[0], attributes[1:])
        elif attributes is not None:
            self.take_whole(name)

    def _attribute(self, module: str, name: str, rest: list[str] | None) -> None:
        if module not in self.modules or name == "*":
            return
        self.load(module)
        inner = f"{module}.{name}"
        found = self._name(module, name, rest)
        if inner in self.modules:
            self._module(inner, rest)
        elif not found and not (name.startswith("__") and name != "__dict__"):
            # Perhaps its __getattr__ knows.
            self.take_whole(module)


def _module_name(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _read(path: Path) -> str:
    return path.read_text("utf-8").replace("\r\n", "\n")


def reach(
    code: Sequence[str], record: Record, root: Path
) -> tuple[dict[str, dict[str, str]], set[str]]:
    """What code cells reach of the modules that were loaded.

    Args:
        code: sources of the cells.
        record: what was loaded and read.
        root: the checkout.

    Returns:
        For each module's path its reached names with their digests, ``""`` being the statements
        that always count; and the paths of files that count whole, as their docstrings are used.

    Raises:
        SyntaxError: a cell or a module can't be parsed.
    """
    paths = {_module_name(p): p for p in record.modules if (root / p).is_file()}
    modules = {}
    for name, path in paths.items():
        package = name if path.endswith("/__init__.py") else name.rpartition(".")[0]
        modules[name] = _take_apart(_read(root / path), package, path)
    cells = Module()
    for number, source in enumerate(code, 1):
        part = _take_apart(source, TOP, f"code cell {number}")
        for name, definitions in part.names.items():
            cells.names.setdefault(name, []).extend(definitions)
        cells.top += part.top
        cells.stars += part.stars
        cells.loads += part.loads
    found = _Reach({**modules, CELLS: cells})
    found.load(CELLS)
    for definitions in cells.names.values():
        found.waiting += [(CELLS, part) for part in definitions if not part.is_import]
    found.run()
    for path in record.dynamic:
        found.take_whole(_module_name(path))
    found.run()
    # Imported by a route that no text shows.
    for name in sorted(modules.keys() - found.explained):
        found.take_whole(name)
    found.run()
    result: dict[str, dict[str, str]] = {path: {} for path in paths.values()}
    for name, own in found.reached:
        if name in modules and (own != TOP or modules[name].top):
            result[paths[name]][own] = modules[name].digest(own)
    return result, set(paths.values()) if found.docstrings else set()


# -- what is stored, and compared


def _code_digest(code: Sequence[str]) -> str:
    return _sha("\0".join(code))[:12]


def _file_digest(path: Path) -> str:
    if not path.is_file():
        return GONE
    data = path.read_bytes()
    # A checkout may have the line ends of its system.
    return _sha(data if b"\0" in data else data.replace(b"\r\n", b"\n"))[:12]


def take(code: Sequence[str], record: Record, root: Path) -> dict[str, Any]:
    """The state of all that outputs are made from, in the form in which a notebook stores it.

    Args:
        code: sources of the notebook's code cells.
        record: what was loaded and read as they ran.
        root: the checkout.
    """
    reached, documented = reach(code, record, root)
    modules = {
        path: " ".join(f"{name}:{digest}" for name, digest in sorted(reached[path].items()))
        if path in reached
        else GONE
        for path in sorted(record.modules)
    }
    files = {path: _file_digest(root / path) for path in sorted(documented.union(record.files))}
    return {
        "code": _code_digest(code),
        "modules": modules,
        "dynamic": sorted(record.dynamic),
        "files": files,
    }


def changes(stored: Mapping[str, Any], code: Sequence[str], root: Path) -> list[str]:
    """What has changed since ``take``, a sentence for each file.

    Args:
        stored: what ``take`` returned.
        code: sources of the notebook's code cells, now.
        root: the checkout.
    """
    record = Record(list(stored["modules"]), stored["dynamic"], list(stored["files"]))
    if _code_digest(code) != stored["code"]:
        return ["its code changed"]
    try:
        now = take(code, record, root)
    except SyntaxError as error:
        return [str(error)]
    told = []
    for path, before in stored["modules"].items():
        if (after := now["modules"][path]) != before:
            told.append(f"{path}: {_difference(before, after)}")
    for path, after in now["files"].items():
        before = stored["files"].get(path)
        if after == before or f"{path}: {GONE}" in told:
            continue
        shown = ", whose text was shown," if path.endswith(".py") else ""
        change = "is gone" if after == GONE else "is there now" if before == GONE else "changed"
        told.append(f"{path}{shown} {change}")
    return _some(told, "files")


def _difference(before: str, after: str) -> str:
    if GONE in (before, after):
        return GONE if after == GONE else "is there again"
    old, new = (
        {k: v for k, _, v in (x.partition(":") for x in t.split())} for t in (before, after)
    )
    kinds = {
        "changed": [name for name in old if name in new and old[name] != new[name]],
        "gone or no longer used": [name for name in old if name not in new],
        "used now": [name for name in new if name not in old],
    }
    return ", ".join(
        f"{', '.join(_some([name or 'top-level statements' for name in names], ''))} {kind}"
        for kind, names in kinds.items()
        if names
    )


def _some(items: list[str], what: str) -> list[str]:
    more = len(items) - MOST
    return items if more <= 0 else [*items[:MOST], f"and {more} more {what}".rstrip()]
