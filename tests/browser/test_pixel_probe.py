"""``PixelProbe`` on a page without kernel: what is lit is what the pixel depends on."""

import base64

import numpy as np
import pytest
import torch
from PIL import ImageColor

from gdm_lib.viz.style import COLORS
from gdm_lib.widgets.pixel_probe import FAINT, LABEL, SIDE, STRONG, PixelProbe
from tests.browser.widget_page import drive, pictures, settle

PIXELS = """canvas => { let text = '';
    const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    for (const value of data) text += String.fromCharCode(value);
    return btoa(text) }"""
SCREENS = [
    {"width": 1280, "theme": "light"},
    {"width": 390, "theme": "dark", "has_touch": True, "device_scale_factor": 2},
]
HEAT = np.array(ImageColor.getrgb(COLORS["bound"]))
BLACK = torch.zeros(1, 10, 10)
GREY = np.full(3, 160)  # what black looks like beneath the weights
LIT = STRONG * HEAT + (1 - STRONG) * GREY


def weights(row, column):
    """Something of its own for each pixel, zero from its column on."""
    table = torch.rand(10, 10, generator=torch.Generator().manual_seed(10 * row + column))
    return table * (torch.arange(10) < column)


def causal(row, column):
    return (torch.arange(100) < 10 * row + column).reshape(10, 10).float()


def pixels(root, index):
    canvas = root.locator(".gdm-stage canvas").nth(index)
    height, width = canvas.evaluate("c => [c.height, c.width]")
    data = np.frombuffer(base64.b64decode(canvas.evaluate(PIXELS)), np.uint8)
    return data.reshape(height, width, 4).astype(int)


def middles(picture, n=10, label=LABEL):
    """The colours in the cells of an image, near the middle."""
    height, width = picture.shape[:2]
    ratio = width / SIDE
    cell = int(min(width / n, (height - label * ratio) / n))
    left, top = (width - n * cell) / 2, label * ratio + (height - label * ratio - n * cell) / 2
    at = [[round(edge + (i + 0.5) * cell) for i in range(n)] for edge in (top, left)]
    return picture[np.ix_(*at)][..., :3]


def opened(visit):
    root = visit.page.locator(".gdm")
    visit.page.wait_for_selector("[data-gdm-pictures]")
    settle(visit.page, root)
    return visit.page, root


def put(page, root, row, column):
    for name, value in (("row", row), ("column", column)):
        root.get_by_label(name, exact=True).fill(str(value))
    settle(page, root)


def status(root):
    return root.locator(".gdm-status").inner_text()


def where(root):
    return tuple(
        int(root.get_by_label(name, exact=True).input_value()) for name in ("row", "column")
    )


def spot(root, row, column, n=10):
    """Where on the screen a pixel of the output is."""
    box = root.locator("[data-gdm-pad]").bounding_box()
    cell = int(min(box["width"], box["height"] - LABEL) / n)
    left = box["x"] + (box["width"] - n * cell) / 2
    top = box["y"] + LABEL + (box["height"] - LABEL - n * cell) / 2
    return left + (column + 0.5) * cell, top + (row + 0.5) * cell


