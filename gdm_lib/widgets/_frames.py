"""Pictures rendered beforehand, all in one compressed sheet."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

__all__ = ["pack"]

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
    Image.fromarray(sheet).save(file, "WEBP", lossless=True, quality=100, method=6)
    return file.getvalue(), {"height": height, "width": width, "columns": columns, "index": index}
