"""The data cards say what the code does."""

import re
from pathlib import Path

import pytest

from gdm_lib import pretrained
from gdm_lib.data import dcss, digits, fsdd, glyphs, tones, toy2d
from gdm_lib.data.mnist import FASHION_FILES, MNIST_FILES

CARDS = Path(__file__).parents[2] / "data"


def card(name: str) -> str:
    return (CARDS / f"{name}.md").read_text(encoding="utf-8")


def test_every_card_is_in_the_index():
    names = {path.stem for path in CARDS.glob("*.md")} - {"README"}
    made, fetched = (
        {"toy2d", "tones", "digits", "glyphs"},
        {"mnist", "fashion_mnist", "fsdd", "dcss"},
    )
    assert names == made | fetched
    for name in names:
        assert f"[{name}]({name}.md)" in card("README")
        assert "**Licence.**" in card(name)
        assert "**Known issues.**" in card(name)


@pytest.mark.parametrize("name", toy2d.DENSITIES)
def test_the_entropies_are_those_of_the_densities(name):
    assert f"{toy2d.DENSITIES[name]().entropy:.6f}" in card("toy2d")


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("mnist", MNIST_FILES),
        ("fashion_mnist", FASHION_FILES),
        ("fsdd", (fsdd.RECORDINGS,)),
        ("dcss", (dcss.TILES,)),
    ],
)
def test_checksums_and_addresses_are_those_of_the_downloads(name, files):
    text = card(name)
    for file in files:
        assert f"`{Path(file.path).name}` | `{file.sha256}`" in text
        for url in file.urls:
            assert url.rsplit("/", 1)[0] in text
    assert f"{sum(file.size for file in files) / 1e6:.1f} MB" in text


def test_sizes_of_the_digits():
    data = digits.load()
    assert f"{len(data.train):,} to train and {len(data.test)} to test" in card("digits")


def test_the_process_and_its_sizes():
    text = card("tones")
    process = tones.AutoregressiveProcess()
    entropies = [process.conditional_entropy(context) for context in (0, 1, 2)]
    assert "{:.6f}, {:.6f} and {:.6f}".format(*entropies) in text
    for name in tones.TIMBRES:
        assert name in text


def test_settings_of_the_glyphs_and_levels_of_the_models():
    text = card("glyphs")
    for name in ("LETTERS", "GLYPHS", "COLOUR_GLYPHS", "COLOUR_DIGITS"):
        preset = getattr(glyphs, name)
        assert f"`{name}`" in text
        x = glyphs.load(1, 0, **preset).train.x
        side = preset.get("size", 32)
        assert x.shape == (1, 3 if "COLOUR" in name else 1, side, side)
    assert f"`GLYPHS` ({len(glyphs.GLYPHS['characters'])} capitals" in text
    levels = {
        "flows/glow_glyphs": pretrained.build("flows/glow_glyphs").dequantise.levels,
        "flows/realnvp_glyphs": pretrained.build("flows/realnvp_glyphs").dequantise.levels,
        "autoregressive/gated_glyphs": pretrained.build("autoregressive/gated_glyphs").levels,
        "autoregressive/pp_digits": pretrained.build("autoregressive/pp_digits").levels,
    }
    for name, count in levels.items():
        assert re.search(rf"`{name}`( has)? {count}\b", text)


def test_speakers_of_the_spoken_digits():
    for name in fsdd.SPEAKERS:
        assert name in card("fsdd")
    assert f"`VOICES` ({', '.join(fsdd.VOICES)})" in card("fsdd")
    assert str(fsdd.RECORDINGS.mirror_path) in card("README")


def test_categories_of_the_tiles():
    assert f"`CATEGORIES` ({', '.join(dcss.CATEGORIES)})" in card("dcss")
    assert str(dcss.TILES.mirror_path) in card("README")
