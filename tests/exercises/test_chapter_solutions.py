"""Each chapter's code exercises: the stub runs unattempted, the folded solution passes.

The convention: an ``{exercise}`` directive with a ``:label:``; after it a code cell with a stub,
ending in ``check(exercises.NAME, NAME)``; and a ``{solution}`` of that label with ``:class:
dropdown`` whose fenced ``python`` blocks define NAME. A solution sees the chapter's imports and the
solutions before it, nothing else.
"""

import ast
import importlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from gdm_lib.exercises import check

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from chapters._tools.markdown import Block, parse, walk  # noqa: E402


@dataclass
class Exercise:
    """A code exercise as the chapter has it."""

    name: str
    module: str
    line: int
    imports: str
    stub: str
    solution: str


def exercises(text: str) -> list[Exercise]:
    """The code exercises of a chapter.

    Raises:
        AssertionError: An exercise breaks the convention; the message says which and how.
    """
    top = parse(text)
    solutions: dict[str, list[Block]] = {}
    for block in walk(top):
        assert block.closed, f"the block opened at line {block.line} is never closed"
    for block in top:
        if block.name.startswith("solution"):
            solutions.setdefault(block.text, []).append(block)
    found = []
    label = None
    imports: list[ast.stmt] = []
    for block in top:
        if block.name.startswith("exercise"):
            label = block.options.get("label")
            assert label, f"line {block.line}: an exercise needs a :label:"
        if block.kind != "cell":
            continue
        code = re.sub(r"^[ \t]*[%!].*", "", block.text, flags=re.MULTILINE)
        tree = ast.parse(code)
        imports += [s for s in tree.body if isinstance(s, ast.Import | ast.ImportFrom)]
        checks = [node for node in ast.walk(tree) if _is_check(node)]
        if not checks:
            continue
        where = f"line {block.line}"
        assert len(checks) == 1, f"{where}: one check per cell, found {len(checks)}"
        last = tree.body[-1]
        assert isinstance(last, ast.Expr), f"{where}: the cell must end in check(...)"
        assert last.value is checks[0], f"{where}: the cell must end in check(...)"
        match = re.fullmatch(r"check\((\w+)\.(\w+), (\w+)\)", ast.unparse(checks[0]))
        assert match, f"{where}: expected check(exercises.NAME, NAME): {ast.unparse(checks[0])}"
        alias, name, answer = match.groups()
        assert name == answer, f"{where}: check(...{name}, {answer}): the names differ"
        assert label, f"{where}: no exercise precedes the cell of {name}"
        folded = solutions.get(label, [])
        assert len(folded) == 1, f"{where}: {label} has {len(folded)} solutions, expected one"
        assert "dropdown" in folded[0].options.get("class", "").split(), (
            f"line {folded[0].line}: the solution of {label} is not folded: `:class: dropdown`"
        )
        source = "\n".join(b.text for b in folded[0].children if b.name == "python")
        assert _defines(source, name), (
            f"line {folded[0].line}: the solution of {label} has no ```python block "
            f"that defines {name}"
        )
        found.append(
            Exercise(
                name=name,
                module=_module(imports, alias),
                line=block.line,
                imports=_needed(imports, code + "\n" + source),
                stub=code,
                solution=source,
            )
        )
    return found


