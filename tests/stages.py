"""Run the tests in stages, two at a time, and say at the end how each went: ``make test``.

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
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from chapters._tools import pairs  # noqa: E402
from chapters._tools.execute import CELL_TIMEOUT_S, kernel_environment  # noqa: E402

PYTHON = (sys.executable, "-m")
PYTEST = (*PYTHON, "pytest", "-q", "-rs")
TWO = ("-n", "2")
LIMIT_S = 2700  # about three times what the longest takes
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
    """Every notebook from a cold kernel; cells marked NBVAL_CHECK_OUTPUT must print the same."""
    paths = [pairs.notebook_path(master) for master in pairs.masters()]
    options = (
        "--nbval-lax",
        "--nbval-current-env",
        f"--nbval-cell-timeout={CELL_TIMEOUT_S}",
        "--dist=loadscope",
        # Not the options of the unit tests, which are about code in this process.
        *("-o", "addopts=", "-o", "filterwarnings=default", "-p", "no:warnings"),
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
    # JupyterLab, whose start takes longest, stays with one worker, and the rest goes to the other.
    return [(*PYTEST, "-rsP", *TWO, "--dist=loadfile", "tests/browser")]


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
    for command in stage.commands():
        shown = " ".join(
            str(Path(part).name) if part == sys.executable else part for part in command
        )
        status, said = execute(command)
        output += f"$ {shown}\n{said}"
        if status != 0:
            output += f"exit status {status}\n"
            passed = False
            break
    return Outcome(stage.name, passed, time.perf_counter() - start, output)


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
    print("=== in all")
    for outcome in outcomes:
        verdict = "passed" if outcome.passed else "FAILED"
        print(f"{outcome.name:10} {verdict} {outcome.seconds:5.0f} s  {outcome.summary}")
    failed = sum(not outcome.passed for outcome in outcomes)
    print(f"{'FAILED' if failed else 'passed'} in {time.perf_counter() - start:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
