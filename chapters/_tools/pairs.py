"""The pairs of text and notebook that chapters are made of, and when stored outputs are stale.

The text (MyST markdown) is the master; the notebook repeats it and carries the outputs. Beside
them the notebook keeps a key, a hash of all that the outputs were made from: the code cells, the
source of the library modules that they import, directly or not, and the reference weights that
they name. Prose is not in the key: it is copied, and nothing has to run.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jupytext  # type: ignore[import-untyped]
import nbformat
from nbformat import NotebookNode

__all__ = [
    "ROOT",
    "closure",
    "join",
    "key",
    "masters",
    "notebook_path",
    "read_master",
    "staleness",
    "stored_key",
    "write",
]

ROOT = Path(__file__).parents[2]
LIBRARY = "gdm_lib"
METADATA = {
    "jupytext": {"default_lexer": "ipython3"},
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {
        "file_extension": ".py",
        "mimetype": "text/x-python",
        "name": "python",
        "pygments_lexer": "ipython3",
    },
}


def masters(root: Path = ROOT) -> list[Path]:
    """The texts that have a notebook, the start page first: those whose header names a kernel."""
    found = [
        path
        for path in sorted((root / "chapters").rglob("*.md"))
        if not any(part[0] in "_." for part in path.relative_to(root / "chapters").parts)
        and "node_modules" not in path.parts
        and path.read_text("utf-8").startswith("---\njupytext:")
    ]
    return sorted(found, key=lambda path: (len(path.relative_to(root).parts), path))


def notebook_path(master: Path) -> Path:
    """Where a text's notebook is."""
    return master.with_suffix(".ipynb")


def read_master(master: Path) -> NotebookNode:
    """The notebook that a text stands for, without outputs, in the form in which it is stored."""
    read = jupytext.read(master, fmt="md:myst")
    seen: dict[str, int] = {}
    cells = []
    for cell in read.cells:
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:12]
        seen[digest] = seen.get(digest, 0) + 1
        # An identity that depends on the cell alone keeps the difference of two versions small.
        new = NotebookNode(
            cell_type=cell.cell_type,
            id=digest if seen[digest] == 1 else f"{digest}-{seen[digest]}",
            metadata=cell.metadata,
            source=cell.source,
        )
        if cell.cell_type == "code":
            new.update(execution_count=None, outputs=[])
        cells.append(new)
    return nbformat.from_dict(
        {"cells": cells, "metadata": dict(METADATA), "nbformat": 4, "nbformat_minor": 5}
    )


def _code(notebook: NotebookNode) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def _parse(source: str, what: str) -> ast.Module:
    """Parse a cell or a module, without the notebook's own commands (``%magic``, ``!shell``)."""
    lines = ["" if line.lstrip()[:1] in ("%", "!") else line for line in source.splitlines()]
    try:
        return ast.parse("\n".join(lines))
    except SyntaxError as error:
        raise SyntaxError(f"{what}: {error}") from None


def _file(name: str, root: Path) -> Path | None:
    base = root.joinpath(*name.split("."))
    for path in (base / "__init__.py", base.with_suffix(".py")):
        if path.is_file():
            return path
    return None


