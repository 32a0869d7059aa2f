"""Runs the light cells of a notebook again, last to first, after nbval has run all of it.

So does a reader who goes back to a cell: it must not trip over what later cells left. To be loaded
beside nbval: ``pytest -p tests.again --nbval-lax ...``.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import pytest
from nbval.plugin import IPyNbCell

LIGHT_S = 0.5


class Again(IPyNbCell):
    """A cell that ran before; what it says is not compared, as it may go on from where it was."""

    def runtest(self) -> None:
        """Skip it unless it ran, and quickly."""
        seconds = getattr(self.parent, "seconds", {}).get(self.cell_num)
        if seconds is None or seconds > LIGHT_S:
            pytest.skip("not a light cell")
        super().runtest()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Append to each notebook's cells the same in reverse."""
    found: list[pytest.Item] = []
    for parent, group in groupby(items, lambda item: item.parent):
        cells = list(group)
        found += cells
        for cell in reversed([cell for cell in cells if isinstance(cell, IPyNbCell)]):
            options = defaultdict(bool, {**cell.options, "check": False})
            found.append(
                Again.from_parent(
                    parent,
                    name=f"{cell.name} again",
                    cell_num=cell.cell_num,
                    cell=cell.cell,
                    options=options,
                )
            )
    items[:] = found


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[Any]:
    """Note how long a cell takes; one that fails has no time."""
    start = time.perf_counter()
    result = yield
    if isinstance(item, IPyNbCell) and not isinstance(item, Again):
        parent: Any = item.parent
        parent.seconds = {
            **getattr(parent, "seconds", {}),
            item.cell_num: time.perf_counter() - start,
        }
    return result
