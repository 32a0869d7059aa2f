"""``StepThrough``: pictures or points that change step by step, looked at one step at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from torch import Tensor

from gdm_lib.viz.display import CSS_DPI
from gdm_lib.viz.style import COLORS, INK, PALETTE, PAPER
from gdm_lib.widgets._base import Widget, buffer, script
from gdm_lib.widgets._frames import FRAME_BYTES, Picture, enlarged, held, pack, ticks, to_frame

__all__ = ["StepThrough"]

Titles = Sequence[str] | Mapping[str, Sequence[str]]

WIDTH = 420
MARGIN = {"left": 46, "right": 12, "top": 12, "bottom": 34}
"""Around the square in which points move, in CSS pixels."""

RADIUS = 2.2
"""Of a point, in CSS pixels."""

SHADES = 32
"""Colours of points that have numbers."""


class StepThrough(Widget):
    """What happens step by step: the layers of a flow, the pixels of an autoregressive sampler, the
    resolutions of a growing GAN.

    Made by ``images`` or ``points``. Both take the steps of one track, or several tracks by name,
    such as a flow's two directions, among which the reader chooses. All tracks have equally many
    steps. ``titles`` say what each step is; tracks may have titles of their own, by name.
    """

    _esm = script("step_through")

    sheet = buffer()
    """The pictures, a WebP file without loss."""

    places = buffer()
    """The points, 16-bit integers ``(tracks, steps, N, 2)``."""

    paint = buffer()
    """The colour of each point, an 8-bit index into ``spec["hues"]``."""

    @classmethod
    def images(
        cls,
        steps: Sequence[Picture] | Tensor | Mapping[str, Sequence[Picture] | Tensor],
        *,
        titles: Titles | None = None,
        start: int = 0,
        width: int | None = None,
    ) -> StepThrough:
        """Pictures, one a step.

        Args:
            steps: two or more images ``(C, H, W)``, or sets of images ``(N, C, H, W)``, which are
                tiled, with values in [0, 1]; or ``uint8`` arrays ``(H, W)`` or ``(H, W, 3)``.
                Smaller ones are enlarged, without blurring, to the size of the largest.
            titles: what each step shows, besides its number; by default nothing.
            start: the first step shown.
            width: of the picture, in CSS pixels.

        Raises:
            ValueError: fewer than two steps, sizes of different proportions, values out of range,
                not one title for each step, or pictures too large in all.
        """
        tracks = _tracks(steps)
        tall = max([p.shape[-2] for t in tracks.values() for p in t if _is_images(p)], default=0)
        given = [
            [to_frame(_as_tall(picture, tall), f"steps[{i}]") for i, picture in enumerate(track)]
            for track in tracks.values()
        ]
        flat = [
            frame if frame.ndim == 3 else np.stack([frame] * 3, -1) for t in given for frame in t
        ]
        height, across = max(frame.shape[:2] for frame in flat)
        for frame in flat:
            if frame.shape[0] * across != frame.shape[1] * height:
                raise ValueError(
                    f"steps: expected pictures of the same proportions, got {frame.shape[:2]} and "
                    f"{(height, across)}"
                )
        frames = [enlarged(frame, height, across) for frame in flat]
        sheet, layout = pack(frames)
        width = width or min(640, across * max(1, WIDTH // across))
        scale = max(1, round(width / across))
        return cls(
            {"mode": "images", "layout": layout},
            _says(tracks, titles, start),
            start,
            width=width,
            aspect=across / height,
            poster=enlarged(frames[start], height * scale, across * scale),
            sheet=held(sheet, "steps"),
        )

    @classmethod
    def points(
        cls,
        steps: Tensor | np.ndarray | Mapping[str, Tensor | np.ndarray],
        *,
        extent: tuple[float, float, float, float],
        titles: Titles | None = None,
        colours: Tensor | np.ndarray | None = None,
        labels: tuple[str, str] = ("x₁", "x₂"),
        start: int = 0,
        width: int = WIDTH,
    ) -> StepThrough:
        """Points of the plane that move from step to step.

        Positions are stored in 16 bits over twice the extent: there they are exact to 1 / 65,534 of
        its width and height, much less than a pixel. A point further out is moved to the edge of
        that, out of sight.

        Args:
            steps: ``(L + 1, N, 2)``, the positions before and after each of L layers.
            extent: ``(left, right, bottom, top)`` of the part of the plane that is shown.
            titles: what each step shows, besides its number; by default nothing.
            colours: ``(N,)``, to follow points by: classes, integers from 0 to 5, get a colour
                each; floating-point numbers get shades from the least to the largest.
            labels: of the two axes.
            start: the first step shown.
            width: of the picture, in CSS pixels.

        Raises:
            ValueError: shapes that do not fit, numbers that are not finite, an empty extent, too
                many classes, or too many points to store.
        """
        tracks = {
            name: _positions(np.asarray(_cpu(track))) for name, track in _tracks(steps).items()
        }
        shapes = {track.shape for track in tracks.values()}
        if len(shapes) != 1:
            raise ValueError(f"steps: expected tracks of one shape, got {sorted(shapes)}")
        left, right, bottom, top = (float(side) for side in extent)
        if not (left < right and bottom < top and np.isfinite(extent).all()):
            raise ValueError(f"extent: expected left < right and bottom < top, got {tuple(extent)}")
        every = np.stack(list(tracks.values()))
        middle = np.array([left + right, bottom + top]) / 2
        size = np.array([right - left, top - bottom])
        places = np.rint(((every - middle) / size).clip(-1, 1) * 32_767).astype("<i2")
        if places.nbytes > FRAME_BYTES:
            raise ValueError(
                f"steps: {places.shape[2]} points take {places.nbytes:,} bytes, and a notebook "
                f"carries at most {FRAME_BYTES:,} for a widget; take fewer points or steps"
            )
        hues, paint = _hues(colours, every.shape[2])
        says = _says(tracks, titles, start)
        for name, track in tracks.items():
            outside = (np.abs(track - middle) > size / 2).any(-1).sum(-1)
            says[name] = [
                f"{said} {count} of {len(track[0])} points {'lies' if count == 1 else 'lie'} "
                "outside the picture."
                if count
                else said
                for said, count in zip(says[name], outside, strict=True)
            ]
        inner = width - MARGIN["left"] - MARGIN["right"]
        height = round(inner * size[1] / size[0]) + MARGIN["top"] + MARGIN["bottom"]
        spec = {
            "mode": "points",
            "shape": list(places.shape),
            "extent": [left, right, bottom, top],
            "margin": MARGIN,
            "radius": RADIUS,
            "ticks": [ticks(left, right), ticks(bottom, top)],
            "labels": list(labels),
            "hues": hues,
        }
        shown = [hues[i] for i in paint]
        return cls(
            spec,
            says,
            start,
            width=width,
            aspect=width / height,
            poster=_drawn(spec, every[0, start], shown, width, height),
            places=places.tobytes(),
            paint=paint.tobytes(),
        )

    def __init__(
        self,
        spec: Mapping[str, Any],
        says: Mapping[str, Sequence[str]],
        start: int,
        **rest: Any,
    ) -> None:
        names = list(says)
        super().__init__(
            {**spec, "tracks": names, "says": [list(track) for track in says.values()]},
            rows=2 + (len(names) > 1),
            alt=says[names[0]][start],
            values={"step": start, **({"track": 0} if len(names) > 1 else {})},
            **rest,
        )


def _is_images(picture: Any) -> bool:
    return isinstance(picture, Tensor) and picture.dim() in (3, 4)


def _as_tall(picture: Any, height: int) -> Any:
    """Images enlarged before they are tiled, so that the gaps are the same at every size."""
    if not _is_images(picture) or picture.shape[-2] == height:
        return picture
    batch = picture if picture.dim() == 4 else picture[None]
    size = height, round(height * batch.shape[-1] / batch.shape[-2])
    large = torch.nn.functional.interpolate(batch.float(), size)
    return large if picture.dim() == 4 else large[0]


def _cpu(values: Any) -> Any:
    return values.detach().cpu() if isinstance(values, Tensor) else values


def _tracks(steps: Any) -> dict[str, Any]:
    """Tracks by name; the only one has none."""
    tracks = dict(steps) if isinstance(steps, Mapping) else {"": steps}
    lengths = {name: len(track) for name, track in tracks.items()}
    if len(set(lengths.values())) != 1 or min(lengths.values()) < 2:
        found = ", ".join(f"{name} {count}".strip() for name, count in lengths.items()) or "none"
        raise ValueError(f"steps: expected two or more, equally many in each track, got {found}")
    return tracks


def _says(tracks: Mapping[str, Any], titles: Titles | None, start: int) -> dict[str, list[str]]:
    """What is said of each step of each track."""
    count = len(next(iter(tracks.values())))
    if not 0 <= start < count:
        raise ValueError(f"start: expected a step from 0 to {count - 1}, got {start}")
    given = [""] * count if titles is None else titles
    own = given if isinstance(given, Mapping) else dict.fromkeys(tracks, given)
    found = {name: len(one) for name, one in own.items()}
    if found != dict.fromkeys(tracks, count):
        raise ValueError(f"titles: expected {count} for each track, got {found}")
    said: dict[str, list[str]] = {}
    for name in tracks:
        said[name] = []
        for i, title in enumerate(own[name]):
            text = f"{f'{name}, step' if name else 'Step'} {i} of {count - 1}"
            if title and title.lower() != f"step {i}":  # which says nothing new
                text += f": {title}"
            said[name].append(text if text.endswith((".", "!", "?")) else f"{text}.")
    return said


def _positions(track: np.ndarray) -> np.ndarray:
    if track.ndim != 3 or track.shape[2] != 2 or not track.shape[1]:
        raise ValueError(f"steps: expected positions (L + 1, N, 2), got {track.shape}")
    bad = np.flatnonzero(~np.isfinite(track).all((1, 2)))
    if len(bad):
        raise ValueError(f"steps: expected finite positions, got NaN or infinity in step {bad[0]}")
    return track.astype(np.float64)


def _hues(colours: Tensor | np.ndarray | None, count: int) -> tuple[list[str], np.ndarray]:
    """Colours, and for each point the place of its own among them."""
    if colours is None:
        return [COLORS["model"]], np.zeros(count, np.uint8)
    given = np.asarray(_cpu(colours))
    if given.shape != (count,) or not np.isfinite(given).all():
        raise ValueError(
            f"colours: expected ({count},) finite numbers, one for each point, got {given.shape}"
        )
    if np.issubdtype(given.dtype, np.floating):
        # The light end of the map would be lost on the paper.
        shades = matplotlib.colormaps["viridis"](np.linspace(0, 0.82, SHADES))
        span = np.ptp(given) or 1.0
        place = ((given - given.min()) / span * (SHADES - 1)).round()
        return [to_hex(shade) for shade in shades], place.astype(np.uint8)
    if given.min() < 0 or given.max() >= len(PALETTE):
        raise ValueError(
            f"colours: expected classes from 0 to {len(PALETTE) - 1}, got {given.min()} to "
            f"{given.max()}; numbers of floating point get shades"
        )
    return list(PALETTE), given.astype(np.uint8)


def _drawn(
    spec: Mapping[str, Any], points: np.ndarray, shown: Sequence[str], width: int, height: int
) -> np.ndarray:
    """The still picture, where the script will draw its own."""
    margin = spec["margin"]
    figure = Figure(figsize=(width / CSS_DPI, height / CSS_DPI), dpi=2 * CSS_DPI, facecolor=PAPER)
    figure.set_layout_engine("none")
    box = (
        margin["left"] / width,
        margin["bottom"] / height,
        1 - (margin["left"] + margin["right"]) / width,
        1 - (margin["top"] + margin["bottom"]) / height,
    )
    ax = figure.add_axes(box, facecolor=PAPER)
    left, right, bottom, top = spec["extent"]
    diameter = 2 * spec["radius"] * 72 / CSS_DPI
    ax.scatter(points[:, 0], points[:, 1], s=diameter**2, c=list(shown), alpha=0.8, linewidths=0)
    ax.set(xlim=(left, right), ylim=(bottom, top))
    ax.set_xticks(*zip(*spec["ticks"][0], strict=True))
    ax.set_yticks(*zip(*spec["ticks"][1], strict=True))
    ax.grid(False)
    ax.tick_params(labelsize=9, labelcolor=INK, length=0)
    for spine in ax.spines.values():
        spine.set(visible=True, color="#c9c6bc", linewidth=0.75)
    for axis, label in zip("xy", spec["labels"], strict=True):
        ax.annotate(
            label,
            (1, 0) if axis == "x" else (0, 1),
            (-4, 4) if axis == "x" else (4, -4),
            xycoords="axes fraction",
            textcoords="offset points",
            ha="right" if axis == "x" else "left",
            va="bottom" if axis == "x" else "top",
            fontsize=9,
            color=INK,
        )
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
