"""Starts JupyterLab for the book: ``python -m chapters._tools.lab``, with JupyterLab's options.

jupytext joins the cells of the text to the outputs of the notebook. What it lacks is here: an edit
that another program made to the notebook alone is not overwritten by the text, and a save leaves
the files as they were where nothing was edited and nothing ran. ``settings`` holds what the book
sets for its readers, who may set it otherwise.
"""

from __future__ import annotations

import json
import platform
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
from jupyterlab.labapp import LabApp  # type: ignore[import-untyped]
from jupytext import TextFileContentsManager  # type: ignore[import-untyped]
from nbformat import NotebookNode
from tornado.web import HTTPError

from chapters._tools import pairs
from chapters._tools.export import Readable

__all__ = ["Chapters", "main"]

VIEW = "application/vnd.jupyter.widget-view+json"
STATE = "application/vnd.jupyter.widget-state+json"
SETTINGS = Path(__file__).with_name("settings")


class Chapters(TextFileContentsManager):
    """Opens and saves pairs of text and notebook."""

    def get(
        self,
        path: str,
        content: bool = True,
        type: str | None = None,
        format: str | None = None,
        **more: Any,
    ) -> dict[str, Any]:
        """A file, notebook or folder, as the Jupyter server describes it.

        Raises:
            HTTPError: the notebook holds an edit that its text lacks.
        """
        master, notebook = self._pair(path)
        paired = content and type in (None, "notebook") and master.exists() and notebook.exists()
        if paired and (edit := _lost_edit(master)):
            raise HTTPError(409, edit)
        model: dict[str, Any] = super().get(path, content, type, format, **more)
        if paired and model["type"] == "notebook":
            # Else JupyterLab learns it from the kernel and takes it for a change of the notebook.
            language = model["content"].metadata.get("language_info", {})
            if language.get("name") == "python":
                language["version"] = platform.python_version()
        return model

    def save(self, model: dict[str, Any], path: str = "") -> dict[str, Any]:
        """Write a file; a notebook with the text beside it."""
        master, notebook = self._pair(path)
        if model["type"] == "notebook" and "content" in model and master.exists():
            stored = _read(notebook)
            model = {**model, "content": _settled(nbformat.from_dict(model["content"]), stored)}
        saved: dict[str, Any] = super().save(model, path)
        return saved

    def _pair(self, path: str) -> tuple[Path, Path]:
        whole = Path(self._get_os_path(path.strip("/")))
        return whole.with_suffix(".md"), whole.with_suffix(".ipynb")


def _lost_edit(master: Path) -> str | None:
    try:
        return pairs.lost_edit(master)
    except Exception:  # a file that can't be read, which is told when it is opened
        return None


def _read(path: Path) -> NotebookNode:
    """A stored notebook; one without anything if there is none that can be read."""
    try:
        return nbformat.read(path, as_version=4)
    except Exception:
        return nbformat.v4.new_notebook()


def _settled(notebook: NotebookNode, stored: NotebookNode) -> NotebookNode:
    """A notebook to be saved, without what only this machine's kernel says of itself, and with the
    state of all widgets that it shows. JupyterLab stores that of every widget which this kernel
    made, shown or not, and of no other: what a reader merely opened would lose its pictures."""
    for name, within in (("kernelspec", "name"), ("language_info", "name")):
        old, new = stored.metadata.get(name, {}), notebook.metadata.get(name, {})
        if old and old.get(within) == new.get(within):
            notebook.metadata[name] = old
    models = _models(stored) | _models(notebook)
    shown = [
        output.data[VIEW]["model_id"]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if VIEW in output.get("data", {})
    ]
    kept: dict[str, Any] = {}
    while shown:
        name = shown.pop()
        if name in models and name not in kept:
            kept[name] = models[name]
            shown += re.findall(r"IPY_MODEL_(\w+)", json.dumps(models[name]["state"]))
    if kept:
        state = {"version_major": 2, "version_minor": 0, "state": kept}
        notebook.metadata["widgets"] = {STATE: state}
    else:
        notebook.metadata.pop("widgets", None)
    return pairs.stamp(notebook)


def _models(notebook: NotebookNode) -> dict[str, Any]:
    """The widgets that a notebook stores, by name."""
    models: dict[str, Any] = notebook.metadata.get("widgets", {}).get(STATE, {}).get("state", {})
    return models


def main(argv: Sequence[str] | None = None) -> None:
    """Start JupyterLab."""
    own = (
        f"--ServerApp.contents_manager_class={Chapters.__module__}.{Chapters.__name__}",
        f"--LabApp.app_settings_dir={SETTINGS}",
        f"--HTMLExporter.preprocessors={Readable.__module__}.{Readable.__name__}",
    )
    LabApp.launch_instance([*own, *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    main()
