"""Run the tests in stages, two at a time, and say at the end how each went: ``make test``.

It also says how many seconds each chapter took, by stage, and which other tests took longest.

    python tests/stages.py [STAGE ...]

The stages with the longest run start first; the browser, which takes both cores, runs alone. A
stage fails if any of its commands does, and the whole fails if a stage does. A command that hangs
is ended after ``LIMIT_S`` seconds, and what it had said is shown.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from chapters._tools import pairs  # noqa: E402
from chapters._tools.execute import BUDGET_S, CELL_TIMEOUT_S, kernel_environment  # noqa: E402

PYTHON = (sys.executable, "-m")
PYTEST = (*PYTHON, "pytest", "-q", "-rs")
TWO = ("-n", "2")
LIMIT_S = 2700  # about three times what the longest takes
SLOW_S, SLOWEST = 5, 15  # which tests are named at the end: from how many seconds, how many
MATHJAX = ROOT / "chapters/_site/node_modules/mathjax"


@dataclass
class Stage:
    """Commands that run one after another until one fails."""

    name: str
    commands: Callable[[], Sequence[Sequence[str]]]
    alone: bool = False


@dataclass
class Outcome:
    """How a stage went."""

    name: str
    passed: bool
    seconds: float
    output: str
    tests: list[tuple[str, float]] = field(default_factory=list)
    """Each test, as file and name, and its seconds."""

    @property
    def summary(self) -> str:
        """What pytest said last, as "12 passed, 1 skipped"."""
        found = re.findall(r"^=* ?((?:\d+ \w+(?:, )?)+) in [\d.]+s", self.output, re.MULTILINE)
        return "; ".join(found)


def lint() -> Sequence[Sequence[str]]:
    """Style and types."""
    return [
        (*PYTHON, "ruff", "check", "--quiet", "."),
        (*PYTHON, "ruff", "format", "--check", "--quiet", "."),
        (*PYTHON, "mypy", "-p", "gdm_lib", "-p", "chapters._tools"),
    ]


def unit() -> Sequence[Sequence[str]]:
    """The library."""
    apart = ("--ignore=tests/browser", "--ignore=tests/chapters")
    return [(*PYTEST, *TWO, *apart, "tests")]


def chapters() -> Sequence[Sequence[str]]:
    """Pairs in step, outputs fresh, the rules of a chapter, and the tools themselves."""
    return [(*PYTEST, "--ignore=tests/chapters/test_site.py", "tests/chapters")]


def notebooks() -> Sequence[Sequence[str]]:
    """Every notebook from a cold kernel; cells marked NBVAL_CHECK_OUTPUT must print the same. Then
    its light cells again, last to first."""
    paths = [pairs.notebook_path(master) for master in pairs.masters()]
    options = (
        "--nbval-lax",
        "--nbval-current-env",
        f"--nbval-cell-timeout={CELL_TIMEOUT_S}",
        "--dist=loadscope",
        # Not the options of the unit tests, which are about code in this process.
        *("-o", "addopts=", "-o", "filterwarnings=default", "-p", "no:warnings"),
        *("-p", "tests.again"),
    )
    return [(*PYTEST, *TWO, *options, *(str(path.relative_to(ROOT)) for path in paths))]


def site() -> Sequence[Sequence[str]]:
    """The site from nothing with warnings as errors, and its pages."""
    # An incremental build would not repeat the warnings of pages that it leaves alone.
    shutil.rmtree(ROOT / "_build", ignore_errors=True)
    build = (*PYTHON, "jupyter", "book", "build", ".", "--path-output", ".", "-W", "-n")
    return [(*build, "--keep-going", "-q"), (*PYTEST, "tests/chapters/test_site.py")]


def browser() -> Sequence[Sequence[str]]:
    """JupyterLab and the site in a headless Chromium."""
    # Each worker starts a JupyterLab of its own for the tests that are marked with its group; the
    # rest are dealt out one by one, as a worker becomes free.
    return [(*PYTEST, "-rsP", *TWO, "--dist=loadgroup", "tests/browser")]


STAGES = [
    Stage("notebooks", notebooks),
    Stage("lint", lint),
    Stage("site", site),
    Stage("chapters", chapters),
    Stage("unit", unit),
    Stage("browser", browser, alone=True),
]


def execute(command: Sequence[str], limit_s: float = LIMIT_S) -> tuple[int, str]:
    """Run a command; its exit status, and what it said."""
    # A file, not a pipe: a process that outlives the command would hold a pipe open.
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**kernel_environment(), "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
        )
        late = ""
        try:
            process.wait(limit_s)
        except subprocess.TimeoutExpired:
            late = f"\nended: it was not done after {limit_s:.0f} s\n"
            for part in psutil.Process(process.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    part.kill()
            process.kill()
            process.wait()
        said.seek(0)
        return process.returncode, said.read().decode(errors="replace") + late


def run(stage: Stage) -> Outcome:
    """Run a stage, its output held back so that stages don't mix."""
    start = time.perf_counter()
    output, passed = "", True
    tests: list[tuple[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        for number, command in enumerate(stage.commands()):
            report = Path(folder) / f"{number}.xml"
            timed = ("-o", "junit_family=xunit1", f"--junitxml={report}")
            status, said = execute((*command, *timed) if "pytest" in command else command)
            shown = " ".join(
                str(Path(part).name) if part == sys.executable else part for part in command
            )
            output += f"$ {shown}\n{said}"
            tests += read_report(report)
            if status != 0:
                output += f"exit status {status}\n"
                passed = False
                break
    return Outcome(stage.name, passed, time.perf_counter() - start, output, tests)


def read_report(path: Path) -> list[tuple[str, float]]:
    """The tests of a report of pytest's and their seconds; none if it wrote no report."""
    try:
        cases = ET.parse(path).iter("testcase")
    except (OSError, ET.ParseError):
        return []
    return [
        (f"{case.get('file')}::{case.get('name')}", float(case.get("time", 0))) for case in cases
    ]


def chapter_of(test: str, names: Iterable[str]) -> str | None:
    """The chapter that a test is about: its file, or its parameter, is the chapter's."""
    for name in names:
        if re.search(rf"(?:chapters/|\[){re.escape(name)}(?=[.\]-])", test):
            return name
    return None


def table(outcomes: Sequence[Outcome], names: Sequence[str]) -> str:
    """Seconds by chapter and stage, as far as tests are about one chapter."""
    seconds: dict[str, dict[str, float]] = {name: defaultdict(float) for name in names}
    for outcome in outcomes:
        for test, duration in outcome.tests:
            if name := chapter_of(test, names):
                seconds[name][outcome.name] += duration
    stages = [o.name for o in outcomes if sum(row[o.name] for row in seconds.values()) >= 1]
    if not stages:
        return ""
    width = max(map(len, names))
    lines = [
        "=== seconds by chapter, two at a time",
        " ".join([f"{'':{width}}", *(f"{s:>9}" for s in stages)]),
    ]
    for name, row in seconds.items():
        note = f"  over {BUDGET_S} s" if row["notebooks"] > BUDGET_S else ""
        lines.append(
            " ".join([f"{name:{width}}", *(f"{row[stage]:9.1f}" for stage in stages)]) + note
        )
    totals = [sum(row[stage] for row in seconds.values()) for stage in stages]
    lines.append(" ".join([f"{'all':{width}}", *(f"{total:9.1f}" for total in totals)]))
    return "\n".join(lines)


def slowest(outcomes: Sequence[Outcome], names: Sequence[str]) -> str:
    """The tests that took longest of those that are not about one chapter."""
    tests = [
        (duration, test)
        for outcome in outcomes
        for test, duration in outcome.tests
        if duration >= SLOW_S and not chapter_of(test, names)
    ]
    lines = [f"{duration:9.1f} {test}" for duration, test in sorted(tests, reverse=True)[:SLOWEST]]
    return "\n".join(["=== slowest tests", *lines]) if lines else ""


def show(outcome: Outcome) -> Outcome:
    """Print what a stage said."""
    verdict = "passed" if outcome.passed else "FAILED"
    print(
        f"\n=== {outcome.name}: {verdict} in {outcome.seconds:.0f} s\n{outcome.output}", flush=True
    )
    return outcome


def main(names: Sequence[str]) -> int:
    """Run the stages named, or all; returns the exit status."""
    known = {stage.name for stage in STAGES}
    if unknown := set(names) - known:
        print(f"no stage named {', '.join(sorted(unknown))}; there are: {', '.join(sorted(known))}")
        return 2
    chosen = [stage for stage in STAGES if not names or stage.name in names]
    if os.environ.get("GDM_ASSETS", "local") == "local" and not MATHJAX.exists():
        print("npm is not installed, so the site is built to load its scripts from the network")
        os.environ["GDM_ASSETS"] = "cdn"
    start = time.perf_counter()
    print(f"running {', '.join(stage.name for stage in chosen)}", flush=True)
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(run, stage) for stage in chosen if not stage.alone]
        outcomes = [show(job.result()) for job in as_completed(jobs)]
    outcomes += [show(run(stage)) for stage in chosen if stage.alone]
    names = [
        pairs.notebook_path(master).relative_to(ROOT / "chapters").with_suffix("").as_posix()
        for master in pairs.masters()
    ]
    for part in (table(outcomes, names), slowest(outcomes, names)):
        if part:
            print(f"{part}\n")
    print("=== in all")
    for outcome in outcomes:
        verdict = "passed" if outcome.passed else "FAILED"
        print(f"{outcome.name:10} {verdict} {outcome.seconds:5.0f} s  {outcome.summary}")
    failed = sum(not outcome.passed for outcome in outcomes)
    print(f"{'FAILED' if failed else 'passed'} in {time.perf_counter() - start:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
