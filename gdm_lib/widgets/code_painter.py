"""``CodePainter``: paint on the grid of an image's codes, and the decoder's picture follows. The
decoder itself answers, in JupyterLab and on a page without kernel."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image, ImageColor, ImageDraw
from torch import Tensor

from gdm_lib._inputs import a_tensor, batch_of, check, check_count, levels_of
from gdm_lib.viz.plots import to_mosaic, to_pixels
from gdm_lib.viz.style import COLORS, PAPER
from gdm_lib.widgets._base import Widget, buffer, script

__all__ = ["CodePainter"]

Decode = Callable[[Tensor], Tensor]
SIDE = 300
GAP = 8
TALLEST = 1.4
"""Height of a panel over its width, at most."""

MOST = 1024
"""Codes that a palette can show."""

PART = 64
"""Grids that are decoded at a time."""


class CodePainter(Widget):
    """The codes of an image, the decoder's picture of them, and a palette to paint with.

    A model with reference weights, and one trained in the notebook::

        CodePainter(model.decode_mean, model.encode(x), count=model.quantiser.count)
        CodePainter(small.decode_mean, small.encode(x), count=64,
                    page_model=export(small.decode_mean, small.grid, whole=True))

    Each cell shows what its code looks like by itself: the middle of the picture that the decoder
    makes of a grid with no other code. An edge, which no grid of one code has, shows better in the
    mean of what has the code in the data: pass that as ``colours``. The palette runs from dark to
    light.

    Args:
        decode: codes, int64 ``(B, h, w)``, to images ``(B, C, H, W)`` in [0, 1], C = 1 or 3. On a
            page without kernel it runs too if it is a method of a model with reference weights,
            found by their values, or if ``page_model`` is given.
        codes: int64 ``(P, h, w)``, the grids to start from.
        count: ``K``, how many codes there are, at most 1,024.
        names: one for each grid; "image 1" and so on by default.
        colours: shown for the codes instead: ``(K, 3)`` or, as small pictures, ``(K, C, p, q)``, in
            [0, 1].
        originals: ``(P, C, H, W)`` in [0, 1], the images that were encoded, to compare with.
        page_model: the ONNX file of ``decode``, by ``export(..., whole=True)``.

    Raises:
        TypeError: ``codes`` is no tensor.
        ValueError: shapes, ranges or numbers of things that do not fit.
    """

    _esm = script("code_painter")
    _takes = torch.int64

    patches = buffer()
    """What each code looks like, ``(K, height, width, 3)`` of 8 bits."""

    originals = buffer()
    """The encoded images, ``(P, H, W, 3)`` of 8 bits; empty if they were not given."""

    def __init__(
        self,
        decode: Decode,
        codes: Tensor,
        *,
        count: int,
        names: Sequence[str] | None = None,
        colours: Tensor | None = None,
        originals: Tensor | None = None,
        page_model: bytes | None = None,
    ) -> None:
        check_count("count", count, 1)
        if count > MOST:
            raise ValueError(
                f"count: expected at most {MOST:,} codes, which a palette can show, got {count:,}"
            )
        check("codes", codes, a_tensor, batch_of((-1, -1), "(P, h, w)"), levels_of(count))
        if not len(codes):
            raise ValueError(f"codes: expected one grid or more, got {tuple(codes.shape)}")
        codes = codes.cpu().clone()
        names = [f"image {i + 1}" for i in range(len(codes))] if names is None else list(names)
        if len(names) != len(codes):
            raise ValueError(f"names: expected {len(codes)} of them, got {len(names)}")
        first = _images(decode, codes[:1])
        encoded = _eight_bits(_originals(originals, len(codes), first))
        patches = _eight_bits(
            _looks(decode, count, codes.shape[1:]) if colours is None else _given(colours, count)
        )
        order = np.argsort(patches.mean((1, 2)) @ [0.299, 0.587, 0.114], kind="stable")
        height, width = codes.shape[1:]
        picture = _eight_bits(first)[0]
        high = max(height / width, picture.shape[0] / picture.shape[1])
        tall = round(SIDE * min(TALLEST, high))
        columns = 16 if count <= 64 else 32 if count <= 512 else 48
        low = round(-(-count // columns) * (2 * SIDE + GAP) / columns)
        start = int(codes[0, height // 2, width // 2])
        self._starts = codes
        self._count = count
        super().__init__(
            {
                "grid": [height, width],
                "starts": codes.flatten(1).tolist(),
                "names": names,
                "patch": list(patches.shape[1:3]),
                "order": order.tolist(),
                "columns": columns,
                "image": list(picture.shape[:2]),
                "heights": [tall, low],
                "inputs": [[height, width]],
                "whole": True,
            },
            width=2 * SIDE + GAP,
            aspect=(2 * SIDE + GAP) / (tall + GAP + low),
            rows=3 + (len(codes) > 1) + (originals is not None),
            poster=_poster(codes[0], picture, patches, order, columns, (tall, low), start),
            alt=f"The codes of {names[0]}, beside them the decoder's picture, and below a palette "
            f"of {count} codes.",
            values={
                "image": 0,
                "code": start,
                "brush": 0,
                **({} if originals is None else {"shows": 0}),
                "codes": None,  # as encoded; the last, so that an image set with them comes before
            },
            functions={"decode": decode},
            page_model=page_model,
            patches=patches.tobytes(),
            originals=encoded.tobytes(),
        )

    @property
    def codes(self) -> Tensor:
        """The grid as the reader has painted it, int64 ``(h, w)``. It can be set."""
        painted, start = self.values["codes"], self._starts[int(self.values["image"])]
        return start.clone() if painted is None else torch.tensor(painted).view(start.shape)

    @codes.setter
    def codes(self, codes: Tensor) -> None:
        grid = tuple(self._starts.shape[1:])
        check("codes", codes, a_tensor)
        if tuple(codes.shape) != grid:
            raise ValueError(f"codes: expected one grid {grid}, got {tuple(codes.shape)}")
        check("codes", codes, levels_of(self._count))
        self.values = {**self.values, "codes": codes.flatten().tolist()}


@torch.no_grad()
def _images(decode: Decode, codes: Tensor) -> Tensor:
    """What ``decode`` makes of codes, on the CPU, with its shape checked."""
    images = decode(codes).cpu().float()
    if images.dim() != 4 or len(images) != len(codes) or images.shape[1] not in (1, 3):
        raise ValueError(
            f"decode: expected images ({len(codes)}, C, H, W) with C = 1 or 3 from codes "
            f"{tuple(codes.shape)}, got {tuple(images.shape)}"
        )
    if not images.isfinite().all():
        raise ValueError("decode: expected finite images, got NaN or infinity")
    return images


def _looks(decode: Decode, count: int, grid: Sequence[int]) -> Tensor:
    """The middle cell of each code's own picture, ``(K, C, height, width)``."""
    parts = []
    for part in torch.arange(count).split(PART):
        images = _images(decode, part[:, None, None].repeat(1, *grid))
        (top, bottom), (left, right) = (
            (size * (n // 2) // n, max(size * (n // 2 + 1) // n, size * (n // 2) // n + 1))
            for size, n in zip(images.shape[-2:], grid, strict=True)
        )
        parts.append(images[..., top:bottom, left:right])
    return torch.cat(parts)


def _given(colours: Tensor, count: int) -> Tensor:
    shape = tuple(colours.shape)
    if shape == (count, 3):
        return _within("colours", colours)[..., None, None]
    if len(shape) != 4 or shape[0] != count or shape[1] not in (1, 3) or 0 in shape:
        raise ValueError(
            f"colours: expected ({count}, 3), or ({count}, C, p, q) with C = 1 or 3, got {shape}"
        )
    return _within("colours", colours)


def _originals(originals: Tensor | None, number: int, first: Tensor) -> Tensor:
    if originals is None:
        return first[:0]
    wanted = (number, *first.shape[1:])
    if tuple(originals.shape) != wanted:
        raise ValueError(
            f"originals: expected an image for each grid, of the shape that decode gives, {wanted},"
            f" got {tuple(originals.shape)}"
        )
    return _within("originals", originals)


def _within(name: str, values: Tensor) -> Tensor:
    values = values.detach().cpu().float()
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(
            f"{name}: expected values in [0, 1], got {values.min():.3g} to {values.max():.3g}"
        )
    return values


def _eight_bits(images: Tensor) -> np.ndarray:
    """``(N, C, H, W)`` in [0, 1] to ``(N, H, W, 3)``; N may be 0."""
    if not len(images):
        return np.empty((0, 1, 1, 3), np.uint8)
    return (to_pixels(images, 0.0, 1.0) * 255).round().astype(np.uint8)


def _poster(
    codes: Tensor,
    picture: np.ndarray,
    patches: np.ndarray,
    order: np.ndarray,
    columns: int,
    heights: tuple[int, int],
    code: int,
) -> np.ndarray:
    """What the script draws, at twice its size."""
    (tall, low), side, gap = heights, 2 * SIDE, 2 * GAP
    rows, across = codes.shape
    sheet = Image.new("RGB", (2 * side + gap, 2 * (tall + GAP + low)), PAPER)
    draw = ImageDraw.Draw(sheet, "RGBA")
    cells = to_mosaic(patches[codes.flatten().numpy()] / 255, across, 0)[0]
    for left, pixels, ratio in (
        (0, (cells * 255).round().astype(np.uint8), across / rows),
        (side + gap, picture, picture.shape[1] / picture.shape[0]),
    ):
        size = round(min(side, 2 * tall * ratio)), round(min(2 * tall, side / ratio))
        at = left + (side - size[0]) // 2, (2 * tall - size[1]) // 2
        sheet.paste(Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST), at)
        if not left:
            _lines(draw, (*at, *size), rows, across)
    down = -(-len(order) // columns)
    top, size = 2 * tall + gap, (2 * side + gap, 2 * low)
    paper = np.broadcast_to(np.array(ImageColor.getrgb(PAPER), np.uint8), patches.shape[1:])
    rest = [paper / 255] * (columns * down - len(order))
    palette = to_mosaic(np.stack([*(patches[order] / 255), *rest]), columns, 0)[0]
    pixels = (palette * 255).round().astype(np.uint8)
    sheet.paste(Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST), (0, top))
    _lines(draw, (0, top, *size), down, columns)
    place = int(np.flatnonzero(order == code)[0])
    x, y = (place % columns) * size[0] / columns, top + (place // columns) * size[1] / down
    box = [x, y, x + size[0] / columns, y + size[1] / down]
    draw.rectangle(box, outline=COLORS["bound"], width=6)
    return np.asarray(sheet)


def _lines(
    draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], rows: int, columns: int
) -> None:
    """Fine lines between cells."""
    left, top, width, height = box
    for i in range(1, columns):
        x = left + i * width / columns
        draw.line((x, top, x, top + height), (251, 250, 247, 70), 2)
    for i in range(1, rows):
        y = top + i * height / rows
        draw.line((left, y, left + width, y), (251, 250, 247, 70), 2)
