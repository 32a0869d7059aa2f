"""The built site as a browser shows it: desktop and phone, light and dark.

Screenshots go to ``GDM_SCREENSHOTS``, or to a temporary folder whose name is printed.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.conftest import served
from tests.browser.widget_page import drive, settle

SITE = Path(__file__).parents[2] / "_build" / "html"
PAGES = sorted(path.relative_to(SITE).as_posix() for path in SITE.glob("chapters/**/*.html"))
WITH_WIDGETS = [name for name in PAGES if "data-gdm-widget=" in (SITE / name).read_text("utf-8")]
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


@pytest.mark.parametrize("name", WITH_WIDGETS)
def test_every_control_of_every_widget_moves_its_picture(visit, site, name):
    open_page(visit, f"{site}/{name}")
    page = visit.page
    figures = page.locator("figure[data-gdm-widget]").all()
    assert figures
    for number, figure in enumerate(figures, 1):
        if not figure.evaluate("f => f.dataset.gdmAlone !== 'false'"):
            assert "in JupyterLab" in figure.inner_text()
            continue
        figure.scroll_into_view_if_needed()
        root = figure.locator(".gdm")
        root.wait_for()
        print(f"widget {number}: {'; '.join(drive(page, root))}")
    assert visit.errors == []
    assert visit.foreign == []


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", WITH_WIDGETS)
def test_a_page_does_not_jump_when_its_widgets_come_alive(visitor, site, name, size):
    width, height = SIZES[size]
    rooms = {}
    for alive in (False, True):
        visit = visitor(width=width, height=height, java_script_enabled=alive)
        visit.page.goto(f"{site}/{name}")
        figures = visit.page.locator("figure[data-gdm-widget]").all()
        for figure in figures:
            figure.scroll_into_view_if_needed()
            if alive and figure.evaluate("f => f.dataset.gdmAlone !== 'false'"):
                figure.locator("[data-gdm-pictures]").wait_for(timeout=20_000)
                settle(visit.page, figure.locator(".gdm"))
        rooms[alive] = [figure.bounding_box()["height"] for figure in figures]
        across = visit.page.evaluate("document.documentElement.scrollWidth") if alive else 0
        assert across <= width
    assert rooms[True] == pytest.approx(rooms[False], abs=1)


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