def _is_check(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "check"


def _defines(source: str, name: str) -> bool:
    kinds = ast.FunctionDef | ast.ClassDef
    return any(isinstance(s, kinds) and s.name == name for s in ast.parse(source).body)


def _needed(imports: list[ast.stmt], code: str) -> str:
    """Those imports of the chapter that the code names: plotting and widgets are not tried here."""
    used = {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}
    needed = []
    for statement in imports:
        names = [n for n in statement.names if (n.asname or n.name.partition(".")[0]) in used]
        if names:
            statement = ast.copy_location(
                ast.Import(names)
                if isinstance(statement, ast.Import)
                else ast.ImportFrom(statement.module, names, statement.level),
                statement,
            )
            needed.append(ast.unparse(statement))
    return "\n".join(needed)


def _module(imports: list[ast.stmt], alias: str) -> str:
    for statement in imports:
        for name in statement.names:
            if (name.asname or name.name) == alias:
                parent = f"{statement.module}." if isinstance(statement, ast.ImportFrom) else ""
                return parent + name.name
    raise AssertionError(f"`{alias}` of check({alias}....) is not imported in the chapter")


def prove(found: list[Exercise]) -> None:
    """Assert that each stub is not attempted, and that each solution passes."""
    scope: dict = {}
    for exercise in found:
        where = f"line {exercise.line}: {exercise.name}"
        checker = getattr(importlib.import_module(exercise.module), exercise.name)
        exec(exercise.imports, scope)
        stub = dict(scope)
        exec(compile(exercise.stub, f"<stub of {exercise.name}>", "exec"), stub)
        verdict = check(checker, stub[exercise.name])
        assert verdict.passed is None, f"{where}: the stub counts as attempted: {verdict}"
        exec(compile(exercise.solution, f"<solution of {exercise.name}>", "exec"), scope)
        verdict = check(checker, scope[exercise.name])
        assert verdict.passed is True, f"{where}: the solution does not pass: {verdict}"


def chapters(root: Path) -> list[Path]:
    """The texts of all chapters that set exercises; a folder with _ or . before it holds none."""
    texts = sorted((root / "chapters").rglob("[!_.]*.md"))
    return [
        path
        for path in texts
        if not re.search(r"[/\\][_.]", str(path.relative_to(root)))
        and "{exercise}" in path.read_text("utf-8")
    ]


@pytest.mark.parametrize("path", chapters(ROOT), ids=lambda path: path.stem)
def test_the_solutions_of_a_chapter_pass(path):
    found = exercises(path.read_text("utf-8"))
    assert len(found) >= 2, "a chapter has at least two exercises in code"
    prove(found)
    for module in {exercise.module for exercise in found}:
        used = {exercise.name for exercise in found if exercise.module == module}
        spare = set(importlib.import_module(module).__all__) - used
        assert not spare, f"{module} checks {spare}, which the chapter does not set"


# -- the extractor itself

CHAPTER = '''# A chapter

```{code-cell} ipython3
%matplotlib inline
import math, torch
import matplotlib.not_needed_here
from gdm_lib.exercises import check
from gdm_lib.exercises.vae import vae as exercises
from gdm_lib import not_needed_either
```

:::{exercise} The divergence
:label: ex-kl

Write it. Not a cell:
```python
check(exercises.reparameterise, nothing)
```
:::

```{code-cell} ipython3
---
tags: [exercise]
---
def gaussian_kl(mu, log_var):
    """The KL to N(0, I), of shape (B,)."""
    ...


check(exercises.gaussian_kl, gaussian_kl)
```

````{solution} ex-kl
:class: dropdown

In words.

```python
def gaussian_kl(mu, log_var):
    return (mu**2 + log_var.exp() - 1 - log_var).sum(1) / math.sqrt(4)
```
````

```{exercise}
:label: ex-draw
Draw.
```

```{code-cell} ipython3
def reparameterise(mu, log_var, eps):
    raise NotImplementedError


check(exercises.reparameterise, reparameterise)
```

````{solution} ex-draw
:label: ex-draw-solution
:class: dropdown
```python
def reparameterise(mu, log_var, eps):
    return mu + torch.exp(log_var / 2) * eps
```
````
'''


def test_the_extractor_finds_stub_and_solution(tmp_path):
    (tmp_path / "chapters" / "vae").mkdir(parents=True)
    (tmp_path / "chapters" / "vae" / "vae.md").write_text(CHAPTER, encoding="utf-8")
    (tmp_path / "chapters" / "start.md").write_text("# No exercise\n", encoding="utf-8")
    (tmp_path / "chapters" / "_tools").mkdir()
    (tmp_path / "chapters" / "_tools" / "draft.md").write_text(CHAPTER, encoding="utf-8")
    (path,) = chapters(tmp_path)
    found = exercises(path.read_text("utf-8"))
    assert [exercise.name for exercise in found] == ["gaussian_kl", "reparameterise"]
    assert {exercise.module for exercise in found} == {"gdm_lib.exercises.vae.vae"}
    assert "..." in found[0].stub
    assert "In words" not in found[0].solution
    assert "return mu + torch.exp" in found[1].solution
    prove(found)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (
            " / math.sqrt(4)",
            "",
            r"gaussian_kl: the solution does not pass: .*the factor 1/2 is missing",
        ),
        ("    ...\n", "    return mu\n", r"gaussian_kl: the stub counts as attempted"),
        ("mu + torch.exp", "mu + np.exp", r"does not pass: .*NameError: name 'np'"),
        ("{solution} ex-kl", "{solution} ex-other", r"ex-kl has 0 solutions"),
        ("{solution} ex-draw", "{solution} ex-kl", r"ex-kl has 2 solutions"),
        (":class: dropdown\n\nIn", ":class: note\n\nIn", r"ex-kl is not folded"),
        (":label: ex-kl", ":lable: ex-kl", r"an exercise needs a :label:"),
        ("def reparameterise(mu, log_var, eps):\n    return", "def r():\n    return", "defines re"),
        ("check(exercises.gaussian_kl, g", "check(exercises.free_bits, g", r"the names differ"),
        ("check(exercises.gaussian_kl, ", "print(1); check(exercises.f(), ", r"expected check\("),
        ("gaussian_kl)\n```", "gaussian_kl)\nprint()\n```", r"must end in check"),
        ("vae as exercises", "vae as other", r"`exercises` of check\(.* is not imported"),
        ("````\n\n```{exercise}", "```{exercise}", r"never closed|0 solutions"),
    ],
)
def test_a_fault_planted_in_a_chapter_is_told(old, new, told):
    assert old in CHAPTER
    with pytest.raises(AssertionError, match=told):
        prove(exercises(CHAPTER.replace(old, new, 1)))
