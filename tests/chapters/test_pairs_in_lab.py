"""What JupyterLab's server does with a pair: it opens whichever file git wrote last, a save changes
nothing that was not edited, and no edit is lost."""

import json
import os
import shutil
import subprocess
import sys

import nbformat
import pytest
from jupyter_server.services.contents.largefilemanager import LargeFileManager
from jupytext.sync_contentsmanager import build_sync_jupytext_contents_manager_class
from tornado.web import HTTPError

from chapters._tools import execute, pairs
from chapters._tools.lab import Chapters

NAME = "chapters/vae/vae.ipynb"
JUPYTEXT = build_sync_jupytext_contents_manager_class(LargeFileManager)


@pytest.fixture
def book(book):
    shutil.copy(pairs.ROOT / "chapters" / "jupytext.toml", book.root / "chapters")
    return book


def manager_of(book, kind=Chapters):
    manager = kind()
    manager.root_dir = str(book.root)
    return manager


def both(book):
    return book.master.read_text("utf-8"), pairs.notebook_path(book.master).read_text("utf-8")


def age(book, notebook_is_newer_by):
    now = pairs.notebook_path(book.master).stat().st_mtime
    os.utime(book.master, (now, now - notebook_is_newer_by))


def edit_alone(book, old="Nothing breaks", new="Nothing at all breaks", cell=None):
    """As VS Code or Colab do, which know nothing of the text."""
    path = pairs.notebook_path(book.master)
    notebook = nbformat.read(path, as_version=4)
    if cell is not None:
        cell(notebook.cells)
    else:
        (found,) = (c for c in notebook.cells if old in c.source)
        found.source = found.source.replace(old, new)
    nbformat.write(notebook, path)


def as_jupyterlab(content, version="3.14.1"):
    """What JupyterLab sends back: the kernel tells it of itself."""
    content.metadata.kernelspec = {"name": "python3", "display_name": "Py", "language": "python"}
    content.metadata.language_info = {
        "name": "python",
        "version": version,
        "codemirror_mode": {"name": "ipython", "version": 3},
        "pygments_lexer": "ipython3",
    }
    return content


@pytest.mark.parametrize("kind", [Chapters, JUPYTEXT])
@pytest.mark.parametrize("notebook_is_newer_by", [3600, -3600])
def test_a_pair_opens_and_saves_without_a_change(book, notebook_is_newer_by, kind):
    age(book, notebook_is_newer_by)
    before = both(book)
    manager = manager_of(book, kind)
    model = manager.get(NAME)
    assert any(cell.get("outputs") for cell in model["content"]["cells"])
    manager.save(model, NAME)
    assert both(book) == before
    assert pairs.staleness(book.master, book.root) == (None, None)


def test_what_a_kernel_says_of_itself_is_not_stored(book):
    before = both(book)
    manager = manager_of(book)
    model = manager.get(NAME)
    as_jupyterlab(model["content"])
    manager.save(model, NAME)
    assert both(book) == before


def test_another_kernel_is_stored(book):
    manager = manager_of(book)
    model = manager.get(NAME)
    model["content"].metadata.kernelspec = {
        "name": "julia",
        "display_name": "J",
        "language": "julia",
    }
    manager.save(model, NAME)
    assert "name: julia" in book.master.read_text("utf-8")
    stored = nbformat.read(pairs.notebook_path(book.master), as_version=4)
    assert stored.metadata.kernelspec.name == "julia"


def drop(cells):
    del cells[2]


def swap(cells):
    cells[1], cells[3] = cells[3], cells[1]


def add(cells):
    cells.append(nbformat.v4.new_markdown_cell("A note of mine."))


def tag(cells):
    cells[1].metadata.tags = ["mine"]


@pytest.mark.parametrize("notebook_is_newer_by", [3600, 0.5, -3600])
@pytest.mark.parametrize("edit", [None, drop, swap, add, tag])
def test_an_edit_of_the_notebook_alone_is_not_overwritten(book, edit, notebook_is_newer_by):
    edit_alone(book, cell=edit)
    age(book, notebook_is_newer_by)
    before = both(book)
    with pytest.raises(HTTPError) as refused:
        manager_of(book).get(NAME)
    assert "vae.ipynb was edited by another program" in refused.value.log_message
    if edit is None:
        assert "+Nothing at all breaks in this one." in refused.value.log_message
    report = execute.update(book.master, root=book.root)
    assert report.did == "FAILED"
    assert "was edited by another program" in report.error
    assert both(book) == before


