"""The blocks of a MyST text, with their line numbers: as much as lint and tests need."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

__all__ = ["Block", "closing", "options", "parse", "plain", "slug", "walk"]

FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|~{3,}|:{3,})\s*(?P<info>.*?)\s*$")
OPTION = re.compile(r"^:(?P<key>[\w-]+):\s*(?P<value>.*?)\s*$")
HEADING = re.compile(r"^(?P<marks>#{1,6})\s+(?P<text>.*?)\s*#*$")
EQUATION = re.compile(r"\$\$\s*\(([\w-]+)\)\s*$")
LABEL = re.compile(r"^\((?P<name>[^()\s]+)\)=\s*$")
# Directives whose body is not prose.
VERBATIM = {"code-block", "code", "eval-rst", "math", "mermaid", "raw", "literalinclude", "toctree"}


@dataclass
class Block:
    """A block: ``kind`` is heading, label, text, table, math, comment, code, cell or directive.

    A cell's and a code block's ``text`` is the code; a heading has a ``level``; a directive has its
    name in ``name``, what follows it in ``text``, and its body in ``children``. A block whose fence
    is never ``closed`` has the rest of the text for its body.
    """

    kind: str
    line: int
    text: str = ""
    level: int = 0
    name: str = ""
    options: dict[str, str] = field(default_factory=dict)
    children: list[Block] = field(default_factory=list)
    code_line: int = 0
    closed: bool = True


def parse(text: str) -> list[Block]:
    """The blocks of a text, without its header."""
    lines = text.splitlines()
    start = 0
    if lines[:1] == ["---"]:
        start = lines.index("---", 1) + 1
    return _blocks(lines[start:], start + 1)


def _blocks(lines: Sequence[str], first: int) -> list[Block]:
    found: list[Block] = []
    at = 0
    while at < len(lines):
        line, number = lines[at], first + at
        fence = FENCE.match(line)
        if not line.strip() or line.strip() == "+++" or line.startswith("%"):
            at += 1
        elif (fence and fence["info"] != "") or (fence and fence["fence"][0] in "`~"):
            end = closing(lines, at, fence["fence"])
            found.append(_fenced(fence["info"], lines[at + 1 : end], number))
            found[-1].closed = end < len(lines)
            at = end + 1
        elif match := HEADING.match(line):
            found.append(Block("heading", number, match["text"], len(match["marks"])))
            at += 1
        elif match := LABEL.match(line):
            found.append(Block("label", number, match["name"]))
            at += 1
        elif line.lstrip().startswith("$$"):
            end = at
            while not _closes_math(lines[end], end == at) and end + 1 < len(lines):
                end += 1
            found.append(Block("math", number, "\n".join(lines[at : end + 1])))
            at = end + 1
        else:
            end = at
            while (
                end < len(lines) and lines[end].strip() and (end == at or not _starts(lines[end]))
            ):
                end += 1
            body = "\n".join(lines[at:end])
            kind = "table" if line.lstrip().startswith("|") else "text"
            if re.fullmatch(r"\s*(<!--.*?-->\s*)+", body, re.DOTALL):
                kind = "comment"
            found.append(Block(kind, number, body))
            at = end
    return found


def _starts(line: str) -> bool:
    """Whether a line ends the paragraph above it."""
    return bool(FENCE.match(line) or HEADING.match(line) or line.lstrip().startswith("$$"))


def _closes_math(line: str, opening: bool) -> bool:
    return line.count("$$") >= 2 if opening else "$$" in line


def closing(lines: Sequence[str], at: int, fence: str) -> int:
    """The place of the line that closes the fence opened at a place; their number if none does."""
    mark = fence[0]
    depth = 0
    for end in range(at + 1, len(lines)):
        match = FENCE.match(lines[end])
        if not match or match["fence"][0] != mark:
            continue
        if match["info"]:
            # A colon fence of the same length nests; a backtick fence does not.
            depth += mark == ":" and len(match["fence"]) >= len(fence)
        elif len(match["fence"]) >= len(fence):
            if depth == 0:
                return end
            depth -= 1
    return len(lines)


def _fenced(info: str, body: Sequence[str], line: int) -> Block:
    match = re.match(r"\{(?P<name>[\w:-]+)\}\s*(?P<rest>.*)", info)
    if not match:
        return Block("code", line, "\n".join(body), name=info, code_line=line + 1)
    skip, given = options(body)
    name, inner = match["name"], body[skip:]
    if name in ("code-cell", "code-block", "code"):
        kind = "cell" if name == "code-cell" else "code"
        text = "\n".join(inner)
        return Block(kind, line, text, name=name, options=given, code_line=line + 1 + skip)
    children = [] if name in VERBATIM else _blocks(inner, line + 1 + skip)
    return Block("directive", line, match["rest"], 0, name, given, children)


def options(body: Sequence[str]) -> tuple[int, dict[str, str]]:
    """How many lines at the start of a directive's body are its options, and these."""
    found = {}
    if body[:1] == ["---"]:
        end = list(body).index("---", 1)
        for line in body[1:end]:
            key, _, value = line.partition(":")
            found[key.strip()] = value.strip()
        return end + 1, found
    at = 0
    while at < len(body) and (match := OPTION.match(body[at])):
        found[match["key"]] = match["value"]
        at += 1
    return at, found


def walk(blocks: Sequence[Block]) -> Iterator[Block]:
    """Blocks and, after each, those inside it."""
    for block in blocks:
        yield block
        yield from walk(block.children)


def plain(text: str) -> str:
    """Prose without code, mathematics, addresses, comments and roles; line ends are kept."""

    def blank(match: re.Match[str]) -> str:
        return " " + "\n" * match[0].count("\n")

    text = re.sub(r"<!--.*?-->", blank, text, flags=re.DOTALL)
    text = re.sub(r"\{[\w:-]+\}`[^`]*`", blank, text)
    text = re.sub(r"(`+)(?!`).+?(?<!`)\1(?!`)", blank, text, flags=re.DOTALL)
    text = re.sub(r"\$\$.*?\$\$", blank, text, flags=re.DOTALL)
    text = re.sub(r"(?<![\\$])\$(?!\s)[^$]+?(?<!\s)\$", blank, text, flags=re.DOTALL)
    # A link keeps its text, unless the text is an address as well.
    text = re.sub(r"!?\[((?:[^\[\]]|\[[^\]]*\])*)\]\([^()]*(?:\([^()]*\)[^()]*)*\)", r"\1", text)
    text = re.sub(r"\barXiv:\S+|https?://\S+", " ", text)
    return re.sub(r"</?\w+[^<>]*>", " ", text)


def slug(heading: str) -> str:
    """The anchor that the site gives a heading."""
    text = re.sub(r"[`*]|\{[\w:-]+\}", "", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
