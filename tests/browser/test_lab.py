"""What a reader does first: ``make lab``, the start page, a chapter, Run All, a slider.

That each chapter runs from top to bottom is nbval's to prove. Here one of each family does so in
JupyterLab; of the others run the statements that their widgets need (``tests/slices.py``). The
tests are dealt out to two workers, each with a JupyterLab of its own.

Waiting is left to ``page.wait_for_timeout``: while Python sleeps, no request of the page is let
through.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import nbformat
import numpy as np
import pytest
import torch

from chapters._tools import pairs
from gdm_lib import pretrained
from tests.browser.conftest import Mishap
from tests.browser.widget_page import drive, pictures, settle, wait_for_change
from tests.slices import slice_notebook, widget_cells

ROOT = Path(__file__).parents[2]
CHAPTERS = {
    "vae/vae": "The variational autoencoder",
    "vae/vqvae": "VQ-VAE",
    "vae/vqvae2": "VQ-VAE-2",
    "flows/planar_radial": "Planar and radial flows",
    "flows/nice": "NICE",
    "flows/realnvp": "Real NVP",
    "flows/maf": "Masked autoregressive flow (MAF)",
    "flows/iaf": "Inverse autoregressive flow (IAF)",
    "flows/glow": "Glow",
    "autoregressive/pixelrnn": "PixelRNN and PixelCNN",
    "autoregressive/gated_pixelcnn": "Gated PixelCNN",
    "autoregressive/wavenet": "WaveNet",
    "autoregressive/pixelcnn_pp": "PixelCNN++",
    "appendix/widgets": "the widgets",
}
WHOLE = ("vae/vae", "flows/nice", "autoregressive/pixelrnn", "appendix/widgets")
# Of the others, those whose widgets show what a training kept on its way need all of its steps.
WHOLE_TRAININGS = ("autoregressive/wavenet", "autoregressive/pixelcnn_pp")
PATIENCE_S = 300  # how long a chapter is waited for: what else the machine does must not decide
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def on_worker(number: int) -> pytest.MarkDecorator:
    return pytest.mark.xdist_group(f"lab-{number % 2}")


def dealt_out() -> list:
    """The chapters, those that take longest first, to one worker and the other in turn."""
    ordered = sorted(CHAPTERS, key=lambda name: name not in WHOLE)
    return [
        pytest.param(name, CHAPTERS[name], id=name, marks=on_worker(i))
        for i, name in enumerate(ordered)
    ]


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

    def ask(self, what: str, method: str = "GET") -> list | None:
        """What the server says at an address of its API."""
        address = urlsplit(self.door)._replace(path=f"/api/{what}").geturl()
        asked = urllib.request.Request(address, method=method)
        with DIRECT.open(asked, timeout=30) as answer:
            return json.loads(answer.read() or "null")


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Lab]:
    """JupyterLab as ``make lab`` starts it, on a copy of the chapters, without a window."""
    make = shutil.which("make")
    if make is None:
        pytest.skip("make is not installed")
    folder = tmp_path_factory.mktemp("lab")
    # The book is read, run and saved here; the checkout stays as it is.
    shutil.copytree(
        ROOT / "chapters",
        folder / "chapters",
        ignore=shutil.ignore_patterns("_tools", "node_modules", ".ipynb_checkpoints"),
    )
    port, token = free_port(), "reader"
    options = [
        "--no-browser",
        "--allow-root",
        "--ip=127.0.0.1",
        "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={folder}",
        "--LabApp.expose_app_in_browser=True",
        f"--LabApp.workspaces_dir={folder / 'workspaces'}",
        f"--LabApp.user_settings_dir={folder / 'settings'}",
    ]
    log = (folder / "log").open("w+")
    process = subprocess.Popen(
        [make, "lab", f"PORT={port}", f"LAB_ARGS={' '.join(options)}"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(address, process, folder / "log")
        start = f"{address}/lab/tree/chapters/index.ipynb?token={token}&reset"
        yield Lab(f"{address}/?token={token}", start, folder)
    finally:
        stop(process)
        log.close()


@pytest.fixture
def lab(server) -> Iterator[Lab]:
    """JupyterLab, in which no kernel is left afterwards: each holds what its chapter made."""
    yield server
    for kernel in server.ask("kernels"):
        server.ask(f"kernels/{kernel['id']}", "DELETE")


def wait_for(address: str, server: subprocess.Popen, log: Path) -> None:
    give_up = time.monotonic() + 180
    while time.monotonic() < give_up:
        if server.poll() is not None:
            pytest.fail(f"`make lab` ended:\n{log.read_text('utf-8')}")
        try:
            with DIRECT.open(f"{address}/api", timeout=5):
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


def of_widgets(errors: Iterable[Mishap]) -> list[Mishap]:
    """Those that JupyterLab and its extensions didn't make: their scripts have an address on the
    server. A widget's script has none; what it throws, anywidget may say in its place."""
    own = re.compile(r"http://[^\s)]*/(static|lab|extensions)/")
    return [
        error
        for error in errors
        if not own.search(error.source) or re.search(r"blob:|data:|/anywidget/", error.source)
    ]


