"""The mechanical rules of a chapter, checked: ``python -m chapters._tools.lint [NAME ...]``.

A chapter of a paper (``chapters/<family>/<name>.md``) keeps all of them; the start page and the
appendices keep those that are not about a paper. A finding is printed as ``file:line: message``.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from chapters._tools import front, inputs, pairs
from chapters._tools.execute import MAX_BYTES
from chapters._tools.markdown import EQUATION, Block, parse, plain, slug, walk
from chapters._tools.names import reused
from chapters._tools.prose import LONG, drift, folded, half_folded, lines_of

__all__ = ["ANATOMY", "Finding", "lint", "main", "texts"]

ANATOMY = (
    "The question",
    "The derivation",
    "From scratch",
    "The real module",
    "Train it",
    "Measure it",
    "Explore it",
    "Break it",
    "The paper's own evidence",
    "Exercises",
    "Summary",
)
CODE_WIDTH = 88
CELL_LINES, SCRATCH_LINES, UNFOLDED_LINES = 25, 40, 250  # of unfolded code
DRAWING = {"plt", "sns", "fig", "ax", "axes"}
WORDS = (2000, 5000)
EXERCISES = 4
CODE_EXERCISES = 2
NOT_FAMILIES = ("appendix",)
MARK = "# NBVAL_CHECK_OUTPUT"
WIDGET = "application/vnd.jupyter.widget-view+json"

UNIT = (
    r"%|‰|×(?!\s?\d)|per ?cent\b|nats?\b|bits?\b|dB\b"
    r"|m?s\b|h\b|sec(?:ond)?s?\b|minutes?\b|hours?\b|steps? (?:a|per) \w"
    r"|times (?:as|faster|slower|better|worse|more|less|fewer|larger|smaller)\b"
)
NUMBER = re.compile(rf"(?<![\w.,/-])(?:\d[\d,]*\.\d+(?!\.?\w)|\d[\d,]*\s?(?:{UNIT}))")
NOT_MEASURED = re.compile(
    r"(?:\b(?:section|sections|figure|figures|fig\.|table|tables|equation|eq\.|chapter|appendix|"
    r"version|python|torch|step|part|theorem)|§)\s*$",
    re.IGNORECASE,
)
CITED = re.compile(
    r"\b(?:table|figure|fig\.|section|appendix)\s+(?:\d|[A-H]\b)"
    r"|\]\(https?://|\barXiv:\d",
    re.IGNORECASE,
)
EXCUSE = re.compile(r"<!--\s*number:\s*\S.*?-->", re.DOTALL)
LINK = re.compile(
    r"(?P<image>!?)\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<target>[^()\s]*)[^()]*\)"
)
ADDRESS = re.compile(r"\bat 0x[0-9a-f]{6,}")


@dataclass(frozen=True, order=True)
class Finding:
    """A rule that is broken, and where."""

    path: Path
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


def texts(root: Path = pairs.ROOT) -> list[Path]:
    """Every text of the book, whether it has a notebook or not."""
    found = {
        path
        for path in (root / "chapters").rglob("*.md")
        if not any(part[0] in "_." for part in path.relative_to(root / "chapters").parts)
    }
    return sorted(found)


def _is_paper(path: Path, root: Path) -> bool:
    parts = path.relative_to(root / "chapters").parts
    return len(parts) == 2 and parts[0] not in NOT_FAMILIES


def lint(path: Path, root: Path = pairs.ROOT) -> list[Finding]:
    """All findings in one text and its notebook, in order of lines.

    Args:
        path: the text.
        root: the checkout.
    """
    blocks = parse(path.read_text("utf-8"))
    found: list[tuple[int, str]] = []
    found += _fences(blocks)
    found += _title(blocks)
    found += _code(blocks)
    found += _around_cells(blocks)
    found += _names(blocks)
    found += _links(blocks, path)
    found += _images(blocks)
    found += _equations(blocks)
    found += _labels(blocks, path, root)
    found += _cards(path, root)
    if path in pairs.masters(root):
        found += _notebook(blocks, path, root, _is_paper(path, root))
    if _is_paper(path, root):
        found += _anatomy(blocks)
        found += _opening(blocks, path, root)
        found += _sections(blocks)
        found += _numbers(blocks)
        found += _words(blocks)
        found += _folding(blocks)
        found += _exercises(blocks)
    name = path.relative_to(root)
    return sorted(Finding(name, line, message) for line, message in found)


Found = Iterator[tuple[int, str]]


def _fences(blocks: Sequence[Block]) -> Found:
    for block in walk(blocks):
        if not block.closed:
            yield block.line, "the fence opened here is never closed"


def _title(blocks: Sequence[Block]) -> Found:
    titles = [block for block in blocks if block.kind == "heading" and block.level == 1]
    if not titles:
        yield 1, "there is no title (`# ...`)"
    for spare in titles[1:]:
        yield spare.line, "a second title; use `##` for sections"


def _anatomy(blocks: Sequence[Block]) -> Found:
    wanted = list(ANATOMY)
    for block in blocks:
        if block.kind != "heading" or block.level != 2:
            continue
        name = next((name for name in ANATOMY if _is_section(block.text, name)), None)
        if name is None:
            yield block.line, f"`## {block.text}` is not a section of a chapter: use `###`"
        elif name not in wanted:
            yield block.line, f"section '{name}' stands twice or after one that follows it"
        else:
            for missing in wanted[: wanted.index(name)]:
                yield block.line, f"section '## {missing}' is missing before '{name}'"
            del wanted[: wanted.index(name) + 1]
    for missing in wanted:
        yield 1, f"section '## {missing}' is missing"


def _equations(blocks: Sequence[Block]) -> Found:
    """JupyterLab numbers every displayed equation, the site those with a label: label all."""
    every = [block for block in walk(blocks) if block.kind == "math"]
    for block in every:
        if not EQUATION.search(block.text):
            yield block.line, "displayed equation without a label: end it with `$$ (name)`"
        # LaTeX takes it for an option of what stands before, and shows nothing of it.
        if re.search(r"(\\begin\{aligned\}|\\\\)\s*\[", block.text):
            yield block.line, "a line of this equation begins with `[` and loses it: write `{}[`"
    for block in walk(blocks):
        for cited in re.findall(r"#.*\beq\. \((\d+)\)", block.text if block.kind == "cell" else ""):
            if int(cited) > len(every):
                yield block.line, f"code cites eq. ({cited}), but there are {len(every)} equations"


def _is_section(heading: str, name: str) -> bool:
    return re.match(rf"{re.escape(name)}\b", heading.replace("’", "'"), re.IGNORECASE) is not None


def _section(blocks: Sequence[Block], name: str) -> tuple[int, list[Block]]:
    """A section's line and blocks; the opening has the name ""."""
    line, inside = 1, name == ""
    found = []
    for block in blocks:
        if block.kind == "heading" and block.level == 2:
            inside = bool(name) and _is_section(block.text, name)
            line = block.line if inside else line
        elif inside:
            found.append(block)
    return line, found


