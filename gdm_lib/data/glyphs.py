"""Characters of many fonts in random poses, with the factors that made each picture.

Outlines come from the fonts that matplotlib ships; they are posed as outlines and filled by Agg,
which gives each pixel the share of its area that is inked. So a picture isn't a resampled picture:
area and centre of mass are those of the posed outline, at any size. The data card is
``data/glyphs.md``.

The pose of an outline point p, with y upwards and c the centre of the glyph's bounding box, is

    size * (scale * R(rotation) * S(slant) * (p - c) + shift + (1/2, 1/2)),

S a shear along x by tan(slant), R a turn anticlockwise, p in units of the font's em.
"""

from __future__ import annotations

import hashlib
import json
import math
import string
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.font_manager import FontProperties, get_font
from matplotlib.path import Path as Outline
from matplotlib.textpath import TextPath
from matplotlib.transforms import Affine2D
from torch import Tensor

from gdm_lib import _tensorfile
from gdm_lib.data._download import cache_dir
from gdm_lib.data.levels import from_levels
from gdm_lib.data.splits import Labelled, Splits, drawn

__all__ = [
    "CHARACTERS",
    "COLOUR_DIGITS",
    "COLOUR_GLYPHS",
    "COLOUR_LARGE_GLYPHS",
    "FACES",
    "FAMILIES",
    "GLYPHS",
    "LARGE_GLYPHS",
    "LETTERS",
    "LEVELS",
    "Face",
    "Factors",
    "Glyphs",
    "draw",
    "load",
    "sample_factors",
]

CHARACTERS = string.digits + string.ascii_uppercase + string.ascii_lowercase
"""The characters drawn by default; a class is an index into this string."""

LEVELS = 256
"""Levels of a pixel in each channel: 0..255, divided by 255."""

MIN_CONTRAST = 0.3
MAX_HEADER = 10_000  # bytes of a file of the cache beside the pictures
RENDERING = 1  # to be raised when the same factors give other pixels: it names the cached files


@dataclass(frozen=True)
class Face:
    """One font file.

    Attributes:
        family: its family's name.
        bold: whether it is the family's bold weight.
        italic: whether it is slanted by design, before any ``slant`` of the pose.
        file: its name in matplotlib's font folder.
    """

    family: str
    bold: bool
    italic: bool
    file: str


FACES = (
    Face("DejaVu Sans", False, False, "DejaVuSans.ttf"),
    Face("DejaVu Sans", False, True, "DejaVuSans-Oblique.ttf"),
    Face("DejaVu Sans", True, False, "DejaVuSans-Bold.ttf"),
    Face("DejaVu Sans", True, True, "DejaVuSans-BoldOblique.ttf"),
    Face("DejaVu Serif", False, False, "DejaVuSerif.ttf"),
    Face("DejaVu Serif", False, True, "DejaVuSerif-Italic.ttf"),
    Face("DejaVu Serif", True, False, "DejaVuSerif-Bold.ttf"),
    Face("DejaVu Serif", True, True, "DejaVuSerif-BoldItalic.ttf"),
    Face("DejaVu Sans Mono", False, False, "DejaVuSansMono.ttf"),
    Face("DejaVu Sans Mono", False, True, "DejaVuSansMono-Oblique.ttf"),
    Face("DejaVu Sans Mono", True, False, "DejaVuSansMono-Bold.ttf"),
    Face("DejaVu Sans Mono", True, True, "DejaVuSansMono-BoldOblique.ttf"),
    Face("STIX General", False, False, "STIXGeneral.ttf"),
    Face("STIX General", False, True, "STIXGeneralItalic.ttf"),
    Face("STIX General", True, False, "STIXGeneralBol.ttf"),
    Face("STIX General", True, True, "STIXGeneralBolIta.ttf"),
    Face("Computer Modern Roman", False, False, "cmr10.ttf"),
    Face("Computer Modern Roman", False, True, "cmti10.ttf"),
    Face("Computer Modern Roman", True, False, "cmb10.ttf"),
    Face("Computer Modern Sans", False, False, "cmss10.ttf"),
    Face("Computer Modern Typewriter", False, False, "cmtt10.ttf"),
)
"""The fonts. The first 16 are four families in every combination of weight and italics."""

FAMILIES = tuple(dict.fromkeys(face.family for face in FACES))
"""The families' names, in the order of ``FACES``."""

LETTERS: dict[str, Any] = {
    "characters": string.ascii_uppercase,
    "slant": 20.0,
    "rotation": 0.0,
    "scale": (0.65, 0.85),
    "shift": 0.02,
}
"""Arguments of ``load``: all capitals in every font, not turned, 32x32 (``vae/glyph_letters``)."""