class TestPicture:
    def test_the_weights_are_the_maps(self, stage):
        page, root = opened(stage(PixelProbe(BLACK, weights)))
        for row, column in ((5, 5), (0, 9), (9, 3), (4, 0)):
            put(page, root, row, column)
            given = weights(row, column).numpy()[..., None]
            alpha = np.where(
                given > 0, FAINT + (STRONG - FAINT) * given / max(given.max(), 1e-9), 0
            )
            expected = alpha * HEAT + (1 - alpha) * GREY
            # One cell has the mark of the pixel around it, but not in its middle.
            assert np.abs(middles(pixels(root, 1)) - expected).max() <= 3
            text = (
                f"Output pixel (row {row}, column {column}) depends on {10 * column} of 100 input"
            )
            assert text in status(root)
            if column:
                best = np.unravel_index(given.argmax(), (10, 10))
                assert f"most on (row {best[0]}, column {best[1]})" in status(root)

    def test_the_first_picture_is_the_still_one(self, stage):
        widget = PixelProbe(BLACK, {"a": causal, "b": weights}, start=(3, 7))
        _, root = opened(stage(widget))
        assert status(root) == widget._alt
        assert root.locator("canvas:not([aria-hidden])").get_attribute("aria-label") == widget._alt

    def test_a_layer_has_its_own_maps(self, stage):
        page, root = opened(stage(PixelProbe(BLACK, {"mask A": causal, "field": weights})))
        put(page, root, 7, 2)
        assert (
            status(root)
            == "Mask A: output pixel (row 7, column 2) depends on 72 of 100 input pixels."
        )
        lit = np.abs(middles(pixels(root, 1)) - LIT).max(-1) <= 3
        assert np.array_equal(lit.ravel(), np.arange(100) < 72)
        root.get_by_label("field").check(force=True)
        settle(page, root)
        assert status(root).startswith("Field: output pixel (row 7, column 2) depends on 20 of 100")

    def test_what_is_said_is_english_whatever_the_pictures_are_called(self, stage):
        widget = PixelProbe(
            BLACK, causal, names=("pixel to predict", "what it depends on"), start=(7, 2)
        )
        _, root = opened(stage(widget))
        assert status(root) == widget._alt
        assert status(root) == "Output pixel (row 7, column 2) depends on 72 of 100 input pixels."

    def test_an_image_that_is_not_square(self, stage):
        """Each pixel of each layer says its own number."""

        def maps(layer):
            return lambda i, j: (torch.arange(24) <= 12 * layer + 3 * i + j).float().reshape(4, 6)

        _, root = opened(stage(PixelProbe(torch.zeros(1, 4, 3), {"a": maps(0), "b": maps(1)})))
        for layer in "ab":
            root.get_by_label(layer, exact=True).check(force=True)
            for row, column in ((0, 0), (3, 2), (2, 1), (1, 2)):
                put(root.page, root, row, column)
                lit = 1 + 12 * "ab".index(layer) + 3 * row + column
                assert f"(row {row}, column {column}) depends on {lit} of 24" in status(root)

    def test_the_pixel_is_outlined_in_both(self, stage):
        page, root = opened(stage(PixelProbe(BLACK, causal)))
        put(page, root, 2, 6)
        x, y = spot(root, 2, 6)
        box = root.locator("[data-gdm-pad]").bounding_box()
        across, down = round(x - box["x"]), round(y - box["y"])
        left, right = pixels(root, 0), pixels(root, 1)
        row = slice(across - 19, across - 10)
        assert np.abs(left[down, row, :3] - HEAT).max(-1).min() <= 3
        assert right[down, row, :3].max(-1).min() <= 50  # ink

    def test_a_line_runs_around_all_that_is_lit(self, stage):
        def maps(row, column):
            return torch.eye(10)[2][:, None] * torch.eye(10)[2]

        _, root = opened(stage(PixelProbe(BLACK, maps)))
        x, y = spot(root, 2, 2)
        box = root.locator("[data-gdm-pad]").bounding_box()
        across, down = round(x - box["x"]), round(y - box["y"])
        picture = pixels(root, 1)[..., :3]
        for edge in (
            picture[down, across - 18 : across - 9],
            picture[down, across + 10 : across + 19],
            picture[down - 18 : down - 9, across],
            picture[down + 10 : down + 19, across],
        ):
            assert np.abs(edge - HEAT).max(-1).min() <= 12

    def test_nothing_of_the_last_picture_stays(self, stage):
        page, root = opened(stage(PixelProbe(BLACK, causal, start=(5, 5))))
        before = settle(page, root)
        put(page, root, 0, 0)
        put(page, root, 5, 5)
        assert pictures(root) == before

    def test_coarse_maps_on_another_input(self, stage):
        widget = PixelProbe(
            BLACK, lambda i, j: torch.eye(2) * (1 + j), input=torch.ones(3, 8, 4), stride=2
        )
        page, root = opened(stage(widget))
        put(page, root, 2, 1)  # places in the lists of rows and columns
        assert (
            status(root) == "Output pixel (row 4, column 2) depends on 2 of 4 cells of the input."
        )
        picture = pixels(root, 1)
        high, wide = picture.shape[:2]
        cell = (high - LABEL) / 4
        middle = (high + LABEL) / 2
        white = 160 + 0.35 * 255
        lit = STRONG * HEAT + (1 - STRONG) * white
        for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
            y, x = middle + (i - 0.5) * 2 * cell, wide / 2 + (j - 0.5) * cell
            near = np.abs(picture[round(y), round(x), :3] - lit).max() <= 3
            assert near == (i == j)


