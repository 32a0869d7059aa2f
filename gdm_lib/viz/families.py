"""The table of a family: what all its models, and simple rivals, reach on the same data.

``gdm_lib.recipes.tables`` measures it, ``gdm table flows`` stores it (``data/results/flows.json``),
and ``viz.family_table("flows", highlight="Real NVP")`` shows it in a chapter. A row of a model has
its learning rate, its seconds and one figure a seed; that of a baseline has one figure.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gdm_lib
from gdm_lib import _files
from gdm_lib.viz.display import _html_table, _publish, _text_table

__all__ = ["check_writable", "columns", "family_table", "names", "read", "save", "where"]

MAX_BYTES = 100_000
NAME = re.compile(r"[a-z]+")

ABSENT = {
    "flows": "The flows' numbers are upper bounds, because the levels are dequantised. Planar "
    "flows, radial flows and IAF are missing because they are made for posteriors: they give the "
    "density of their own samples, not of given data.",
}
"""What a family's caption adds."""


def where() -> Path:
    """The folder of the tables: ``data/results`` of a checkout, else inside the package."""
    package = Path(gdm_lib.__file__).parent
    if (package.parent / "pyproject.toml").is_file():
        return package.parent / "data" / "results"
    return package / "_results"


def names(*, directory: Path | None = None) -> list[str]:
    """The families that have a table, in the order of the alphabet.

    Args:
        directory: the folder of the tables; ``where()`` if left out.
    """
    return sorted(path.stem for path in Path(directory or where()).glob("*.json"))


def family_table(
    family: str, *, highlight: str | Sequence[str] = (), directory: Path | None = None
) -> None:
    """Show the table of a family; outside a notebook, print it.

    Args:
        family: ``"flows"`` or ``"autoregressive"``.
        highlight: the model of the chapter, or several; their rows are set in bold.
        directory: the folder of the tables; ``where()`` if left out.

    Raises:
        ValueError: there is no such table, no such row, or the file is damaged.
        OSError: the file can't be read.
    """
    told = read(family, directory=directory)
    cells = columns(told)
    models = cells["model"]
    marked = [highlight] if isinstance(highlight, str) else [*highlight]
    if unknown := [name for name in marked if name not in models]:
        raise ValueError(
            f"highlight must name rows of the table, got {unknown[0]!r}; they are: "
            f"{', '.join(models)}"
        )
    numeric = [key != "model" for key in cells]
    rows = [list(row) for row in zip(*cells.values(), strict=True)]
    before, body, after = _html_table(list(cells), rows, numeric, _caption(told)).partition(
        "<tbody>\n"
    )
    lines = after.split("\n")  # a row each
    for i, name in enumerate(models):
        if name in marked:
            bold = '<tr aria-current="true" style="font-weight:bold">'
            lines[i] = lines[i].replace("<tr>", bold, 1)
            rows[i][0] = f"{name} *"
    text = _text_table(list(cells), rows, numeric)
    _publish({"text/html": before + body + "\n".join(lines), "text/plain": text})


def columns(told: dict[str, Any]) -> dict[str, list[str]]:
    """The cells of a table as text, by column.

    Args:
        told: as ``read`` returns it.
    """
    rows = told["rows"]
    return {
        "model": [row["name"] for row in rows],
        "test bits/dim": [_mean(row["test"]) for row in rows],
        "parameters (thousands)": [_short(row["parameters"] / 1000) for row in rows],
        "learning rate": [f"{row['rate']:g}" if "rate" in row else "–" for row in rows],
        "training (s)": [
            _short(statistics.mean(row["seconds"])) if "seconds" in row else "–" for row in rows
        ],
    }