@on_worker(0)
def test_the_start_page_opens_and_its_check_says_ready(lab, visit):
    page = visit.page
    page.goto(lab.door)
    start = page.locator(".jp-NotebookPanel:visible")
    start.get_by_role("heading", name="Deep generative models").wait_for(timeout=60_000)
    wait_until_idle(page)
    run_all(page)
    wait_until_idle(page)
    drive(page, widget_of_cell(page, 1))  # the plane to drag in
    page.evaluate("jupyterapp.shell.currentWidget.content.scrollToItem(4, 'start')")
    start.get_by_text("ready", exact=False).last.wait_for()
    assert "ready" in start.locator(".jp-OutputArea-output").last.inner_text()
    assert visit.foreign == []


@on_worker(1)
def test_each_family_has_a_chapter_that_runs_as_a_whole():
    families = {name.partition("/")[0] for name in CHAPTERS}
    assert {name.partition("/")[0] for name in WHOLE} == families
    assert set(WHOLE) <= CHAPTERS.keys()


@pytest.mark.parametrize(("name", "title"), dealt_out())
def test_a_chapter_opens_runs_and_every_control_moves_a_picture(lab, visit, name, title):
    path = lab.folder / "chapters" / f"{name}.ipynb"
    stored = widget_cells(nbformat.read(path, as_version=4).cells)
    assert stored
    asked = prepare(path, whole=name in WHOLE, briefly=name not in WHOLE_TRAININGS)
    page = visit.page
    open_chapter(page, lab, name, title)

    start = time.monotonic()
    run_all(page)
    wait_until_run(page, timeout_s=PATIENCE_S)
    seconds = time.monotonic() - start
    cells = save_and_read(page, path)
    code = [cell for cell in cells if cell.cell_type == "code"]
    print(f"Run All of {name}: {seconds:.1f} s, {len(code)} cells")
    errors = [out.evalue for cell in code for out in cell.outputs if out.output_type == "error"]
    assert errors == []
    counts = [cell.execution_count for cell in code]
    assert counts == list(range(1, len(code) + 1)), counts
    assert len(code) == asked  # and not those of another file

    shown = widget_cells(cells)
    assert shown == stored
    for number in shown:
        root = widget_of_cell(page, number)
        print(f"cell {number}: {'; '.join(drive(page, root))}")
    assert of_widgets(visit.errors) == []
    assert visit.foreign == []


@on_worker(0)
def test_the_kernels_pixels_are_torchs_its_values_are_the_widgets_and_its_end_is_said(lab, visit):
    page = visit.page
    open_notebook(
        page,
        lab,
        "from gdm_lib import pretrained, widgets\n"
        "model = pretrained.load('vae/mnist_2d')\n"
        "explorer = widgets.LatentExplorer.plane(model.decode_mean)\nexplorer",
        "explorer.values = {'z₁': -1.25, 'z₂': 7.0}",
        "explorer.values['z₁']",
    )
    run_all(page)
    wait_until_idle(page)
    root = widget_of_cell(page, 1)
    # Set by a cell, and held to the sliders' range.
    page.wait_for_function(
        "r => r.gdm.arrays[0].data[0] == -1.25", arg=root.element_handle(), timeout=10_000
    )
    settle(page, root)
    asked, told = root.evaluate("r => [[...r.gdm.arrays[0].data], [...r.gdm.data]]")
    assert asked == [-1.25, 3.0]
    with torch.no_grad():
        expected = pretrained.load("vae/mnist_2d").decode_mean(torch.tensor([asked]))
    assert np.abs(np.array(told) - expected.flatten().numpy()).max() <= 1e-6
    # Moved by hand, and read by a cell.
    before = pictures(root)
    root.get_by_label("z₁", exact=True).press("End")
    wait_for_change(page, root, before, "End")
    page.wait_for_timeout(500)
    assert run_cell(page, 3) == "3"

    root = widget_of_cell(page, 1)
    settle(page, root)
    page.get_by_role("menuitem", name="Kernel", exact=True).click()
    page.get_by_role("menuitem", name="Shut Down Kernel", exact=True).click()
    page.wait_for_timeout(1000)
    picture = root.locator(".gdm-stage > canvas")
    before = picture.evaluate("c => c.toDataURL()")
    root.get_by_label("z₂", exact=True).press("Home")
    root.locator(".gdm-fault").wait_for(timeout=10_000)
    assert "The kernel does not answer" in root.locator(".gdm-status").inner_text()
    assert picture.evaluate("c => c.toDataURL()") == before


