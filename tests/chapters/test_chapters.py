"""The book itself: every text keeps the rules, every notebook is in step and fresh."""

import re

import pytest
import yaml

from chapters._tools import lint, pairs

ROOT = pairs.ROOT
TEXTS = [path.relative_to(ROOT).as_posix() for path in lint.texts()]


@pytest.mark.parametrize("name", TEXTS)
def test_the_text_keeps_the_rules(name):
    findings = lint.lint(ROOT / name)
    assert not findings, "\n" + "\n".join(map(str, findings))


def test_there_are_chapters():
    assert pairs.masters(), "no chapter was found, so nothing was checked"


def test_every_notebook_has_a_text():
    notebooks = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "chapters").rglob("*.ipynb")
        if "node_modules" not in path.parts and ".ipynb_checkpoints" not in path.parts
    }
    expected = {pairs.notebook_path(path).relative_to(ROOT).as_posix() for path in pairs.masters()}
    assert notebooks <= expected, f"without a text: {notebooks - expected}"


def test_the_table_of_contents_lists_every_text():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8"))
    listed = re.findall(r"'(?:file|root)': '([^']*)'", str(toc))
    assert sorted(listed) == sorted(name.removesuffix(".md") for name in TEXTS)