class TestHand:
    def test_hovering_chooses_the_pixel_beneath(self, stage):
        visit = stage(PixelProbe(BLACK, causal))
        page, root = opened(visit)
        for row, column in ((0, 0), (9, 9), (3, 8)):
            page.mouse.move(*spot(root, row, column))
            settle(page, root)
            assert where(root) == (row, column)
        box = root.locator("[data-gdm-pad]").bounding_box()
        page.mouse.move(box["x"] + 150, box["y"] + 5)  # on the label
        assert where(root) == (3, 8)
        assert visit.errors == []

    def test_a_page_that_scrolls_does_not_choose(self, stage):
        page, root = opened(stage(PixelProbe(BLACK, causal)))
        pad = root.locator("[data-gdm-pad]")
        pad.evaluate("e => e.addEventListener('pointermove', event => { window.last = event })")
        page.mouse.move(*spot(root, 4, 4))
        settle(page, root)
        pad.focus()
        page.keyboard.press("ArrowRight")
        settle(page, root)
        for by, place in ((0, (4, 5)), (1, (8, 4))):  # resting, then moved by a hair
            pad.evaluate(
                """(e, by) => { const { clientX, clientY, screenX, screenY } = window.last;
                    e.dispatchEvent(new PointerEvent('pointermove', { pointerType: 'mouse',
                        clientX, clientY: clientY + 60, screenX, screenY: screenY + by })) }""",
                by,
            )
            settle(page, root)
            assert where(root) == place

    def test_a_tap_chooses_and_the_page_still_scrolls(self, stage):
        page, root = opened(stage(PixelProbe(BLACK, causal), width=390, has_touch=True))
        page.touchscreen.tap(*spot(root, 8, 1))
        settle(page, root)
        assert where(root) == (8, 1)
        pad = root.locator("[data-gdm-pad]")
        assert pad.evaluate("e => getComputedStyle(e).touchAction") == "manipulation"

    def test_arrow_keys_stay_within_the_picture(self, stage):
        page, root = opened(stage(PixelProbe(BLACK, causal, stride=4)))
        root.locator("[data-gdm-pad]").focus()
        for key, place in (
            ("ArrowRight", (1, 2)),
            ("ArrowRight", (1, 2)),
            ("ArrowUp", (0, 2)),
            ("ArrowUp", (0, 2)),
            ("ArrowLeft", (0, 1)),
            ("ArrowDown", (1, 1)),
        ):
            page.keyboard.press(key)
            page.wait_for_timeout(60)
            assert where(root) == place, key
        assert "(row 4, column 4)" in status(root)


def field_of_28(row, column):
    """A receptive field of nine pixels by nine."""
    distance = (torch.arange(28)[:, None] - row).abs().maximum((torch.arange(28) - column).abs())
    return (1 - distance / 5).clamp(min=0)


def causal_of_28(row, column):
    return (torch.arange(784) < 28 * row + column).reshape(28, 28).float()


@pytest.mark.parametrize("screen", SCREENS, ids=["desk", "phone"])
def test_every_control_changes_the_picture_and_nothing_jumps(stage, screen):
    letter = torch.rand(1, 28, 28, generator=torch.Generator().manual_seed(0))
    maps = {"all before": causal_of_28, "field": field_of_28}
    visit = stage(PixelProbe(letter, maps), **screen)
    root = visit.page.locator(".gdm")
    after = visit.page.locator("#after")
    place = after.bounding_box()
    done = drive(visit.page, root)
    assert after.bounding_box() == place
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= screen["width"]
    assert {"row: middle", "column: max", "layer: choice 1", "plane: ArrowUp"} <= set(done)
    assert visit.errors == []
