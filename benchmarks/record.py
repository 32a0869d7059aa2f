"""Writes the page of the book that holds the timings: ``python -m benchmarks --record``."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import torch

from benchmarks import Result

__all__ = ["PAGE", "record", "table"]

PAGE = Path(__file__).parents[1] / "chapters" / "appendix" / "results.md"
START, END = "<!-- benchmarks: start -->", "<!-- benchmarks: end -->"
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


def record(results: Sequence[Result], page: Path = PAGE) -> None:
    """Replace the page's table; the prose around it stays."""
    text = page.read_text("utf-8")
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise ValueError(f"{page.name} must hold the lines {START} and {END}, around the table")
    page.write_text(f"{before}{START}\n\n{table(results)}\n\n{END}{after}", "utf-8")