GLYPHS: dict[str, Any] = {
    "size": 16,
    "characters": "ABCDEFGHKLNPRSTUVXYZ",
    "fonts": (0, 2, 8, 10, 12, 14),
    "slant": 20.0,
    "rotation": 0.0,
    "scale": (0.65, 1.0),
    "shift": 0.02,
}
"""Arguments of ``load``: capitals of three upright families, each in two weights, 16x16. None is so
wide that it leaves the picture (``flows/glow_glyphs``, ``flows/realnvp_glyphs``,
``autoregressive/gated_glyphs``)."""

COLOUR_GLYPHS: dict[str, Any] = {**GLYPHS, "colour": True}
"""Arguments of ``load``: the same in colour (PixelCNN++'s ablations have their green channel)."""

LARGE_GLYPHS: dict[str, Any] = {**GLYPHS, "size": 32}
"""Arguments of ``load``: the same letters as ``GLYPHS``, 32x32 (``metrics/letters``)."""

COLOUR_LARGE_GLYPHS: dict[str, Any] = {**LARGE_GLYPHS, "colour": True}
"""Arguments of ``load``: the same in colour (``metrics/letters``, ``vae/vqvae_letters``)."""

COLOUR_DIGITS: dict[str, Any] = {
    "size": 16,
    "characters": string.digits,
    "fonts": (0, 2, 8, 10),
    "slant": 10.0,
    "rotation": 0.0,
    "scale": (0.8, 1.1),
    "shift": 0.03,
    "colour": True,
}
"""Arguments of ``load``: large digits in colour, 16x16 (``autoregressive/pp_digits``)."""


@dataclass(frozen=True, eq=False)
class Factors:
    """All that a picture was made from, one entry for each picture.

    Attributes:
        character: int64 index into the characters, ``(N,)``.
        font: int64 index into ``FACES``, ``(N,)``.
        slant: shear in degrees from the upright, positive to the right, ``(N,)``.
        rotation: degrees anticlockwise, ``(N,)``.
        scale: the font's em as a share of the picture's side, ``(N,)``.
        shift: from the picture's middle to that of the glyph's box, rightwards and upwards, as
            shares of the side, ``(N, 2)``.
        ink: the glyph's colour in [0, 1], ``(N, C)``; C is 1 or 3.
        paper: the background's, ``(N, C)``.
    """

    character: Tensor
    font: Tensor
    slant: Tensor
    rotation: Tensor
    scale: Tensor
    shift: Tensor
    ink: Tensor
    paper: Tensor

    def __len__(self) -> int:
        return len(self.character)

    @property
    def family(self) -> Tensor:
        """int64 index into ``FAMILIES``, ``(N,)``."""
        return torch.tensor([FAMILIES.index(face.family) for face in FACES])[self.font]

    @property
    def weight(self) -> Tensor:
        """int64, 0 regular and 1 bold, ``(N,)``."""
        return torch.tensor([int(face.bold) for face in FACES])[self.font]

    @property
    def italic(self) -> Tensor:
        """int64, 0 upright and 1 italic by the font's own design, ``(N,)``."""
        return torch.tensor([int(face.italic) for face in FACES])[self.font]


@dataclass(frozen=True, eq=False)
class Glyphs(Labelled):
    """Pictures with their classes and factors.

    Attributes:
        x: float32, multiples of 1/255 in [0, 1], ``(N, C, size, size)``.
        y: int64, the character, ``(N,)``; the same as ``factors.character``.
        factors: what each was made from.
    """

    factors: Factors


