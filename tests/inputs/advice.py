"""Where the library gives advice: the statements that raise an error and name a cure."""

from __future__ import annotations

import ast
import re
import traceback
from pathlib import Path

import gdm_lib

LIBRARY = Path(gdm_lib.__file__).parent
Place = tuple[str, int, int]
"""A file, and the first and last line of a statement."""


def literal(node: ast.AST) -> str:
    """The text of all string literals in it."""
    return " ".join(
        part.value
        for part in ast.walk(node)
        if isinstance(part, ast.Constant) and isinstance(part.value, str)
    )


ADVICE = re.compile(r"; |\b(take|call|set|(?<!must )(give|make)) ")


def gives_advice(node: ast.Raise) -> bool:
    """Whether its message tells to do something, or is made elsewhere."""
    if not isinstance(node.exc, ast.Call) or not node.exc.args:
        return False
    made_here = any(isinstance(part, ast.Constant) for part in ast.walk(node.exc.args[0]))
    return bool(ADVICE.search(literal(node.exc))) or not made_here


def places(path: Path) -> list[Place]:
    """All such statements of a file."""
    name = str(path.relative_to(LIBRARY))
    return [
        (name, node.lineno, node.end_lineno or node.lineno)
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Raise) and gives_advice(node)
    ]


def place_of(error: BaseException) -> tuple[str, int]:
    """The file of the library and the line where it was raised."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    path = Path(frame.filename)
    name = str(path.relative_to(LIBRARY)) if LIBRARY in path.parents else path.name
    return name, frame.lineno or 0
