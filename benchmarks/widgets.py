"""The budgets of widgets on the published page, in a headless Chromium on loopback.

These compare with a budget and not with a peer, so what counts is that the ratio is 1 or more.
"""

from __future__ import annotations

import gzip
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks import Result

__all__ = ["BENCHMARKS"]

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
SITE = ROOT / "_build" / "html"
CHAPTER = "chapters/vae/vae.html"
FIRST_PICTURE_S = 1.5
TICK_S = 0.033
PAGE_MB = 1.5
MODEL_MB = 1.0
# Waits in the page, where a script of the widget counts its pictures.
COUNTED = """() => new Promise(done => {
  const root = document.querySelector('[data-gdm-pictures]');
  const start = performance.now(), before = root.dataset.gdmPictures;
  const watcher = new MutationObserver(() => {
    if (root.dataset.gdmPictures === before) return;
    watcher.disconnect();
    done((performance.now() - start) / 1000);
  });
  watcher.observe(root, {attributes: true});
  const slider = root.querySelector('input[type=range]');
  const [low, high] = [Number(slider.min), Number(slider.max)];
  slider.value = low + Math.random() * (high - low);
  slider.dispatchEvent(new Event('input'));
})"""
FIRST = """new MutationObserver(() => {
  window.firstPicture ??= document.querySelector('[data-gdm-pictures]') && performance.now();
}).observe(document, {subtree: true, attributes: true, childList: true})"""


def _site() -> Path:
    """The built site; built now if it isn't there."""
    if not (SITE / CHAPTER).exists():
        build = ["-m", "jupyter", "book", "build", ".", "--path-output", ".", "-q"]
        subprocess.run([sys.executable, *build], cwd=ROOT, check=True)
    return SITE


@contextmanager
def _browser(folder: Path) -> Iterator[tuple[Any, str]]:
    """A Chromium, and the address at which ``folder`` is served."""
    from playwright.sync_api import sync_playwright

    from tests.browser.conftest import ARGS, find_chromium, served

    with served(folder) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=ARGS)
        yield browser, address
        browser.close()


def widget_first_picture() -> list[Result]:
    """From navigation to the first live picture of the VAE chapter, nothing cached."""
    times, version = [], ""
    with _browser(_site()) as (browser, address):
        for _ in range(7):
            page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
            page.add_init_script(FIRST)
            page.goto(f"{address}/{CHAPTER}#explore-it", wait_until="commit")
            page.wait_for_function("window.firstPicture", timeout=30_000)
            times.append(page.evaluate("window.firstPicture") / 1000)
            page.context.close()
        version = browser.version
    ours = statistics.median(times[1:])
    return [Result("widget_first_picture", ours, "budget, Chromium", version, FIRST_PICTURE_S, 1.0)]


class Generator(nn.Module):
    """A convolutional generator of 32 x 32 pictures as in DCGAN (1511.06434), untrained."""

    def __init__(self, latent: int = 64, channels: int = 40) -> None:
        super().__init__()
        c = channels
        self.net = nn.Sequential(
            nn.Unflatten(1, (latent, 1, 1)),
            nn.ConvTranspose2d(latent, 4 * c, 4),
            nn.BatchNorm2d(4 * c),
            nn.ReLU(),
            nn.ConvTranspose2d(4 * c, 2 * c, 4, 2, 1),
            nn.BatchNorm2d(2 * c),
            nn.ReLU(),
            nn.ConvTranspose2d(2 * c, c, 4, 2, 1),
            nn.BatchNorm2d(c),
            nn.ReLU(),
            nn.ConvTranspose2d(c, 1, 4, 2, 1),
            nn.Sigmoid(),
        )

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """``(B, D)`` -> ``(B, 1, 32, 32)``."""
        images: torch.Tensor = self.net(z)
        return images


def widget_tick() -> list[Result]:
    """From a move of the slider to the picture, a generator of 0.4 million weights in the page."""
    from gdm_lib.widgets import LatentExplorer, _base, export
    from tests.browser.widget_page import write_page

    torch.manual_seed(0)
    model = Generator().half().float().eval()  # weights that 16 bits hold, as those of the book
    latents = torch.randn(2, 64)
    file = export(model, (64,))
    limit, _base.EMBED_BYTES = _base.EMBED_BYTES, 2_000_000
    try:
        widget = LatentExplorer.path(model, latents, page_model=file)
    finally:
        _base.EMBED_BYTES = limit
    with tempfile.TemporaryDirectory() as folder:
        page_file = write_page(Path(folder), widget)
        with _browser(Path(folder)) as (browser, address):
            page = browser.new_page()
            page.goto(f"{address}/{page_file.name}")
            page.wait_for_selector("[data-gdm-pictures]")
            times = [page.evaluate(COUNTED) for _ in range(70)]
            version = browser.version
    tick = statistics.median(times[10:])
    return [Result("widget_tick", tick, "budget, Chromium", version, TICK_S, 1.0)]


def widget_page() -> list[Result]:
    """What the VAE chapter's page fetches before any model is asked for, compressed as hosts do."""
    site = _site()
    sizes: dict[str, int] = {}
    with _browser(site) as (browser, address):
        page = browser.new_page()
        seen: list[str] = []
        page.on("response", lambda response: seen.append(response.url))
        page.goto(f"{address}/{CHAPTER}", wait_until="load")
        page.wait_for_timeout(1500)
        for url in seen:
            path = site / re.sub(r"[?#].*", "", url.removeprefix(address)).lstrip("/")
            if path.is_file():
                packed = path.suffix in (".woff2", ".png")
                content = path.read_bytes()
                sizes[str(path)] = len(content if packed else gzip.compress(content, 6))
    total = sum(sizes.values()) / 1e6
    return [Result("widget_page", total, "budget", "", PAGE_MB, 1.0, unit="MB")]


def widget_model() -> list[Result]:
    """The largest model that a page of the site fetches."""
    largest = max(file.stat().st_size for file in _site().glob("_static/widgets/*.onnx"))
    return [Result("widget_model", largest / 1e6, "budget", "", MODEL_MB, 1.0, unit="MB")]


BENCHMARKS = {
    "widget_first_picture": widget_first_picture,
    "widget_tick": widget_tick,
    "widget_page": widget_page,
    "widget_model": widget_model,
}