def _opening(blocks: Sequence[Block], path: Path, root: Path) -> Found:
    _, opening = _section(blocks, "")
    source = "\n".join(block.text for block in walk(opening))
    module = (root / inputs.LIBRARY / path.parent.name / path.name).with_suffix(".py")
    number = _constant(module, "ARXIV") if module.exists() else None
    if f"arxiv.org/abs/{number or ''}" not in source:
        yield 1, f"the opening has no link to https://arxiv.org/abs/{number or '...'}"
    if "able to" not in source.lower():
        yield 1, "the opening has no 'You will be able to' block"
    else:
        block = next(b for b in walk(opening) if "able to" in b.text.lower())
        body = "\n".join(b.text for b in walk(block.children)) or block.text
        verbs = len(re.findall(r"^\s*[-*] ", body, re.MULTILINE))
        if not 3 <= verbs <= 5:
            yield block.line, f"'You will be able to' lists {verbs} things, expected 3 to 5"
    if not re.search(r"builds? on", source, re.IGNORECASE):
        yield 1, "the opening does not say what the chapter builds on"
    if not any(map(_is_picture, walk(opening))):
        yield 1, "the opening has no picture"


def _is_picture(block: Block) -> bool:
    return (
        (block.kind == "cell" and "show(" in block.text)
        or (block.kind == "directive" and block.name in ("figure", "image"))
        or (block.kind == "text" and "![" in block.text)
    )


def _constant(module: Path, name: str) -> str | None:
    for node in ast.parse(module.read_text("utf-8")).body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            named = any(isinstance(t, ast.Name) and t.id == name for t in targets)
            if named and isinstance(node.value, ast.Constant):
                return str(node.value.value)
    return None


def _sections(blocks: Sequence[Block]) -> Found:
    line, body = _section(blocks, "The real module")
    if not any("show_source(" in block.text for block in body if block.kind == "cell"):
        yield line, "'The real module' does not show the installed source (`viz.show_source`)"
    code = "\n".join(block.text for block in walk(blocks) if block.kind == "cell")
    if "manual_seed(" not in code:
        yield 1, "no seed is set (`torch.manual_seed`, `torch.Generator().manual_seed`)"


