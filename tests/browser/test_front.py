"""The front of the site: light until it is touched, a plane to drag in, cards, and the search."""

from collections.abc import Iterator
from urllib.parse import quote, urlsplit

import pytest

from chapters._tools import front
from tests.browser.conftest import served
from tests.browser.test_site_pages import SITE, come_alive
from tests.browser.widget_page import pictures, settle, wait_for_change, wait_until

START = "chapters/index.html"
LIGHT = 1_600_000  # bytes, pictures, fonts and style sheets included
HEAVY = (".onnx", ".wasm", ".mjs", "tex-svg-full.js")


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    with served(SITE) as address:
        yield address


def fetches(page):
    """What a page fetches, filled in as it does: address and bytes."""
    found = {}

    def note(response):
        found[urlsplit(response.url).path] = int(response.headers.get("content-length", 0))

    page.on("response", note)
    return found


@pytest.mark.parametrize("size", [(1280, 900), (390, 844)])
def test_the_start_page_is_light_until_a_reader_touches_its_widget(visitor, site, size):
    visit = visitor(width=size[0], height=size[1], has_touch=size[0] < 500)
    page = visit.page
    got = fetches(page)
    page.goto(f"{site}/{START}", wait_until="networkidle")
    figure = page.locator("figure[data-gdm-widget]")
    assert figure.count() == 1
    figure.scroll_into_view_if_needed()
    root = figure.locator(".gdm")
    root.wait_for()
    page.wait_for_timeout(500)
    # The still picture is there, and the line beneath says what to do.
    assert root.locator(".gdm-still").evaluate("image => image.naturalWidth") > 100
    assert "Drag in the picture" in root.locator(".gdm-status").inner_text()
    turning = "r => getComputedStyle(r.querySelector('.gdm-status'), '::before').display"
    assert root.evaluate(turning) == "none"
    assert sum(got.values()) <= LIGHT, sorted(got.items(), key=lambda item: -item[1])[:5]
    assert [name for name in got if name.endswith(HEAVY)] == []

    pad = root.locator("[data-gdm-pad]")
    box = pad.bounding_box()
    spot = {"x": 0.3 * box["width"], "y": 0.7 * box["height"]}
    pad.tap(position=spot) if size[0] < 500 else pad.click(position=spot)
    root.and_(page.locator("[data-gdm-pictures]")).wait_for(timeout=30_000)
    settle(page, root)
    assert page.locator("[data-gdm-untouched]").count() == 0
    assert "z₁ -1.2" in root.locator(".gdm-status").inner_text().replace("−", "-")
    assert {kind for kind in HEAVY if any(name.endswith(kind) for name in got)} == set(HEAVY[:3])
    before = pictures(root)
    pad.press("ArrowRight")
    wait_for_change(page, root, before, "ArrowRight")
    assert visit.errors == []
    assert visit.foreign == []


def test_other_pages_do_not_wait_for_a_touch(visitor, site):
    page = visitor().page
    page.goto(f"{site}/chapters/appendix/widgets.html")
    figure = page.locator("figure[data-gdm-alone=true]").first
    figure.scroll_into_view_if_needed()
    figure.locator("[data-gdm-pictures]").wait_for(timeout=30_000)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_cards_can_be_read_and_lead_to_their_chapters(visitor, site, width, theme):
    page = visitor(width=width, color_scheme=theme).page
    page.goto(f"{site}/{START}")
    cards = page.locator(".gdm-cards .sd-card")
    every = list(front.cards().values())
    assert cards.count() == len(every)
    for at, card in enumerate(every):
        place = cards.nth(at)
        place.scroll_into_view_if_needed()
        box = place.bounding_box()
        assert box["width"] >= 240
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
        image = place.locator("img")
        assert image.get_attribute("alt") == card.alt
        shown = image.bounding_box()
        assert shown["width"] == pytest.approx(box["width"], abs=3)
        assert 1.5 <= shown["width"] / shown["height"] <= 1.8
        text = place.inner_text()
        for part in (card.title, card.idea, f"{card.minutes} minutes"):
            assert part in text
        sizes = place.locator("p").evaluate_all(
            "all => all.map(p => parseFloat(getComputedStyle(p.firstElementChild || p).fontSize))"
        )
        assert min(sizes) >= 12
    # The whole card is a link, but where it names another chapter.
    nice = cards.filter(has=page.locator("strong", has_text="NICE"))
    links = nice.locator("em a")
    links.first.click()
    page.wait_for_url("**/planar_radial.html")
    page.go_back()
    nice.locator("img").click(force=True)  # the link lies above it
    page.wait_for_url("**/nice.html")
    assert page.locator("article h1").inner_text().startswith("NICE")


def searched(page, site, query):
    """The addresses of the results, best first, once all are there."""
    page.goto(f"{site}/search.html?q={quote(query)}")
    wait_until(page, "document.querySelector('.search-summary')?.textContent.includes('found')")
    links = page.locator("#search-results li > a")
    return [link.rpartition("chapters/")[2] for link in links.evaluate_all(
        "all => all.map(a => a.getAttribute('href'))")]  # fmt: skip


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("Real NVP", "flows/realnvp"),
        ("WaveNet", "autoregressive/wavenet"),
        ("mu-law", "autoregressive/wavenet"),
        ("µ-law", "autoregressive/wavenet"),
        ("mu law", "autoregressive/wavenet"),
        ("MADE", "flows/maf"),
        ("VAE", "vae/vae"),
        ("pixelcnn++", "autoregressive/pixelcnn_pp"),
        ("normalizing flow", "flows/planar_radial"),
        *[(card.title, name) for name, card in front.cards().items()],
    ],
)
def test_the_search_finds_a_chapter_by_its_plain_name(visitor, site, query, name):
    visit = visitor()
    found = searched(visit.page, site, query)
    assert found[0] == f"{name}.html"
    page = visit.page
    first = page.locator("#search-results li").first.locator("p.context")
    first.wait_for()
    assert len(first.inner_text()) > 60
    page.wait_for_timeout(300)
    for text in page.locator("#search-results p.context").all_inner_texts():
        assert "\\" not in text
        assert "mathbf" not in text
    assert visit.errors == []


def test_snippets_show_short_formulas_as_text_and_leave_long_ones_out(visitor, site):
    page = visitor().page
    page.goto(f"{site}/search.html?q=flow")
    long = r"\sum_{i=1}^{D}\log\left|\det\frac{\partial f}{\partial x_i}\right|"
    source = (
        '<div role="main"><article><h1>T<a class="headerlink">#</a></h1> <p>Let '
        r'<span class="math">\(\mathbf x\le\alpha_{1}\)</span> hold, not '
        r'<span class="math">\(\frac12\)</span> or '
        rf'<span class="math">\({long}\)</span>.</p><div class="math">\[x=\int y\]</div>'
        '<div class="cell_input">import torch</div></article></div>'
    )
    text = page.evaluate("source => Search.htmlToText(source, '')", source).strip()
    assert text == "T Let x≤α_1 hold, not … or …."


def test_come_alive_touches(visitor, site):
    """The tests of all pages reach the start page's widget too."""
    page = visitor().page
    page.goto(f"{site}/{START}")
    come_alive(page)
    assert page.locator("[data-gdm-pictures]").count() == 1
