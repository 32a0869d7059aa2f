"""The built site as a browser shows it: desktop and phone, light and dark.

Screenshots, which take longer than a load, are made if ``GDM_SCREENSHOTS`` names a folder for them.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.conftest import served
from tests.browser.widget_page import drive, every_control_can_be_reached, settle, wait_until

SITE = Path(__file__).parents[2] / "_build" / "html"
PAGES = sorted(path.relative_to(SITE).as_posix() for path in SITE.glob("chapters/**/*.html"))
WITH_WIDGETS = [name for name in PAGES if "data-gdm-widget=" in (SITE / name).read_text("utf-8")]
VIOLATIONS = """window.gdmViolations = [];
  addEventListener("securitypolicyviolation", (event) =>
    window.gdmViolations.push(`${event.effectiveDirective} ${event.blockedURI}`));"""
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
# The reference's pages are all made in one way: what fits a phone there fits a larger screen.
VIEWS = [
    (name, size)
    for name in PAGES
    for size in SIZES
    if size == "phone" or not name.startswith("chapters/appendix/api/")
]

if not PAGES:
    pytest.skip("the site is not built: run `make book`", allow_module_level=True)
if not (SITE / "_static" / "mathjax").exists():
    pytest.skip("the site is built with ASSETS=cdn, and needs the network", allow_module_level=True)


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    with served(SITE) as address:
        yield address


def open_page(visit, address):
    visit.page.goto(address, wait_until="load")
    # MathJax resolves this once every equation is drawn.
    visit.page.evaluate("window.MathJax ? MathJax.startup.promise.then(() => true) : true")


def shows_what_is_written(page):
    assert page.locator("article h1").count() == 1
    written = page.locator("article .math").count()
    drawn = page.locator("article .math mjx-container svg").count()
    assert drawn >= written
    assert page.locator("article mjx-merror, article [data-mjx-error]").count() == 0
    broken = page.evaluate("[...document.images].filter(i => !i.naturalWidth).map(i => i.src)")
    assert broken == []
    assert page.locator("text=/A Jupyter Widget|VBox\\(|HBox\\(|Error displaying/").count() == 0


def fits(page, width, theme, stem):
    page.emulate_media(color_scheme=theme)
    wait_until(page, "t => document.documentElement.dataset.theme === t", theme)
    if folder := os.environ.get("GDM_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{stem}-{theme}.png", full_page=True)
    across = page.evaluate("document.documentElement.scrollWidth")
    assert across <= width, f"in the {theme} theme {across} pixels on a screen of {width}"


# Display equations that hide a part behind a scrollbar.
HIDING = """[...document.querySelectorAll("article div.math, article mjx-container[display=true]")]
  .filter((box) => box.scrollWidth > box.clientWidth + 1)
  .map((box) => `${(box.closest("[id]") || box).id}: ${box.scrollWidth} in ${box.clientWidth}`)"""
# Formulas in lines that end outside of their block and can't be scrolled to.
LOSING = """[...document.querySelectorAll("article mjx-container:not([display])")].filter((box) => {
    const drawn = box.firstElementChild.getBoundingClientRect();
    if (!drawn.width) return false; // folded away
    let block = box.parentElement;
    while (getComputedStyle(block).display.startsWith("inline")) block = block.parentElement;
    const { left, right } = block.getBoundingClientRect();
    const own = box.getBoundingClientRect();
    const scrolls = getComputedStyle(box).overflowX === "auto" && box.tabIndex === 0;
    const inside = (rect) => rect.left >= left - 1 && rect.right <= right + 1;
    return !inside(own) || !(scrolls || inside(drawn));
  }).map((box) => box.parentElement.textContent)"""


def equations_can_be_read(page, size):
    """Displayed ones fit a laptop's screen; those in lines fit a phone's, or scroll there."""
    if size == "desktop":
        assert page.evaluate(HIDING) == []
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done, 50)))")
    assert page.evaluate(LOSING) == []


def at_rest(page):
    """A picture of the whole page once two in a row are the same: a busy machine draws late."""
    last = None
    for _ in range(20):
        now = page.screenshot(full_page=True, animations="disabled")
        if now == last:
            return now
        last = now
        page.wait_for_timeout(300)
    raise AssertionError("the page never came to rest")


def is_alive(figure):
    """Whether the widget works without a kernel."""
    return figure.evaluate("f => f.dataset.gdmAlone !== 'false'")


def rooms(page):
    """The heights of the figures of widgets, once each has been in view."""
    figures = page.locator("figure[data-gdm-widget]").all()
    for figure in figures:
        figure.scroll_into_view_if_needed()
        if figure.locator("[data-gdm-pictures]").count():
            settle(page, figure.locator(".gdm"))
    return [figure.bounding_box()["height"] for figure in figures]


def come_alive(page):
    for figure in page.locator("figure[data-gdm-widget]").all():
        figure.scroll_into_view_if_needed()
        if is_alive(figure):
            figure.locator(".gdm").wait_for(timeout=20_000)
            figure.hover()  # the start page's waits for that
            figure.locator("[data-gdm-pictures]").wait_for(timeout=20_000)
        else:
            assert "in JupyterLab" in figure.inner_text()


def every_control_moves_a_picture(page):
    figures = page.locator("figure[data-gdm-widget]").all()
    assert figures
    for number, figure in enumerate(figures, 1):
        if is_alive(figure):
            print(f"widget {number}: {'; '.join(drive(page, figure.locator('.gdm')))}")


@pytest.mark.parametrize(("name", "size"), VIEWS)
def test_a_page_works_fits_and_does_not_jump(visitor, site, name, size):
    """One load, for all that can be seen in one."""
    width, height = SIZES[size]
    visit = visitor(width=width, height=height, has_touch=size == "phone", color_scheme="light")
    visit.page.add_init_script(VIOLATIONS)
    open_page(visit, f"{site}/{name}")
    page = visit.page
    shows_what_is_written(page)
    stem = f"{name.removesuffix('.html').replace('/', '-')}-{size}"
    equations_can_be_read(page, size)
    for theme in ("light", "dark"):
        fits(page, width, theme, stem)
    if name in WITH_WIDGETS:
        come_alive(page)
        alive = rooms(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        still = visitor(width=width, height=height, java_script_enabled=False).page
        still.goto(f"{site}/{name}")
        assert alive == pytest.approx(rooms(still), abs=1)
        still.close()
        if size == "desktop":
            every_control_moves_a_picture(page)
        else:
            every_control_can_be_reached(page)
    assert page.evaluate("window.gdmViolations") == []
    assert visit.errors == []
    assert visit.foreign == []


def test_a_page_that_turns_dark_looks_as_one_that_was_dark_from_the_start(visitor, site):
    """So the test above may change the theme of a page instead of loading it once more."""
    pages = []
    for start in ("light", "dark"):
        visit = visitor(color_scheme=start)
        open_page(visit, f"{site}/chapters/appendix/widgets.html")
        page = visit.page
        assert page.evaluate("document.documentElement.dataset.theme") == start
        come_alive(page)
        rooms(page)
        page.emulate_media(color_scheme="dark")
        wait_until(page, "document.documentElement.dataset.theme === 'dark'")
        page.evaluate("scrollTo(0, 0)")
        pages.append(page)
        assert visit.errors == []
    for _ in range(5):  # a picture may be drawn once more while the other page is looked at
        seen = [at_rest(page) for page in pages]
        if seen[0] == seen[1]:
            break
    assert seen[0] == seen[1]
