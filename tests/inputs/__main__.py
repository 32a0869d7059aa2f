"""Prints the table of inputs: ``python -m tests.inputs``."""

from __future__ import annotations

import sys
from collections import Counter

from tests.inputs.table import ZOO, Cell, row

SHORT = {"ValueError": "V", "TypeError": "T", "RuntimeError": "R"}


def short(cell: Cell | None) -> str:
    """A cell in a few letters."""
    if cell is None:
        return "-"
    kind, _, argument = cell.outcome.partition(" ")
    return f"{SHORT[kind]} {argument}" if argument else kind


def kind(cell: Cell) -> str:
    """What the last line counts it as."""
    if cell.obscure:
        return "obscure"
    return "value" if cell.outcome == "value" else "named"


def main() -> int:
    """Exit status 1 if a cell is obscure."""
    rows = {name: row(name) for name in ZOO}
    inputs = list(dict.fromkeys(guise for cells in rows.values() for guise in cells))
    columns = [["", *inputs]]
    columns += [[name, *(short(cells.get(i)) for i in inputs)] for name, cells in rows.items()]
    widths = [max(map(len, column)) for column in columns]
    print("V, T, R: a ValueError, TypeError or RuntimeError that names the argument; -: no such")
    for line in zip(*columns, strict=True):
        texts = (text.ljust(width) for text, width in zip(line, widths, strict=True))
        print("  ".join(texts).rstrip())
    for name, cells in rows.items():
        for guise, cell in cells.items():
            if cell.obscure:
                print(f"obscure: {name}, {guise}: {cell.detail}")
    counts = Counter(kind(cell) for cells in rows.values() for cell in cells.values())
    print(
        f"{counts.total()} cells: {counts['value']} values, {counts['named']} named errors, "
        f"{counts['obscure']} obscure"
    )
    return int(counts["obscure"] > 0)


if __name__ == "__main__":
    sys.exit(main())
