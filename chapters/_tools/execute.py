"""Bring notebooks up to date with their texts and with the library: ``make chapters``.

    python -m chapters._tools.execute [NAME ...] [--check] [--force] [--jobs N]

A chapter whose prose alone changed is only synced. A chapter that fails keeps its stored notebook.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import nbformat
import psutil  # type: ignore[import-untyped]
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from chapters._tools import inputs, pairs

__all__ = ["Report", "kernel_environment", "main", "update"]

MAX_BYTES = 1_000_000
BUDGET_S = 60
CELL_TIMEOUT_S = 600
RECORDER = Path(__file__).with_name("recorder.py")
# An expression, so that the notebook's name space stays empty.
RECORD = (
    "exec(compile(__import__('pathlib').Path({path!r}).read_text('utf-8'), {path!r}, 'exec'), "
    "{{'__name__': 'gdm_recorder'}})"
)
ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclass
class Report:
    """What was done for one chapter."""

    name: str
    did: str
    seconds: float = 0.0
    peak_mib: float = 0.0
    size: int = 0
    error: str = ""


def kernel_environment() -> dict[str, str]:
    """The environment in which chapters are executed and tested.

    One thread, so that two notebooks at a time keep to two cores and that sums are added in one
    order; and no way out to the network, so that a chapter that needs one is found out.
    """
    closed = "http://127.0.0.1:9"
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), closed)
    proxies |= dict.fromkeys(("no_proxy", "NO_PROXY"), "localhost,127.0.0.1,::1")
    return {**os.environ, **proxies, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class _Memory(threading.Thread):
    """Watches the largest resident set of a client's kernel, in MiB."""

    def __init__(self, client: NotebookClient) -> None:
        super().__init__(daemon=True)
        self.client = client
        self.peak = 0.0
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.1):
            pid = getattr(getattr(self.client.km, "provisioner", None), "pid", None)
            if pid is not None:
                try:
                    used = psutil.Process(pid).memory_info().rss / 2**20
                except psutil.Error:
                    continue
                self.peak = max(self.peak, used)


class NotRecorded(Exception):
    """What a notebook's outputs were made from is not known for sure."""


def _execute(
    notebook: NotebookNode, folder: Path, root: Path
) -> tuple[float, float, inputs.Record]:
    """Run a notebook in place in a new kernel.

    Returns:
        Seconds, peak memory in MiB, and what the kernel loaded and read.
    """
    with tempfile.TemporaryDirectory() as temporary:
        target = Path(temporary) / "inputs.json"
        # The checkout whose files are recorded is the one that runs, wherever gdm_lib is installed.
        path = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
        environment = {"GDM_ROOT": str(root), "GDM_RECORD": str(target), "PYTHONPATH": path}
        seconds, peak = _run(notebook, folder, kernel_environment() | environment)
        if not target.exists():
            raise NotRecorded("the recorder of inputs did not run")
        notes = json.loads(target.read_text("utf-8"))
    if elsewhere := notes.pop("elsewhere"):
        raise NotRecorded(f"not imported from {root}: {', '.join(elsewhere)}")
    return seconds, peak, inputs.Record(**notes)


def _run(notebook: NotebookNode, folder: Path, environment: dict[str, str]) -> tuple[float, float]:
    client = NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT_S,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        store_widget_state=True,
        extra_arguments=[f"--IPKernelApp.exec_lines={RECORD.format(path=RECORDER.as_posix())}"],
        resources={"metadata": {"path": str(folder)}},
    )
    memory = _Memory(client)
    memory.start()
    start = time.perf_counter()
    try:
        # Unlike client.execute(), this closes the event loop.
        asyncio.run(client.async_execute(env=environment))
    finally:
        memory.done.set()
        memory.join()
    return time.perf_counter() - start, memory.peak


def _steady(notebook: NotebookNode) -> NotebookNode:
    """Number widget models in order: their random names would differ with every execution."""
    notebook.metadata.update(pairs.METADATA)
    key = "application/vnd.jupyter.widget-state+json"
    models = notebook.metadata.get("widgets", {}).get(key, {}).get("state", {})
    text = json.dumps(notebook)
    for number, model in enumerate(models):
        text = text.replace(model, f"{number:032x}")
    return nbformat.from_dict(json.loads(text))


def _failure(error: Exception, notebook: NotebookNode) -> str:
    """The cell and what it said."""
    for number, cell in enumerate(notebook.cells, 1):
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                trace = ANSI.sub("", "\n".join(output.traceback))
                return f"cell {number}:\n{cell.source}\n\n{trace}"
    return f"{type(error).__name__}: {error}"


