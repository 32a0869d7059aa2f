"""``Sweep``: a function of one or two parameters, rendered beforehand, for what no page can run."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import as_file, files

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure

from gdm_lib.viz.display import CSS_DPI
from gdm_lib.widgets._base import Widget, buffer, script
from gdm_lib.widgets._frames import Picture, enlarged, fewer_colours, held, pack, to_frame

__all__ = ["Sweep"]

Value = float | str
WIDTH = 420
"""Small pictures are enlarged to about this width, in CSS pixels."""


class Sweep(Widget):
    """Pictures of each value of one parameter, or of each pair of values of two.

    Args:
        render: makes the picture from one value of each parameter, in their order: an image
            ``(C, H, W)`` or several ``(N, C, H, W)``, which are tiled, with values in [0, 1]; a
            ``uint8`` array ``(H, W)`` or ``(H, W, 3)``; or a matplotlib figure, which takes the
            book's style and is closed. All are of one size.
        parameters: one or two, each with two or more values by its name. Numbers get a slider
            that goes from value to value, so they need not be evenly spaced; texts get a menu.
        start: the first value of some parameters, by name; else it is the first given.
        describe: says in a sentence what the picture for these values shows, for those who can't
            see it. By default, the names and the values.
        width: of the picture, in CSS pixels.

    Raises:
        ValueError: not one or two parameters, one with fewer than two values or equal ones, a
            ``start`` that is not among them, pictures of different sizes, or too large in all.
    """

    _esm = script("sweep")

    sheet = buffer()
    """All pictures, a WebP file without loss."""

    def __init__(
        self,
        render: Callable[..., Picture],
        parameters: Mapping[str, Sequence[Value]],
        *,
        start: Mapping[str, Value] | None = None,
        describe: Callable[..., str] | None = None,
        width: int | None = None,
    ) -> None:
        lists = {name: _values(name, given) for name, given in parameters.items()}
        if len(lists) not in (1, 2):
            found = ", ".join(lists) or "none"
            raise ValueError(f"parameters: expected one or two, got {len(lists)} ({found})")
        first = {name: values[0] for name, values in lists.items()} | dict(start or {})
        for name, value in first.items():
            if value not in lists.get(name, []):
                raise ValueError(
                    f"start: expected one of the values of a parameter, got {name} = {value!r}"
                )
        points = list(itertools.product(*lists.values()))
        said = [
            ", ".join(f"{n} {_text(v)}" for n, v in zip(lists, point, strict=True))
            for point in points
        ]
        pictures, figures = _rendered(render, points, said)
        frames = fewer_colours(pictures) if figures else pictures
        sheet, layout = pack(frames)
        says = [describe(*point) for point in points] if describe else [f"{s}." for s in said]
        at = points.index(tuple(first.values()))
        height, across = frames[0].shape[:2]
        if width is None:
            width = round(across * CSS_DPI / figures) if figures else _enlarged_width(across)
        scale = max(1, round(width / across))
        super().__init__(
            {
                "parameters": [
                    {
                        "name": name,
                        "items": values,
                        "texts": [_text(value) for value in values],
                        "menu": isinstance(values[0], str) or len(values) == 2,
                    }
                    for name, values in lists.items()
                ],
                "says": says,
                "layout": layout,
            },
            width=width,
            aspect=across / height,
            rows=len(lists),
            poster=enlarged(frames[at], height * scale, across * scale),
            alt=says[at],
            values=first,
            sheet=held(sheet, "render"),
        )


def _values(name: str, given: Sequence[Value]) -> list[Value]:
    """The values of a parameter as plain numbers or texts."""
    values = [v.item() if isinstance(v, np.generic | torch.Tensor) else v for v in given]
    texts = all(isinstance(value, str) for value in values)
    numbers = all(isinstance(value, int | float) for value in values)
    if len(values) < 2 or len(set(values)) < len(values) or not (texts or numbers):
        raise ValueError(
            f"parameters: expected two or more different numbers, or texts, for {name!r}, "
            f"got {values}"
        )
    return values


def _text(value: Value) -> str:
    return value if isinstance(value, str) else f"{value:g}".replace("-", "\N{MINUS SIGN}")


@torch.no_grad()
def _rendered(
    render: Callable[..., Picture], points: Sequence[tuple[Value, ...]], said: Sequence[str]
) -> tuple[list[np.ndarray], float]:
    """The frames; and the dots per inch if they were figures, else 0."""
    frames: list[np.ndarray] = []
    figures = 0.0
    with as_file(files("gdm_lib.viz") / "book.mplstyle") as path, plt.style.context(path):
        for point, where in zip(points, said, strict=True):
            picture = render(*point)
            if isinstance(picture, Figure):
                figures = float(plt.rcParams["savefig.dpi"])
            frames.append(to_frame(picture, f"render at {where}"))
            if frames[-1].shape != frames[0].shape:
                raise ValueError(
                    f"render: expected pictures of one size, got {frames[0].shape} at {said[0]} "
                    f"and {frames[-1].shape} at {where}"
                )
    return frames, figures


def _enlarged_width(width: int) -> int:
    return min(640, width * max(1, WIDTH // width))
