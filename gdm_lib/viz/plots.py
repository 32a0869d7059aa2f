"""The plots that chapters share. Each draws on ``ax``, or on a new figure, and returns the axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from torch import Tensor

from gdm_lib.viz.style import PALETTE, PAPER

__all__ = [
    "Curves",
    "density_map",
    "gaussian_grid",
    "image_grid",
    "latent_plane",
    "scatter_latent",
    "training_curves",
]

MOSAIC_INCHES = 5.2
LARGEST_PIXEL = 12


class Curves(Protocol):
    """What ``training_curves`` reads of a training history."""

    @property
    def train(self) -> Mapping[str, Sequence[float]]:
        """The values of each term on the training batches."""
        ...

    @property
    def train_steps(self) -> Sequence[int]:
        """The step of each entry of ``train``."""
        ...

    @property
    def valid(self) -> Mapping[str, Sequence[float]]:
        """The values of each term on the validation set."""
        ...

    @property
    def valid_steps(self) -> Sequence[int]:
        """The step of each entry of ``valid``."""
        ...


def image_grid(
    images: Tensor,
    *,
    columns: int | None = None,
    ax: Axes | None = None,
    title: str | None = None,
    row_titles: Sequence[str] | None = None,
    column_titles: Sequence[str] | None = None,
    vmin: float = 0.0,
    vmax: float | None = None,
) -> Axes:
    """Draw images as one mosaic, row by row, with a thin gap between them.

    Args:
        images: ``(N, C, H, W)`` with one or three channels, or ``(N, H, W)``; of integers other
            than 0 and 1 only together with ``vmax``.
        columns: images in a row; by default about the square root of ``N``.
        ax: where to draw; by default a new figure of the mosaic's shape.
        title: above the mosaic.
        row_titles: one text for each row, to the left.
        column_titles: one text for each column, above.
        vmin: the value shown black.
        vmax: the value shown white; 1 if left out.

    Raises:
        ValueError: if ``images`` has another shape or no image, or integers whose white is not
            known; or if a title is missing.
    """
    images = torch.as_tensor(images)
    if vmax is None and not images.is_floating_point() and bool((images > 1).any()):
        white = "255" if images.dtype == torch.uint8 else "levels - 1"
        raise ValueError(
            f"images: expected values of which 1 is white, got {images.dtype} up to "
            f"{int(images.max())}; give vmax={white} to say which number is white"
        )
    pixels = to_pixels(images, vmin, 1.0 if vmax is None else vmax)
    n, height, width, _ = pixels.shape
    if columns is None:
        columns = math.ceil(math.sqrt(n))
    if columns < 1:
        raise ValueError(f"columns: expected a positive number, got {columns}")
    columns = min(columns, n)
    rows = math.ceil(n / columns)
    for name, texts, count in (
        ("row_titles", row_titles, rows),
        ("column_titles", column_titles, columns),
    ):
        if texts is not None and len(texts) != count:
            raise ValueError(f"{name}: expected {count} of them, got {len(texts)}")

    gap = max(1, round(min(height, width) / 16))
    mosaic, left, top = to_mosaic(pixels, columns, gap)
    if ax is None:
        longest = max((len(text) for text in row_titles or ()), default=0)
        above = (title is not None) + (column_titles is not None)
        ax = _mosaic_axes(mosaic, left=0.1 * longest, top=0.3 * above)
    ax.imshow(mosaic)
    _bare(ax)
    if title is not None:
        ax.set_title(title)
    if row_titles is not None:
        ax.set_yticks(top + (height - 1) / 2, row_titles)
    if column_titles is not None:
        ax.set_xticks(left + (width - 1) / 2, column_titles)
        ax.xaxis.tick_top()
    ax.tick_params(length=0)
    return ax


def to_pixels(images: Tensor, vmin: float, vmax: float) -> np.ndarray:
    """``(N, C, H, W)`` or ``(N, H, W)`` to ``(N, H, W, 3)`` in [0, 1]."""
    images = torch.as_tensor(images).detach().cpu().float()
    if images.dim() == 3:
        images = images[:, None]
    if images.dim() != 4 or images.shape[1] not in (1, 3) or 0 in images.shape:
        raise ValueError(
            "images: expected shape (N, 1, H, W), (N, 3, H, W) or (N, H, W) with N >= 1, "
            f"got {tuple(images.shape)}"
        )
    if not vmin < vmax:
        raise ValueError(f"vmin, vmax: expected vmin < vmax, got {vmin} and {vmax}")
    if not torch.isfinite(images).all():
        raise ValueError("images: expected finite values, got NaN or infinity")
    scaled = ((images - vmin) / (vmax - vmin)).clamp(0, 1)
    return scaled.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()


def to_mosaic(
    pixels: np.ndarray, columns: int, gap: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The mosaic ``(H', W', 3)``, paper in the gaps, and the first column and row of its tiles."""
    n, height, width, _ = pixels.shape
    rows = math.ceil(n / columns)
    left = np.arange(columns) * (width + gap)
    top = np.arange(rows) * (height + gap)
    mosaic = np.empty((top[-1] + height, left[-1] + width, 3), np.float32)
    mosaic[:] = to_rgb(PAPER)
    for i, image in enumerate(pixels):
        y, x = top[i // columns], left[i % columns]
        mosaic[y : y + height, x : x + width] = image
    return mosaic, left, top


def _mosaic_axes(
    mosaic: np.ndarray, *, left: float = 0.0, bottom: float = 0.0, top: float = 0.0
) -> Axes:
    """Axes for a mosaic, with margins in inches, in which each of its pixels is a whole number
    of the file's pixels: small images stay crisp, and the file small."""
    dpi = plt.rcParams["savefig.dpi"]
    dpi = plt.rcParams["figure.dpi"] if dpi == "figure" else dpi
    height, width, _ = mosaic.shape
    scale = min((MOSAIC_INCHES - left) * dpi / width, MOSAIC_INCHES * dpi / height, LARGEST_PIXEL)
    scale = math.floor(scale) if scale >= 1 else scale
    edge = 0.1
    wide, high = scale * width / dpi, scale * height / dpi
    size = (left + wide + 2 * edge, bottom + high + top + 2 * edge)
    fig = plt.figure(figsize=size)
    fig.set_layout_engine("none")
    return fig.add_axes(
        ((left + edge) / size[0], (bottom + edge) / size[1], wide / size[0], high / size[1])
    )


def _bare(ax: Axes) -> None:
    ax.grid(False)
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)


