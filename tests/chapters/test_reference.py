"""The library reference has a page for each public module, under a name that can be read."""

import re

import pytest
import yaml

import gdm_lib
from chapters._tools import pairs
from chapters._tools.book_site import public_modules

FOLDER = pairs.ROOT / "chapters" / "appendix" / "api"
MODULES = public_modules(gdm_lib)
PAGE = "# {title}: `{module}`\n\n```{{eval-rst}}\n.. automodule:: {module}\n```\n"


def entries():
    """Titles in the side bar, by file, in its order."""
    toc = yaml.safe_load((pairs.ROOT / "_toc.yml").read_text("utf-8"))
    every = [item for part in toc["parts"] for item in part["chapters"]]
    (reference,) = (item for item in every if item["file"] == "chapters/appendix/api")
    return {item["file"].rpartition("/")[2]: item["title"] for item in reference["sections"]}


@pytest.mark.parametrize("module", MODULES)
def test_a_module_has_a_page_and_a_readable_name_in_the_side_bar(module):
    name = module.removeprefix("gdm_lib.")
    path = FOLDER / f"{name}.md"
    told = f"write {path.relative_to(pairs.ROOT)}, list it in _toc.yml (file, title) and in api.md"
    assert path.exists(), f"{told}:\n{PAGE.format(title='ITS NAME', module=module)}"
    title = entries().get(name)
    assert title, told
    assert path.read_text("utf-8") == PAGE.format(title=title, module=module)
    assert not re.search(r"[._]|gdm_lib", title)
    landing = (FOLDER.parent / "api.md").read_text("utf-8")
    assert f"| [{title}](api/{name}.md) | `{module}` |" in landing, told


def test_there_are_no_other_pages_and_they_stand_in_the_order_of_the_imports():
    expected = [module.removeprefix("gdm_lib.") for module in MODULES]
    assert list(entries()) == expected
    assert sorted(path.stem for path in FOLDER.glob("*.md")) == sorted(expected)
