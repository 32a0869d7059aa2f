"""What every widget of the book shares: its scripts, its still picture, and how it is answered.

A widget is an `anywidget <https://anywidget.dev>`_. Its script asks for numbers, by name and with
arrays, and paints what comes back. In JupyterLab this module answers, with the kernel's torch
model. On a published page, which has no kernel, the site's ``host.js`` revives the same script
from the stored state and answers with the same model exported to ONNX. The script can't tell.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gdm_lib import pretrained
from gdm_lib._lazy import needs
from gdm_lib.viz.display import encode_png, image_html
from gdm_lib.viz.style import COLORS, INK, PALETTE, PAPER

with needs("gdm_lib.widgets", "book"):
    import anywidget
    import traitlets

__all__ = ["EMBED_BYTES", "Widget", "buffer", "script"]

EMBED_BYTES = 300_000
"""The largest model that a notebook carries itself; a larger one needs reference weights."""

ROW = 44
"""Height of a control, in CSS pixels: what a finger needs (WCAG 2.5.5)."""

STATUS = 56
"""Room for the line beneath the controls, in CSS pixels."""

STILL = "The last picture drawn. It follows its controls in JupyterLab once its cell has run"
ALONE = ", and on this page with JavaScript"

Functions = Mapping[str, Callable[..., Tensor]]


def script(name: str) -> str:
    """The source of a widget's script: what all share, and its own. A module can't import another
    in JupyterLab, so they are joined here."""
    folder = files("gdm_lib.widgets")
    return "\n".join((folder / f"{part}.js").read_text("utf-8") for part in ("core", name))


def stylesheet() -> str:
    """The style sheet of all widgets."""
    return (files("gdm_lib.widgets") / "widgets.css").read_text("utf-8")


def counted(number: int, noun: str) -> str:
    """``1 sample``, ``2 samples``: a number and a noun whose plural ends in s."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def buffer() -> traitlets.Bytes:
    """A trait of bytes that the script reads, such as frames."""
    return traitlets.Bytes().tag(sync=True)


