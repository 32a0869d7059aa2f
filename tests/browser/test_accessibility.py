"""What axe-core finds on the built pages, with everything open that can be opened."""

from collections.abc import Iterator

import pytest

from chapters._tools.book_site import MODULES
from gdm_lib.exercises import Verdict
from tests.browser.conftest import served
from tests.browser.test_site_pages import SITE, come_alive, open_page
from tests.browser.widget_page import wait_until

AXE = MODULES / "axe-core" / "axe.min.js"
# The theme leaves templates among its assets; the page at the root sends the reader on at once.
ALL = sorted(
    path.relative_to(SITE).as_posix()
    for path in SITE.rglob("*.html")
    if "_static" not in path.parts and path != SITE / "index.html"
)

if not AXE.exists():
    pytest.skip("axe-core is not installed: run `make book`, with npm", allow_module_level=True)

WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
COLOURS = ["color-contrast", "link-in-text-block"]
LAYOUT = ["scrollable-region-focusable", "target-size", "aria-hidden-focus"]
OPEN = """() => {
  for (const button of document.querySelectorAll("button.toggle-button-hidden")) button.click();
  for (const details of document.querySelectorAll("details")) details.open = true;
}"""
# Half of a page's elements are words of code, and a fifth the outlines of formulas' letters. One
# word of each colour in each kind of block is enough, and outlines have neither text nor name.
THIN = """() => {
  for (const part of document.querySelectorAll("mjx-container svg > *")) part.remove();
  const seen = new Set();
  for (const word of document.querySelectorAll("pre span[class]")) {
    const block = word.closest("pre").parentElement;
    const kind = [word.className, block.className, block.parentElement.className,
      block.closest(".cell_output, .cell_input, .admonition")?.className].join("/");
    if (seen.has(kind)) word.replaceWith(...word.childNodes);
    else seen.add(kind);
  }
  document.body.normalize();
}"""
RUN = """async ({ rules, tags }) => {
  const only = rules ? { type: "rule", values: rules } : { type: "tag", values: tags };
  const found = await axe.run(document, { runOnly: only, resultTypes: ["violations"],
    ...(rules ? {} : { rules: { region: { enabled: false } } }) }); // moderate, and slow
  return found.violations
    .filter(({ impact }) => impact === "serious" || impact === "critical")
    .map(({ id, nodes }) => [id, nodes.length, ...nodes.slice(0, 3).map((node) =>
      node.target.join(" ") + ": " + [...node.any, ...node.all].map((c) => c.message).join("; "))]
      .join(" | "));
}"""


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    with served(SITE) as address:
        yield address


def faults(page, rules=None):
    return page.evaluate(RUN, {"rules": rules, "tags": WCAG})


def turn(page, theme):
    page.emulate_media(color_scheme=theme, reduced_motion="reduce")
    wait_until(page, "t => document.documentElement.dataset.theme === t", theme)
    # A colour that is on its way is neither of the two.
    page.evaluate("Promise.all(document.getAnimations().map(a => a.finished.catch(() => {})))")


@pytest.mark.parametrize("name", ALL)
def test_axe_finds_nothing_serious_in_light_in_dark_and_on_a_phone(visitor, site, name):
    visit = visitor(color_scheme="light", reduced_motion="reduce", bypass_csp=True)
    open_page(visit, f"{site}/{name}")
    page = visit.page
    page.evaluate(OPEN)
    come_alive(page)
    page.evaluate(THIN)
    page.add_script_tag(path=AXE)
    found = {"light": faults(page)}
    turn(page, "dark")
    found["dark"] = faults(page, COLOURS)
    page.set_viewport_size({"width": 390, "height": 844})
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done, 100)))")
    found["phone"] = faults(page, LAYOUT)
    assert found == {"light": [], "dark": [], "phone": []}


VERDICTS = [
    Verdict(True, "kl: correct. Also try `kl(0, 1)` and what it gives."),
    Verdict(False, "kl: for `mean=[1.0]` expected `0.5`, got `nan`. Add `1e-6`."),
    Verdict(None, "kl: not attempted yet. Replace the `...` by your code and run the cell again."),
]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_verdict_and_a_fault_can_be_read(visitor, site, theme):
    """In a page of the site, since it is the theme's rules that could spoil them."""
    visit = visitor(color_scheme=theme, reduced_motion="reduce", bypass_csp=True)
    visit.page.goto(f"{site}/chapters/vae/vae.html", wait_until="load")
    page = visit.page
    page.evaluate(
        """(verdicts) => { const first = document.querySelector("div[role=status]").parentElement;
          first.id = "planted";
          first.innerHTML = verdicts + `<div class="gdm" style="--gdm-width: 400px">
            <p class="gdm-status gdm-fault">It failed.
              <button class="gdm-again">Try again</button></p></div>
            <figure class="gdm-widget" style="--gdm-width: 400px">
            <figcaption class="gdm-status gdm-fault">It failed.</figcaption></figure>`; }""",
        "".join(verdict._repr_html_() for verdict in VERDICTS),
    )
    page.add_script_tag(path=AXE)
    found = page.evaluate(
        """async () => { const { violations, passes } = await axe.run("#planted", {
          runOnly: ["color-contrast"] });
          return [violations.flatMap((v) => v.nodes.map((n) => n.html + n.any[0].message)),
                  passes.flatMap((p) => p.nodes).length]; }"""
    )
    assert found[0] == []
    assert found[1] >= 9
    # What consists of marks alone, as "...", axe leaves out.
    ratio = page.evaluate(
        """() => { const numbers = (c) => c.match(/[\\d.]+/g).map(Number);
          const light = (c) => { const [r, g, b] = c.map((v) => (v /= 255) <= 0.03928 ? v / 12.92
            : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
          const ground = (e) => { let under = [255, 255, 255]; const all = [];
            for (; e; e = e.parentElement)
              all.unshift(numbers(getComputedStyle(e).backgroundColor));
            for (const [r, g, b, a = 1] of all)
              under = [r, g, b].map((v, i) => a * v + (1 - a) * under[i]);
            return under; };
          return Math.min(...[...document.querySelectorAll("#planted code")].map((code) => {
            const [a, b] = [numbers(getComputedStyle(code).color), ground(code)].map(light);
            return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05); })); }"""
    )
    assert ratio >= 4.5


def test_links_keep_their_contrast_beneath_the_pointer(visitor, site):
    visit = visitor(color_scheme="light", reduced_motion="reduce", bypass_csp=True)
    visit.page.goto(f"{site}/chapters/vae/vae.html", wait_until="load")
    page = visit.page
    page.add_style_tag(content="article a { color: var(--pst-color-link-hover) !important }")
    page.evaluate(OPEN)
    page.evaluate(THIN)
    page.add_script_tag(path=AXE)
    assert faults(page, ["color-contrast"]) == []
    turn(page, "dark")
    assert faults(page, ["color-contrast"]) == []
