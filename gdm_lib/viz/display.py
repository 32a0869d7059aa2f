"""What a notebook shows: a figure with its alternative text and caption, a table, a source.

A notebook's ``image/png`` output has no alternative text in JupyterLab, which ignores the
output's metadata, nor on the site. A figure is therefore shown as HTML, ``<figure>`` with an
``<img>`` and a ``<figcaption>``, whose picture is embedded. JupyterLab keeps it in a notebook that
is not trusted yet, the site takes it as it is, and the picture is stored once.
"""

from __future__ import annotations

import base64
import html
import inspect
import io
import re
import textwrap
import tokenize
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from gdm_lib._console import legible
from gdm_lib._lazy import needs

__all__ = ["figure_html", "png", "show", "show_source", "table"]

CSS_DPI = 96
CAPTION_WIDTH = 560
SOURCE_WIDTH = 88
# Of 255: differences that nobody sees, found by looking at line plots, digits and maps.
MEAN_ERROR = 1.0
LARGE_ERROR = 10
LAB_COLOURS = {
    "keyword": ".k,.kn,.kd,.kr,.ow,.kc",
    "operator": ".o",
    "string": ".s,.s1,.s2,.sa,.sd,.si,.se,.sf",
    "number": ".mi,.mf,.mh",
    "comment": ".c1,.ch",
    "builtin": ".nb,.bp",
    "def": ".nf,.nc,.fm",
    "meta": ".nd",
}
"""JupyterLab's variables for the colours of code, and the classes of Pygments that take them."""


def show(fig: Figure, *, alt: str, caption: str | None = None) -> None:
    """Show a figure in the notebook, with alternative text and caption, and close it.

    Outside a notebook the figure opens in a window if matplotlib has one, else nothing happens.

    Args:
        fig: the figure.
        alt: what the picture shows, for those who can't see it. One or two plain sentences.
        caption: text beneath the picture; plain text, not HTML.

    Raises:
        ValueError: if ``alt`` is empty.
    """
    if not isinstance(fig, Figure):
        raise TypeError(
            f"fig: expected a matplotlib Figure, got {type(fig).__name__}; of axes, pass ax.figure"
        )
    if not alt.strip():
        raise ValueError("alt: expected a sentence that says what the picture shows, got nothing")
    if _in_notebook():
        width = round(fig.get_figwidth() * CSS_DPI)
        text = f"[figure: {' '.join(alt.split())}]"
        page = figure_html(png(fig), alt=alt, caption=caption, width=width)
        _publish({"text/html": page, "text/plain": text})
    elif getattr(fig.canvas, "required_interactive_framework", None):
        plt.show()
    plt.close(fig)


def png(fig: Figure) -> bytes:
    """The figure as a PNG file, with the smallest palette that looks the same, if one does."""
    file = io.BytesIO()
    fig.savefig(file, format="png")
    return encode_png(np.asarray(Image.open(file).convert("RGB")))