def load(
    n_train: int = 20_000,
    n_test: int = 2_000,
    *,
    size: int = 32,
    colour: bool = False,
    characters: str = CHARACTERS,
    fonts: Sequence[int] = range(len(FACES)),
    slant: float = 15.0,
    rotation: float = 15.0,
    scale: tuple[float, float] = (0.55, 0.85),
    shift: float = 0.05,
    seed: int = 0,
) -> Splits[Glyphs]:
    """Draw glyphs, or read them from the cache if these very ones were drawn before.

    The first items don't depend on how many are asked for: ``load(100)`` begins ``load(20_000)``.

    Args:
        n_train: pictures to train on.
        n_test: pictures to test on.
        size: pixels along a side.
        colour: three channels with random ink and paper, instead of white on black.
        characters: what to choose from, with equal chances.
        fonts: indices into ``FACES`` to choose from, with equal chances.
        slant: the most, in degrees; the shear is even between minus and plus this.
        rotation: the most, in degrees, likewise.
        scale: least and most.
        shift: the most along each axis.
        seed: of both streams. The parts of one seed share no item, nor does the test part of
            one with the training part of another.

    Raises:
        ValueError: an argument is out of range, or a font lacks a character.
    """
    _check_size(size)
    key = (
        (RENDERING, matplotlib.__version__, n_train, n_test, size, colour, characters),
        (*fonts,),
        (slant, rotation, scale, shift, seed),
    )
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]
    path = cache_dir() / "glyphs" / f"{digest}.safetensors"

    def part(n: int, generator: torch.Generator) -> Factors:
        return sample_factors(
            n,
            colour=colour,
            characters=characters,
            fonts=fonts,
            slant=slant,
            rotation=rotation,
            scale=scale,
            shift=shift,
            generator=generator,
        )

    # Drawn again each time, which costs nothing beside the pictures: what isn't kept can't differ.
    factors = vars(drawn(part, n_train, n_test, seed))
    levels = _kept(
        path, {name: (len(f), f.ink.shape[1], size, size) for name, f in factors.items()}
    )
    if levels is None:
        levels = {name: _draw_levels(f, size, characters) for name, f in factors.items()}
        _keep(path, levels)
    return Splits(
        *(Glyphs(from_levels(levels[name], LEVELS), f.character, f) for name, f in factors.items())
    )


def sample_factors(
    n: int,
    *,
    colour: bool = False,
    characters: str = CHARACTERS,
    fonts: Sequence[int] = range(len(FACES)),
    slant: float = 15.0,
    rotation: float = 15.0,
    scale: tuple[float, float] = (0.55, 0.85),
    shift: float = 0.05,
    generator: torch.Generator | None = None,
) -> Factors:
    """Draw the factors of ``n`` pictures, all independent but for the colours.

    Ink and paper are even in the RGB cube; then the ink is moved towards black or white as far as
    it takes to differ from the paper by 0.3 in luminance. The arguments are those of ``load``.

    Raises:
        ValueError: an argument is out of range.
    """
    if not characters or len(set(characters)) != len(characters):
        raise ValueError(f"characters must be at least one, none twice, got {characters!r}")
    if not fonts or not all(0 <= font < len(FACES) for font in fonts):
        raise ValueError(f"fonts must be indices from 0 to {len(FACES) - 1}, got {[*fonts]}")
    if not (0 <= slant < 90 and rotation >= 0 and shift >= 0):
        raise ValueError(
            "slant must be in [0, 90), rotation and shift 0 or more, got "
            f"{slant}, {rotation} and {shift}"
        )
    if not 0 < scale[0] <= scale[1]:
        raise ValueError(f"scale must be (least, most) with 0 < least <= most, got {scale}")
    # Row by row in one call, so that an item doesn't depend on how many follow.
    u = torch.rand(n, 13, generator=generator, dtype=torch.float64)
    if colour:
        paper, ink = u[:, 7:10], _with_contrast(u[:, 10:13], u[:, 7:10])
    else:
        paper, ink = torch.zeros(n, 1), torch.ones(n, 1)
    return Factors(
        character=(u[:, 0] * len(characters)).long(),
        font=torch.tensor([*fonts])[(u[:, 1] * len(fonts)).long()],
        slant=((2 * u[:, 2] - 1) * slant).float(),
        rotation=((2 * u[:, 3] - 1) * rotation).float(),
        scale=(scale[0] + u[:, 4] * (scale[1] - scale[0])).float(),
        shift=((2 * u[:, 5:7] - 1) * shift).float(),
        ink=ink.float(),
        paper=paper.float(),
    )


def draw(factors: Factors, *, size: int = 32, characters: str = CHARACTERS) -> Tensor:
    """The pictures of given factors: ``(N, C, size, size)``, multiples of 1/255 in [0, 1].

    Args:
        factors: as ``sample_factors`` gives them, or changed at will with
            ``dataclasses.replace``: to vary one factor and hold the others is to walk along a true
            axis of variation.
        size: pixels along a side.
        characters: what ``factors.character`` points into.

    Raises:
        ValueError: ``size`` is below 8, an index is out of range, or a font lacks a character.
    """
    return from_levels(_draw_levels(factors, size, characters), LEVELS)


def _check_size(size: int) -> None:
    if size < 8:
        raise ValueError(f"size must be at least 8 pixels, got {size}")


