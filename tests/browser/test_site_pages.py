"""The built site as a browser shows it: desktop and phone, light and dark.

Screenshots go to ``GDM_SCREENSHOTS``, or to a temporary folder whose name is printed.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.conftest import served

SITE = Path(__file__).parents[2] / "_build" / "html"
PAGES = sorted(path.relative_to(SITE).as_posix() for path in SITE.glob("chapters/**/*.html"))
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}

if not PAGES:
    pytest.skip("the site is not built: run `make book`", allow_module_level=True)
if not (SITE / "_static" / "mathjax").exists():
    pytest.skip("the site is built with ASSETS=cdn, and needs the network", allow_module_level=True)


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    with served(SITE) as address:
        yield address


@pytest.fixture(scope="module")
def screenshots(tmp_path_factory) -> Path:
    chosen = os.environ.get("GDM_SCREENSHOTS")
    folder = Path(chosen) if chosen else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def open_page(visit, address):
    visit.page.goto(address, wait_until="load")
    # MathJax resolves this once every equation is drawn.
    visit.page.evaluate("window.MathJax ? MathJax.startup.promise.then(() => true) : true")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_works(visit, site, name):
    open_page(visit, f"{site}/{name}")
    page = visit.page
    assert visit.errors == []
    assert visit.foreign == []
    assert page.locator("article h1").count() == 1
    written = page.locator("article .math").count()
    drawn = page.locator("article .math mjx-container svg").count()
    assert drawn >= written
    assert page.locator("article mjx-merror, article [data-mjx-error]").count() == 0
    broken = page.evaluate("[...document.images].filter(i => !i.naturalWidth).map(i => i.src)")
    assert broken == []
    assert page.locator("text=/A Jupyter Widget|VBox\\(|HBox\\(|Error displaying/").count() == 0


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_and_can_be_read(visitor, site, screenshots, name, size, theme):
    width, height = SIZES[size]
    visit = visitor(width=width, height=height, color_scheme=theme, has_touch=size == "phone")
    open_page(visit, f"{site}/{name}")
    page = visit.page
    assert page.evaluate("document.documentElement.dataset.theme") == theme
    stem = name.removesuffix(".html").replace("/", "-")
    page.screenshot(path=screenshots / f"{stem}-{size}-{theme}.png", full_page=True)
    across = page.evaluate("document.documentElement.scrollWidth")
    assert across <= width, f"{name} is {across} pixels wide on a screen of {width}"
    print(f"screenshots are in {screenshots}")
