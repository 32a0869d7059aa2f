"""Pictures that a reader moves: sliders over what a decoder makes of a latent.

The kernel draws each picture. Where there is none, as on a published page, the notebook's stored
output shows the last picture that was drawn.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets
import torch
from PIL import Image
from torch import Tensor

from gdm_lib.viz.display import figure_html
from gdm_lib.viz.plots import to_mosaic, to_pixels

__all__ = ["Explorer", "interpolation", "latent_plane", "lerp", "slerp"]

WIDE = {"width": "min(100%, 360px)"}
STATIC = "The last picture drawn. With a running kernel, as in JupyterLab, it follows its controls."


class Explorer:
    """A picture above the controls that change it.

    Args:
        draw: the values of the controls, in order, to images ``(N, C, H, W)`` in [0, 1], shown
            side by side. It must keep their shape.
        controls: widgets with a ``value``.
        describe: the values of the controls to a sentence that says what the picture shows.
        size: about the height of an image on the page, in CSS pixels.
    """

    png: bytes
    """The file of the current picture."""

    controls: tuple[Any, ...]
    """The widgets given, in order."""

    box: ipywidgets.VBox
    """The picture and the controls as one widget."""

    def __init__(
        self,
        draw: Callable[..., Tensor],
        controls: Sequence[Any],
        *,
        describe: Callable[..., str],
        size: int = 256,
    ) -> None:
        self._draw = draw
        self._describe = describe
        self._size = size
        self.controls = tuple(controls)
        # Not an Image widget, which has no alternative text.
        self._view = ipywidgets.HTML()
        self._update()
        self.box = ipywidgets.VBox([self._view, *self.controls])
        for control in self.controls:
            control.observe(self._update, names="value")

    @property
    def alt(self) -> str:
        """What the current picture shows."""
        return self._describe(*[control.value for control in self.controls])

    @torch.no_grad()
    def _update(self, _change: Any = None) -> None:
        images = to_pixels(self._draw(*[control.value for control in self.controls]), 0.0, 1.0)
        scale = max(1, self._size // images.shape[1])
        large = images.repeat(scale, axis=1).repeat(scale, axis=2)
        mosaic, _, _ = to_mosaic(large, len(large), gap=12)
        file = io.BytesIO()
        Image.fromarray((mosaic * 255).round().astype("uint8")).save(file, format="PNG")
        self.png = file.getvalue()
        self._width = mosaic.shape[1]
        self._view.value = figure_html(self.png, alt=self.alt, width=self._width)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        """The live view, and for a page without a kernel the picture with its alternative text."""
        bundle: dict[str, Any] = self.box._repr_mimebundle_()
        bundle["text/plain"] = f"[widget: {self.alt}]"
        bundle["text/html"] = figure_html(self.png, alt=self.alt, caption=STATIC, width=self._width)
        return bundle


def _slider(description: str, low: float, high: float, value: float, step: float) -> Any:
    return ipywidgets.FloatSlider(
        value=value,
        min=low,
        max=high,
        step=step,
        description=description,
        readout_format=".2f",
        layout=WIDE,
    )


def latent_plane(
    decode: Callable[[Tensor], Tensor],
    *,
    reach: float = 3.0,
    start: tuple[float, float] = (0.0, 0.0),
) -> Explorer:
    """Two sliders that move through a two-dimensional latent.

    Args:
        decode: latents ``(B, 2)`` to mean images ``(B, C, H, W)`` in [0, 1].
        reach: each slider runs from ``-reach`` to ``reach``.
        start: the first latent shown.

    Raises:
        ValueError: if ``start`` is out of reach, or ``decode`` gives another shape.
    """
    if not reach > 0 or any(abs(value) > reach for value in start):
        raise ValueError(f"start: expected two values within ±{reach}, got {start}")

    def draw(z1: float, z2: float) -> Tensor:
        return _decoded(decode, torch.tensor([[z1, z2]]))

    return Explorer(
        draw,
        [
            _slider(name, -reach, reach, value, 0.05)
            for name, value in zip(("z₁", "z₂"), start, strict=True)
        ],
        describe=lambda z1, z2: f"What the decoder makes of z = ({z1:.2f}, {z2:.2f}).",
    )


def interpolation(
    decode: Callable[[Tensor], Tensor],
    z_a: Tensor,
    z_b: Tensor,
    *,
    names: Sequence[str] | None = None,
) -> Explorer:
    """A slider from one latent to another, shown between the pictures of the two.

    Args:
        decode: latents ``(B, D)`` to mean images ``(B, C, H, W)`` in [0, 1].
        z_a: where each pair starts, ``(P, D)``; a menu chooses among the ``P`` pairs.
        z_b: where each pair ends, ``(P, D)``.
        names: one for each pair; by default "pair 1" and so on.

    Raises:
        ValueError: if the shapes differ, or there is not one name for each pair.
    """
    if z_a.dim() != 2 or z_a.shape != z_b.shape or not len(z_a):
        raise ValueError(
            "z_a, z_b: expected the same shape (P, D) with P >= 1, "
            f"got {tuple(z_a.shape)} and {tuple(z_b.shape)}"
        )
    names = [f"pair {i + 1}" for i in range(len(z_a))] if names is None else list(names)
    if len(names) != len(z_a):
        raise ValueError(f"names: expected {len(z_a)} of them, got {len(names)}")
    z_a, z_b = z_a.detach().clone(), z_b.detach().clone()

    def draw(pair: int, path: Callable[[Tensor, Tensor, float], Tensor], t: float) -> Tensor:
        a, b = z_a[pair], z_b[pair]
        return _decoded(decode, torch.stack([a, path(a, b, t), b]))

    def describe(pair: int, path: Callable[[Tensor, Tensor, float], Tensor], t: float) -> str:
        way = next(name for name, function in PATHS if function is path)
        return f"Three pictures: {names[pair]}, its start, {t:.0%} of the way ({way}), its end."

    return Explorer(
        draw,
        [
            ipywidgets.Dropdown(
                options=[(name, i) for i, name in enumerate(names)], value=0, description="between"
            ),
            ipywidgets.ToggleButtons(
                options=PATHS,
                value=lerp,
                description="along",
                style={"button_width": "100px"},
                layout=WIDE,
            ),
            _slider("t", 0.0, 1.0, 0.5, 0.02),
        ],
        describe=describe,
        size=160,
    )


def lerp(z_a: Tensor, z_b: Tensor, t: float) -> Tensor:
    """The point at ``t`` of the straight line from ``z_a`` (``(D,)``) to ``z_b``."""
    return (1 - t) * z_a + t * z_b


def slerp(z_a: Tensor, z_b: Tensor, t: float) -> Tensor:
    """The point at ``t`` of the great circle from ``z_a`` (``(D,)``) to ``z_b``.

    White 2016 (https://arxiv.org/abs/1609.04468): with the angle ``w`` between the two,
    ``(sin((1 - t) w) z_a + sin(t w) z_b) / sin(w)``. Where the circle is not defined, between
    parallel or opposite vectors or from the origin, it is the straight line.
    """
    cosine = torch.dot(z_a, z_b) / (z_a.norm() * z_b.norm())
    if not cosine.abs() < 1 - 1e-6:
        return lerp(z_a, z_b, t)
    angle = cosine.acos()
    return (((1 - t) * angle).sin() * z_a + (t * angle).sin() * z_b) / angle.sin()


PATHS = (("straight line", lerp), ("great circle", slerp))


def _decoded(decode: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    images = decode(z)
    if images.dim() != 4 or len(images) != len(z):
        raise ValueError(
            f"decode: expected images ({len(z)}, C, H, W) from latents {tuple(z.shape)}, "
            f"got {tuple(images.shape)}"
        )
    return images
