"""A page like the site's around widgets made on the spot, and a driver for their controls."""

import html
import json
import time
from pathlib import Path

from ipywidgets.embed import dependency_state, embed_data

from chapters._tools import site_widgets
from chapters._tools.book_site import ENGINE, ENGINE_FILES, SITE, WIDGETS_CSS

ENGINE_READY = all((ENGINE / name).exists() for name in ENGINE_FILES)
PAGE = """<!doctype html><html lang="en"{theme}><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><title>Widgets</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="_static/widgets.css">
<style>body {{ margin: 16px; font-family: sans-serif }} [data-theme=dark] body {{
  background: #14181e; --pst-color-text-base: #ced6dd; --pst-color-background: #14181e;
  --pst-color-surface: #29313d; --pst-color-border: #48566b; --pst-color-text-muted: #9ca4af;
  --pst-color-primary: #3fb1c5 }}</style>
<h1>Before</h1>{figures}<p id="after">After</p>
<script type="application/vnd.jupyter.widget-state+json">{state}</script>
<script type="module" data-gdm-runtime="onnxruntime/" data-gdm-digests="{digests}"
  src="_static/widgets/host.js"></script></html>
"""


def stored_state(*widgets) -> dict:
    """The state of widgets as a notebook stores it."""
    if not widgets:
        return {}
    # Without a state, every widget that this process ever made would be in it.
    state = dependency_state(widgets, drop_defaults=False)
    return embed_data(views=widgets, drop_defaults=False, state=state)["manager_state"]["state"]


def write_page(folder: Path, *widgets, theme: str = "light", name: str = "page.html") -> Path:
    """Write a page with widgets, and all that it fetches, as the site's build does."""
    static = folder / "_static"
    (static / "widgets").mkdir(parents=True, exist_ok=True)
    (static / "onnxruntime").mkdir(exist_ok=True)
    for target, source in {
        "widgets/host.js": SITE / "static" / "widgets" / "host.js",
        "widgets.css": WIDGETS_CSS,
        **{f"onnxruntime/{file}": ENGINE / file for file in ENGINE_FILES if ENGINE_READY},
    }.items():
        (static / target).write_bytes(source.read_bytes())
    state = site_widgets.publish(stored_state(*widgets), static)
    text = json.dumps({"state": state}, ensure_ascii=False).replace("<", "\\u003c")
    figures = "".join(widget._repr_mimebundle_()[0]["text/html"] for widget in widgets)
    theme = ' data-theme="dark"' if theme == "dark" else ""
    path = folder / name
    digests = html.escape(json.dumps(ENGINE_FILES))
    page = PAGE.format(figures=figures, state=text, theme=theme, digests=digests)
    path.write_text(page, encoding="utf-8")
    return path


# -- driving


# The places of the first, middle and last option, starting after the chosen one and ending there.
ROUND = """(e, kind) => { const all = [...e.querySelectorAll(kind)];
    const now = all.findIndex(o => o.selected || o.checked), n = all.length;
    const places = [...new Set([0, Math.floor(n / 2), n - 1])].filter(i => i !== now);
    return [...places, now] }"""
PICTURES = """root => [...root.querySelectorAll('.gdm-stage canvas')]
    .map(canvas => canvas.toDataURL()).join('|')
    + [...root.querySelectorAll('.gdm-stage .gdm-marker')].map(m => m.style.cssText).join()"""


HIDDEN = """root => [...root.querySelectorAll("input, select, button, [data-gdm-pad]")]
  .filter((control) => {
    const shown = control.closest("label") || control; // a radio lies unseen over its text
    shown.scrollIntoView({ block: "center", inline: "nearest" });
    for (let place = shown.parentElement; place !== root; place = place.parentElement)
      place.scrollLeft = 0; // what must first be scrolled to is hidden
    const { left, right, top, bottom, width, height } = shown.getBoundingClientRect();
    const met = document.elementFromPoint((left + right) / 2, (top + bottom) / 2);
    const clipped = [...root.querySelectorAll(".gdm-row, .gdm-row > *")].some((box) =>
      box.contains(shown) && box !== shown && box.getBoundingClientRect().right < right - 1);
    return clipped || left < 0 || right > innerWidth || width < 24 || height < 24
      || !(shown.contains(met) || met?.contains(shown) && met.closest("[data-gdm-pad]"));
  }).map((e) => e.labels?.[0]?.textContent || e.ariaLabel || e.textContent)"""


def wait_until(page, expression: str, arg=None, timeout_s: float = 20) -> None:
    """Wait for a condition on a page whose policy forbids ``eval``, which playwright's own uses."""
    give_up = time.monotonic() + timeout_s
    while not page.evaluate(expression, arg):
        assert time.monotonic() < give_up, f"not within {timeout_s} s: {expression}"
        page.wait_for_timeout(20)


def pictures(root) -> str:
    """What a widget shows, as text to compare."""
    return root.evaluate(PICTURES)