def _imports(tree: ast.Module, module: str, is_package: bool) -> Iterator[str]:
    """Every dotted name that might be a library module; ``LIBRARY`` alone for a bare import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                parts = parts[: len(parts) - node.level + is_package]
                base = ".".join([*parts, base] if base else parts)
            for alias in node.names:
                yield f"{base}.{alias.name}"


def _mine(name: str) -> bool:
    return name == LIBRARY or name.startswith(LIBRARY + ".")


def closure(code: list[str], root: Path = ROOT) -> list[Path]:
    """The library's files that code cells depend on, sorted.

    Follows ``import`` statements as they are written, inside functions too. A package counts with
    the files beside its ``__init__.py`` that are not Python (style sheets). A bare ``import
    gdm_lib`` may use anything, so it counts as the whole library.

    Args:
        code: sources of code cells.
        root: the checkout.

    Raises:
        SyntaxError: if a cell or a module cannot be parsed.
    """
    found: dict[str, Path] = {}
    waiting: list[str] = []

    def add(name: str) -> None:
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            parent = ".".join(parts[:end])
            path = _file(parent, root)
            if path is not None and parent not in found:
                found[parent] = path
                waiting.append(parent)

    for number, source in enumerate(code, 1):
        for name in _imports(_parse(source, f"code cell {number}"), "", False):
            if name == LIBRARY:
                return sorted(_whole(root))
            if _mine(name):
                add(name)
    while waiting:
        module = waiting.pop()
        path = found[module]
        tree = _parse(path.read_text("utf-8"), str(path))
        for name in _imports(tree, module, path.name == "__init__.py"):
            if _mine(name):
                add(name)
    files = set(found.values())
    for path in found.values():
        if path.name == "__init__.py":
            files |= {
                other
                for other in path.parent.iterdir()
                if other.is_file() and other.suffix not in (".py", ".pyc", ".typed")
            }
    return sorted(files)


def _whole(root: Path) -> Iterator[Path]:
    for path in (root / LIBRARY).rglob("*"):
        if path.is_file() and path.suffix not in (".pyc", ".typed"):
            yield path


def _weights(code: list[str], root: Path) -> list[Path]:
    """Reference weights, and the records beside them, that a string in the code names."""
    found = set()
    for number, source in enumerate(code, 1):
        for node in ast.walk(_parse(source, f"code cell {number}")):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                name = node.value
                if name and name.replace("/", "").replace("_", "").replace("-", "").isalnum():
                    base = root / "data" / "weights" / name
                    found |= {
                        path
                        for path in (base.with_suffix(".safetensors"), base.with_suffix(".json"))
                        if path.is_file()
                    }
    return sorted(found)


def key(notebook: NotebookNode, root: Path = ROOT) -> str:
    """Hash of all that a notebook's outputs are made from."""
    code = _code(notebook)
    digest = hashlib.sha256()

    def put(data: bytes) -> None:
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)

    for source in code:
        put(source.encode())
    for path in closure(code, root) + _weights(code, root):
        put(path.relative_to(root).as_posix().encode())
        data = path.read_bytes()
        # A checkout may have the line ends of its system.
        put(data if path.suffix == ".safetensors" else data.replace(b"\r\n", b"\n"))
    return digest.hexdigest()


def stored_key(notebook: NotebookNode) -> str | None:
    """The key that a notebook's outputs were made under; None if it was never executed."""
    return notebook.metadata.get("gdm", {}).get("key")


def _text(notebook: NotebookNode) -> list[tuple[str, str, Any]]:
    return [(c.cell_type, c.source, c.metadata.get("tags", [])) for c in notebook.cells]


def staleness(master: Path, root: Path = ROOT) -> tuple[str | None, str | None]:
    """What is wrong with a pair: ``(why to sync, why to execute)``, None where nothing is.

    Args:
        master: the text.
        root: the checkout.
    """
    path = notebook_path(master)
    if not path.exists():
        return "there is no notebook", "it was never executed"
    stored = nbformat.read(path, as_version=4)
    fresh = read_master(master)
    sync = None if _text(stored) == _text(fresh) else "text and notebook differ"
    old = stored_key(stored)
    if old is None:
        return sync, "it was never executed"
    if _code(stored) != _code(fresh):
        return sync, "its code changed"
    if old != key(fresh, root):
        return sync, "the library or the weights that it uses changed"
    return sync, None


def join(fresh: NotebookNode, stored: NotebookNode) -> NotebookNode:
    """The text of one notebook with the outputs of another that has the same code cells."""
    outputs = [cell for cell in stored.cells if cell.cell_type == "code"]
    code = [cell for cell in fresh.cells if cell.cell_type == "code"]
    for new, old in zip(code, outputs, strict=True):
        new.outputs, new.execution_count = old.outputs, old.execution_count
    for name in ("gdm", "widgets"):
        if name in stored.metadata:
            fresh.metadata[name] = stored.metadata[name]
    return fresh


def write(notebook: NotebookNode, path: Path) -> int:
    """Store a notebook whole or not at all; returns its size in bytes."""
    nbformat.validate(notebook)
    text = nbformat.writes(notebook) + "\n"
    part = path.with_suffix(".ipynb.part")
    part.write_text(text, encoding="utf-8", newline="\n")
    part.replace(path)
    return len(text.encode())
