"""All checkers with their right answers: the chapter's, and those in other words.

Beside ``test_<paper>_exercises.py`` lies ``<paper>_answers.py``. For each checker it has

- ``<checker>_inputs(d)``: arguments drawn at random by a ``Draw``, of all sizes, numbers and
  extremes that the exercise allows;
- ``<checker>_1``, ``<checker>_2``, ...: at least two right answers in other words, each readable
  alone: they use the file's imports, and nothing else of it;
- its name in ``GRADIENTS`` if the answer's gradients matter.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).parent


@dataclass
class Answered:
    """A checker, and what is known to be right.

    Attributes:
        checker: The checker.
        sources: Source of each right answer, the chapter's first, and the names that it may use.
        inputs: Draws arguments.
        gradients: Whether the answer's gradients matter.
    """

    checker: Callable[..., None]
    sources: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    inputs: Callable[..., tuple] | None = None
    gradients: bool = False


def answers_of(module: str) -> ModuleType | None:
    """The answers beside the tests of a module of checkers, or None."""
    family, paper = module.split(".")[-2:]
    if not (HERE / family / f"{paper}_answers.py").exists():
        return None
    return importlib.import_module(f"tests.exercises.{family}.{paper}_answers")


def in_other_words(answers: ModuleType, checker: str) -> list[Callable[..., Any]]:
    """The right answers of a checker in a file of answers."""
    return [
        value
        for name, value in vars(answers).items()
        if re.fullmatch(rf"{checker}_\d+", name) and inspect.isfunction(value)
    ]


@cache
def answered() -> dict[str, Answered]:
    """Everything that the chapters' exercises and the files of answers hold, by full name."""
    return {f"{made.checker.__module__}.{made.checker.__name__}": made for made in _collect()}


def _collect() -> Iterator[Answered]:
    chapters = _chapter_solutions()
    for path in chapters.chapters(chapters.ROOT):
        scope: dict[str, Any] = {}
        for exercise in chapters.exercises(path.read_text("utf-8")):
            exec(exercise.imports, scope)
            exec(exercise.solution, scope)
            made = Answered(getattr(importlib.import_module(exercise.module), exercise.name))
            made.sources.append((_function(exercise.solution, exercise.name), dict(scope)))
            answers = answers_of(exercise.module)
            if answers is not None:
                made.inputs = getattr(answers, f"{exercise.name}_inputs", None)
                made.gradients = exercise.name in answers.GRADIENTS
                for answer in in_other_words(answers, exercise.name):
                    made.sources.append((inspect.getsource(answer), vars(answers)))
            yield made


def _function(source: str, name: str) -> str:
    """The one function of a solution that is checked; what else it defines is in its scope."""
    import ast

    found = [s for s in ast.parse(source).body if getattr(s, "name", "") == name]
    return ast.unparse(found[0])


def _chapter_solutions() -> ModuleType:
    name = "tests.exercises.test_chapter_solutions"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, HERE / "test_chapter_solutions.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]