def _code(blocks: Sequence[Block]) -> Found:
    for block in walk(blocks):
        if block.kind in ("cell", "code"):
            for number, line in enumerate(block.text.splitlines(), block.code_line):
                if len(line) > CODE_WIDTH:
                    yield number, f"code line of {len(line)} characters, expected at most 88"
        if block.kind == "cell" and not block.text.strip():
            yield block.line, "an empty code cell"


def _folding(blocks: Sequence[Block]) -> Found:
    """A reader sees the code that carries the idea; the rest is one click away."""
    section, pictured, unfolded = "", False, 0
    for block in walk(blocks):
        if block.kind == "heading" and block.level == 2:
            section = block.text
            pictured = True  # the opening ends here, and says so itself if it has none
        if block.kind != "cell":
            pictured |= _is_picture(block)
            continue
        if half_folded(block):
            yield (
                block.line,
                "folded on the page or in JupyterLab only: give both `tags: [hide-input]` and "
                "`jupyter: {source_hidden: true}`",
            )
        elif not folded(block):
            count, limit = lines_of(block), CELL_LINES
            unfolded += count
            if _is_section(section, "From scratch"):
                limit = SCRATCH_LINES
            if count > limit:
                yield block.line, f"unfolded cell of {count} lines, expected at most {limit}"
            if not pictured:
                yield block.line, "code is unfolded before the opening picture: fold this cell"
            for line, what in _glue(block):
                yield line, f"{what} in an unfolded cell: move it into a folded one"
        pictured |= _is_picture(block)
    if unfolded > UNFOLDED_LINES:
        yield 1, f"{unfolded} lines of unfolded code, expected at most {UNFOLDED_LINES}"


def _glue(cell: Block) -> Found:
    """Imports and drawing, with their lines; code that doesn't parse is nbval's to find."""
    try:
        tree = ast.parse(cell.text)
    except SyntaxError:
        return
    for node in ast.walk(tree):
        line = cell.code_line + getattr(node, "lineno", 1) - 1
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield line, "an import"
        elif isinstance(node, ast.Name) and node.id in DRAWING:
            yield line, f"drawing (`{node.id}`)"
            return


def _names(blocks: Sequence[Block]) -> Found:
    """A cell that is run again after all others finds what they left."""
    cells = [block for block in walk(blocks) if block.kind == "cell"]
    try:
        found = reused([block.text for block in cells])
    except SyntaxError:
        return  # said when it is executed
    for place, name, later in found:
        yield (
            cells[place].line,
            f"this cell reads `{name}`, which the cell in line {cells[later].line} binds anew: run "
            "again after all others it would find that; use another name in one of them",
        )


def _around_cells(blocks: Sequence[Block]) -> Found:
    """Text stands around cells; a cell and the folded one that shows its result are one."""
    seen = [block for block in blocks if block.kind not in ("comment", "label")]
    for at, block in enumerate(seen):
        if block.kind != "cell":
            continue
        before = seen[at - 1] if at else None
        after = seen[at + 1] if at + 1 < len(seen) else None
        if not _joined(before, block) and (before is None or not _says_something(before)):
            yield block.line, "no sentence before this cell says what to look for"
        if not _joined(block, after) and (after is None or not _says_something(after)):
            yield block.line, "no sentence after this cell says what was seen"


def _joined(first: Block | None, second: Block | None) -> bool:
    return (
        first is not None
        and second is not None
        and first.kind == second.kind == "cell"
        and folded(first) != folded(second)
    )


def _says_something(block: Block) -> bool:
    prose = "\n".join(b.text for b in walk([block]) if b.kind in ("text", "directive"))
    return len(re.findall(r"[^\W\d_]{2,}", plain(prose))) >= 3


def _numbers(blocks: Sequence[Block]) -> Found:
    excused = False
    for block in walk(blocks):
        if block.kind == "comment":
            excused = EXCUSE.search(block.text) is not None
            continue
        if block.kind == "text" and not excused:
            yield from _numbers_in(block)
        excused = False


def _numbers_in(block: Block) -> Found:
    if EXCUSE.search(block.text) or CITED.search(block.text):
        return
    prose = plain(block.text)
    for match in NUMBER.finditer(prose):
        if NOT_MEASURED.search(prose[: match.start()]):
            continue
        line = block.line + prose.count("\n", 0, match.start())
        yield (
            line,
            f"a number in prose, '{match[0].strip()}': let a cell print it; a setting goes in code "
            "or math; a paper's number needs its table or a link in the paragraph; or say why: "
            "<!-- number: ... -->",
        )