def density_map(
    log_prob: Callable[[Tensor], Tensor],
    bounds: tuple[float, float, float, float],
    *,
    ax: Axes | None = None,
    resolution: int = 200,
) -> Axes:
    """Draw the density of a model of the plane.

    The colours span zero to the highest density of the picture, so two maps share a shape, not
    a scale. The densities drawn are those at the centres of the cells.

    Args:
        log_prob: ``(B, 2)`` to ``(B,)``, in nats.
        bounds: ``(x_min, x_max, y_min, y_max)``.
        ax: where to draw; by default a new figure.
        resolution: cells along each side.

    Raises:
        ValueError: if the bounds are empty, or ``log_prob`` gives another shape or NaN.
    """
    x_min, x_max, y_min, y_max = bounds
    if not (x_min < x_max and y_min < y_max):
        raise ValueError(f"bounds: expected x_min < x_max and y_min < y_max, got {bounds}")
    if resolution < 2:
        raise ValueError(f"resolution: expected at least 2, got {resolution}")
    centres = (torch.arange(resolution) + 0.5) / resolution
    x = x_min + (x_max - x_min) * centres
    y = y_min + (y_max - y_min) * centres
    points = torch.cartesian_prod(y, x).flip(1)
    with torch.no_grad():
        values = log_prob(points)
    if values.shape != (resolution**2,):
        raise ValueError(
            f"log_prob: expected shape ({resolution**2},) from ({resolution**2}, 2), "
            f"got {tuple(values.shape)}"
        )
    if values.isnan().any():
        raise ValueError("log_prob: expected log-densities, got NaN")
    if ax is None:
        _, ax = plt.subplots(figsize=(4.0, 4.0))
    density = values.exp().reshape(resolution, resolution).cpu().numpy()
    ax.imshow(density, origin="lower", extent=bounds, vmin=0, interpolation="nearest")
    ax.grid(False)
    ax.set_xlabel("$x_1$")
    ax.set_ylabel("$x_2$")
    return ax