def _changed_since(start: float, record: inputs.Record, root: Path) -> list[str]:
    """The inputs that may not be what ran, as they were written later."""
    paths = sorted({*record.modules, *record.files})
    return [p for p in paths if (root / p).is_file() and (root / p).stat().st_mtime > start]


def update(master: Path, *, force: bool = False, root: Path = pairs.ROOT) -> Report:
    """Bring one chapter's notebook up to date.

    Args:
        master: its text.
        force: execute it even if its outputs are fresh.
        root: the checkout.
    """
    name = master.relative_to(root / "chapters").with_suffix("").as_posix()
    path = pairs.notebook_path(master)
    sync, stale = pairs.staleness(master, root)
    if not force and path.exists() and (edit := pairs.lost_edit(master, root)):
        return Report(name, "FAILED", error=edit)
    notebook = pairs.read_master(master)
    if not (stale or force):
        if not sync:
            return Report(name, "fresh", size=path.stat().st_size)
        pairs.join(notebook, nbformat.read(path, as_version=4))
        return Report(name, "synced", size=pairs.write(notebook, path))
    start = time.time()
    try:
        seconds, peak, record = _execute(notebook, master.parent, root)
        made_from = inputs.take(pairs.code_of(notebook), record, root)
        if late := _changed_since(start, record, root):
            raise NotRecorded(f"changed while the notebook ran: {', '.join(late)}; run it again")
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        return Report(name, "FAILED", error=_failure(error, notebook))
    except (NotRecorded, SyntaxError) as error:
        return Report(name, "FAILED", error=str(error))
    notebook.metadata["gdm"] = made_from
    return Report(name, "executed", seconds, peak, pairs.write(_steady(notebook), path))


def _select(names: Sequence[str], root: Path) -> list[Path]:
    found = {
        path.relative_to(root / "chapters").with_suffix("").as_posix(): path
        for path in pairs.masters(root)
    }
    unknown = [name for name in names if name not in found]
    if unknown:
        raise SystemExit(f"no chapter named {', '.join(unknown)}; there are: {', '.join(found)}")
    return [found[name] for name in names] if names else list(found.values())


def _check(chosen: Sequence[Path], root: Path) -> int:
    stale = 0
    for master in chosen:
        reasons = [reason for reason in pairs.staleness(master, root) if reason]
        if reasons:
            stale += 1
            print(f"{master.relative_to(root)}: {'; '.join(reasons)}")
    print(f"{stale} of {len(chosen)} stale" + ("; run `make chapters`" if stale else ""))
    return 1 if stale else 0


def _print_table(reports: Sequence[Report]) -> None:
    width = max(len(report.name) for report in reports)
    print(f"\n{'chapter':{width}}  {'':8}  seconds  peak MiB  size kB")
    for report in reports:
        cells = f"{'':7}  {'':8}"
        if report.did == "executed":
            cells = f"{report.seconds:7.1f}  {report.peak_mib:8.0f}"
        notes = ""
        if report.seconds > BUDGET_S:
            notes += f"  over {BUDGET_S} s"
        if report.size > MAX_BYTES:
            notes += f"  over {MAX_BYTES / 1000:.0f} kB"
        size = f"{report.size / 1000:7.0f}" if report.size else f"{'':7}"
        print(f"{report.name:{width}}  {report.did:8}  {cells}  {size}{notes}")


def main(argv: Sequence[str] | None = None, *, root: Path = pairs.ROOT) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m chapters._tools.execute", description=__doc__)
    parser.add_argument("names", nargs="*", help="chapters, such as vae/vae; all by default")
    parser.add_argument("--check", action="store_true", help="say what is stale, change nothing")
    parser.add_argument("--force", action="store_true", help="execute even what is fresh")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1))
    args = parser.parse_args(argv)
    chosen = _select(args.names, root)
    if not chosen:
        raise SystemExit(f"no chapters in {root / 'chapters'}")
    if args.check:
        return _check(chosen, root)
    reports = []
    with ThreadPoolExecutor(max(1, args.jobs)) as pool:
        for report in pool.map(lambda path: update(path, force=args.force, root=root), chosen):
            reports.append(report)
            print(f"{report.did:8}  {report.name}", flush=True)
            if report.error:
                print(f"\n{report.error}\n", file=sys.stderr, flush=True)
    _print_table(reports)
    failed = any(report.error or report.size > MAX_BYTES for report in reports)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