FAULTY = """
import anywidget
class Faulty(anywidget.AnyWidget):
    _esm = '''export default { render({ el }) {
        const button = (text, onclick) => {
            const made = document.createElement("button");
            Object.assign(made, { textContent: text, onclick });
            el.append(made);
        };
        button("say", () => console.error("it said"));
        button("throw", () => { throw new Error("it threw") });
        button("reject", () => Promise.reject(new Error("it rejected")));
        if (%s) throw new Error("it was not drawn");
    } }'''
Faulty()
"""


@on_worker(1)
def test_faults_of_a_widget_are_told_from_those_of_jupyterlab(lab, visit):
    page = visit.page
    title = "# A small page\n\nA link [nowhere](#nowhere)."  # JupyterLab complains of it
    open_notebook(page, lab, FAULTY % "false", FAULTY % "true", title=title)
    run_all(page)
    wait_until_idle(page)
    page.get_by_text("it was not drawn").first.wait_for()
    assert any("internal reference" in error.text for error in visit.errors)
    for name in ("say", "throw", "reject"):
        page.get_by_role("button", name=name).first.click()
    page.wait_for_timeout(500)
    found = of_widgets(visit.errors)
    for what in ("it said", "it threw", "it rejected", "it was not drawn"):
        assert any(what in error.text for error in found), what
    assert not any("internal reference" in error.text for error in found)


SMALL = f"""{pairs.HEADER}
# A small pair

```{{code-cell}} ipython3
from gdm_lib import pretrained, widgets

model = pretrained.load("vae/mnist_2d")
widgets.LatentExplorer.plane(model.decode_mean)
```

That was a widget.

```{{code-cell}} ipython3
print(6 * 7)
```
"""


@on_worker(0)
def test_files_change_only_in_what_was_run_and_a_reopened_notebook_has_its_picture(lab, visitor):
    chapters = lab.folder / "chapters"
    text, path = chapters / "pair.md", chapters / "pair.ipynb"
    text.write_text(SMALL, "utf-8")
    pairs.write(pairs.read_master(text), path)

    def files():
        return {
            p.relative_to(chapters).as_posix(): p.read_bytes()
            for p in [*chapters.rglob("*.md"), *chapters.rglob("*.ipynb")]
            if ".ipynb_checkpoints" not in p.parts
        }

    def opened(name, title):
        page = visitor().page
        page.goto(lab.start.replace("index", name))
        page.get_by_role("heading", name=title).first.wait_for(timeout=60_000)
        wait_until_idle(page)
        return page

    at_first = files()
    # A chapter that was opened and saved, and nothing ran.
    page = opened("appendix/widgets", "The widgets")
    save_and_read(page, chapters / "appendix" / "widgets.ipynb")
    page.close()
    assert files() == at_first

    page = opened("pair", "A small pair")
    run_all(page)
    wait_until_idle(page)
    settle(page, widget_of_cell(page, 1))
    assert files() == at_first
    cells = save_and_read(page, path)
    page.close()
    assert [len(cell.outputs) for cell in cells if cell.cell_type == "code"] == [1, 1]
    after = files()
    assert {name for name in after if after[name] != at_first.get(name)} == {"pair.ipynb"}
    stored = nbformat.read(path, as_version=4)
    assert stored.metadata.pop("widgets")
    for cell in stored.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    assert nbformat.reads(at_first["pair.ipynb"].decode(), as_version=4) == stored

    for kernel in lab.ask("kernels"):
        lab.ask(f"kernels/{kernel['id']}", "DELETE")
    page = opened("pair", "A small pair")
    root = widget_of_cell(page, 1)
    still = root.locator(".gdm-still, canvas").first
    still.wait_for(timeout=10_000)
    assert still.bounding_box()["width"] > 100
    assert page.get_by_text("model not found").count() == 0
    # Saved once more, with a kernel that knows nothing of the widget, it keeps it.
    save_and_read(page, path)
    assert files() == after