@pytest.mark.parametrize("way", ["To keep the edit: ", "To go back to the text: "])
def test_both_ways_out_that_it_names_lead_out(book, way):
    edit_alone(book)
    with pytest.raises(HTTPError) as refused:
        manager_of(book).get(NAME)
    command = next(
        line.removeprefix(way)
        for line in refused.value.log_message.splitlines()
        if line.startswith(way)
    )
    _, *words = command.split()
    subprocess.run([sys.executable, *words], cwd=book.root, check=True, capture_output=True)
    model = manager_of(book).get(NAME)
    texts = "".join(cell.source for cell in model["content"].cells)
    assert ("Nothing at all breaks" in texts) == ("keep" in way)
    assert any(cell.get("outputs") for cell in model["content"].cells)
    manager_of(book).save(model, NAME)
    assert book.master.read_text("utf-8").startswith(pairs.HEADER)
    assert pairs.staleness(book.master, book.root) == (None, None)


def test_an_edit_of_the_text_is_taken_whatever_its_time(book):
    book.replace("Nothing breaks", "Nothing at all breaks")
    for newer in (3, -3600):
        age(book, newer)
        model = manager_of(book).get(NAME)
        assert any("at all breaks" in cell.source for cell in model["content"].cells)


def test_edits_of_both_are_told(book):
    edit_alone(book)
    book.replace("Nothing to train", "Nothing at all to train")
    with pytest.raises(HTTPError, match="were both edited"):
        manager_of(book).get(NAME)


def test_the_same_edit_of_both_is_none(book):
    edit_alone(book)
    book.replace("Nothing breaks", "Nothing at all breaks")
    model = manager_of(book).get(NAME)
    manager_of(book).save(model, NAME)
    assert pairs.lost_edit(book.master, book.root) is None


def test_what_is_edited_in_jupyterlab_is_in_both_files(book):
    manager = manager_of(book)
    model = manager.get(NAME)
    model["content"].cells[0].source += "\n\nMore of it."
    manager.save(model, NAME)
    assert all("More of it." in text for text in both(book))
    assert pairs.lost_edit(book.master, book.root) is None
    edit_alone(book)
    with pytest.raises(HTTPError, match="another program"):
        manager.get(NAME)


def test_without_the_books_manager_time_decides_and_nothing_is_lost_silently(book):
    edit_alone(book)
    age(book, 3600)
    with pytest.raises(HTTPError, match="more recent"):
        manager_of(book, JUPYTEXT).get(NAME)


def test_a_damaged_notebook_is_told_by_its_name(book):
    pairs.notebook_path(book.master).write_text("{", "utf-8")
    with pytest.raises(HTTPError, match=r"vae\.ipynb"):
        manager_of(book).get(NAME)


def through_a_script(content):
    """As JupyterLab sends it back: its script writes 2.0 as 2."""
    text = json.dumps(content)
    return json.loads(
        text, parse_float=lambda t: int(float(t)) if float(t) == int(float(t)) else float(t)
    )


@pytest.mark.parametrize("master", pairs.masters(), ids=lambda path: path.stem)
def test_each_chapter_is_saved_as_it_was_opened(tmp_path, master):
    shutil.copy(pairs.ROOT / "chapters" / "jupytext.toml", tmp_path)
    text, notebook = tmp_path / master.name, tmp_path / f"{master.stem}.ipynb"
    text.write_bytes(master.read_bytes())
    fresh = pairs.read_master(text)
    stored = nbformat.read(pairs.notebook_path(master), as_version=4)
    if pairs.code_of(fresh) == pairs.code_of(stored):
        fresh = pairs.join(fresh, stored)
    pairs.write(fresh, notebook)
    before = text.read_bytes(), notebook.read_bytes()
    manager = Chapters()
    manager.root_dir = str(tmp_path)
    model = manager.get(notebook.name)
    content = as_jupyterlab(nbformat.from_dict(through_a_script(model["content"])))
    content.metadata.get("widgets", {}).clear()  # as for a notebook whose widgets it didn't draw
    manager.save({**model, "content": content}, notebook.name)
    assert (text.read_bytes(), notebook.read_bytes()) == before
