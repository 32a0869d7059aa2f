"""Folded code: one click away on the page, by mouse and by keyboard, in the dark and on a phone."""

import pytest

from tests.browser.test_site_pages import PAGES, SITE, WITH_WIDGETS, open_page, site

__all__ = ["site"]  # a fixture

FOLDED = [name for name in PAGES if "tag_hide-input" in (SITE / name).read_text("utf-8")]
TOGGLE = ".cell.tag_hide-input details.hide.above-input > summary"


def test_every_chapter_folds_its_glue():
    assert len(FOLDED) >= len(WITH_WIDGETS) - 1 > 0  # the appendix on widgets shows all of its code


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_code_opens_and_closes(site, visitor, width, theme):
    name = next(name for name in FOLDED if "realnvp" in name)
    visit = visitor(width=width, color_scheme=theme)
    page = visit.page
    open_page(visit, f"{site}/{name}")
    toggles = page.locator(TOGGLE)
    assert toggles.count() > 10
    cells = page.locator(".cell.tag_hide-input")
    assert toggles.count() == cells.count()  # one each
    assert page.locator(".cell.tag_hide-input .cell_input pre:visible").count() == 0
    # What a cell shows is there all the same: the opening picture stands above the fold of code.
    assert cells.first.locator(".cell_output img").first.is_visible()

    code = cells.first.locator(".cell_input pre").first
    toggles.first.click()
    assert code.is_visible()
    toggles.first.click()
    assert not code.is_visible()
    toggles.first.focus()
    page.keyboard.press("Enter")
    assert code.is_visible()
    assert "import torch" in code.inner_text()
    box = toggles.first.bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= width
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.keyboard.press("Space")
    assert not code.is_visible()
