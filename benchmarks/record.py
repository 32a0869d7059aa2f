"""Writes the page of the book that holds the timings: ``python -m benchmarks --record``.

``python -m benchmarks.record`` puts the stored tables of the families there.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import torch

from benchmarks import Result
from gdm_lib.viz import families

__all__ = ["PAGE", "record", "record_families", "table", "tables_of_families"]

PAGE = Path(__file__).parents[1] / "chapters" / "appendix" / "results.md"
START, END = "<!-- benchmarks: start -->", "<!-- benchmarks: end -->"
FAMILIES_START, FAMILIES_END = "<!-- families: start -->", "<!-- families: end -->"
UNITS = {"s": (1e3, "ms"), "MB": (1.0, "MB")}


def _processor() -> str:
    """The processor's own name where the system tells it."""
    info = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: (.+)", info.read_text()) if info.exists() else None
    return named.group(1) if named else platform.processor() or platform.machine()


def _rounded(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def table(results: Sequence[Result]) -> str:
    """A row for each comparison, and where and when they were made."""
    lines = [
        f"{date.today():%Y-%m-%d}, {_processor()}, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} threads, {platform.system()}, "
        f"Python {platform.python_version()}, torch {torch.__version__}.",
        "",
        "| benchmark | ours | beside | theirs | ratio | wanted |",
        "|---|--:|---|--:|--:|--:|",
    ]
    for result in results:
        factor, unit = UNITS[result.unit]
        ours, theirs = (
            f"{_rounded(factor * value)} {unit}" for value in (result.ours_s, result.peer_s)
        )
        beside = f"{result.peer} {result.peer_version}".strip()
        ratio = f"{result.ratio:.2f}" if result.ok else f"**{result.ratio:.2f}**"
        lines.append(
            f"| `{result.name}` | {ours} | {beside} | {theirs} | {ratio} | ≥ {result.target:g} |"
        )
    return "\n".join(lines)


def tables_of_families() -> str:
    """The stored tables, one below the other, each with where and how it was made."""
    parts = []
    for family in families.names():
        told = families.read(family)
        cells = families.columns(told)
        heads = list(cells)
        lines = [
            f"**{family.capitalize()}.** {told['data']}; {told['steps']:,} steps on batches of "
            f"{told['batch size']}; torch {told['torch']}. Made by `{told['command']}`.",
            "",
            f"| {' | '.join(heads)} |",
            f"|---|{'--:|' * (len(heads) - 1)}",
        ]
        lines += [f"| {' | '.join(row)} |" for row in zip(*cells.values(), strict=True)]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def record(results: Sequence[Result], page: Path = PAGE) -> None:
    """Replace the page's table of timings; the prose around it stays."""
    _replace(page, START, END, table(results))


def record_families(page: Path = PAGE) -> None:
    """Replace the page's tables of the families."""
    _replace(page, FAMILIES_START, FAMILIES_END, tables_of_families())


def _replace(page: Path, first: str, last: str, content: str) -> None:
    text = page.read_text("utf-8")
    before, start, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not (start and end):
        raise ValueError(f"{page.name} must hold the lines {first} and {last}, around the table")
    page.write_text(f"{before}{first}\n\n{content}\n\n{last}{after}", "utf-8")


if __name__ == "__main__":
    record_families()