@on_worker(0)
def test_a_folded_cell_shows_its_output_and_opens(lab, visit):
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_markdown_cell("# A folded page"),
            nbformat.v4.new_code_cell(
                "print('what', 'it says')",
                metadata={"tags": ["hide-input"], "jupyter": {"source_hidden": True}},
            ),
        ],
        metadata=pairs.METADATA,
    )
    nbformat.write(notebook, lab.folder / "chapters" / "folded.ipynb")
    page = visit.page
    page.goto(lab.start.replace("index.ipynb", "folded.ipynb"))
    page.get_by_role("heading", name="A folded page").wait_for(timeout=60_000)
    wait_until_idle(page)
    assert run_cell(page, 1).strip() == "what it says"
    cell = page.locator(".jp-NotebookPanel:visible [data-windowed-list-index='1']")
    assert cell.locator(".jp-Editor:visible, .cm-editor:visible").count() == 0
    cell.locator(".jp-InputPlaceholder").click()
    cell.locator(".cm-editor").wait_for(timeout=10_000)
    assert "print('what', 'it says')" in cell.locator(".cm-content").inner_text()


@on_worker(1)
def test_an_edit_made_elsewhere_is_shown_and_not_overwritten(lab, visit):
    chapters = lab.folder / "chapters"
    text, path = chapters / "elsewhere.md", chapters / "elsewhere.ipynb"
    text.write_text(SMALL, "utf-8")
    pairs.write(pairs.read_master(text), path)
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[1].source += "\n\nMy own note."
    nbformat.write(notebook, path)
    before = path.read_bytes()
    visit.page.goto(lab.start.replace("index", "elsewhere"))
    said = visit.page.get_by_role("dialog")
    said.get_by_text("was edited by another program").wait_for(timeout=60_000)
    assert "python -m jupytext --to md:myst" in said.inner_text()
    assert path.read_bytes() == before


@on_worker(1)
def test_a_cell_runs_while_the_playground_trains(lab, visit):
    page = visit.page
    open_notebook(
        page,
        lab,
        "import torch\nfrom gdm_lib import widgets\nfrom gdm_lib.data import toy2d\n"
        "from gdm_lib.vae.vae import VAE\nfrom gdm_lib.likelihoods import IsotropicGaussian\n"
        "playground = widgets.Playground2D(\n"
        "    lambda: VAE.mlp((2,), 2, likelihood=IsotropicGaussian()),\n"
        "    toy2d.two_moons().sample(500), density=False, every=20, record=3)\nplayground",
        "print('seen', playground.steps > 60)",
    )
    page.evaluate("jupyterapp.shell.currentWidget.content.activeCellIndex = 1")
    page.evaluate("jupyterapp.commands.execute('notebook:run-cell')")
    root = widget_of_cell(page, 1)
    page.wait_for_selector(".gdm[data-gdm-pictures]")
    trained = root.locator(".gdm-said")
    assert trained.inner_text() == "60"
    root.get_by_role("button", name="Play").click()
    beyond = "r => Number(r.querySelector('.gdm-said').textContent) > {}"
    page.wait_for_function(beyond.format(100), arg=root.element_handle(), timeout=20_000)
    page.evaluate("jupyterapp.shell.currentWidget.content.activeCellIndex = 2")
    page.evaluate("jupyterapp.commands.execute('notebook:run-cell')")
    said = page.locator(".jp-NotebookPanel:visible [data-windowed-list-index='2']")
    said.get_by_text("seen True").wait_for(timeout=10_000)
    # It went on meanwhile.
    now = int(trained.inner_text())
    page.wait_for_function(beyond.format(now + 40), arg=root.element_handle(), timeout=20_000)
    root.get_by_role("button", name="Pause").click()
    # Another run begins with an untrained model.
    root.get_by_role("button", name="Reset").click()
    page.wait_for_function(
        "r => r.querySelector('.gdm-said').textContent === '0'", arg=root.element_handle()
    )
    assert "Seed 1." in root.locator(".gdm-status").inner_text()


