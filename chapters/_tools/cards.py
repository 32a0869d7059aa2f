"""Draw the pictures of the start page's cards: ``python -m chapters._tools.cards [NAME ...]``.

Each is made by the chapter's own model, with reference weights where there are any, and has at most
``MAX_BYTES``. They are drawn once and committed; the site's build doesn't draw them.
"""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from PIL import Image
from torch import Tensor

from gdm_lib import pretrained
from gdm_lib.autoregressive.gated_pixelcnn import GatedPixelCNN
from gdm_lib.autoregressive.pixelcnn_pp import PixelCNNpp
from gdm_lib.flows.glow import Glow
from gdm_lib.vae.vae import VAE
from gdm_lib.vae.vqvae import VQVAE
from gdm_lib.vae.vqvae2 import VQVAE2
from gdm_lib.viz.style import INK, PALETTE, PAPER

__all__ = ["FOLDER", "MAX_BYTES", "SIZE", "main"]

FOLDER = Path(__file__).parents[1] / "_site" / "static" / "cards"
SIZE = (400, 240)
"""Width and height in pixels; a card shows them at half of that, or a little more."""

MAX_BYTES = 20_000
COLOURS = 24  # of the palette that a picture is stored with


def _seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _store(pixels: Image.Image, name: str) -> Path:
    """Write a picture as a PNG with a palette."""
    picture = pixels.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    path = FOLDER / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, optimize=True)
    return path


def _axes(reach: tuple[float, float, float, float]) -> tuple[plt.Figure, Axes]:
    """An empty drawing of the size of a card, from left, right, bottom and top."""
    figure = plt.figure(figsize=(SIZE[0] / 100, SIZE[1] / 100), dpi=100, facecolor=PAPER)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=reach[:2], ylim=reach[2:])
    axes.axis("off")
    return figure, axes


def _drawn(figure: plt.Figure) -> Image.Image:
    stream = io.BytesIO()
    figure.savefig(stream, dpi=100, facecolor=PAPER)
    plt.close(figure)
    return Image.open(stream).resize(SIZE)


def _mosaic(images: Tensor, columns: int, invert: bool = True) -> Image.Image:
    """Pictures ``(N, C, H, W)`` in [0, 1] side by side, ink on paper."""
    rows = len(images) // columns
    n, channels, height, width = images[: rows * columns].shape
    grid = images[:n].reshape(rows, columns, channels, height, width)
    flat = grid.permute(0, 3, 1, 4, 2).reshape(rows * height, columns * width, channels)
    values = flat.clamp(0, 1).numpy()
    if channels == 1:
        ink, paper = (
            np.array([int(c[i : i + 2], 16) for i in (1, 3, 5)]) / 255 for c in (INK, PAPER)
        )
        values = paper + (ink - paper) * (values if invert else 1 - values)
    picture = Image.fromarray((255 * values).round().astype(np.uint8))
    scale = max(SIZE[0] / picture.width, SIZE[1] / picture.height)
    size = (round(scale * picture.width), round(scale * picture.height))
    grown = picture.resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - SIZE[0]) // 2, (size[1] - SIZE[1]) // 2
    return grown.crop((left, top, left + SIZE[0], top + SIZE[1]))


def vae() -> Image.Image:
    """The latent plane, decoded point by point."""
    model = cast("VAE", pretrained.load("vae/mnist_2d"))
    down, across = torch.linspace(1.5, -1.5, 5), torch.linspace(-2.5, 2.5, 8)
    z = torch.cartesian_prod(down, across).flip(1)
    with torch.no_grad():
        return _mosaic(model.decode_mean(z).reshape(-1, 1, 28, 28), 8)


def planar_radial() -> Image.Image:
    """A Gaussian, bent by planar steps: the points and their colours."""
    z = torch.randn(2500, 2, generator=_seeded())
    colour = torch.atan2(z[:, 1], z[:, 0])
    for w, u, b in (
        ((1.6, 0.4), (-1.6, 2.2), 0.0),
        ((-0.4, 2.0), (2.0, 0.6), 0.6),
        ((2.0, -1.0), (0.6, -1.2), -0.8),
    ):
        step, along = torch.tensor(w), torch.tensor(u)
        inner = float(step @ along)
        if inner < -1:  # what keeps a planar step invertible, as in the chapter
            wanted = -1 + float(torch.nn.functional.softplus(torch.tensor(inner)))
            along = along + (wanted - inner) * step / step.square().sum()
        z = z + along * torch.tanh(z @ step + b)[:, None]
    z = z - (z.amin(0) + z.amax(0)) / 2
    figure, axes = _axes((-8, 8, -4.8, 4.8))
    axes.scatter(z[:, 0], z[:, 1], c=colour, cmap="twilight_shifted", s=7, lw=0)
    axes.set_aspect("equal", adjustable="datalim")
    return _drawn(figure)


