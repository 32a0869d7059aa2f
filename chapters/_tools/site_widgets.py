"""What a page of the site needs for its widgets to live without a kernel.

The notebook stores the state of its widgets whole. A page gets the small values only; scripts,
frames and models become files of the site, each once, which ``host.js`` fetches when a widget comes
into view. A model with reference weights is exported to ONNX here.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["INLINE_BYTES", "MAX_MODEL_BYTES", "exported", "publish"]

INLINE_BYTES = 6_000
"""Smaller binary values stay in the page: a request would cost more."""

MAX_MODEL_BYTES = 1_000_000
"""Of a model that a reader's page fetches."""

FOLDER = "widgets"


def publish(state: dict[str, Any], static: Path) -> dict[str, Any]:
    """The state that the page carries; what is left out of it is written below ``static``.

    Args:
        state: of the widgets by id, as the notebook stores it.
        static: the site's folder of assets.

    Returns:
        The entries of anywidgets. ``_esm`` is the address of their script, larger binary values
        are addresses too (``"encoding": "url"``), all relative to ``static``.

    Raises:
        ValueError: a model is larger than ``MAX_MODEL_BYTES``, or can't be exported.
    """
    return {
        name: _published(entry, static)
        for name, entry in state.items()
        if "_esm" in entry.get("state", {})
    }


def _published(entry: dict[str, Any], static: Path) -> dict[str, Any]:
    values = dict(entry["state"])
    # The style sheet is the site's own, and the still picture is in the page already.
    for name in ("_css", "layout", "tabbable", "tooltip"):
        values.pop(name, None)
    values["_esm"] = _file(values["_esm"].encode(), "js", static)
    if weights := values.get("page_weights"):
        shapes = tuple(tuple(shape) for shape in values["spec"]["inputs"])
        whole = values["spec"].get("whole", False)
        values["page_model_address"] = _model(exported(weights, shapes, whole), weights, static)
    buffers = []
    for buffer in entry.get("buffers", []):
        content = base64.b64decode(buffer["data"])
        if buffer["path"] == ["poster"] or not content:
            continue
        if buffer["path"] == ["page_model"]:
            values["page_model_address"] = _model(content, "page_model", static)
        elif len(content) < INLINE_BYTES:
            buffers.append(buffer)
        else:
            address = _file(content, "bin", static)
            buffers.append({"path": buffer["path"], "encoding": "url", "data": address})
    return {"state": values, "buffers": buffers}


def _model(content: bytes, name: str, static: Path) -> str:
    if len(content) > MAX_MODEL_BYTES:
        raise ValueError(
            f"{name}: the exported model has {len(content):,} bytes, more than the "
            f"{MAX_MODEL_BYTES:,} that a page may ask for; make the model smaller"
        )
    return _file(content, "onnx", static)


def _file(content: bytes, kind: str, static: Path) -> str:
    """Write a file that is named after its content; returns its address."""
    path = static / FOLDER / f"{hashlib.sha256(content).hexdigest()[:32]}.{kind}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return f"{FOLDER}/{path.name}"


@cache
def exported(weights: str, shapes: tuple[tuple[int, ...], ...], whole: bool = False) -> bytes:
    """The ONNX file of a method of a model with reference weights.

    Args:
        weights: name and method, ``vae/mnist_2d:decode_mean``.
        shapes: of one item of each argument.
        whole: the arguments are whole numbers, such as codes.
    """
    # Torch takes seconds to import, and a page without widgets needs none of it.
    from gdm_lib import pretrained, widgets

    name, _, method = weights.partition(":")
    return widgets.export(getattr(pretrained.load(name), method), *shapes, whole=whole)