def wait_for_change(page, root, before: str, what: str, timeout_s: float = 6) -> str:
    """The new pictures, once they differ from those before and have come to rest."""
    give_up = time.monotonic() + timeout_s
    while (now := pictures(root)) == before:
        assert time.monotonic() < give_up, f"{what}: the picture did not change"
        page.wait_for_timeout(25)
    return now


def settle(page, root, timeout_s: float = 10, rest_s: float = 0.25) -> str:
    """The pictures once they have been the same for a while."""
    give_up = time.monotonic() + timeout_s
    last, since = pictures(root), time.monotonic()
    while time.monotonic() - since < rest_s:
        page.wait_for_timeout(min(50, 500 * rest_s))
        now = pictures(root)
        if now != last:
            last, since = now, time.monotonic()
        assert time.monotonic() < give_up, "the picture does not come to rest"
    return last


def every_control_can_be_reached(page):
    """Each is on the screen as a whole, and what a finger meets in its middle is the control."""
    for number, root in enumerate(page.locator(".gdm").all(), 1):
        root.scroll_into_view_if_needed()
        hidden = root.evaluate(HIDDEN)
        assert hidden == [], f"widget {number}"


def drive(page, root) -> list[str]:
    """Move every control of a widget to its minimum, middle and maximum, press every button, take
    every option, drag and walk in every plane. Each move must change the picture.

    Returns:
        What was driven, for the test to hold against what should be there.
    """
    done = []
    # There are hundreds of moves. A picture that comes later than this is seen by the next one.
    rest_s = 0.1
    root.scroll_into_view_if_needed()
    wait_until(page, "root => Number(root.dataset.gdmPictures) > 0", root.element_handle())
    settle(page, root, rest_s=rest_s)

    def label_of(control) -> str:
        return control.evaluate("e => e.labels?.[0]?.textContent || e.ariaLabel || e.textContent")

    def moved(before: str, what: str) -> None:
        wait_for_change(page, root, before, what)
        settle(page, root, rest_s=rest_s)
        assert not root.evaluate("r => r.dataset.gdmFailed"), root.inner_text()
        done.append(what)

    def put(slider, value: float) -> None:
        slider.evaluate(
            "(e, v) => { e.value = v; e.dispatchEvent(new Event('input', {bubbles: true}));"
            " e.dispatchEvent(new Event('change', {bubbles: true})) }",
            value,
        )

    def bounds(slider) -> tuple[float, float]:
        return tuple(slider.evaluate("e => [Number(e.min), Number(e.max)]"))

    for slider in root.locator("input[type=range]").all():
        low, high = bounds(slider)
        name = label_of(slider)
        if float(slider.input_value()) == low:
            put(slider, high)
            settle(page, root, rest_s=rest_s)
        for place, value in (("min", low), ("middle", (low + high) / 2), ("max", high)):
            before = pictures(root)
            put(slider, value)
            moved(before, f"{name}: {place}")
        before = pictures(root)
        slider.focus()
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("ArrowLeft")
        moved(before, f"{name}: ArrowLeft")
    for field in root.locator("input[type=number]").all():
        low, high = bounds(field)
        before = pictures(root)
        field.fill(str(low + 0.3 * (high - low)))
        field.press("Enter")
        moved(before, f"{label_of(field)}: typed")
        field.fill(str(high + 5))
        field.press("Enter")
        page.wait_for_timeout(50)
        assert "held to" in root.locator(".gdm-status").inner_text()
        settle(page, root, rest_s=rest_s)
    for menu in root.locator("select").all():
        name = label_of(menu)
        for option in menu.evaluate(ROUND, "option"):
            before = pictures(root)
            menu.select_option(index=option)
            moved(before, f"{name}: option {option}")
    for group in root.locator("[role=radiogroup]").all():
        for i in group.evaluate(ROUND, "input"):
            before = pictures(root)
            group.locator("input").nth(i).check(force=True)
            moved(before, f"{group.get_attribute('aria-label')}: choice {i}")
    for pad in root.locator("[data-gdm-pad]").all():
        box = pad.bounding_box()
        for across, down in ((0.2, 0.3), (0.8, 0.6), (0.5, 0.5)):
            before = pictures(root)
            pad.click(position={"x": across * box["width"], "y": down * box["height"]})
            moved(before, f"plane: click at {across}, {down}")
        for key in ("ArrowRight", "ArrowUp", "ArrowLeft", "ArrowDown"):
            before = pictures(root)
            pad.focus()
            page.keyboard.press(key)
            moved(before, f"plane: {key}")
    for button in root.locator("button").all():
        if not button.is_enabled():
            continue
        name = button.inner_text()
        sliders = root.locator("input[type=range]").all()
        if name in ("Reset", "Back", "Play", "Next") and sliders:
            low, high = bounds(sliders[-1])
            put(sliders[-1], high if name in ("Reset", "Back") else low)
            settle(page, root, rest_s=rest_s)
        before = pictures(root)
        button.click()
        wait_for_change(page, root, before, f"button {name}")
        if root.get_by_role("button", name="Pause").count():
            root.get_by_role("button", name="Pause").first.click()
        settle(page, root, rest_s=rest_s)
        done.append(f"button {name}")
    return done