def _grid(bent: Callable[[Tensor], Tensor], reach: tuple[float, ...], cell: Tensor) -> Image.Image:
    """A square grid and one shaded cell of it, before and after a map of the plane."""
    lines = torch.linspace(-1.5, 1.5, 13)
    fine = torch.linspace(-1.5, 1.5, 90)
    figure, axes = _axes((reach[0], reach[1], reach[2], reach[3]))
    for shift, map_ in ((-2.3, lambda z: z), (2.3, bent)):
        for value in lines:
            for up in (False, True):
                line = torch.stack([fine, value.expand_as(fine)], 1)
                points = map_(line.flip(1) if up else line)
                colour = PALETTE[0] if up else PALETTE[1]
                axes.plot(points[:, 0] + shift, points[:, 1], color=colour, lw=1.1)
        corners = torch.tensor([[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]) * 1.0
        edge = torch.cat([
            corners[i] + torch.linspace(0, 1, 25)[:, None] * (corners[i + 1] - corners[i])
            for i in range(4)
        ])  # fmt: skip
        points = map_(cell[:2] + edge * cell[2])
        axes.fill(points[:, 0] + shift, points[:, 1], color=INK, alpha=0.75, lw=0)
    axes.annotate(
        "",
        xy=(0.28, 0),
        xytext=(-0.42, 0),
        arrowprops={"arrowstyle": "-|>", "color": INK, "lw": 2},
    )
    axes.set_aspect("equal", adjustable="datalim")
    return _drawn(figure)


def nice() -> Image.Image:
    """Two additive couplings: the shaded square changes its shape, and keeps its area."""

    def bent(z: Tensor) -> Tensor:
        y = z[:, 1] + 0.55 * torch.sin(2.2 * z[:, 0])
        return torch.stack([z[:, 0] + 0.45 * torch.tanh(1.5 * y), y], 1)

    return _grid(bent, (-4.6, 4.9, -2.6, 2.6), torch.tensor([0.25, -0.25, 0.5]))


def realnvp() -> Image.Image:
    """One affine coupling: each vertical line is stretched and shifted by its own amount."""

    def bent(z: Tensor) -> Tensor:
        scale = torch.exp(0.75 * torch.sin(1.9 * z[:, 0]))
        return torch.stack([z[:, 0], scale * z[:, 1] * 0.8 + 0.4 * torch.cos(2.5 * z[:, 0])], 1)

    return _grid(bent, (-4.6, 4.6, -3.3, 3.3), torch.tensor([0.5, 0.0, 0.5]))


def maf() -> Image.Image:
    """A masked network: each output is joined to the inputs before it, and to no other."""
    figure, axes = _axes((-0.8, 5.8, -0.55, 3.45))
    places = np.arange(6)
    hidden = np.array([0, 1, 2, 3, 4, 2])
    layers = [places, hidden, np.array([1, 0, 3, 2, 4, 1]), places - 1]
    colours = plt.get_cmap("viridis")(np.linspace(0.0, 0.85, 6))
    for at in range(3):
        below, above = layers[at], layers[at + 1]
        for i, low in enumerate(below):
            for j, high in enumerate(above):
                if high >= low:
                    colour = colours[max(int(high), 0)]
                    axes.plot([i, j], [at, at + 1], color=colour, lw=1.3, alpha=0.75)
    for at, layer in enumerate(layers):
        shade = [colours[max(int(value) + (at == 3), 0)] for value in layer]
        axes.scatter(places, np.full(6, at), s=270, c=shade, edgecolor=PAPER, lw=2, zorder=3)
    return _drawn(figure)


def iaf() -> Image.Image:
    """A Gaussian posterior, and one that autoregressive steps have bent to fit."""
    z = torch.randn(3000, 2, generator=_seeded(1))
    y = torch.stack([z[:, 0], 0.35 * z[:, 1] + 0.55 * z[:, 0] ** 2 - 1.0], 1)
    turn = torch.tensor([[0.94, 0.34], [-0.34, 0.94]])
    y = y @ turn
    figure, axes = _axes((-5.4, 5.2, -3.0, 3.4))
    for points, shift, colour in ((0.85 * z, -2.7, PALETTE[4]), (0.95 * y, 2.0, PALETTE[0])):
        axes.scatter(points[:, 0] + shift, points[:, 1], s=9, color=colour, alpha=0.35, lw=0)
    axes.annotate(
        "",
        xy=(-0.02, 0.4),
        xytext=(-0.75, 0.4),
        arrowprops={"arrowstyle": "-|>", "color": INK, "lw": 2.5},
    )
    axes.set_aspect("equal", adjustable="datalim")
    return _drawn(figure)


def glow() -> Image.Image:
    """Samples of the reference model."""
    model = cast("Glow", pretrained.load("flows/glow_glyphs"))
    drawn = model.sample(24, temperature=0.8, generator=_seeded())
    return _mosaic(drawn.float() / _levels(model), 6)


def _levels(model: torch.nn.Module) -> float:
    return float(getattr(model, "levels", 2) - 1)


def pixelrnn() -> Image.Image:
    """A picture that is drawn row by row: what is there, the next pixel, and what is not yet."""
    model = cast("VAE", pretrained.load("vae/mnist_2d"))
    with torch.no_grad():
        digit = model.decode_mean(torch.tensor([[0.7, -1.0]])).reshape(28, 28).numpy()[2:26, 4:24]
    rows, columns = digit.shape
    figure, axes = _axes((-10, columns + 9, rows + 0.2, -1.2))
    now = 13 * columns + 11
    for k in range(rows * columns):
        row, column = divmod(k, columns)
        grey = f"{0.97 - 0.84 * float(digit[row, column]):.3f}"
        colour = grey if k < now else "#E4E0D6"
        axes.add_patch(plt.Rectangle((column, row), 0.9, 0.9, color=colour, lw=0))
    row, column = divmod(now, columns)
    axes.add_patch(
        plt.Rectangle((column - 0.3, row - 0.3), 1.5, 1.5, color=PALETTE[1], lw=0, zorder=3)
    )
    axes.set_aspect("equal", adjustable="datalim")
    return _drawn(figure)


def gated_pixelcnn() -> Image.Image:
    """Samples of the reference model, one class a column."""
    model = cast("GatedPixelCNN", pretrained.load("autoregressive/gated_glyphs"))
    wanted = torch.tensor([0, 2, 5, 7, 10, 12, 15, 18]).repeat(5)
    drawn = model.sample(len(wanted), wanted, generator=_seeded())
    return _mosaic(drawn.float() / _levels(model), 8)


def wavenet() -> Image.Image:
    """Dilated convolutions: four layers, and all that one output hears."""
    figure, axes = _axes((-0.8, 15.8, -1.35, 4.5))
    every = np.arange(16)
    seen = {15}
    for layer in (4, 3, 2, 1):
        step = 2 ** (layer - 1)
        for place in sorted(seen):
            for source in (place, place - step):
                axes.plot([source, place], [layer - 1, layer], color=PALETTE[0], lw=2)
        axes.scatter(every, np.full(16, layer), s=34, color="#D5D0C4", zorder=2)
        axes.scatter(sorted(seen), [layer] * len(seen), s=60, color=PALETTE[0], zorder=3)
        seen |= {place - step for place in seen}
    axes.scatter(every, np.zeros(16), s=60, color=PALETTE[1], zorder=3)
    time = np.linspace(-0.8, 15.8, 500)
    wave = np.sin(2.1 * time) * np.exp(-(((time - 7) / 6) ** 2)) + 0.3 * np.sin(5.7 * time)
    axes.plot(time, -0.85 + 0.28 * wave, color=INK, lw=1.4)
    return _drawn(figure)


def pixelcnn_pp() -> Image.Image:
    """Digits in colour, samples of the reference model."""
    model = cast("PixelCNNpp", pretrained.load("autoregressive/pp_digits"))
    wanted = torch.arange(8).repeat(5)
    drawn = model.sample(len(wanted), wanted, generator=_seeded())
    return _mosaic(drawn.float() / _levels(model), 8)


def vqvae() -> Image.Image:
    """Letters in colour, samples of the reference model."""
    model = cast("VQVAE", pretrained.load("vae/vqvae_letters"))
    wanted = torch.tensor([0, 2, 5, 7, 10, 12, 15, 18]).repeat(5)
    codes = model.sample_codes(len(wanted), wanted, generator=_seeded())
    with torch.no_grad():
        return _mosaic(model.decode_mean(codes).clamp(0, 1), 8)


def vqvae2() -> Image.Image:
    """Test tiles of a game, decoded from the codes that the record keeps."""
    model = cast("VQVAE2", pretrained.load("vae/vqvae2_tiles"))
    examples = pretrained.record("vae/vqvae2_tiles")["examples"].values()
    flat = torch.tensor([list(bytes.fromhex(text)) for text in examples])
    sizes = [math.prod(grid) for grid in model.grids]
    parts = zip(flat.split(sizes, 1), model.grids, strict=True)
    shown = [0, 7, 2]  # a clown, a sword, a wall
    codes = [part.unflatten(1, grid)[shown] for part, grid in parts]
    with torch.no_grad():
        coarse, both = (model.decode_mean(codes, (True, fine)) for fine in (False, True))
    images = torch.stack([coarse, both]).flatten(0, 1).clamp(0, 1)
    ground = (images - 0.5).abs().amax(1, keepdim=True) < 0.1  # grey, a little uneven: large files
    return _mosaic(torch.where(ground, 0.5, images), 3)


PICTURES: dict[str, Callable[[], Image.Image]] = {
    draw.__name__: draw
    for draw in (
        *(vae, vqvae, vqvae2, planar_radial, nice, realnvp, maf, iaf, glow),
        *(pixelrnn, gated_pixelcnn, wavenet, pixelcnn_pp),
    )
}


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    names = list(sys.argv[1:] if argv is None else argv) or list(PICTURES)
    if unknown := [name for name in names if name not in PICTURES]:
        raise SystemExit(f"no picture named {', '.join(unknown)}; there are: {', '.join(PICTURES)}")
    large = 0
    for name in names:
        path = _store(PICTURES[name](), name)
        size = path.stat().st_size
        large += size > MAX_BYTES
        print(f"{name:16} {size:6,} bytes" + (f", over {MAX_BYTES:,}" if size > MAX_BYTES else ""))
    return 1 if large else 0


if __name__ == "__main__":
    sys.exit(main())
