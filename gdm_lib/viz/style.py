"""Colours and the style sheet: one visual language for the whole book.

Figures are dark ink on a solid off-white sheet. That reads the same on a light page, on a dark
one and on paper, which a transparent figure can't. The six colours start from Okabe and Ito's
set (https://jfly.uni-koeln.de/color/); its light ones (orange, sky blue, yellow) are replaced
by darker ones, because lines in them have too little contrast with the sheet.
"""

from __future__ import annotations

from importlib.resources import as_file, files

import matplotlib.pyplot as plt

__all__ = ["COLORS", "INK", "PALETTE", "PAPER", "use_style"]

PAPER = "#FBFAF7"
"""The sheet that every figure is drawn on."""

INK = "#22252A"
"""Text, and the data."""

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#8A3B73", "#6B5200", INK)
"""Blue, vermillion, green, plum, umber, ink: told apart under each common colour blindness."""

COLORS = {
    "data": INK,
    "model": PALETTE[0],
    "bound": PALETTE[1],
    "truth": PALETTE[2],
    "baseline": PALETTE[4],
}
"""One colour for each role, in every chapter: the data, the model that the chapter is about,
a bound on it, the exact answer, and what the chapter compares with."""


def use_style() -> None:
    """Load the book's style sheet into matplotlib, for this process.

    Call it once at the top of a notebook; importing ``gdm_lib.viz`` changes no setting.
    """
    with as_file(files("gdm_lib.viz") / "book.mplstyle") as path:
        plt.style.use(path)
