"""Makes a page of nbconvert readable: nothing there knows MyST, and no widget lives.

Each widget is shown by its still picture. Exercises, theorems and notes get a title, solutions a
fold, equations their numbers. JupyterLab's *Save and Export Notebook As* and, in ``.venv``,
``jupyter nbconvert --to html`` do so (``settings/jupyter_nbconvert_config.py``).
"""

from __future__ import annotations

import base64
import html
import mimetypes
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nbconvert.preprocessors import Preprocessor
from nbformat import NotebookNode

from chapters._tools.markdown import EQUATION, FENCE, LABEL, OPTION, closing, options

__all__ = ["Readable"]

SITE = Path(__file__).parents[1] / "_site"
VIEW = "application/vnd.jupyter.widget-view+json"
NUMBERED = {"exercise": "Exercise", "prf:theorem": "Theorem"}
FOLDED = {"solution": "Solution", "prf:proof": "Proof"}


class Readable(Preprocessor):
    """Replaces MyST's directives, roles and labels by plain Markdown, and widgets by pictures."""

    def preprocess(
        self, notebook: NotebookNode, resources: dict[str, Any]
    ) -> tuple[NotebookNode, dict[str, Any]]:
        """Change all cells; the notebook is nbconvert's own copy."""
        prose = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
        labels = _labels("\n\n".join(cell.source for cell in prose))
        for cell in prose:
            cell.source = "\n".join(_plain(cell.source.splitlines(), labels))
        for cell in notebook.cells:
            for output in cell.get("outputs", []):
                data = output.get("data", {})
                if "text/html" in data:
                    data.pop(VIEW, None)
        notebook.metadata.pop("widgets", None)
        return notebook, resources


def _labels(text: str) -> dict[str, str]:
    """What each label names: "(3)" for an equation, "Theorem 2" for a theorem."""
    named: dict[str, str] = {}
    counts: Counter[str] = Counter()
    kind = ""
    for line in text.splitlines():
        fence, option = FENCE.match(line), OPTION.match(line)
        if match := EQUATION.search(line):
            counts["equation"] += 1
            named[match[1]] = f"({counts['equation']})"
        elif fence and (name := _directive(fence)):
            kind = NUMBERED.get(name[0], "")
            counts[kind] += 1
        elif kind and option and option["key"] == "label":
            named[option["value"]] = f"{kind} {counts[kind]}"
    return named


def _directive(fence: re.Match[str]) -> tuple[str, str] | None:
    match = re.match(r"\{([\w:-]+)\}\s*(.*)", fence["info"])
    return (match[1], match[2]) if match else None


def _plain(lines: Sequence[str], labels: Mapping[str, str]) -> list[str]:
    """Lines of MyST as plain Markdown."""
    found: list[str] = []
    at = 0
    while at < len(lines):
        line = lines[at]
        fence = FENCE.match(line)
        if not fence or (fence["fence"][0] == ":" and not fence["info"]):
            if not LABEL.match(line):
                found.append(_inline(line, labels))
            at += 1
            continue
        end = closing(lines, at, fence["fence"])
        if directive := _directive(fence):
            skip, given = options(lines[at + 1 : end])
            body = _plain(lines[at + 1 + skip : end], labels)
            found += ["", *_box(*directive, given, body, labels), ""]
        else:
            found += lines[at : end + 1]
        at = end + 1
    return found


def _box(
    name: str,
    title: str,
    given: Mapping[str, str],
    body: Sequence[str],
    labels: Mapping[str, str],
) -> list[str]:
    """What a directive says, with a title in bold; folded where the chapter folds it."""
    if name == "image":
        alt = html.escape(given.get("alt", ""))
        return [f'<img alt="{alt}" src="{_embedded(title)}">']
    if name in NUMBERED:
        head = labels.get(given.get("label", ""), NUMBERED[name])
        return [f"**{head}. {title}**", "", *body]
    if name in FOLDED:
        head = " of ".join(filter(None, [FOLDED[name], labels.get(title, title)]))
    else:
        head = title or name.capitalize()
    if name in FOLDED or "dropdown" in given.get("class", ""):
        return [f"<details><summary>{html.escape(head)}</summary>", "", *body, "", "</details>"]
    return [f"**{head}**", "", *body]


def _embedded(address: str) -> str:
    """A diagram as data, since a page that is passed on has only itself."""
    inside = address.partition("_site/")[2]
    if not inside:
        return address
    kind = mimetypes.guess_type(inside)[0]
    return f"data:{kind};base64,{base64.b64encode((SITE / inside).read_bytes()).decode()}"


def _inline(line: str, labels: Mapping[str, str]) -> str:
    line = EQUATION.sub(lambda m: f"\\tag{{{labels[m[1]].strip('()')}}} $$", line)
    return re.sub(r"\{[\w:-]+\}`([^`]*)`", lambda m: labels.get(m[1], m[1]), line)
