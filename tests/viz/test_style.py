"""The palette keeps its promises: contrast with the sheet, and colours that stay apart for
colour-blind readers (Machado, Oliveira and Fernandes 2009, severity 1)."""

from __future__ import annotations

import itertools
import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from gdm_lib import viz

VISION = {
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


pytestmark = pytest.mark.usefixtures("book_style")


def linear(colour):
    c = np.array(to_rgb(colour))
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def contrast(a, b):
    """The ratio of WCAG 2.2, 1 to 21."""
    weights = [0.2126, 0.7152, 0.0722]
    low, high = sorted((linear(a) @ weights, linear(b) @ weights))
    return (high + 0.05) / (low + 0.05)


def cielab(rgb):
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = to_xyz @ np.clip(rgb, 0, 1) / [0.9505, 1.0, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_contrast_knows_black_on_white():
    assert contrast("black", "white") == pytest.approx(21)


@pytest.mark.parametrize("colour", [*viz.PALETTE, *viz.COLORS.values()])
def test_lines_stand_out_from_the_sheet(colour):
    assert contrast(colour, viz.PAPER) >= 3


def test_text_is_readable_on_the_sheet():
    for key in ("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.labelcolor"):
        assert contrast(mpl.rcParams[key], viz.PAPER) >= 7, key


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("colours", [viz.PALETTE, tuple(viz.COLORS.values())], ids=["all", "roles"])
def test_colours_stay_apart_for_every_eye(vision, colours):
    seen = [cielab(np.asarray(VISION[vision]) @ linear(colour)) for colour in colours]
    nearest = min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2))
    assert nearest >= 15


def test_the_style_sheet_uses_the_palette_and_the_sheet():
    cycle = mpl.rcParams["axes.prop_cycle"].by_key()["color"]
    assert [f"#{colour.lstrip('#')}" for colour in cycle] == list(viz.PALETTE)
    for key in ("figure.facecolor", "axes.facecolor", "savefig.facecolor"):
        assert to_rgb(mpl.rcParams[key]) == to_rgb(viz.PAPER), key


def test_text_stays_legible_on_a_phone():
    # A phone's column is about 340 CSS pixels wide; a point is 96/72 of them.
    shrink = 340 / (mpl.rcParams["figure.figsize"][0] * 96)
    smallest = min(mpl.rcParams[key] for key in ("xtick.labelsize", "legend.fontsize", "font.size"))
    assert smallest * 96 / 72 * shrink >= 8


def test_importing_changes_no_setting():
    code = (
        "import matplotlib as m; before = dict(m.rcParams); import gdm_lib.viz; "
        "import sys; sys.exit(before != dict(m.rcParams))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
