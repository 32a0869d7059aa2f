"""``LatentExplorer``: drag through a latent plane, walk from one latent to another, look at samples
while a slider moves. The decoder itself answers, in JupyterLab and on a page without kernel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageColor
from torch import Tensor

from gdm_lib.viz.plots import to_mosaic, to_pixels
from gdm_lib.viz.style import PAPER
from gdm_lib.widgets._base import Widget, buffer, counted, script

__all__ = ["LatentExplorer", "Slider", "lerp", "slerp"]

Decode = Callable[..., Tensor]
STRIP = 9
SIDE = 300


@dataclass(frozen=True)
class Slider:
    """An argument of ``decode`` that the reader sets, such as truncation.

    Attributes:
        name: what the label says.
        low: the least value.
        high: the largest value.
        value: the first value.
        step: of the slider.
        places: digits after the point.
    """

    name: str
    low: float
    high: float
    value: float
    step: float = 0.01
    places: int = 2

    def __post_init__(self) -> None:
        if not self.low <= self.value <= self.high or not self.low < self.high:
            raise ValueError(
                f"{self.name}: expected low <= value <= high and low < high, "
                f"got {self.low}, {self.value}, {self.high}"
            )


class LatentExplorer(Widget):
    """Pictures that a decoder makes of latents that the reader moves.

    Made by one of ``plane``, ``path`` and ``samples``. Their ``decode`` maps latents ``(B, D)``,
    and one tensor ``(B,)`` for each of ``sliders``, to images ``(B, C, H, W)`` in [0, 1] with
    C = 1 or 3.
    On a page without kernel it runs too if it is a method of a model with reference weights, found
    by their values, or if ``page_model`` is given, which ``export`` makes.
    """

    _esm = script("latent_explorer")

    latents = buffer()
    """32-bit floats: the origin and the directions, or the latents that were given."""

    @classmethod
    def plane(
        cls,
        decode: Decode,
        *,
        directions: Mapping[str, Tensor] | None = None,
        origin: Tensor | None = None,
        reach: float = 3.0,
        start: Sequence[float] = (0.0, 0.0),
        sliders: Sequence[Slider] = (),
        page_model: bytes | None = None,
    ) -> LatentExplorer:
        """A plane to drag in, over pictures of all of it: ``z = origin + sum_k c_k direction_k``.

        Args:
            decode: see the class.
            directions: two or more vectors ``(D,)`` by name. The first two span the plane, each
                further one has a slider. By default the axes ``z₁`` and ``z₂`` of two latents.
            origin: ``(D,)``, the middle of the plane; zero by default.
            reach: each coordinate ``c_k`` goes from ``-reach`` to ``reach``.
            start: the first coordinates, one for each direction.
            sliders: further arguments of ``decode``.
            page_model: see the class.

        Raises:
            ValueError: if shapes do not fit, or ``start`` is out of reach.
        """
        if directions is None:
            directions = {"z₁": torch.tensor([1.0, 0.0]), "z₂": torch.tensor([0.0, 1.0])}
        if len(directions) < 2 or len({tuple(d.shape) for d in directions.values()}) != 1:
            raise ValueError(
                "directions: expected two or more vectors of one shape (D,), got "
                + (", ".join(f"{n} {tuple(d.shape)}" for n, d in directions.items()) or "none")
            )
        rows = torch.stack(list(directions.values())).float()
        origin = torch.zeros(rows.shape[1:]) if origin is None else origin.detach().float()
        if rows.dim() != 2 or origin.shape != rows.shape[1:]:
            raise ValueError(
                f"origin: expected the shape of the directions, {tuple(rows.shape[1:])}, with one "
                f"dimension, got {tuple(origin.shape)}"
            )
        start = [*start, *[0.0] * (len(rows) - len(start))]
        if not reach > 0 or len(start) != len(rows) or any(abs(c) > reach for c in start):
            raise ValueError(f"start: expected {len(rows)} values within ±{reach}, got {start}")
        basis = torch.cat([origin[None], rows.cpu()])
        first = _images(decode, (torch.tensor([[1.0, *start]]) @ basis), sliders)
        at = (2 * torch.arange(11) + 1) / 11 - 1
        grid = torch.zeros(11, 11, len(rows) + 1)
        grid[..., 0], grid[..., 3:] = 1.0, torch.tensor(start[2:])
        grid[..., 1], grid[..., 2] = at[None] * reach, -at[:, None] * reach
        around = _images(decode, grid.flatten(0, 1) @ basis, sliders)
        where = ", ".join(f"{n} {c:.2f}" for n, c in zip(directions, start, strict=True))
        return cls(
            {
                "mode": "plane",
                "names": list(directions),
                "reach": reach,
                "step": reach / 60,
                **_spec(first, basis, sliders),
            },
            width=2 * SIDE + 8,
            aspect=(2 * SIDE + 8) / SIDE,
            rows=len(rows) + len(sliders),
            poster=_beside(_mosaic(around, 11), _mosaic(first, 1), SIDE),
            alt=f"A plane of pictures, and beside it the one at {where}.",
            values={**dict(zip(directions, start, strict=True)), **_values(sliders)},
            functions={"decode": decode},
            page_model=page_model,
            latents=_bytes(basis),
        )

    @classmethod
    def path(
        cls,
        decode: Decode,
        latents: Tensor,
        *,
        names: Sequence[str] | None = None,
        sliders: Sequence[Slider] = (),
        page_model: bytes | None = None,
    ) -> LatentExplorer:
        """A walk between two of several latents, along the line or the great circle.

        Args:
            decode: see the class.
            latents: ``(P, D)``, encoded items or draws; a button draws more from the normal prior.
            names: one for each latent; "latent 1" and so on by default.
            sliders: further arguments of ``decode``.
            page_model: see the class.

        Raises:
            ValueError: if there are fewer than two latents, or not one name for each.
        """
        if latents.dim() != 2 or len(latents) < 2:
            raise ValueError(
                f"latents: expected (P, D) with P >= 2 latents, got {tuple(latents.shape)}"
            )
        names = [f"latent {i + 1}" for i in range(len(latents))] if names is None else list(names)
        if len(names) != len(latents):
            raise ValueError(f"names: expected {len(latents)} of them, got {len(names)}")
        latents = latents.detach().cpu().float()
        a, b = latents[0], latents[1]
        walk = [lerp(a, b, t) for t in (0.5, *torch.linspace(0, 1, STRIP).tolist())]
        images = _images(decode, torch.stack(walk), sliders)
        top = _mosaic(images[[1, 0, STRIP]], 3, gap=_gap(images))
        film = _mosaic(images[1:], STRIP, gap=_gap(images))
        return cls(
            {"mode": "path", "names": names, "strip": STRIP, **_spec(images, latents, sliders)},
            width=420,
            aspect=420 / 196,
            rows=5 + len(sliders),
            poster=_above(top, film, 420, (141, 47)),
            alt=f"From {names[0]} to {names[1]}: the start, half of the way, the end; below, the "
            "whole way.",
            values={"from": 0, "to": 1, "along": 0, "t": 0.5, **_values(sliders)},
            functions={"decode": decode},
            page_model=page_model,
            latents=_bytes(latents),
        )

    @classmethod
    def samples(
        cls,
        decode: Decode,
        latents: Tensor,
        *,
        spread: tuple[float, float, float] | None = None,
        sliders: Sequence[Slider] = (),
        columns: int = 6,
        page_model: bytes | None = None,
    ) -> LatentExplorer:
        """A grid of pictures, each of a latent of its own; a button draws them anew.

        Args:
            decode: see the class.
            latents: ``(N, D)``, the first ones shown.
            spread: lowest, highest and first value of a factor of all latents, the temperature
                of the prior; without it there is none.
            sliders: further arguments of ``decode``, such as truncation.
            columns: of the grid.
            page_model: see the class.

        Raises:
            ValueError: if there is nothing to move, or the shapes do not fit.
        """
        if latents.dim() != 2 or not len(latents):
            raise ValueError(f"latents: expected (N, D) with N >= 1, got {tuple(latents.shape)}")
        latents = latents.detach().cpu().float()
        factor = Slider("spread", spread[0], spread[1], spread[2]).value if spread else 1.0
        images = _images(decode, factor * latents, sliders)
        columns = min(columns, len(latents))
        lines = -(-len(latents) // columns)
        width = min(480, columns * max(64, images.shape[-1]))
        scaled = f", spread {factor:.2f}" if spread else ""
        return cls(
            {
                **{"mode": "samples", "count": len(latents), "columns": columns},
                "spread": list(spread) if spread else None,
                **_spec(images, latents, sliders),
            },
            width=width,
            aspect=columns * images.shape[-1] / (lines * images.shape[-2]),
            rows=1 + bool(spread) + len(sliders),
            poster=_mosaic(images, columns),
            alt=f"{counted(len(latents), 'sample')}{scaled}.",
            values={**({"spread": factor} if spread else {}), **_values(sliders)},
            functions={"decode": decode},
            page_model=page_model,
            latents=_bytes(latents),
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


@torch.no_grad()
def _images(decode: Decode, z: Tensor, sliders: Sequence[Slider]) -> Tensor:
    """What ``decode`` makes of latents, on the CPU, with its shape checked."""
    images = decode(z, *(torch.full((len(z),), float(s.value)) for s in sliders)).cpu().float()
    if images.dim() != 4 or len(images) != len(z) or images.shape[1] not in (1, 3):
        raise ValueError(
            f"decode: expected images ({len(z)}, C, H, W) with C = 1 or 3 from latents "
            f"{tuple(z.shape)}, got {tuple(images.shape)}"
        )
    return images


def _spec(images: Tensor, latents: Tensor, sliders: Sequence[Slider]) -> dict[str, Any]:
    return {
        "image": list(images.shape[1:]),
        "latent": latents.shape[1],
        "inputs": [[latents.shape[1]], *([] for _ in sliders)],
        "sliders": [asdict(slider) for slider in sliders],
    }


def _values(sliders: Sequence[Slider]) -> dict[str, float]:
    return {slider.name: float(slider.value) for slider in sliders}


def _gap(images: Tensor) -> int:
    return max(1, round(images.shape[-1] / 14))


def _mosaic(images: Tensor, columns: int, gap: int = 0) -> np.ndarray:
    """Images side by side, ``(H', W', 3)`` of 8 bits."""
    mosaic, _, _ = to_mosaic(to_pixels(images, 0.0, 1.0), columns, gap)
    return (mosaic * 255).round().astype(np.uint8)


def _fitted(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """Enlarged to the largest size that fits, without blurring, in the middle of the paper."""
    scale = min(width / pixels.shape[1], height / pixels.shape[0])
    size = round(pixels.shape[1] * scale), round(pixels.shape[0] * scale)
    sheet = Image.new("RGB", (width, height), PAPER)
    image = Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST)
    sheet.paste(image, ((width - size[0]) // 2, (height - size[1]) // 2))
    return np.asarray(sheet)


def _beside(left: np.ndarray, right: np.ndarray, side: int) -> np.ndarray:
    paper = np.broadcast_to(np.array(ImageColor.getrgb(PAPER), np.uint8), (side, 8, 3))
    return np.concatenate([_fitted(left, side, side), paper, _fitted(right, side, side)], 1)


def _above(top: np.ndarray, film: np.ndarray, width: int, heights: tuple[int, int]) -> np.ndarray:
    paper = np.broadcast_to(np.array(ImageColor.getrgb(PAPER), np.uint8), (8, width, 3))
    parts = [_fitted(top, width, heights[0]), paper, _fitted(film, width, heights[1])]
    return np.concatenate(parts, 0)


def _bytes(latents: Tensor) -> bytes:
    return latents.numpy().astype("<f4").tobytes()
