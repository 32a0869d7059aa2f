"""What a reader does first: ``make lab``, the start page, a chapter, Run All, a slider.

Waiting is left to ``page.wait_for_timeout``: while Python sleeps, no request of the page is let
through.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
CHAPTERS = {"vae/vae": "The variational autoencoder"}
TARGET_S = 60  # a chapter's budget on two cores
CONTENT = "e => e.src || e.toDataURL()"  # of a picture
SLACK = 2  # machines differ, and a timing must not decide


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Lab(NamedTuple):
    """A running JupyterLab."""

    door: str
    """What ``make lab`` opens."""
    start: str
    """The start page in a fresh workspace."""
    folder: Path
    """What is served."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Iterator[Lab]:
    """JupyterLab as ``make lab`` starts it, on a copy of the chapters, without a window."""
    make = shutil.which("make")
    if make is None:
        pytest.skip("make is not installed")
    folder = tmp_path_factory.mktemp("lab")
    # The book is read, run and saved here; the checkout stays as it is.
    shutil.copytree(
        ROOT / "chapters",
        folder / "chapters",
        ignore=shutil.ignore_patterns("_tools", "_site", ".ipynb_checkpoints"),
    )
    port, token = free_port(), "reader"
    options = [
        "--no-browser",
        "--allow-root",
        "--ip=127.0.0.1",
        "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={folder}",
        f"--LabApp.workspaces_dir={folder / 'workspaces'}",
        f"--LabApp.user_settings_dir={folder / 'settings'}",
    ]
    log = (folder / "log").open("w+")
    server = subprocess.Popen(
        [make, "lab", f"PORT={port}", f"LAB_ARGS={' '.join(options)}"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(address, server, folder / "log")
        start = f"{address}/lab/tree/chapters/index.ipynb?token={token}&reset"
        yield Lab(f"{address}/?token={token}", start, folder)
    finally:
        stop(server)
        log.close()


def wait_for(address: str, server: subprocess.Popen, log: Path) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    give_up = time.monotonic() + 180
    while time.monotonic() < give_up:
        if server.poll() is not None:
            pytest.fail(f"`make lab` ended:\n{log.read_text('utf-8')}")
        try:
            with opener.open(f"{address}/api", timeout=5):
                return
        except OSError:
            time.sleep(0.3)
    pytest.fail(f"`make lab` does not answer:\n{log.read_text('utf-8')}")


def stop(server: subprocess.Popen) -> None:
    """End JupyterLab and its kernels, which share the session that was started for it."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(server.pid, how)
            server.wait(15)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def test_the_start_page_opens_and_its_check_says_ready(lab, visit):
    page = visit.page
    page.goto(lab.door)
    start = page.locator(".jp-NotebookPanel:visible")
    start.get_by_role("heading", name="Deep generative models").wait_for(timeout=60_000)
    wait_until_idle(page)
    run_all(page)
    wait_until_idle(page)
    assert "ready" in start.locator(".jp-OutputArea-output").first.inner_text()
    assert visit.foreign == []


@pytest.mark.parametrize(("name", "title"), CHAPTERS.items())
def test_a_chapter_opens_runs_and_its_slider_moves_the_picture(lab, visit, name, title):
    path = lab.folder / "chapters" / f"{name}.ipynb"
    clear_outputs(path)
    page = visit.page
    page.goto(lab.start)
    page.get_by_role("link", name=title).first.click(timeout=60_000)
    chapter = page.locator(".jp-NotebookPanel:visible", has=page.locator(f"text={title}")).last
    page.locator(".lm-TabBar-tabLabel", has_text=f"{name.rpartition('/')[2]}.ipynb").wait_for(
        timeout=60_000
    )
    wait_until_idle(page)

    start = time.monotonic()
    run_all(page)
    wait_until_idle(page, timeout_s=TARGET_S * SLACK + 30)
    seconds = time.monotonic() - start
    print(f"Run All of {name}: {seconds:.1f} s (target {TARGET_S} s)")

    cells = save_and_read(page, path)
    errors = [out.evalue for cell in cells for out in cell.outputs if out.output_type == "error"]
    assert errors == []
    counts = [cell.execution_count for cell in cells]
    assert counts == list(range(1, len(cells) + 1)), counts
    assert seconds <= TARGET_S * SLACK

    slider = chapter.locator(".jupyter-widgets .noUi-handle, .widget-slider .noUi-handle").first
    slider.scroll_into_view_if_needed(timeout=30_000)
    output = "xpath=ancestor::*[contains(@class, 'jp-OutputArea-output')][1]"
    picture = slider.locator(output).locator("img, canvas").first
    picture.wait_for()
    before = picture.evaluate(CONTENT)
    slider.focus()
    for _ in range(10):
        slider.press("ArrowRight")
    give_up = time.monotonic() + 20
    while picture.evaluate(CONTENT) == before and time.monotonic() < give_up:
        page.wait_for_timeout(200)
    assert picture.evaluate(CONTENT) != before, "the slider moved and the picture stayed"
    assert visit.foreign == []


def wait_until_idle(page, timeout_s: float = 60) -> None:
    """Until no cell waits and the kernel has been idle for a second.

    Between two cells it is idle for a moment, and so is a cell's mark.
    """
    waiting = page.locator(".jp-NotebookPanel:visible .jp-InputPrompt", has_text="[*]")
    give_up = time.monotonic() + timeout_s
    since = None
    while time.monotonic() < give_up:
        status = page.locator("#jp-main-statusbar").inner_text()
        if "| Idle" not in status or waiting.count():
            since = None
        elif since is None:
            since = time.monotonic()
        elif time.monotonic() - since > 1:
            return
        page.wait_for_timeout(100)
    pytest.fail(f"the kernel was not idle within {timeout_s} s: {status!r}")


def run_all(page) -> None:
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.wait_for_timeout(500)


def save_and_read(page, path: Path) -> list[nbformat.NotebookNode]:
    """The code cells as JupyterLab saves them: on the page it draws only those in view."""
    before = path.stat().st_mtime_ns
    page.get_by_role("menuitem", name="File", exact=True).click()
    page.get_by_role("menuitem", name=re.compile("^Save Notebook(?! As)")).first.click()
    give_up = time.monotonic() + 30
    while path.stat().st_mtime_ns == before:
        assert time.monotonic() < give_up, f"{path.name} was not saved"
        page.wait_for_timeout(100)
    page.wait_for_timeout(300)
    notebook = nbformat.read(path, as_version=4)
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def clear_outputs(path: Path) -> None:
    """So that what is found afterwards was made by this run."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    notebook.metadata.pop("widgets", None)
    nbformat.write(notebook, path)