def encode_png(rgb: np.ndarray) -> bytes:
    """Pixels ``(H, W, 3)`` of 8 bits as a PNG file, with a palette as in ``png``."""
    full = Image.fromarray(rgb)
    best = full
    for colours in (32, 64, 128, 256):
        small = full.quantize(colours, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        error = np.abs(np.asarray(small.convert("RGB"), np.int16) - rgb.astype(np.int16))
        if error.mean() < MEAN_ERROR and np.quantile(error, 0.99) <= LARGE_ERROR:
            best = small
            break
    file = io.BytesIO()
    best.save(file, format="PNG", optimize=True)
    return file.getvalue()


def figure_html(image: bytes, *, alt: str, caption: str | None = None, width: int) -> str:
    """``<figure>`` with an embedded PNG.

    Args:
        image: the PNG file.
        alt: alternative text.
        caption: text beneath the picture.
        width: width on the page in CSS pixels; a narrower page shrinks the picture.
    """
    return _figure(image_html(image, alt=alt, width=width), caption, max(width, CAPTION_WIDTH))


def image_html(image: bytes, *, alt: str, width: int) -> str:
    """``<img>`` with an embedded PNG; for the arguments see ``figure_html``."""
    pixels = Image.open(io.BytesIO(image))
    style = f"width:{width}px;max-width:100%;height:auto;border-radius:6px"
    source = base64.b64encode(image).decode("ascii")
    # The page keeps the room of a picture that says its size. The site's theme dims pictures on
    # dark pages; "dark-light" says that this one suits both.
    return (
        f'<img class="dark-light" alt="{html.escape(alt)}" width="{pixels.width}" '
        f'height="{pixels.height}" decoding="sync" style="{style}" '
        f'src="data:image/png;base64,{source}">'
    )


def _figure(content: str, caption: str | None, width: int = CAPTION_WIDTH) -> str:
    below = f"\n<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    style = f"margin:0.5em 0;max-width:{width}px"
    return f'<figure class="gdm-figure" style="{style}">\n{content}{below}\n</figure>'


def table(
    columns: Mapping[str, Sequence[Any] | Tensor | np.ndarray],
    *,
    caption: str | None = None,
    digits: int = 3,
) -> None:
    """Show a small table of results; outside a notebook, print it.

    Args:
        columns: the heading of each column and its cells, one sequence a column, all as long.
            Floats are rounded, other cells are shown as ``str`` shows them.
        caption: text beneath the table.
        digits: digits after the decimal point of a float.

    Raises:
        ValueError: if there is no column, or if the columns differ in length.
    """
    if not columns:
        raise ValueError("columns: expected at least one column, got none")
    cells = {
        heading: [_cell(value, digits) for value in _items(column)]
        for heading, column in columns.items()
    }
    lengths = {heading: len(column) for heading, column in cells.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"columns: expected equal lengths, got {lengths}")
    numeric = [all(is_number for _, is_number in column) for column in cells.values()]
    rows = [[text for text, _ in row] for row in zip(*cells.values(), strict=True)]
    page = _html_table(list(cells), rows, numeric, caption)
    _publish({"text/html": page, "text/plain": _text_table(list(cells), rows, numeric)})


def _items(column: Sequence[Any] | Tensor | np.ndarray) -> list[Any]:
    return column.tolist() if isinstance(column, Tensor | np.ndarray) else list(column)


def _cell(value: Any, digits: int) -> tuple[str, bool]:
    if isinstance(value, Tensor | np.generic):
        value = value.item()
    if isinstance(value, float):
        # A true minus sign, and no "-0.000".
        text = f"{round(value, digits) + 0.0:.{digits}f}"
        return text.replace("-", "\N{MINUS SIGN}"), True
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}".replace("-", "\N{MINUS SIGN}"), True
    return str(value), False


def _html_table(
    head: list[str], rows: list[list[str]], numeric: list[bool], caption: str | None
) -> str:
    styles = [f' style="text-align:{"right" if number else "left"}"' for number in numeric]

    def line(tag: str, texts: list[str]) -> str:
        scope = ' scope="col"' if tag == "th" else ""
        cells = (
            f"<{tag}{scope}{style}>{html.escape(text)}</{tag}>"
            for text, style in zip(texts, styles, strict=True)
        )
        return f"<tr>{''.join(cells)}</tr>"

    body = "\n".join(line("td", row) for row in rows)
    return _figure(
        '<table class="table gdm-table" style="width:auto;margin:0">\n'
        f"<thead>{line('th', head)}</thead>\n<tbody>\n{body}\n</tbody>\n</table>",
        caption,
    )


