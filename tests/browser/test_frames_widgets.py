"""``Sweep``, ``StepThrough`` and ``AudioProbe`` on a page without kernel."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from gdm_lib.widgets.sweep import Sweep
from tests.browser.widget_page import drive, settle
from tests.widgets.test_frames import unpacked

PIXELS = """canvas => [...canvas.getContext('2d')
    .getImageData(0, 0, canvas.width, canvas.height).data].filter((_, i) => i % 4 < 3)"""
PLACE = """(e, i) => { e.value = i; e.dispatchEvent(new Event('input', {bubbles: true})) }"""
SCREENS = [{"width": 1280, "theme": "light"}, {"width": 390, "theme": "dark", "has_touch": True}]


def canvas_pixels(root):
    """What the picture's canvas holds, ``(H, W, 3)``."""
    canvas = root.locator(".gdm-stage canvas").first
    height, width = canvas.evaluate("c => [c.height, c.width]")
    return np.array(canvas.evaluate(PIXELS), np.uint8).reshape(height, width, 3)


def noise(seed, kind):
    """A picture that says all that a decoder may get wrong."""
    return np.random.default_rng([seed, len(kind)]).integers(0, 256, (12, 10, 3), np.uint8)


def curve(power):
    figure, ax = plt.subplots(figsize=(3, 2))
    x = np.linspace(0, 1)
    ax.plot(x, x**power)
    return figure


class TestSweep:
    def test_each_value_shows_its_frame_pixel_by_pixel(self, stage):
        widget = Sweep(noise, {"seed": [1, 10, 100], "kind": ["a", "bb"]})
        visit = stage(widget)
        root = visit.page.locator(".gdm")
        frames = iter(unpacked(widget.sheet, widget.spec["layout"]))
        for i, seed in enumerate([1, 10, 100]):
            for j, kind in enumerate(["a", "bb"]):
                root.locator("input[type=range]").evaluate(PLACE, i)
                root.locator("select").select_option(index=j)
                settle(visit.page, root)
                assert np.array_equal(canvas_pixels(root), noise(seed, kind))
                assert np.array_equal(canvas_pixels(root), next(frames))
                said = f"seed {seed}, kind {kind}."
                assert root.locator(".gdm-status").inner_text() == said
                assert root.locator("canvas").get_attribute("aria-label") == said
                slider = root.locator("input[type=range]")
                assert slider.get_attribute("aria-valuetext") == str(seed)
        assert visit.errors == []

    @pytest.mark.parametrize("screen", SCREENS, ids=["desktop", "phone"])
    def test_every_control_moves_the_picture_and_nothing_jumps(self, stage, screen):
        visit = stage(Sweep(curve, {"power": [1, 2, 3, 5]}), **screen)
        after = visit.page.locator("#after")
        place = after.bounding_box()
        root = visit.page.locator(".gdm")
        assert drive(visit.page, root)
        assert after.bounding_box() == place
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= screen["width"]
        assert visit.errors == []
