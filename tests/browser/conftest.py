"""A headless Chromium, or a named reason to skip."""

import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
]


def find_chromium() -> str | None:
    """A Chromium: ``GDM_CHROMIUM``, one on the path, or the one that playwright installed."""
    named = os.environ.get("GDM_CHROMIUM")
    if named:
        return named
    for name in NAMES:
        if path := shutil.which(name):
            return path
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test of this folder needs the browser."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """The browser, started once."""
    path = find_chromium()
    with sync_playwright() as playwright:
        if path is None and Path(playwright.chromium.executable_path).exists():
            path = playwright.chromium.executable_path
        if path is None:
            pytest.skip(
                "no Chromium found: install one (apt install chromium), or name it in GDM_CHROMIUM"
            )
        browser = playwright.chromium.launch(executable_path=path, headless=True, args=ARGS)
        yield browser
        browser.close()


class Mishap(NamedTuple):
    """What a page says went wrong."""

    text: str
    source: str
    """Where: the address of the script that said so, or the stack of what was thrown."""


class Visit:
    """A page that is confined to this machine, and what went wrong on it."""

    def __init__(self, context: BrowserContext) -> None:
        self.page: Page = context.new_page()
        self.foreign: list[str] = []
        self.errors: list[Mishap] = []
        self.page.on("pageerror", self._thrown)
        self.page.on("console", self._console)
        self.page.route("**/*", self._route)

    def _thrown(self, error) -> None:
        self.errors.append(Mishap(str(error), error.stack or ""))

    def _console(self, message) -> None:
        if message.type == "error":
            self.errors.append(Mishap(message.text, message.location.get("url", "")))

    def _route(self, route) -> None:
        address = route.request.url
        if address.startswith(("http://127.0.0.1:", "http://localhost:", "data:", "blob:")):
            route.continue_()
        else:
            self.foreign.append(address)
            route.abort()


@pytest.fixture
def visitor(chromium: Browser) -> Iterator[Callable[..., Visit]]:
    """Opens fresh pages; takes the options of a browser context."""
    contexts = []

    def open_page(*, width: int = 1280, height: int = 900, **options) -> Visit:
        viewport = {"width": width, "height": height}
        contexts.append(chromium.new_context(viewport=viewport, **options))
        return Visit(contexts[-1])

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture
def visit(visitor: Callable[..., Visit]) -> Visit:
    """A fresh page at desktop width."""
    return visitor()


class Quiet(SimpleHTTPRequestHandler):
    """Serves without a line on the terminal for each file."""

    def log_message(self, *args) -> None:
        """Say nothing."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address at which a folder is served on loopback."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def stage(visitor, tmp_path) -> Iterator[Callable[..., Visit]]:
    """Opens a page with widgets made on the spot, revived by the site's own host.

    ``stage(widget, ..., theme="light", width=1280, **options)`` gives a ``Visit``.
    """
    from tests.browser.widget_page import write_page

    with served(tmp_path) as address:

        def open_widgets(*widgets, theme: str = "light", **options) -> Visit:
            visit = visitor(**options)
            page = write_page(tmp_path, *widgets, theme=theme)
            visit.page.goto(f"{address}/{page.name}")
            return visit

        yield open_widgets
