"""How a chapter reads, in numbers: information for its author, never a failure.

A share of long sentences that grows, or connectives that become rare, is a reason to read the
chapter aloud. A number alone is not a reason to change a sentence.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from chapters._tools.markdown import Block, plain, walk

__all__ = ["Drift", "drift", "folded", "half_folded", "lines_of", "sentences"]

LONG = 35  # words; most sentences should have fewer than 25
CONNECTIVES = re.compile(
    r"\b(?:because|since|so|therefore|thus|hence|but|however|although|though|whereas|instead"
    r"|for example|for instance|in other words|as a result)\b",
    re.IGNORECASE,
)
WORD = re.compile(r"[^\W\d_][\w'’-]*")


@dataclass(frozen=True)
class Drift:
    """Of one text: words, share of long sentences, connectives, and lines of unfolded code."""

    words: int
    long: float
    """Share of the sentences that have more than ``LONG`` words, formulas not counted."""
    connectives: float
    """Per 1,000 words."""
    unfolded: int
    """Lines of code that a reader sees without a click."""


def folded(cell: Block) -> bool:
    """Whether page and JupyterLab show the output of a cell with its code behind a toggle."""
    return "hide-input" in cell.options.get("tags", "") and _hidden(cell) == "true"


def half_folded(cell: Block) -> bool:
    """Whether a cell is folded on the page only, or in JupyterLab only."""
    return ("hide-input" in cell.options.get("tags", "")) != (_hidden(cell) == "true")


def _hidden(cell: Block) -> str:
    inline = re.search(r"source_hidden:\s*(\w+)", cell.options.get("jupyter", ""))
    return inline[1] if inline else cell.options.get("source_hidden", "")


def lines_of(cell: Block) -> int:
    """Lines of code, blank ones not counted."""
    return sum(bool(line.strip()) for line in cell.text.splitlines())


def sentences(blocks: Sequence[Block]) -> list[str]:
    """The sentences of the running text, with formulas left out."""
    found = []
    for block in walk(blocks):
        if block.kind == "text":
            text = re.sub(r"^\s*(?:[-*]|\d+\.)\s+", "", plain(block.text), flags=re.MULTILINE)
            text = re.sub(r"[*_]{1,2}(?=\S)|(?<=\S)[*_]{1,2}", "", text)
            found += re.split(r"(?<=[.!?])[)\"”’]*\s+(?=[\"“‘(]?[A-Z])", " ".join(text.split()))
    return [sentence for sentence in found if WORD.search(sentence)]


def drift(blocks: Sequence[Block]) -> Drift:
    """The numbers of one text."""
    counts = [len(WORD.findall(sentence)) for sentence in sentences(blocks)]
    words = sum(counts)
    connected = sum(len(CONNECTIVES.findall(sentence)) for sentence in sentences(blocks))
    return Drift(
        words=words,
        long=sum(count > LONG for count in counts) / max(1, len(counts)),
        connectives=1000 * connected / max(1, words),
        unfolded=sum(lines_of(b) for b in walk(blocks) if b.kind == "cell" and not folded(b)),
    )