def _mean(values: Sequence[float]) -> str:
    """Mean and standard deviation of a sample."""
    mean = f"{statistics.mean(values):.2f}"
    if len(values) < 2:
        return mean
    spread = statistics.stdev(values)
    return f"{mean} ± {spread:.2f}" if spread >= 0.005 else f"{mean} ± <0.01"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _caption(told: dict[str, Any]) -> str:
    shown = [
        f"Test part of {told['data'].partition(':')[0]}; mean ± s.d. over {len(told['seeds'])} "
        f"seeds. Each model took {told['steps']:,} steps, at the learning rate that did best on "
        "other images; seconds are those of one run."
    ]
    return " ".join([*shown, *filter(None, [ABSENT.get(told["family"])])])


# -- the files


def read(family: str, *, directory: Path | None = None) -> dict[str, Any]:
    """The stored table of a family, checked.

    Args:
        family: its name.
        directory: the folder of the tables; ``where()`` if left out.

    Raises:
        ValueError: there is no such table, or the file is damaged.
        OSError: the file can't be read.
    """
    path = _path(family, directory)
    try:
        content = _files.read_plain(path, MAX_BYTES)
    except FileNotFoundError:
        known = ", ".join(names(directory=directory)) or "none yet"
        raise ValueError(
            f"family must be one that has a table, got {family!r}; those there are: {known}"
        ) from None
    try:
        told = json.loads(content.decode())
        faults = _faults(told, family)
    except (ValueError, RecursionError) as error:
        faults = f"it isn't JSON ({type(error).__name__}: {error})"
    if faults:
        raise ValueError(
            f"{path} is damaged: {faults}. Get it again, or make it with: gdm table {family}"
        )
    return told


def save(told: dict[str, Any], *, directory: Path | None = None) -> dict[str, Any]:
    """Store the table of a family.

    Args:
        told: what ``recipes.tables.table`` found. Added is a SHA-256 of it.
        directory: the folder of the tables; ``where()`` if left out.

    Returns:
        What is stored.

    Raises:
        ValueError: it isn't such a table.
        OSError: the file can't be written.
    """
    told = {**told, "sha256": _digest(told)}
    path = _path(told.get("family"), directory)
    if faults := _faults(told, told["family"]):
        raise ValueError(f"told can't be kept: {faults}")
    content = json.dumps(told, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    with _files.replacing(path) as temporary:
        temporary.write_bytes(content.encode())
    return told


def check_writable(family: str, *, directory: Path | None = None) -> None:
    """Try whether ``save`` could write its file, and leave everything as it is.

    Args:
        family: its name.
        directory: the folder of the tables; ``where()`` if left out.

    Raises:
        ValueError: the name can't be that of a family.
        OSError: the file can't be written.
    """
    _files.check_writable(_path(family, directory))


def _path(family: Any, directory: Path | None) -> Path:
    if not (isinstance(family, str) and NAME.fullmatch(family)):
        raise ValueError(f"family must be a name such as 'flows', got {family!r}")
    return Path(directory or where()) / f"{family}.json"


def _digest(told: dict[str, Any]) -> str:
    others = {key: value for key, value in told.items() if key != "sha256"}
    text = json.dumps(others, sort_keys=True, allow_nan=False, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _faults(told: Any, family: str) -> str:
    """What is wrong with a table; nothing if it is sound."""
    if not (isinstance(told, dict) and told.get("family") == family):
        return f"it isn't the table of {family!r}"
    if told.get("sha256") != _digest(told):
        return "its entries are not those that sha256 was computed of"
    seeds, rows = told.get("seeds"), told.get("rows")
    sound = isinstance(told.get("data"), str) and _is_number(told.get("steps"))
    if not (sound and isinstance(seeds, list) and isinstance(rows, list) and rows):
        return "it should have data, steps, seeds and rows"
    for row in rows:
        if not (isinstance(row, dict) and isinstance(row.get("name"), str)):
            return "a row has no name"
        count = len(seeds) if "rate" in row else 1
        lists = [row.get("test")] + ([row.get("seconds")] if "rate" in row else [])
        numbers = all(
            isinstance(values, list) and len(values) == count and all(map(_is_number, values))
            for values in lists
        )
        if not (numbers and _is_number(row.get("parameters")) and _is_number(row.get("rate", 1))):
            return f"the row of {row['name']} should have a number for each seed"
    return ""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
