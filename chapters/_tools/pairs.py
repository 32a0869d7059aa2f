"""The pairs of text and notebook that chapters are made of, and when stored outputs are stale.

The text (MyST markdown) is the master; the notebook repeats it and carries the outputs. Beside
them the notebook keeps the state of all that the outputs were made from (``inputs.py``). Prose is
none of that: it is copied, and nothing has to run.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from pathlib import Path
from typing import Any

import jupytext  # type: ignore[import-untyped]
import nbformat
from nbformat import NotebookNode

from chapters._tools import inputs

__all__ = [
    "ROOT",
    "code_of",
    "join",
    "lost_edit",
    "masters",
    "notebook_path",
    "read_master",
    "staleness",
    "stamp",
    "write",
]

ROOT = Path(__file__).parents[2]
STAMP = "gdm_text"
MOST = 60  # so many lines of a difference are shown
FILTER = "kernelspec,jupytext.notebook_metadata_filter,"
FILTER += "jupytext.text_representation.extension,jupytext.text_representation.format_name,-all"
HEADER = f"""---
jupytext:
  notebook_metadata_filter: {FILTER}
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3 (ipykernel)
  language: python
  name: python3
---
"""
METADATA = {
    "jupytext": {"default_lexer": "ipython3", "notebook_metadata_filter": FILTER},
    # As JupyterLab writes it for the kernel of ipykernel, but for the version of Python.
    "kernelspec": {
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
        "name": "python3",
    },
    "language_info": {
        "codemirror_mode": {"name": "ipython", "version": 3},
        "file_extension": ".py",
        "mimetype": "text/x-python",
        "name": "python",
        "nbconvert_exporter": "python",
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


def code_of(notebook: NotebookNode) -> list[str]:
    """The sources of a notebook's code cells."""
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def stamp(notebook: NotebookNode) -> NotebookNode:
    """Note in a notebook which text it holds. Another program leaves the note as it is when it
    edits the cells: so it is known afterwards whether the notebook was edited, or its text."""
    notebook.metadata[STAMP] = _digest(notebook)
    return notebook


def _digest(notebook: NotebookNode) -> str:
    return hashlib.sha256(json.dumps(_text(notebook)).encode()).hexdigest()[:12]


def lost_edit(master: Path, root: Path = ROOT) -> str | None:
    """What would be lost if the text took the place of what another program wrote in the notebook,
    and what to do about it; None if nothing would.

    Args:
        master: the text.
        root: the checkout.
    """
    path = notebook_path(master)
    stored, fresh = nbformat.read(path, as_version=4), read_master(master)
    known = stored.metadata.get(STAMP)
    if known in (None, _digest(stored)) or _text(stored) == _text(fresh):
        return None
    named = path.relative_to(root) if path.is_relative_to(root) else path
    text = named.with_suffix(".md").as_posix()
    keep = f"python -m jupytext --to md:myst {named.as_posix()}"
    drop = f"python -m jupytext --update --to ipynb {text}"
    if _digest(fresh) == known:
        what = f"{named.name} was edited by another program, and its text {text} lacks the edit"
        how = f"To keep the edit: {keep}\nTo go back to the text: {drop}"
    else:
        what = f"{named.name} and its text {text} were both edited, each in its own way"
        how = f"To keep the notebook's: {keep}\nTo keep the text's: {drop}"
    of_text, of_notebook = (
        "\n\n".join(cell.source for cell in n.cells).splitlines() for n in (fresh, stored)
    )
    lines = difflib.unified_diff(of_text, of_notebook, text, named.as_posix(), n=1, lineterm="")
    shown = "\n".join([*lines][:MOST])
    return f"{what}. Nothing is lost yet.\n\n{how}\n\nThe difference:\n{shown}"


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
    if sync is None and any(stored.metadata.get(name) != METADATA[name] for name in METADATA):
        sync = "the notebook has another header than the book's"
    made_from = stored.metadata.get("gdm")
    if made_from is None:
        return sync, "it was never executed"
    if "modules" not in made_from:
        return sync, "it was executed before inputs were recorded"
    return sync, "; ".join(inputs.changes(made_from, code_of(fresh), root)) or None


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


def _number(text: str) -> float:
    """A number as JupyterLab's script writes it back: 2.0 as 2."""
    value = float(text)
    return int(value) if value.is_integer() and abs(value) < 1e21 else value


def write(notebook: NotebookNode, path: Path) -> int:
    """Store a notebook whole or not at all; returns its size in bytes."""
    nbformat.validate(notebook)
    numbers = json.loads(nbformat.writes(stamp(notebook)), parse_float=_number)
    text = nbformat.writes(nbformat.from_dict(numbers)) + "\n"
    part = path.with_suffix(".ipynb.part")
    part.write_text(text, encoding="utf-8", newline="\n")
    part.replace(path)
    return len(text.encode())
