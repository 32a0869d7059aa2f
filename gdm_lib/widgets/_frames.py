"""Pictures rendered beforehand, all in one compressed sheet."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image
from torch import Tensor

from gdm_lib.viz.display import LARGE_ERROR, MEAN_ERROR
from gdm_lib.viz.plots import to_mosaic, to_pixels

__all__ = [
    "FRAME_BYTES",
    "Picture",
    "enlarged",
    "fewer_colours",
    "held",
    "pack",
    "ticks",
    "to_frame",
]

Picture = np.ndarray | Tensor | Figure
"""What a frame can be made of."""

FRAME_BYTES = 300_000
"""The largest sheet that a widget stores in its notebook."""

MAX_SIDE = 16_383
"""Of a WebP file."""


def pack(frames: Sequence[np.ndarray]) -> tuple[bytes, dict[str, Any]]:
    """Put frames into one sheet, equal ones once, and compress it without loss.

    Args:
        frames: each ``(H, W)`` or ``(H, W, 3)`` of 8 bits, all of one shape.

    Returns:
        A WebP file, and what ``unpack`` of ``core.js`` needs to find the frames in it:
        ``height``, ``width``, ``columns``, and for each frame its place in ``index``.

    Raises:
        ValueError: no frames, other than 8 bits, different shapes, or too many for one sheet.
    """
    shapes = {(frame.shape, str(frame.dtype)) for frame in frames}
    if len(shapes) != 1 or next(iter(shapes))[1] != "uint8":
        found = ", ".join(f"{shape} {kind}" for shape, kind in sorted(shapes)) or "none"
        raise ValueError(f"frames: expected arrays of one shape and of uint8, got {found}")
    height, width = frames[0].shape[:2]
    places: dict[bytes, int] = {}
    index = [places.setdefault(frame.tobytes(), len(places)) for frame in frames]
    columns = max(1, min(MAX_SIDE // width, math.ceil(math.sqrt(len(places) * height / width))))
    rows = math.ceil(len(places) / columns)
    if rows * height > MAX_SIDE:
        raise ValueError(
            f"frames: {len(places)} different ones of {height} x {width} pixels do not fit on a "
            f"sheet of {MAX_SIDE} x {MAX_SIDE}; take fewer or smaller ones"
        )
    sheet = np.zeros((rows * height, columns * width, *frames[0].shape[2:]), np.uint8)
    for frame, place in zip(frames, index, strict=True):
        y, x = (place // columns) * height, (place % columns) * width
        sheet[y : y + height, x : x + width] = frame
    file = io.BytesIO()
    Image.fromarray(sheet).save(file, "WEBP", lossless=True, quality=100, method=4)
    return file.getvalue(), {"height": height, "width": width, "columns": columns, "index": index}


def to_frame(picture: Picture, what: str) -> np.ndarray:
    """One frame, 8 bits: ``(H, W)`` or ``(H, W, 3)``.

    Args:
        picture: an array that is a frame already, an image ``(C, H, W)`` or several
            ``(N, C, H, W)``, which are tiled, with C = 1 or 3 and values in [0, 1], or a figure,
            which is drawn and closed.
        what: of whom errors speak.

    Raises:
        ValueError: another shape, type or range.
    """
    if isinstance(picture, Figure):
        file = io.BytesIO()
        picture.savefig(file, format="png", dpi=plt.rcParams["savefig.dpi"])
        plt.close(picture)
        return np.asarray(Image.open(file).convert("RGB"))
    if isinstance(picture, Tensor):
        images = picture.detach().cpu().float()
        images = images[None] if images.dim() == 3 else images
        if images.dim() != 4 or images.shape[1] not in (1, 3) or 0 in images.shape:
            raise ValueError(
                f"{what}: expected an image (C, H, W) or images (N, C, H, W), C = 1 or 3, "
                f"got a tensor {tuple(picture.shape)}"
            )
        if not ((images >= 0) & (images <= 1)).all():
            low, high = images.min(), images.max()
            found = (
                f"{low:.3g} to {high:.3g}" if torch.isfinite(images).all() else "NaN or infinity"
            )
            raise ValueError(f"{what}: expected values in [0, 1], got {found}")
        columns, gap = math.ceil(math.sqrt(len(images))), max(1, round(images.shape[-1] / 14))
        return (to_mosaic(to_pixels(images, 0.0, 1.0), columns, gap)[0] * 255).round().astype("u1")
    array = np.asarray(picture)
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or array.shape[2:] not in ((), (3,)):
        raise ValueError(
            f"{what}: expected a uint8 array (H, W) or (H, W, 3), a tensor or a figure, got "
            f"{type(picture).__name__} {array.shape} {array.dtype}"
        )
    return array


def fewer_colours(frames: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Figures with the smallest palette that looks the same, one for all of them."""
    stack = np.concatenate(frames)
    for colours in (32, 64, 128, 256):
        small = Image.fromarray(stack).quantize(
            colours, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE
        )
        same = np.asarray(small.convert("RGB"))
        error = np.abs(same.astype(np.int16) - stack)
        if error.mean() < MEAN_ERROR and np.quantile(error, 0.99) <= LARGE_ERROR:
            return np.split(same, len(frames))
    return list(frames)


def enlarged(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """A frame enlarged to a size without blurring."""
    if frame.shape[:2] == (height, width):
        return frame
    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.NEAREST))


def held(sheet: bytes, what: str) -> bytes:
    """The sheet, if it is not too large to store."""
    if len(sheet) > FRAME_BYTES:
        raise ValueError(
            f"{what}: the frames take {len(sheet):,} bytes, and a notebook carries at most "
            f"{FRAME_BYTES:,} for a widget; take fewer values, smaller pictures or fewer colours"
        )
    return sheet


def ticks(low: float, high: float) -> list[tuple[float, str]]:
    """A few round numbers within an interval, and their texts."""
    ticks = MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low, high)
    slack = 1e-9 * (high - low)
    within = [round(float(t), 10) + 0.0 for t in ticks if low - slack <= t <= high + slack]
    return [(tick, f"{tick:g}".replace("-", "\N{MINUS SIGN}")) for tick in within]
