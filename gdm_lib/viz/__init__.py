"""The book's visual language: a style sheet, the plots that chapters share, and their display.

Start a notebook with ``viz.use_style()``, and end every figure with
``viz.show(fig, alt=..., caption=...)``.
"""

from gdm_lib.viz.display import show, show_source, table
from gdm_lib.viz.families import family_table
from gdm_lib.viz.plots import (
    Curves,
    density_map,
    gaussian_grid,
    image_grid,
    latent_plane,
    scatter_latent,
    training_curves,
)
from gdm_lib.viz.style import COLORS, INK, PALETTE, PAPER, use_style

__all__ = [
    "COLORS",
    "INK",
    "PALETTE",
    "PAPER",
    "Curves",
    "density_map",
    "family_table",
    "gaussian_grid",
    "image_grid",
    "latent_plane",
    "scatter_latent",
    "show",
    "show_source",
    "table",
    "training_curves",
    "use_style",
]
