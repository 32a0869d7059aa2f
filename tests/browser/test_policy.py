"""The policy of the built pages (CSP): what they need works under it, the rest is refused.

That no page breaks it, with all its widgets driven, ``test_site_pages`` sees.
"""

from collections.abc import Iterator

import pytest

from tests.browser.conftest import served
from tests.browser.test_site_pages import SITE, VIOLATIONS, open_page
from tests.browser.widget_page import wait_until


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    with served(SITE) as address:
        yield address


@pytest.mark.parametrize(
    ("attack", "directive"),
    [
        ("const s = document.createElement('script'); s.text = 'x = 1'; body.append(s)", "script"),
        ("body.insertAdjacentHTML('beforeend', '<img src=x: onerror=\"x=1\">')", "script-src-attr"),
        ("setTimeout('x = 1')", "script-src"),
        ("setTimeout(() => { try { eval('1') } catch {} })", "script-src"),
        ("import('https://example.org/a.js').catch(() => {})", "script-src"),
        ("fetch('https://example.org/').catch(() => {})", "connect-src"),
        ("new Image().src = 'https://example.org/a.png'", "img-src"),
        ("const f = document.createElement('iframe'); f.src = '/'; body.append(f)", "frame-src"),
        ("const o = document.createElement('object'); o.data = '/'; body.append(o)", "object-src"),
        ("new Worker(URL.createObjectURL(new Blob(['1'])))", "worker-src"),
    ],
)
def test_what_a_page_does_not_need_is_refused(visitor, site, attack, directive):
    page = visitor().page
    page.add_init_script(VIOLATIONS)
    page.goto(f"{site}/chapters/index.html")
    page.evaluate(f"() => {{ const {{ body }} = document; {attack} }}")
    wait_until(page, "window.gdmViolations.length")
    assert page.evaluate("window.gdmViolations")[0].startswith(directive)


def test_the_buttons_and_the_search_work(visitor, site):
    visit = visitor()
    page = visit.page
    page.add_init_script("window.print = () => { window.printed = true }")
    open_page(visit, f"{site}/chapters/vae/vae.html")
    page.locator("button.btn-download-pdf-button").evaluate("button => button.click()")
    assert page.evaluate("window.printed")
    page.goto(f"{site}/search.html?q=reparameterisation")
    page.locator("#search-results li a, #search-results .search a").first.wait_for()
    assert visit.errors == []
    assert visit.foreign == []


def test_a_page_that_is_opened_as_a_file_says_why_its_widgets_are_still(visitor, site):
    visit = visitor()
    page = visit.page
    page.unroute("**/*")
    page.add_init_script(VIOLATIONS)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    open_page(visit, (SITE / "chapters/appendix/widgets.html").as_uri())
    for figure in page.locator("figure[data-gdm-alone=true]").all():
        text = figure.locator(".gdm-status").inner_text()
        assert "opened as a file" in text
        assert f'python -m http.server -d "{SITE}"' in text
        address = figure.get_by_role("link").get_attribute("href")
        assert address == "http://localhost:8000/chapters/appendix/widgets.html"
        assert figure.locator("img").is_visible()
    assert page.locator("figure[data-gdm-alone=true]").count() >= 2
    # Styles, fonts and scripts that are not modules load as ever.
    assert "sans" in page.evaluate("getComputedStyle(document.body).fontFamily")
    assert page.evaluate("window.gdmViolations") == []
    assert not [address for address in asked if not address.startswith(("file:", "data:", "blob:"))]


def test_a_served_page_says_nothing_of_files(visitor, site):
    page = visitor().page
    page.goto(f"{site}/chapters/appendix/widgets.html")
    assert page.get_by_text("opened as a file").count() == 0