def training_curves(
    history: Curves,
    terms: Sequence[str] | None = None,
    ax: Axes | None = None,
    *,
    ylabel: str = "loss",
) -> Axes:
    """Draw what training logged: a thin line for training, dots on a line for held-out data.

    Args:
        history: of ``gdm_lib.training.fit``, or anything with its four fields.
        terms: the names to draw; by default ``("loss",)``.
        ax: where to draw; by default a new figure.
        ylabel: what the curves measure, with its unit.

    Raises:
        ValueError: if a term was not logged.
    """
    terms = ("loss",) if terms is None else tuple(terms)
    known = sorted({*history.train, *history.valid})
    unknown = [term for term in terms if term not in known]
    if unknown or not terms:
        raise ValueError(f"terms: expected some of {known}, got {list(terms)}")
    if ax is None:
        _, ax = plt.subplots()
    for i, term in enumerate(terms):
        colour = PALETTE[i % len(PALETTE)]
        prefix = "" if len(terms) == 1 else f"{term}, "
        if term in history.train:
            ax.plot(
                history.train_steps,
                history.train[term],
                color=colour,
                linewidth=1.0,
                alpha=0.7 if term in history.valid else 1.0,
                label=f"{prefix}training",
            )
        if term in history.valid:
            ax.plot(
                history.valid_steps,
                history.valid[term],
                color=colour,
                marker="o",
                label=f"{prefix}held-out",
            )
    ax.set_xlabel("step")
    ax.set_ylabel(ylabel)
    ax.legend()
    return ax


def gaussian_grid(n: int) -> Tensor:
    """``n`` equally probable values of a standard normal, ``(n,)``, rising.

    The inverse of the normal's distribution function at ``(i + 1/2) / n``: each value stands for
    1/n of the prior's mass.
    """
    if n < 1:
        raise ValueError(f"n: expected a positive number, got {n}")
    return torch.special.ndtri((torch.arange(n).double() + 0.5) / n).float()


def latent_plane(
    decode: Callable[[Tensor], Tensor], *, n: int = 20, ax: Axes | None = None
) -> Axes:
    """Draw what a two-dimensional latent decodes to, as in figure 4 of 1312.6114.

    The grid is even in probability: each axis has the coordinates ``gaussian_grid(n)``, z1 rising
    to the right and z2 upwards.

    Args:
        decode: latents ``(B, 2)`` to mean images ``(B, C, H, W)`` in [0, 1].
        n: images along each side.
        ax: where to draw; by default a new figure.
    """
    values = gaussian_grid(n)
    latents = torch.cartesian_prod(values.flip(0), values).flip(1)
    with torch.no_grad():
        images = decode(latents)
    if images.dim() != 4 or len(images) != n * n:
        raise ValueError(
            f"decode: expected images ({n * n}, C, H, W) from latents ({n * n}, 2), "
            f"got {tuple(images.shape)}"
        )
    pixels = to_pixels(images, 0.0, 1.0)
    _, height, width, _ = pixels.shape
    mosaic, left, top = to_mosaic(pixels, n, gap=0)
    if ax is None:
        ax = _mosaic_axes(mosaic, left=0.6, bottom=0.5)
    ax.imshow(mosaic)
    _bare(ax)
    shown = sorted({0, n // 4, n // 2, (3 * n) // 4, n - 1})
    labels = [f"{values[i]:.1f}".replace("-", "\N{MINUS SIGN}") for i in shown]
    ax.set_xticks(left[shown] + (width - 1) / 2, labels)
    ax.set_yticks(top[::-1][shown] + (height - 1) / 2, labels)
    ax.set_xlabel("$z_1$")
    ax.set_ylabel("$z_2$")
    return ax


def scatter_latent(z: Tensor, y: Tensor, ax: Axes | None = None) -> Axes:
    """Draw a two-dimensional latent code, each point as the number of its class.

    The number, not the colour alone, tells the class, so that ten classes stay apart for every
    eye.

    Args:
        z: ``(N, 2)``.
        y: classes, ``(N,)``, of an integer type.
        ax: where to draw; by default a new figure.
    """
    if z.dim() != 2 or z.shape[1] != 2:
        raise ValueError(f"z: expected shape (N, 2), got {tuple(z.shape)}")
    if y.shape != z.shape[:1] or y.is_floating_point():
        raise ValueError(f"y: expected {len(z)} integers, got {tuple(y.shape)} of {y.dtype}")
    if ax is None:
        _, ax = plt.subplots(figsize=(4.8, 4.8))
    z, y = z.detach().cpu(), y.cpu()
    style: dict[str, Any] = {"s": 26, "linewidths": 0}
    for k in y.unique().tolist():
        points = z[y == k]
        colour = PALETTE[k % len(PALETTE)]
        ax.scatter(points[:, 0], points[:, 1], marker=f"${k}$", color=colour, **style)
    ax.set_aspect("equal", adjustable="datalim")
    ax.set_xlabel("$z_1$")
    ax.set_ylabel("$z_2$")
    return ax