def _draw_levels(factors: Factors, size: int, characters: str) -> Tensor:
    _check_size(size)
    n, channels = len(factors), factors.ink.shape[1]
    levels = torch.empty(n, channels, size, size, dtype=torch.uint8)
    poses = _poses(factors, size)
    renderer = RendererAgg(size, size, 72)
    pen = renderer.new_gc()
    pen.set_linewidth(0)
    pen.set_snap(False)  # snapping to whole pixels would move straight-edged letters
    white = (1.0, 1.0, 1.0, 1.0)
    chosen = zip(factors.character.tolist(), factors.font.tolist(), strict=True)
    glyphs = [_outline(_pick(characters, c, "character"), font) for c, font in chosen]
    cover = np.empty((n, size, size), dtype=np.uint8)
    for i, glyph in enumerate(glyphs):
        renderer.clear()
        renderer.draw_path(pen, glyph, Affine2D(poses[i]), white)
        cover[i] = np.asarray(renderer.buffer_rgba())[:, :, 3]
    for block in torch.arange(n).split(1024):  # colours in floating point, a block at a time
        share = torch.from_numpy(cover[block.numpy()]).float()[:, None] / 255
        ink = factors.ink[block, :, None, None]
        paper = factors.paper[block, :, None, None]
        levels[block] = ((paper + share * (ink - paper)) * 255).round().to(torch.uint8)
    return levels


def _poses(factors: Factors, size: int) -> np.ndarray:
    """Matrices ``(N, 3, 3)`` from centred outlines in em to pixels, y upwards."""
    turn = factors.rotation.double().deg2rad()
    shear = factors.slant.double().deg2rad().tan()
    em = size * factors.scale.double()
    poses = torch.zeros(len(factors), 3, 3, dtype=torch.float64)
    poses[:, 0, 0] = em * turn.cos()
    poses[:, 1, 0] = em * turn.sin()
    poses[:, 0, 1] = em * (shear * turn.cos() - turn.sin())
    poses[:, 1, 1] = em * (shear * turn.sin() + turn.cos())
    poses[:, :2, 2] = size * (0.5 + factors.shift.double())
    poses[:, 2, 2] = 1
    return poses.numpy()


def _pick(characters: str, index: int, name: str) -> str:
    if not 0 <= index < len(characters):
        raise ValueError(
            f"factors.{name} must point into the {len(characters)} characters, got {index}; pass "
            "the characters that the factors were drawn with"
        )
    return characters[index]


@lru_cache(maxsize=4096)
def _outline(character: str, font: int) -> Outline:
    """The outline of a character in em, with the middle of its box at the origin, y upwards."""
    file = Path(matplotlib.get_data_path(), "fonts", "ttf", FACES[font].file)
    path = TextPath((0, 0), character, size=1, prop=FontProperties(fname=str(file)))
    if not get_font(str(file)).get_char_index(ord(character)) or not len(path.vertices):
        raise ValueError(
            f"characters must be in every font asked for, but {FACES[font].file} has no "
            f"{character!r}; leave one of them out"
        )
    box = path.get_extents()
    middle = ((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2)
    return Outline(path.vertices - middle, path.codes)


def _with_contrast(ink: Tensor, paper: Tensor) -> Tensor:
    luminance = torch.tensor([0.299, 0.587, 0.114], dtype=ink.dtype)  # Rec. 601
    of_ink, of_paper = ink @ luminance, paper @ luminance
    far = (of_paper < 0.5).to(ink.dtype)  # white or black, whichever is further from the paper
    wanted = of_paper + MIN_CONTRAST * (2 * far - 1)
    way = ((wanted - of_ink) / (far - of_ink)).clamp(0, 1)
    enough = (of_ink - of_paper).abs() >= MIN_CONTRAST
    moved = ink + way[:, None] * (far[:, None] - ink)
    return torch.where(enough[:, None], ink, moved)


def _kept(path: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor] | None:
    """The pictures that ``_keep`` kept; None if they are not there, or not as they were."""
    most = sum(map(math.prod, shapes.values())) + MAX_HEADER
    try:
        levels, metadata = _tensorfile.read(path, most)
    except (OSError, ValueError):
        return None
    found = {name: tuple(tensor.shape) for name, tensor in levels.items()}
    if found != shapes or any(tensor.dtype != torch.uint8 for tensor in levels.values()):
        return None
    return levels if metadata.get("sha256") == _digest(levels) else None


def _keep(path: Path, levels: dict[str, Tensor]) -> None:
    try:
        _tensorfile.write(path, levels, {"sha256": _digest(levels)})
    except OSError as error:
        warnings.warn(
            f"the glyphs could not be kept at {path} ({error}) and will be drawn again next "
            "time; set GDM_DATA_DIR to a folder with room that you may write to",
            stacklevel=3,
        )


def _digest(levels: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(levels):
        digest.update(levels[name].numpy().tobytes())
    return digest.hexdigest()