def _words(blocks: Sequence[Block]) -> Found:
    prose = " ".join(plain(b.text) for b in walk(blocks) if b.kind in ("text", "table", "heading"))
    count = len(re.findall(r"[^\W\d_][\w'’-]*", prose))
    if not WORDS[0] <= count <= WORDS[1]:
        yield 1, f"{count:,} words, expected {WORDS[0]:,} to {WORDS[1]:,}"


def _exercises(blocks: Sequence[Block]) -> Found:
    line, body = _section(blocks, "Exercises")
    found = [b for b in walk(body) if b.kind == "directive" and b.name.startswith("exercise")]
    if len(found) < EXERCISES:
        yield line, f"{len(found)} exercises, expected at least {EXERCISES}"
    checks = sum(bool(re.search(r"\bcheck\(", b.text)) for b in body if b.kind == "cell")
    if checks < CODE_EXERCISES:
        yield line, f"{checks} exercises end in `check(...)`, expected at least {CODE_EXERCISES}"
    labels: set[str] = set()
    for block in found:
        label = block.options.get("label", "")
        if not label or label in labels:
            yield block.line, "an exercise needs a `:label:` of its own"
        labels.add(label)


def _labelled(blocks: Sequence[Block]) -> Found:
    """Equations, targets and directives that have a label, each with its line."""
    for block in walk(blocks):
        if block.kind == "math" and (match := EQUATION.search(block.text)):
            yield block.line, match[1]
        elif block.kind == "label":
            yield block.line, block.text
        elif block.kind == "directive" and (label := block.options.get("label")):
            yield block.line, label


def _labels(blocks: Sequence[Block], path: Path, root: Path) -> Found:
    """The site has one name space for the labels of all chapters."""
    taken = {
        label: other.relative_to(root).as_posix()
        for other in texts(root)
        if other != path
        for _, label in _labelled(parse(other.read_text("utf-8")))
    }
    for line, label in _labelled(blocks):
        if label in taken:
            yield line, f"label '{label}' is taken by {taken[label]}: put the paper's name into it"


def _cards(path: Path, root: Path) -> Found:
    """The start page says of each chapter what the chapter says."""
    if path != root / "chapters" / "index.md" or not (root / front.DATA).exists():
        return
    text = path.read_text("utf-8")
    try:
        stale = front.renew(text, root) != text
    except ValueError as error:
        yield 1, str(error)
        return
    if stale:
        line = text[: text.index(front.BEGIN)].count("\n") + 1
        yield line, "the cards are not those of the chapters; run `python -m chapters._tools.front`"


def _links(blocks: Sequence[Block], path: Path) -> Found:
    for block in walk(blocks):
        if block.kind not in ("text", "table", "heading", "directive"):
            continue
        for match in LINK.finditer(re.sub(r"(`+)(?!`).+?(?<!`)\1(?!`)", " ", block.text)):
            line = block.line + block.text.count("\n", 0, max(block.text.find(match[0]), 0))
            yield from ((line, fault) for fault in _link(match["target"], blocks, path))


def _link(target: str, blocks: Sequence[Block], path: Path) -> Iterator[str]:
    if re.match(r"[a-z]+:", target) or not target:
        return
    name, _, anchor = target.partition("#")
    other = (path.parent / name) if name else path
    if name and name.endswith(".ipynb"):
        other = other.with_suffix(".md")
        if not other.exists():
            yield f"the link to {target} leads to no chapter ({other.name} is missing)"
            return
    elif name and not other.exists():
        yield f"the link to {target} leads nowhere"
        return
    elif name.endswith(".md") and other.read_text("utf-8").startswith("---\njupytext:"):
        yield f"link to the notebook, not to its text: {name.removesuffix('.md')}.ipynb"
    if anchor:
        there = blocks if other == path else parse(other.read_text("utf-8"))
        anchors = {slug(b.text) for b in walk(there) if b.kind == "heading"}
        anchors |= {b.text for b in walk(there) if b.kind == "label"}
        if anchor not in anchors:
            yield f"the link to {target} names no heading or label there"


def _images(blocks: Sequence[Block]) -> Found:
    for block in walk(blocks):
        if block.kind == "directive" and block.name in ("figure", "image"):
            if not block.options.get("alt"):
                yield block.line, f"the {block.name} has no `:alt:` text"
        elif block.kind in ("text", "table"):
            for match in LINK.finditer(block.text):
                if match["image"] and not match["text"].strip():
                    line = block.line + block.text.count("\n", 0, match.start())
                    yield line, "the image has no alternative text: ![what it shows](...)"


