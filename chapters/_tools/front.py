"""The cards of the start page, made from the chapters: ``python -m chapters._tools.front``.

A card has the chapter's title, its picture and idea (``chapters/_site/cards.yml``), how long it
takes to read, and which chapters it builds on. The start page holds the cards between two marks,
so that JupyterLab shows them too; the lint tells when they are no longer those of the chapters.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from chapters._tools import pairs
from chapters._tools.markdown import Block, parse, plain, walk
from chapters._tools.prose import folded, lines_of

__all__ = [
    "BEGIN",
    "DATA",
    "END",
    "PICTURES",
    "Card",
    "builds_on",
    "cards",
    "families",
    "main",
    "minutes",
    "render",
    "renew",
]

BEGIN = "<!-- cards: made by python -m chapters._tools.front -->"
END = "<!-- end of the cards -->"
APPENDICES = "Appendices"
DATA = Path("chapters/_site/cards.yml")
PICTURES = "_site/static/cards"
# Seconds: of a word of prose, a line of unfolded code, a displayed equation, a picture or result.
SECONDS = {"word": 0.3, "line": 5.0, "equation": 20.0, "cell": 15.0}
STEP = 5  # minutes that a reading time is rounded to
BUILDS_ON = r"\*Builds on:\*(.*?)(?:\*What\s+builds\s+on\s+it|\Z)"
LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()#\s]+)\.ipynb(?:#[^()]*)?\)")


@dataclass(frozen=True)
class Card:
    """What the start page says of a chapter."""

    name: str
    """Family and name, ``flows/realnvp``."""
    title: str
    idea: str
    alt: str
    also: tuple[str, ...]
    """Other names by which a reader may search for it."""
    minutes: int
    builds_on: tuple[str, ...]
    """The names of chapters."""


def families(root: Path = pairs.ROOT) -> dict[str, list[str]]:
    """The names of the chapters by family, both in the order of the table of contents."""
    toc = yaml.safe_load((root / "_toc.yml").read_text("utf-8"))
    return {
        part["caption"]: [item["file"].removeprefix("chapters/") for item in part["chapters"]]
        for part in toc["parts"]
        if part["caption"] != APPENDICES
    }


def title_of(blocks: Sequence[Block]) -> str:
    """A text's title."""
    return next(b.text for b in blocks if b.kind == "heading" and b.level == 1)


def minutes(blocks: Sequence[Block]) -> int:
    """How long a chapter takes to read, in minutes, rounded: prose, formulas, unfolded code and a
    look at what each cell shows. Exercises come on top."""
    seconds = 0.0
    for block in _before_exercises(blocks):
        if block.kind in ("text", "table", "heading"):
            words = len(re.findall(r"[^\W\d_][\w'’-]*", plain(block.text)))
            seconds += SECONDS["word"] * words
        elif block.kind == "math":
            seconds += SECONDS["equation"]
        elif block.kind == "cell":
            lines = 0 if folded(block) else lines_of(block)
            seconds += SECONDS["cell"] + SECONDS["line"] * lines
    return max(STEP, STEP * round(seconds / 60 / STEP))


def _before_exercises(blocks: Sequence[Block]) -> Iterator[Block]:
    inside = False
    for block in blocks:
        if block.kind == "heading" and block.level == 2:
            inside = block.text.lower().startswith("exercises")
        if not inside:
            yield from walk([block])


def builds_on(blocks: Sequence[Block], name: str) -> tuple[str, ...]:
    """The chapters that the opening names between *Builds on* and *What builds on it*.

    Args:
        blocks: of the chapter.
        name: of the chapter, ``flows/realnvp``.
    """
    for block in walk(blocks):
        match = re.search(BUILDS_ON, block.text, re.DOTALL)
        if block.kind == "text" and match:
            folder = os.path.dirname(name)
            found = [
                os.path.normpath(f"{folder}/{target}").replace(os.sep, "/")
                for target in LINK.findall(match[1])
            ]
            return tuple(dict.fromkeys(found))
    return ()


def cards(root: Path = pairs.ROOT) -> dict[str, Card]:
    """The cards of all chapters, by name, in the order of the table of contents.

    Raises:
        ValueError: the file of ideas leaves out a chapter, or names one that isn't there.
    """
    told: dict[str, dict[str, Any]] = yaml.safe_load((root / DATA).read_text("utf-8"))
    names = [name for family in families(root).values() for name in family]
    if sorted(told) != sorted(names):
        wrong = ", ".join(sorted(set(told) ^ set(names)))
        raise ValueError(f"{DATA.as_posix()} and _toc.yml don't name the same chapters: {wrong}")
    found = {}
    for name in names:
        blocks = parse((root / "chapters" / f"{name}.md").read_text("utf-8"))
        found[name] = Card(
            name=name,
            title=title_of(blocks),
            idea=told[name]["idea"],
            alt=told[name]["alt"],
            also=tuple(told[name].get("also", ())),
            minutes=minutes(blocks),
            builds_on=builds_on(blocks, name),
        )
    return found


def render(root: Path = pairs.ROOT) -> str:
    """The cards as MyST, by family, between their marks."""
    every = cards(root)
    parts = [BEGIN]
    for family, names in families(root).items():
        parts += [f"### {family}", "::::{grid} 1 2 2 2\n:class-container: gdm-cards\n:gutter: 3"]
        parts += [_card(every[name], every) for name in names]
        parts.append("::::")
    return "\n\n".join([*parts, END])


def _card(card: Card, every: dict[str, Card]) -> str:
    links = [f"[{every[name].title}]({name}.ipynb)" for name in card.builds_on if name in every]
    builds = f"Builds on {_and(links)}." if links else "Needs no other chapter."
    picture = f"{PICTURES}/{card.name.rpartition('/')[2]}.png"
    return "\n\n".join(
        [
            ":::{grid-item-card}",
            f"![{card.alt}]({picture})",
            f"**[{card.title}]({card.name}.ipynb)**",
            card.idea,
            f"*{card.minutes} minutes. {builds}*",
            ":::",
        ]
    )


def _and(parts: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def renew(text: str, root: Path = pairs.ROOT) -> str:
    """The text of the start page with the cards of today.

    Raises:
        ValueError: it has no place for them.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the start page has no place for the cards: {BEGIN} ... {END}")
    return before + render(root) + after


def main(root: Path = pairs.ROOT) -> int:
    """Bring the start page up to date."""
    page = root / "chapters" / "index.md"
    old = page.read_text("utf-8")
    new = renew(old, root)
    if new != old:
        page.write_text(new, encoding="utf-8", newline="\n")
        print(f"{page.relative_to(root)}: the cards were out of date, and are renewed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
