"""A pair opens in JupyterLab whichever file git wrote last, and saving it changes neither."""

import os
import shutil

import pytest
from jupyter_server.services.contents.largefilemanager import LargeFileManager
from jupytext.sync_contentsmanager import build_sync_jupytext_contents_manager_class

from chapters._tools import pairs


@pytest.mark.parametrize("notebook_is_newer_by", [3600, -3600])
def test_a_pair_opens_and_saves_without_a_change(book, notebook_is_newer_by):
    shutil.copy(pairs.ROOT / "chapters" / "jupytext.toml", book.root / "chapters")
    notebook = pairs.notebook_path(book.master)
    now = notebook.stat().st_mtime
    os.utime(book.master, (now, now - notebook_is_newer_by))
    before = book.master.read_text("utf-8"), notebook.read_text("utf-8")

    manager = build_sync_jupytext_contents_manager_class(LargeFileManager)()
    manager.root_dir = str(book.root)
    model = manager.get("chapters/vae/vae.ipynb")
    assert any(cell.get("outputs") for cell in model["content"]["cells"])
    manager.save(model, "chapters/vae/vae.ipynb")

    assert (book.master.read_text("utf-8"), notebook.read_text("utf-8")) == before
    assert pairs.staleness(book.master, book.root) == (None, None)