def _notebook(blocks: Sequence[Block], path: Path, root: Path, is_paper: bool) -> Found:
    if not path.read_text("utf-8").startswith(pairs.HEADER):
        yield 1, "the header is not the one that JupyterLab writes (`pairs.HEADER`)"
    for reason in pairs.staleness(path, root):
        if reason:
            yield 1, f"{reason}; run `make chapters`"
    stored = pairs.notebook_path(path)
    if not stored.exists():
        return
    size = stored.stat().st_size
    if size > MAX_BYTES:
        yield 1, f"the notebook has {size / 1000:,.0f} kB, expected at most {MAX_BYTES // 1000:,}"
    notebook = nbformat.read(stored, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    lines = [block.line for block in walk(blocks) if block.kind == "cell"]
    if len(cells) != len(lines):
        return  # out of step, and said so above
    for number, (cell, line) in enumerate(zip(cells, lines, strict=True), 1):
        if cell.execution_count != number:
            yield line, "the cell was not run in order in a new kernel; run `make chapters`"
        yield from ((line, fault) for fault in _outputs(cell))
    if is_paper:
        first, body = _section(blocks, "Explore it")
        explored = {block.line for block in body}
        shown = any(
            WIDGET in output.get("data", {})
            for cell, line in zip(cells, lines, strict=True)
            if line in explored
            for output in cell.outputs
        )
        if not shown:
            yield first, "'Explore it' shows no widget"


def _outputs(cell: NotebookNode) -> Iterator[str]:
    printed = False
    for output in cell.outputs:
        if output.output_type == "error":
            yield f"the cell raised {output.ename}"
            continue
        if output.output_type == "stream":
            printed |= output.name == "stdout" and bool(output.text.strip())
            if output.name == "stderr":
                yield f"the cell wrote to stderr: {output.text.strip().splitlines()[-1][:100]!r}"
            data = {"text/plain": output.text}
        else:
            data = output.data
            if cell.source.startswith(MARK):
                yield f"a cell marked {MARK} should only print; it also shows {', '.join(data)}"
        page = data.get("text/html", "")
        if output.output_type == "execute_result" and not page and WIDGET not in data:
            yield "the cell shows the plain value of its last line: print it, or give it a name"
        if WIDGET in data and not page:
            yield "a widget without text/html beside it leaves the page of the site empty"
        elif any(kind.startswith("image/") for kind in data) and not page:
            yield "a picture without alternative text: show it with viz.show(fig, alt=...)"
        if _images_without_alt(page):
            yield "an <img> without alternative text in the output"
        if ADDRESS.search(data.get("text/plain", "")) and not page:
            yield "an object's memory address in the output, which differs with every run"
    if cell.source.startswith(MARK) and not printed:
        yield f"a cell marked {MARK} has no stored text to check"


def _images_without_alt(page: str) -> int:
    class Images(HTMLParser):
        bad = 0

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.bad += tag == "img" and not (dict(attrs).get("alt") or "").strip()

    parser = Images()
    parser.feed(page)
    return parser.bad


def main(argv: Sequence[str] | None = None, *, root: Path = pairs.ROOT) -> int:
    """Command line; returns the exit status."""
    names = list(sys.argv[1:] if argv is None else argv)
    known = {p.relative_to(root / "chapters").with_suffix("").as_posix(): p for p in texts(root)}
    if unknown := [name for name in names if name not in known]:
        raise SystemExit(f"no text named {', '.join(unknown)}; there are: {', '.join(known)}")
    findings = [f for name, p in known.items() if not names or name in names for f in lint(p, root)]
    print("\n".join(map(str, findings)))
    chosen = {name: p for name, p in known.items() if not names or name in names}
    print(_readability({n: p for n, p in chosen.items() if _is_paper(p, root)}))
    return 1 if findings else 0


def _readability(papers: dict[str, Path]) -> str:
    """How each chapter reads, as information."""
    if not papers:
        return ""
    width = max(map(len, papers))
    heads = f"words  over {LONG} words  connectives per 1,000  unfolded lines"
    rows = [f"{'for information':{width}}  {heads}"]
    for name, path in papers.items():
        d = drift(parse(path.read_text("utf-8")))
        rows.append(
            f"{name:{width}}  {d.words:5,}  {d.long:12.1%}  {d.connectives:21.1f}  {d.unfolded:14}"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main())
