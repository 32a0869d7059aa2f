"""A page that nbconvert makes of a chapter can be read: no network is needed for its pictures."""

import re
import sys

import nbformat
import pytest
from nbconvert import HTMLExporter
from traitlets.config import PyFileConfigLoader

from chapters._tools import pairs
from chapters._tools.export import VIEW, Readable

SETTINGS = pairs.ROOT / "chapters" / "_tools" / "settings"


def readable(*texts):
    cells = [nbformat.v4.new_markdown_cell(text) for text in texts]
    notebook, _ = Readable().preprocess(nbformat.v4.new_notebook(cells=cells), {})
    return [cell.source.strip() for cell in notebook.cells]


def test_exercises_and_solutions_across_cells():
    exercise, hint, solution = readable(
        "Before.\n\n:::{exercise} Undo it\n:label: ex-undo\nWrite `it`.\n:::",
        "Do {prf:ref}`ex-undo` first.",
        ":::{solution} ex-undo\n:class: dropdown\n```python\nx = 1\n```\n:::\n\nAfter.",
    )
    assert exercise == "Before.\n\n\n**Exercise 1. Undo it**\n\nWrite `it`."
    assert hint == "Do Exercise 1 first."
    start, end = "<details><summary>Solution of Exercise 1</summary>\n\n", "\n\n</details>"
    assert solution == f"{start}```python\nx = 1\n```{end}\n\n\nAfter."


def test_theorems_equations_notes_and_labels():
    (text,) = readable(
        "(here)=\n## A section\n\n$$\nx = 1\n$$ (one)\n\n$$ y = 2 $$ (two)\n\nBy {eq}`two`.\n\n"
        "::::{prf:theorem} It holds\n:label: thm\nYes.\n:::{note}\nInside.\n:::\n::::\n\n"
        ":::{prf:proof}\nClear.\n:::\n\n```{image} a.png\n:alt: a line\n:width: 10\n```"
    )
    assert "(here)" not in text
    assert "x = 1\n\\tag{1} $$" in text
    assert "y = 2 \\tag{2} $$" in text
    assert "By (2)." in text
    assert "**Theorem 1. It holds**\n\nYes.\n\n**Note**\n\nInside." in text
    assert "<summary>Proof</summary>\n\nClear." in text
    assert '<img alt="a line" src="a.png">' in text
    assert ":::" not in text


@pytest.mark.parametrize("text", ["", ":::", ":::{note}", "```", ":::{note}\n:::\n:::", "$$ a"])
def test_what_is_not_well_formed_is_no_obstacle(text):
    readable(text)


@pytest.mark.parametrize("master", pairs.masters(), ids=lambda path: path.stem)
def test_no_chapter_keeps_a_fence_or_a_role(master):
    notebook, _ = Readable().preprocess(pairs.read_master(master), {})
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            prose = re.sub(r"```.*?```|`[^`]*`", "", cell.source, flags=re.DOTALL)
            assert not re.search(r"^\s*:::|\{(eq|prf:ref|ref)\}|^\(\S+\)=$", prose, re.MULTILINE)


def test_the_page_of_a_chapter_has_its_pictures_and_a_still_of_each_widget(monkeypatch):
    monkeypatch.setattr(sys, "prefix", str(pairs.ROOT / ".venv"))
    loader = PyFileConfigLoader("jupyter_nbconvert_config.py", str(SETTINGS))
    path = pairs.ROOT / "chapters" / "flows" / "planar_radial.ipynb"
    page, _ = HTMLExporter(config=loader.load_config()).from_filename(str(path))
    notebook = nbformat.read(path, as_version=4)
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    widgets = sum(VIEW in out.get("data", {}) for out in outputs)
    shown = sum(out.get("data", {}).get("text/html", "").count("<img") for out in outputs)
    assert widgets
    assert len(re.findall(r"<figure[^>]*data-gdm-widget=", page)) == widgets
    images = re.findall(r'<img[^>]*src="([^"]{5})', page)
    diagrams = sum("```{image}" in cell.source for cell in notebook.cells)
    assert diagrams  # files of their own, which a page that is passed on must carry
    assert len(images) == shown + diagrams > widgets
    assert set(images) == {"data:"}
    assert "widget-view+json" not in page
    assert "html-manager" not in page
    body = page[page.index("<body") :]
    assert ":::" not in body
    assert "<strong>Exercise 1. " in body
    assert "<summary>Solution of Exercise 1</summary>" in body