def _text_table(head: list[str], rows: list[list[str]], numeric: list[bool]) -> str:
    lines = [head, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join(
        "  ".join(
            text.rjust(width) if number else text.ljust(width)
            for text, width, number in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in lines
    )


def show_source(*objects: Callable[..., Any] | type) -> None:
    """Show the source of classes or functions as it stands in the installed package.

    It takes the colours of the page, light or dark. Lines longer than 88 characters are broken
    inside brackets and comments, so that they fit a page.

    Args:
        *objects: classes or functions; those of one module are shown under one heading, and
            methods of one class that follow each other under its first line.

    Raises:
        TypeError: if an object has no source in a file.
        ModuleNotFoundError: without the extra ``book``, which brings what colours it.
    """
    if not objects:
        raise ValueError("objects: expected at least one class or function, got none")
    text, module = "", None
    owner: type | None = None
    for item in objects:
        try:
            source = inspect.cleandoc("\n" + inspect.getsource(item)).rstrip()
            before, owner = owner, _owner(item)
            above = "" if owner is None else inspect.getsource(owner)
        except (TypeError, OSError) as error:
            raise TypeError(
                f"objects: expected classes or functions with a source file, got {item!r}"
            ) from error
        if owner is not None:
            source = textwrap.indent(source, "    ")
            if owner is not before:
                head = next(line for line in above.split("\n") if line.startswith("class "))
                source = f"{head}\n{source}"
        if item.__module__ != module:
            module = item.__module__
            source = f"# {module.replace('.', '/')}.py\n\n{source}"
        gap = "" if not text else "\n\n" if owner is not None and owner is before else "\n\n\n"
        text += gap + wrap_source(source)
    _publish({"text/html": _coloured(text), "text/plain": text})


def _owner(item: Any) -> type | None:
    """The class of a module in which a method was written."""
    name, _, method = item.__qualname__.partition(".")
    owner = getattr(inspect.getmodule(item), name, None)
    return owner if method == item.__name__ and isinstance(owner, type) else None


def _coloured(source: str) -> str:
    with needs("gdm_lib.viz.show_source", "book"):
        from pygments import highlight  # type: ignore[import-untyped]
        from pygments.formatters import HtmlFormatter  # type: ignore[import-untyped]
        from pygments.lexers import PythonLexer  # type: ignore[import-untyped]

    # The site has colours for these classes; JupyterLab has them as variables only.
    rules = "".join(
        f".jp-RenderedHTML .gdm-source :is({tokens}){{color:var(--jp-mirror-editor-{name}-color)}}"
        for name, tokens in LAB_COLOURS.items()
    )
    code = highlight(source, PythonLexer(), HtmlFormatter())
    return f'<style>{rules}</style>\n<div class="highlight-python gdm-source">{code}</div>'


def wrap_source(source: str, width: int = SOURCE_WIDTH) -> str:
    """Break the lines of ``source`` that are longer than ``width``, keeping what it means.

    Code is broken after a comma or an opening bracket, inside brackets only; comments and
    docstrings between words. A line that offers no such place stays as it is.
    """
    lines = source.split("\n")
    row = 0
    while row < len(lines):
        if len(lines[row]) > width:
            _break(lines, row, width)
        row += 1
    return "\n".join(lines)


def _break(lines: list[str], row: int, width: int) -> None:
    """Break one long line in place, if it can be broken."""
    line = lines[row]
    indent = len(line) - len(line.lstrip())
    depth = comma = bracket = 0
    for token in tokenize.generate_tokens(io.StringIO("\n".join(lines)).readline):
        (first, start), (last, _) = token.start, token.end
        if token.type == tokenize.STRING and first <= row + 1 <= last and first < last:
            return _flow(lines, row, width, " " * indent)
        if token.type == tokenize.COMMENT and first == row + 1:
            return _flow(lines, row, width, f"{' ' * start}# ")
        if token.type == tokenize.OP:
            depth += (token.string in "([{") - (token.string in ")]}")
            here = first == row + 1 and depth > 0 and token.end[1] <= width
            if here and token.string == ",":
                comma = token.end[1]
            elif here and token.string in "([{":
                bracket = token.end[1]
    place = comma if comma > indent + 4 else bracket
    if place > indent + 4:
        lines[row : row + 1] = [line[:place], " " * (indent + 4) + line[place:].lstrip()]
    return None


def _flow(lines: list[str], row: int, width: int, prefix: str) -> None:
    """Move the last words of a line of text to the next line of the paragraph, or to a new one."""
    space = lines[row].rfind(" ", len(prefix) + 1, width + 1)
    if space < 0:
        return
    if re.match(r"\s*\w+: ", lines[row]):
        prefix = f"{prefix}    "
    rest = prefix + lines[row][space + 1 :]
    lines[row] = lines[row][:space]
    following = lines[row + 1] if row + 1 < len(lines) else ""
    # A paragraph goes on where the indentation does, unless an item or the end of it begins.
    ends = rest.endswith(('"""', "'''"))  # what follows is code
    if not ends and re.match(re.escape(prefix) + r"""(?!\w+: |[-*"']|\.\. )\S""", following):
        lines[row + 1] = f"{rest} {following[len(prefix) :]}"
    else:
        lines.insert(row + 1, rest)


def _in_notebook() -> bool:
    return hasattr(_shell(), "kernel")


def _shell() -> object | None:
    try:
        from IPython import get_ipython
    except ImportError:
        return None
    return get_ipython()


def _publish(bundle: dict[str, str]) -> None:
    if _shell() is None:
        print(legible(bundle["text/plain"]))
        return
    from IPython.display import display

    display(bundle, raw=True)