class Widget(anywidget.AnyWidget):
    """The base of the book's widgets.

    A subclass sets ``_esm = script("its_name")`` and gives what its script reads in ``spec``, and
    more in traits that are each a ``buffer()``. A widget that needs a model passes ``functions``.

    Args:
        spec: JSON values for the script; never changed later.
        width: of the picture at most, in CSS pixels.
        aspect: width of the picture over its height.
        rows: how many controls stand beneath the picture.
        poster: the still picture, ``(H, W)`` or ``(H, W, 3)`` of 8 bits.
        alt: what the still picture shows.
        values: the first values of the controls, by name.
        functions: what the script may ask for, from arrays to one array.
        page_model: the ONNX file of ``functions["decode"]`` for a page without kernel.
        buffers: other traits, such as frames.
    """

    _css = stylesheet()

    _takes = torch.float32
    """The dtype that ``functions`` take; the script sends 32-bit floats always."""

    spec = traitlets.Dict().tag(sync=True)
    """What the script reads once."""

    values = traitlets.Dict().tag(sync=True)
    """The values of the controls, by name; they follow the reader's hand, and can be set."""

    poster = buffer()
    """The still picture, a PNG file."""

    in_page = traitlets.Bool(False).tag(sync=True)
    """Whether a page without kernel shows this widget; set by the page."""

    page_model = buffer()
    """The exported model that the page runs, if the notebook carries it."""

    page_weights = traitlets.Unicode().tag(sync=True)
    """Else the name of reference weights and of the function, ``vae/mnist_2d:decode_mean``, from
    which the site exports the model when it is built."""

    def __init__(
        self,
        spec: Mapping[str, Any],
        *,
        width: int,
        aspect: float,
        rows: int,
        poster: np.ndarray,
        alt: str,
        values: Mapping[str, Any] | None = None,
        functions: Functions | None = None,
        page_model: bytes | None = None,
        **buffers: Any,
    ) -> None:
        self._functions = dict(functions or {})
        self._alt = alt
        if page_model is not None and len(page_model) > EMBED_BYTES:
            raise ValueError(
                f"page_model: expected at most {EMBED_BYTES:,} bytes, which the notebook carries, "
                f"got {len(page_model):,}; make reference weights of a larger model (gdm train)"
            )
        decode = self._functions.get("decode")
        weights = "" if page_model or decode is None else _reference(decode)
        alone = decode is None or bool(page_model or weights)
        self._line = f"{STILL}{ALONE if alone else ''}."
        colours = {**COLORS, "ink": INK, "paper": PAPER, "palette": list(PALETTE)}
        super().__init__(
            spec={
                **spec,
                **{"width": width, "aspect": round(aspect, 4), "rows": rows, "alone": alone},
                "colours": colours,
            },
            values=dict(values or {}),
            poster=encode_png(_rgb(poster)),
            page_model=page_model or b"",
            page_weights=weights,
            **buffers,
        )
        self.on_msg(self._receive)

    @torch.no_grad()
    def answer(self, name: str, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """What the script gets when it asks: one of the widget's functions of ``arrays``.

        Args:
            name: of the function.
            arrays: its arguments.

        Returns:
            The result, 32-bit floating point.

        Raises:
            ValueError: there is no such function.
        """
        if name not in self._functions:
            known = ", ".join(self._functions) or "none"
            raise ValueError(f"name: expected a function of this widget ({known}), got {name!r}")
        inputs = [torch.from_numpy(np.array(a, np.float32)).to(self._takes) for a in arrays]
        return self._functions[name](*inputs).float().cpu().numpy()

    def _receive(self, _widget: Any, content: Mapping[str, Any], buffers: Sequence[Any]) -> None:
        """Answer a message of the script; what goes wrong is said there, not in a log."""
        if content.get("kind") != "ask":
            return
        reply = {"id": content["id"]}
        try:
            arrays = [
                np.frombuffer(buffer, np.float32).reshape(shape)
                for shape, buffer in zip(content["shapes"], buffers, strict=True)
            ]
            result = np.ascontiguousarray(self.answer(content["name"], arrays), np.float32)
        except Exception as error:
            self.send({**reply, "kind": "failed", "reason": f"{type(error).__name__}: {error}"})
        else:
            self.send({**reply, "kind": "answer", "shape": list(result.shape)}, [result.tobytes()])

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """The live view; beside it the still picture in the room that the live one will take."""
        data, metadata = super()._repr_mimebundle_() or ({}, {})
        more = {"text/plain": f"[widget: {self._alt}]", "text/html": self._still()}
        return {**data, **more}, metadata

    def _still(self) -> str:
        """The picture, in a frame of the live widget's size, so that the page doesn't jump."""
        size = f"--gdm-width:{self.spec['width']}px;--gdm-aspect:{self.spec['aspect']}"
        image = image_html(self.poster, alt=self._alt, width=self.spec["width"])
        return (
            f'<figure class="gdm-figure gdm-widget" data-gdm-widget="{self.model_id}" '
            f'data-gdm-alone="{str(self.spec["alone"]).lower()}" '
            f'style="margin:0.5em 0;{size}">\n<div class="gdm-stage">{image}</div>\n'
            f'<div class="gdm-room" style="height:{self.spec["rows"] * ROW}px"></div>\n'
            f'<figcaption class="gdm-status">{html.escape(self._line)}</figcaption>\n</figure>'
        )


def _reference(function: Callable[..., Tensor]) -> str:
    """The reference weights of a bound method's model, and the method: ``vae/mnist_2d:decode``."""
    model = getattr(function, "__self__", function)
    name = pretrained.identify(model) if isinstance(model, nn.Module) else None
    method = "forward" if model is function else function.__name__
    return f"{name}:{method}" if name else ""


def _rgb(pixels: np.ndarray) -> np.ndarray:
    return np.repeat(pixels[..., None], 3, -1) if pixels.ndim == 2 else pixels
