"""The cards of the start page say what the chapters say, and nothing else."""

import pytest
from PIL import Image

from chapters._tools import cards, front, lint, pairs
from chapters._tools.markdown import parse

IDEAS = """vae/vae: {idea: Guess the cause., alt: two digits, also: [VAE]}
flows/nice: {idea: Add to one half., alt: a grid}
"""
TOC = """root: chapters/index
parts:
  - caption: Latent variables
    chapters: [{file: chapters/vae/vae}]
  - caption: Flows
    chapters: [{file: chapters/flows/nice}]
  - caption: Appendices
    chapters: [{file: chapters/appendix/notation}]
"""
NICE = (
    "# NICE\n\n*Builds on:* [a paper](../vae/vae.ipynb). *What builds on it:* [it](glow.ipynb).\n"
)


@pytest.fixture
def shelf(book, header):
    """A book with two chapters, their cards, and a start page that holds these."""
    book.put("_toc.yml", TOC)
    book.put(front.DATA.as_posix(), IDEAS)
    book.put("chapters/flows/nice.md", NICE)
    for name in ("vae", "nice"):
        book.put(f"chapters/{front.PICTURES}/{name}.png", "a picture")
    start = book.put("chapters/index.md", f"{header}# Start\n\n{front.BEGIN}\n{front.END}\n")
    front.main(book.root)
    return book, start


def complaints(book, start):
    return [f.message for f in lint.lint(start, book.root) if "card" in f.message]


def test_a_card_has_the_title_the_idea_the_picture_and_what_the_chapter_builds_on(shelf):
    book, start = shelf
    text = start.read_text("utf-8")
    assert text.index("### Latent variables") < text.index("**[A paper](vae/vae.ipynb)**")
    assert text.index("### Flows") < text.index("**[NICE](flows/nice.ipynb)**\n\nAdd to one half.")
    assert "![a grid](_site/static/cards/nice.png)" in text
    assert "*5 minutes. Builds on [A paper](vae/vae.ipynb).*" in text
    assert "Needs no other chapter" in text
    assert "glow" not in text
    assert complaints(book, start) == []
    assert text.startswith(pairs.HEADER)


@pytest.mark.parametrize(
    ("old", "new"),
    [("# NICE", "# NICE, again"), ("[a paper](../vae/vae.ipynb)", "nothing"), ("#", "#")],
)
def test_the_lint_tells_when_a_chapter_no_longer_says_what_its_card_says(shelf, old, new):
    book, start = shelf
    book.put("chapters/flows/nice.md", NICE.replace(old, new, 1))
    assert len(complaints(book, start)) == (old != new)
    front.main(book.root)
    assert complaints(book, start) == []


def test_a_chapter_without_a_card_and_a_start_page_without_a_place_are_named(shelf):
    book, start = shelf
    book.put(front.DATA.as_posix(), IDEAS.partition("flows")[0])
    with pytest.raises(ValueError, match="flows/nice"):
        front.cards(book.root)
    assert any("flows/nice" in text for text in complaints(book, start))
    with pytest.raises(ValueError, match="no place for the cards"):
        front.renew("# Start\n", book.root)


def test_reading_times_are_sums():
    words = "word " * 3000  # 15 minutes
    fold = "---\njupyter:\n  source_hidden: true\ntags: [hide-input]\n---\n"
    code = "```{code-cell} ipython3\n" + "x = 1\n" * 33 + "```\n"  # 3 minutes
    hidden = code.replace("ipython3\n", f"ipython3\n{fold}")  # 15 seconds
    equations = "$$\nx\n$$ (a)\n\n" * 21  # 7 minutes

    def time(text):
        return front.minutes(parse(f"# T\n\n{text}"))

    assert time("") == 5
    assert time(words) == 15
    assert time(f"{words}\n\n{equations}\n\n{code}") == 25
    assert time(f"{words}\n\n{equations}\n\n{hidden * 4}") == 25  # 23
    assert time(f"{words}\n\n{hidden}") == 15
    assert time(f"{words}\n\n## Exercises\n\n{words}") == 15
    assert time(f"{words}\n\n## Exercises\n\n{words}\n\n## Summary\n\n{words}") == 30


def test_prerequisites_are_the_links_of_the_opening_each_once():
    text = (
        "*Builds on:* [one](one.ipynb), [two](../vae/vae.ipynb#x), [one](one.ipynb) and\n"
        "[notes](../appendix/notation.md). *What builds on it:* [three](three.ipynb)."
    )
    assert front.builds_on(parse(text), "flows/nice") == ("flows/one", "vae/vae")
    assert front.builds_on(parse("See [one](one.ipynb)."), "flows/nice") == ()


@pytest.mark.parametrize("name", front.cards())
def test_every_card_has_a_small_picture_says_what_it_shows_and_leads_back(name):
    card = front.cards()[name]
    path = pairs.ROOT / "chapters" / front.PICTURES / f"{name.rpartition('/')[2]}.png"
    assert path.stat().st_size <= cards.MAX_BYTES
    with Image.open(path) as picture:
        assert picture.size == cards.SIZE
    assert len(card.alt) > 30
    assert path.stem in cards.PICTURES
    order = list(front.cards())
    assert all(order.index(earlier) < order.index(name) for earlier in card.builds_on)
