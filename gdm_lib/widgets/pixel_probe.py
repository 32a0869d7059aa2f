"""``PixelProbe``: point at an output pixel, and what it depends on lights up: its receptive field,
the mask of a convolution, an attention map."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from matplotlib import font_manager
from PIL import Image, ImageColor, ImageDraw, ImageFont
from torch import Tensor

from gdm_lib.viz.style import COLORS, INK, PAPER
from gdm_lib.widgets._base import Widget, buffer, script
from gdm_lib.widgets._frames import FRAME_BYTES, pack, to_frame

__all__ = ["PixelProbe"]

Maps = Callable[[int, int], Tensor]
SIDE = 300
LABEL = 24
FAINT, STRONG = 0.2, 0.8
"""Opacity of the least weight that is not zero, so that the whole extent is seen, and of the
largest, so that the input is."""


class PixelProbe(Widget):
    """Two pictures: the output, in which the reader points at a pixel, and the input, in which the
    weights of that pixel's map light up. All maps are computed beforehand and stored in 8 bits.

    A mask and the receptive field of a network, both at 28 x 28 pixels::

        PixelProbe(image, {"mask": lambda row, column: mask[row, column]})
        PixelProbe.gradient(model.reconstruct, image[None])

    Args:
        image: the output, ``(C, H, W)`` in [0, 1], C = 1 or 3.
        maps: gives for the output pixel at ``(row, column)`` the weights ``(h, w)`` over the input,
            not negative; several such functions by name make layers to choose from. ``(h, w)`` may
            be coarser than the input, as an attention map is.
        input: the image that the weights lie over, ``(C, H', W')``; by default ``image``.
        names: what stands above the two pictures.
        stride: maps are computed for the pixels of every so many rows and columns.
        share_scale: False: each map's largest weight shines brightest. True: only the largest of
            all maps does.
        start: row and column of the first pixel; by default in the middle.

    Raises:
        ValueError: images or maps of another shape or range, a ``stride`` or ``start`` outside the
            image, or maps that take too much room.
    """

    _esm = script("pixel_probe")

    sheet = buffer()
    """The maps in 8 bits; a weight that is not zero is at least 1 there."""

    output = buffer()
    """The output image, as a sheet of one frame."""

    input = buffer()
    """The input image, likewise."""

    def __init__(
        self,
        image: Tensor,
        maps: Maps | Mapping[str, Maps],
        *,
        input: Tensor | None = None,
        names: tuple[str, str] = ("output", "input"),
        stride: int = 1,
        share_scale: bool = False,
        start: tuple[int, int] | None = None,
    ) -> None:
        output = _image(image, "image")
        under = output if input is None else _image(input, "input")
        height, width = output.shape[:2]
        if not 1 <= stride < max(2, min(height, width)):
            raise ValueError(
                f"stride: expected 1 or more, and less than the image ({height} x {width} pixels), "
                f"got {stride}"
            )
        layers = dict(maps) if isinstance(maps, Mapping) else {"": maps}
        if not layers:
            raise ValueError("maps: expected a function, or functions by name, got none")
        start = (height // 2, width // 2) if start is None else start
        if not (0 <= start[0] < height and 0 <= start[1] < width):
            raise ValueError(
                f"start: expected a row and a column within {height} x {width} pixels, got {start}"
            )
        row, column = (index // stride * stride for index in start)
        rows, columns = range(0, height, stride), range(0, width, stride)
        levels = _levels(layers, rows, columns, share_scale)
        sheet, layout = pack(list(levels.reshape(-1, *levels.shape[3:])))
        if len(sheet) > FRAME_BYTES:
            raise ValueError(
                f"maps: {levels[..., 0, 0].size:,} of them take {len(sheet):,} bytes, and a "
                f"notebook carries at most {FRAME_BYTES:,}; take a larger stride than {stride}, "
                "coarser maps or fewer layers"
            )
        shown, (pixels_out, layout_out) = levels[0, row // stride, column // stride], pack([output])
        pixels_in, layout_in = pack([under])
        high = min(1.4, max(height / width, under.shape[0] / under.shape[1]))
        panel = SIDE, LABEL + round(SIDE * high)
        marked = output.shape[:2] == under.shape[:2]
        super().__init__(
            {
                "size": [height, width],
                "stride": stride,
                "layers": list(layers),
                "names": list(names),
                "marked": marked,
                "maps": layout,
                "output": layout_out,
                "input": layout_in,
                "label": LABEL,
                "opacity": [FAINT, STRONG],
            },
            width=2 * SIDE + 8,
            aspect=(2 * SIDE + 8) / panel[1],
            rows=2 + (len(layers) > 1),
            poster=_poster(output, under, shown, (row, column), panel, names, marked),
            alt=_says(
                next(iter(layers)) if len(layers) > 1 else "",
                (row, column),
                shown,
                "input pixels" if shown.shape == under.shape[:2] else "cells of the input",
            ),
            values={"row": row, "column": column, "layer": 0},
            sheet=sheet,
            output=pixels_out,
            input=pixels_in,
        )

    @classmethod
    def gradient(
        cls,
        function: Callable[[Tensor], Tensor],
        x: Tensor,
        *,
        image: Tensor | None = None,
        **options: Any,
    ) -> PixelProbe:
        """The receptive field of a network at ``x``, by automatic differentiation.

        The weight of an input pixel is ``sum |d output[c', i, j] / d input[c, h, w]|`` over all
        pairs of channels. That takes a backward pass for each number in the output, so of an
        output with very many channels pass a function that reduces them.

        Args:
            function: of ``(1, C, H, W)`` to ``(1, C', H', W')``, such as a convolution or a
                model's reconstruction; deterministic, in evaluation mode.
            x: the input, ``(1, C, H, W)`` with values in [0, 1], which is shown on the right.
            image: shown on the left, ``(C, H', W')`` in [0, 1]. By default the output, held to
                [0, 1]; or ``x``, if the output has other than 1 or 3 channels and the same size.
            options: ``names``, ``stride``, ``share_scale`` and ``start`` of the class.

        Raises:
            ValueError: if a shape does not fit, or the output does not depend on ``x`` at all.
        """
        if x.dim() != 4 or len(x) != 1:
            raise ValueError(f"x: expected one image, (1, C, H, W), got {tuple(x.shape)}")
        given = x.detach().clone().requires_grad_()
        with torch.enable_grad():
            y = function(given)
        if y.dim() != 4 or len(y) != 1:
            raise ValueError(f"function: expected (1, C', H', W'), got {tuple(y.shape)}")
        if not y.requires_grad:
            raise ValueError("function: expected an output that depends on x, got a constant")
        if image is None:
            grey_or_rgb = y.shape[1] in (1, 3)
            image = y.detach()[0].clamp(0, 1) if grey_or_rgb else x[0]
            if image.shape[-2:] != y.shape[-2:]:
                raise ValueError(
                    f"image: expected one to show for an output of shape {tuple(y.shape)}, got none"
                )

        def weights(row: int, column: int) -> Tensor:
            total = torch.zeros(x.shape[-2:], dtype=given.dtype, device=given.device)
            with torch.enable_grad():
                values = y[0, :, row, column].unbind()
            for value in values:
                (slope,) = torch.autograd.grad(value, given, retain_graph=True, allow_unused=True)
                if slope is not None:
                    total += slope[0].abs().sum(0)
            return total

        if image.shape[-2:] != y.shape[-2:]:
            raise ValueError(
                f"image: expected the output's {tuple(y.shape[-2:])} pixels, "
                f"got {tuple(image.shape[-2:])}"
            )
        return cls(image, weights, input=x[0], **options)


def _image(image: Tensor, name: str) -> np.ndarray:
    if image.dim() != 3:
        raise ValueError(f"{name}: expected one image (C, H, W), got {tuple(image.shape)}")
    return to_frame(image, name)


def _levels(layers: Mapping[str, Maps], rows: range, columns: range, share: bool) -> np.ndarray:
    """All maps in 8 bits, ``(layers, rows, columns, h, w)``; only what is zero becomes 0."""
    found: list[Tensor] = []
    with torch.no_grad():
        for name, maps in layers.items():
            for row in rows:
                for column in columns:
                    weights = maps(row, column).detach().cpu().double()
                    if weights.dim() != 2 or (found and weights.shape != found[0].shape):
                        raise ValueError(
                            "maps: expected weights (h, w), all of one shape, got "
                            f"{tuple(weights.shape)}{f' of {name!r}' if name else ''} at "
                            f"({row}, {column}){f' after {tuple(found[0].shape)}' if found else ''}"
                        )
                    if not ((weights >= 0) & weights.isfinite()).all():
                        raise ValueError(
                            "maps: expected weights that are finite and not negative, got "
                            f"{weights.min():.3g} to {weights.max():.3g} at ({row}, {column})"
                        )
                    found.append(weights)
    stack = torch.stack(found)
    peak = stack.max() if share else stack.amax((1, 2), keepdim=True)
    scaled = (255 * stack / torch.where(peak > 0, peak, 1.0)).round().clamp(min=1)
    levels = torch.where(stack > 0, scaled, 0.0).to(torch.uint8).numpy()
    return levels.reshape(len(layers), len(rows), len(columns), *levels.shape[1:])


def _says(layer: str, pixel: tuple[int, int], levels: np.ndarray, unit: str) -> str:
    """What the script says of a pixel: a whole sentence whatever the pictures are called."""
    lit = np.count_nonzero(levels)
    text = (
        f"{f'{layer}: ' if layer else ''}output pixel (row {pixel[0]}, column {pixel[1]}) "
        f"depends on {lit} of {levels.size} {unit}"
    )
    if lit and levels.max() > levels[levels > 0].min():
        best = np.unravel_index(levels.argmax(), levels.shape)
        text += f", most on (row {best[0]}, column {best[1]})"
    return f"{text[0].upper()}{text[1:]}."


def _poster(
    output: np.ndarray,
    under: np.ndarray,
    levels: np.ndarray,
    pixel: tuple[int, int],
    panel: tuple[int, int],
    names: tuple[str, str],
    marked: bool,
) -> np.ndarray:
    """What the script draws, at twice its size."""
    width, height, label = 2 * panel[0], 2 * panel[1], 2 * LABEL
    sheet = Image.new("RGB", (2 * width + 16, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.truetype(font_manager.findfont("DejaVu Sans"), 26)
    for i, (name, frame) in enumerate(zip(names, (output, under), strict=True)):
        left = i * (width + 16)
        draw.text((left + width // 2, label // 2), name, INK, font, anchor="mm")
        tall, wide = frame.shape[:2]
        free = min(width / wide, (height - label) / tall)
        cell = max(1, free // 2) * 2 if free >= 2 else free
        size = round(wide * cell), round(tall * cell)
        x, y = left + (width - size[0]) // 2, label + (height - label - size[1]) // 2
        frame = _lit(frame, levels) if i else _rgb(frame)
        sheet.paste(Image.fromarray(frame).resize(size, Image.Resampling.NEAREST), (x, y))
        if i:
            across, down = size[0] / levels.shape[1], size[1] / levels.shape[0]
            for a, b, c, d in _edges(levels > 0):
                ends = (x + b * across, y + a * down), (x + d * across, y + c * down)
                draw.line(ends, COLORS["bound"], 3)
        if i == 0 or marked:
            at = x + pixel[1] * cell, y + pixel[0] * cell
            box = [*at, at[0] + cell, at[1] + cell]
            draw.rectangle([box[0] - 4, box[1] - 4, box[2] + 4, box[3] + 4], outline=PAPER, width=8)
            draw.rectangle(
                [box[0] - 2, box[1] - 2, box[2] + 2, box[3] + 2],
                outline=INK if i else COLORS["bound"],
                width=4,
            )
    return np.asarray(sheet)


def _edges(lit: np.ndarray) -> list[tuple[int, int, int, int]]:
    """The lines around what is lit, from (row, column) to (row, column) of the cells' corners."""
    ring = np.pad(lit, 1)
    level, upright = ring[1:, 1:-1] != ring[:-1, 1:-1], ring[1:-1, 1:] != ring[1:-1, :-1]
    return [(i, j, i, j + 1) for i, j in np.argwhere(level).tolist()] + [
        (i, j, i + 1, j) for i, j in np.argwhere(upright).tolist()
    ]


def _lit(frame: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """The greyed input with the weights over it, as large as the finer of the two."""
    tall, wide = (max(a, b) for a, b in zip(frame.shape[:2], levels.shape, strict=True))
    grey = np.asarray(Image.fromarray(_rgb(frame)).convert("L").resize((wide, tall), 0), float)
    weights = np.asarray(Image.fromarray(levels).resize((wide, tall), 0), float)[..., None] / 255
    alpha = np.where(weights > 0, FAINT + (STRONG - FAINT) * weights, 0)
    ground = np.repeat((160 + 0.35 * grey)[..., None], 3, -1)
    heat = np.array(ImageColor.getrgb(COLORS["bound"]), float)
    return ((1 - alpha) * ground + alpha * heat).round().astype(np.uint8)


def _rgb(frame: np.ndarray) -> np.ndarray:
    return np.repeat(frame[..., None], 3, -1) if frame.ndim == 2 else frame