def open_notebook(page, lab, *sources: str, title: str = "# A small page") -> None:
    """A notebook of one title and some cells, in JupyterLab."""
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_markdown_cell(title),
            *[nbformat.v4.new_code_cell(source) for source in sources],
        ],
        metadata=pairs.METADATA,
    )
    nbformat.write(notebook, lab.folder / "chapters" / "small.ipynb")
    page.goto(lab.start.replace("index.ipynb", "small.ipynb"))
    page.get_by_role("heading", name="A small page").wait_for(timeout=60_000)
    wait_until_idle(page)


def run_cell(page, number: int) -> str:
    """What a cell says once it has run."""
    page.evaluate(
        """n => { jupyterapp.shell.currentWidget.content.activeCellIndex = n;
                  return jupyterapp.commands.execute('notebook:run-cell') }""",
        number,
    )
    wait_until_idle(page)
    cell = page.locator(f".jp-NotebookPanel:visible [data-windowed-list-index='{number}']")
    return cell.locator(".jp-OutputArea-output").inner_text()


def open_chapter(page, lab, name, title) -> None:
    """From the start page, or for an appendix without a link there, by its address."""
    page.goto(lab.start)
    link = page.get_by_role("link", name=title).first
    link.click(timeout=60_000)
    page.locator(".lm-TabBar-tabLabel", has_text=f"{name.rpartition('/')[2]}.ipynb").wait_for(
        timeout=60_000
    )
    wait_until_idle(page)


def widget_of_cell(page, number: int):
    """The widget below a cell, which JupyterLab draws only once it is scrolled to."""
    page.evaluate("n => jupyterapp.shell.currentWidget.content.scrollToItem(n, 'start')", number)
    root = page.locator(f".jp-NotebookPanel:visible [data-windowed-list-index='{number}'] .gdm")
    root.wait_for(timeout=20_000)
    return root


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


def wait_until_run(page, timeout_s: float) -> None:
    """Until each cell of code has run, or one of them has failed; then until the kernel is idle.

    While a page draws a large widget, the next cell may wait for longer than a second.
    """
    give_up = time.monotonic() + timeout_s
    while not page.evaluate(
        """() => { const cells = [...jupyterapp.shell.currentWidget.content.model.cells];
          const code = cells.filter((cell) => cell.type === "code").map((cell) => cell.toJSON());
          return code.every((cell) => cell.execution_count !== null)
            || code.some((cell) => cell.outputs.some((out) => out.output_type === "error")); }"""
    ):
        assert time.monotonic() < give_up, f"not all cells had run after {timeout_s} s"
        page.wait_for_timeout(500)
    wait_until_idle(page, timeout_s=timeout_s)


def run_all(page) -> None:
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.wait_for_timeout(500)


def save_and_read(page, path: Path) -> list[nbformat.NotebookNode]:
    """The cells as JupyterLab saves them: on the page it draws only those in view."""
    before = path.stat().st_mtime_ns
    page.get_by_role("menuitem", name="File", exact=True).click()
    page.get_by_role("menuitem", name=re.compile("^Save Notebook(?! As)")).first.click()
    give_up = time.monotonic() + 30
    while path.stat().st_mtime_ns == before:
        assert time.monotonic() < give_up, f"{path.name} was not saved"
        page.wait_for_timeout(100)
    page.wait_for_timeout(300)
    return nbformat.read(path, as_version=4).cells


def prepare(path: Path, whole: bool, briefly: bool) -> int:
    """Clear a notebook's outputs, so that what is found afterwards was made by this run.

    Args:
        path: the notebook.
        whole: whether all of it shall run, or what its widgets need.
        briefly: whether what its widgets need is trained for a few steps.

    Returns:
        The number of cells that will run.
    """
    notebook = nbformat.read(path, as_version=4)
    if not whole:
        notebook = slice_notebook(notebook, briefly=briefly)
        path.with_suffix(".md").unlink()  # else JupyterLab takes the cells from the text
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    notebook.metadata.pop("widgets", None)
    nbformat.write(notebook, path)
    return sum(cell.cell_type == "code" for cell in notebook.cells)
