"""Timings side by side with peers, both in one run: ``python -m benchmarks [NAME ...] --json``.

A benchmark is a function without arguments in a module of this package, listed in its
``BENCHMARKS``, that returns a ``Result`` for each peer. Absolute times depend on the machine;
ratios are what to quote.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Result", "in_turn"]


@dataclass(frozen=True)
class Result:
    """One comparison.

    Attributes:
        name: of the benchmark.
        ours_s: seconds of ours, a median.
        peer: whom we compare with.
        peer_version: of the package, or empty.
        peer_s: seconds of the peer, a median.
        target: the least ratio that we want.
        unit: of ``ours_s`` and ``peer_s`` where what is measured is not a time.
    """

    name: str
    ours_s: float
    peer: str
    peer_version: str
    peer_s: float
    target: float
    unit: str = "s"

    @property
    def ratio(self) -> float:
        """``peer_s / ours_s``: more is better."""
        return self.peer_s / self.ours_s

    @property
    def ok(self) -> bool:
        """Whether the ratio reaches the target."""
        return self.ratio >= self.target


def in_turn(*runs: Callable[[], object], repeats: int = 7) -> tuple[float, ...]:
    """Median seconds of each, run in turn after one warm-up, so that drift hits all alike."""
    times: list[list[float]] = [[] for _ in runs]
    for repeat in range(repeats + 1):
        for run, taken in zip(runs, times, strict=True):
            start = time.perf_counter()
            run()
            if repeat:
                taken.append(time.perf_counter() - start)
    return tuple(map(statistics.median, times))
