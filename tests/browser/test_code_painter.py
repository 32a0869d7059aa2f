"""``CodePainter`` on a page without kernel: what is painted is what torch decodes."""

import numpy as np
import pytest
import torch
from torch import nn

from gdm_lib.likelihoods import Bernoulli
from gdm_lib.vae.vqvae import VQVAE
from gdm_lib.widgets import CodePainter, export
from tests.browser.widget_page import (
    ENGINE_READY,
    drive,
    every_control_can_be_reached,
    pictures,
    settle,
    wait_for_change,
    wait_until,
)

pytestmark = pytest.mark.skipif(
    not ENGINE_READY, reason="onnxruntime-web is not installed: run `make assets`, which needs npm"
)

COUNT = 20
GRIDS = torch.randint(COUNT, (3, 4, 4), generator=torch.Generator().manual_seed(5))
GRIDS[0] = torch.tensor([[7, 7, 3, 3], [7, 3, 3, 7], [7, 7, 3, 7], [1, 1, 2, 7]])
ORIGINALS = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(6))
PIXELS = """(root, place) => { const c = root.querySelectorAll('.gdm-stage canvas')[place];
    const { data } = c.getContext('2d').getImageData(0, 0, c.width, c.height);
    return [c.height, c.width, ...data] }"""
TOLD = "r => [r.gdm.arrays[0].data, r.gdm.arrays[0].shape, [...r.gdm.data], r.gdm.shape]"


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    made = VQVAE.image((3, 16, 16), count=COUNT, dim=8, width=8, likelihood=Bernoulli(), decay=0.9)
    made.quantiser.codebook.mul_(100)
    return made.half().float().eval()


@pytest.fixture(scope="module")
def file(model):
    return export(model.decode_mean, model.grid, whole=True)


@pytest.fixture
def painter(model, file):
    def made(**options):
        options = {"count": COUNT, "page_model": file, **options}
        return CodePainter(model.decode_mean, options.pop("codes", GRIDS), **options)

    return made


@pytest.fixture
def opened(stage, painter):
    """A page with one painter: the visit, the page, the widget's root."""

    def show(*, options=None, **page):
        visit = stage(painter(**(options or {})), **page)
        root = visit.page.locator(".gdm")
        visit.page.wait_for_selector("[data-gdm-pictures]")
        settle(visit.page, root)
        return visit, visit.page, root

    return show


def asked(root):
    """The codes that were decoded last, and the image that came."""
    codes, shape, data, size = root.evaluate(TOLD)
    assert len(codes) == np.prod(shape)
    return torch.tensor(codes).view(shape), np.reshape(np.float32(data), size)


def pixels(root, place):
    height, width, *data = root.evaluate(PIXELS, place)
    return np.reshape(data, (height, width, 4))[..., :3].astype(int)


def over(pad, row, column, rows=4, columns=4):
    """The middle of a cell, from the corner of its pad."""
    box = pad.bounding_box()
    return {
        "x": (column + 0.5) * box["width"] / columns,
        "y": (row + 0.5) * box["height"] / rows,
    }


def with_code(page, root, painter_spec, code):
    """Take a code from the palette with the mouse."""
    palette = root.locator(".gdm-swatches")
    place = painter_spec["order"].index(code)
    columns = painter_spec["columns"]
    rows = -(-COUNT // columns)
    palette.click(position=over(palette, place // columns, place % columns, rows, columns))


def grid_of(root):
    return root.locator("[data-gdm-pad]").first


@pytest.mark.parametrize("screen", [{"width": 1280}, {"width": 390, "theme": "dark"}])
def test_every_control_changes_the_picture(opened, screen):
    visit, page, root = opened(options={"originals": ORIGINALS}, **screen)
    every_control_can_be_reached(page)
    done = drive(page, root)
    expected = {"code: min", "code: max", "image: option 2", "picture: choice 1", "button Undo"}
    assert expected | {"button Reset", "plane: ArrowDown"} <= set(done)
    assert sum("brush" in what for what in done) == 3
    assert visit.errors == visit.foreign == []


def test_what_is_painted_is_what_torch_decodes(opened, model, painter):
    _, page, root = opened()
    spec = painter().spec
    codes, image = asked(root)
    assert torch.equal(codes[0].long(), GRIDS[0])
    with_code(page, root, spec, 11)
    grid = grid_of(root)
    grid.click(position=over(grid, 0, 2))
    settle(page, root)
    grid.click(position=over(grid, 3, 1))
    settle(page, root)
    expected = GRIDS[0].clone()
    expected[0, 2] = expected[3, 1] = 11
    codes, image = asked(root)
    assert torch.equal(codes[0].long(), expected)
    with torch.no_grad():
        truth = model.decode_mean(expected[None]).numpy()
        before = model.decode_mean(GRIDS[:1]).numpy()
    assert np.abs(truth - before).max() > 0.05
    assert np.abs(image - truth).max() < 2e-6
    # The picture beside shows it, to the rounding of 8 bits, and the grid the codes' patches.
    assert np.abs(pixels(root, 1) - 255 * truth[0].transpose(1, 2, 0)).max() <= 0.52
    patches = np.frombuffer(painter().patches, np.uint8).reshape(COUNT, 4, 4, 3)
    shown = pixels(root, 0).reshape(4, 4, 4, 4, 3).swapaxes(1, 2)
    assert np.array_equal(shown, patches[expected.numpy()])
    assert "2 of 16 changed" in root.locator(".gdm-status").inner_text()
    assert "row 3, column 1 holds code 11" in root.locator(".gdm-status").inner_text()


def test_the_palette_shows_every_code_in_its_place(opened, painter):
    _, _, root = opened()
    widget = painter()
    patches = np.frombuffer(widget.patches, np.uint8).reshape(COUNT, 4, 4, 3)
    columns = widget.spec["columns"]
    shown = pixels(root, 2)
    for place, code in enumerate(widget.spec["order"]):
        y, x = 4 * (place // columns), 4 * (place % columns)
        assert np.array_equal(shown[y : y + 4, x : x + 4], patches[code])


def test_a_fast_drag_leaves_no_gap_and_is_one_step_to_undo(opened, painter):
    _, page, root = opened()
    grid = grid_of(root)
    with_code(page, root, painter().spec, 15)
    box = grid.bounding_box()
    first, last = over(grid, 0, 0), over(grid, 3, 3)
    page.mouse.move(box["x"] + first["x"], box["y"] + first["y"])
    page.mouse.down()
    page.mouse.move(box["x"] + last["x"], box["y"] + last["y"])
    # Out of the grid it stays at the edge.
    page.mouse.move(box["x"] + last["x"], box["y"] + last["y"] + 300)
    page.mouse.up()
    page.mouse.move(box["x"] + first["x"], box["y"] + last["y"])
    settle(page, root)
    expected = GRIDS[0].clone()
    expected.fill_diagonal_(15)
    assert torch.equal(asked(root)[0][0].long(), expected)
    root.get_by_role("button", name="Undo").click()
    settle(page, root)
    assert torch.equal(asked(root)[0][0].long(), GRIDS[0])
    root.get_by_role("button", name="Undo").click()
    assert root.locator(".gdm-status").inner_text() == "There is nothing to undo."


def test_keys_walk_paint_pick_and_take_back(opened):
    _, page, root = opened()
    grid = grid_of(root)
    grid.focus()
    for key in ("ArrowUp", "ArrowLeft", "ArrowLeft", "ArrowLeft"):  # from (2, 2) into the wall
        page.keyboard.press(key)
    assert "row 1, column 0 holds code 7" in root.locator(".gdm-status").inner_text()
    page.keyboard.press("Alt+Enter")
    assert "the brush paints code 7" in root.locator(".gdm-status").inner_text()
    page.keyboard.press("ArrowRight")
    page.keyboard.press(" ")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    settle(page, root)
    expected = GRIDS[0].clone()
    expected[1, 1:3] = 7
    assert torch.equal(asked(root)[0][0].long(), expected)
    page.keyboard.press("Control+z")
    settle(page, root)
    expected[1, 2] = 3
    assert torch.equal(asked(root)[0][0].long(), expected)
    assert page.evaluate("scrollY") == 0
    assert root.get_by_role("img").first.get_attribute("aria-label").startswith("Left the codes of")


def test_keys_walk_through_the_palette(opened, painter):
    _, page, root = opened()
    order = painter().spec["order"]
    place = order.index(int(GRIDS[0, 2, 2]))
    root.locator(".gdm-swatches").focus()
    way = "ArrowLeft" if place else "ArrowRight"
    page.keyboard.press(way)
    code = order[place - 1 if place else 1]
    assert f"the brush paints code {code}." in root.locator(".gdm-status").inner_text()
    assert root.get_by_label("code", exact=True).get_attribute("aria-valuetext") == str(code)


def test_brushes(opened, painter):
    _, page, root = opened()
    grid, spec = grid_of(root), painter().spec
    with_code(page, root, spec, 9)
    page.get_by_role("radio", name="2 × 2").check(force=True)
    grid.click(position=over(grid, 3, 3))  # at the corner it stays inside
    settle(page, root)
    expected = GRIDS[0].clone()
    expected[2:, 2:] = 9
    assert torch.equal(asked(root)[0][0].long(), expected)
    page.get_by_role("radio", name="fill").check(force=True)
    grid.click(position=over(grid, 0, 2))
    settle(page, root)
    expected[[0, 0, 1, 1], [2, 3, 1, 2]] = 9
    assert torch.equal(asked(root)[0][0].long(), expected)
    page.get_by_role("radio", name="pick a code").check(force=True)
    grid.click(position=over(grid, 3, 0))
    assert "the brush paints code 1." in root.locator(".gdm-status").inner_text()
    # It picked, and the brush from before is back; nothing was painted.
    assert page.get_by_role("radio", name="fill").is_checked()
    assert torch.equal(asked(root)[0][0].long(), expected)
    grid.click(position=over(grid, 0, 0))
    settle(page, root)
    # All that hangs together, by no corner and not from one end of a row to that of another.
    before = expected.clone()
    expected[[0, 0, 1, 2, 2], [0, 1, 0, 0, 1]] = 1
    assert torch.equal(asked(root)[0][0].long(), expected)
    root.get_by_role("button", name="Undo").click()
    grid.click(position=over(grid, 1, 3))
    settle(page, root)
    before[1, 3] = 1
    assert torch.equal(asked(root)[0][0].long(), before)


def test_alt_takes_the_code_of_a_cell(opened):
    _, page, root = opened()
    grid = grid_of(root)
    grid.click(position=over(grid, 3, 0), modifiers=["Alt"])
    assert "the brush paints code 1." in root.locator(".gdm-status").inner_text()
    grid.click(position=over(grid, 0, 0))
    settle(page, root)
    expected = GRIDS[0].clone()
    expected[0, 0] = 1
    assert torch.equal(asked(root)[0][0].long(), expected)


def test_reset_and_another_image_can_both_be_undone(opened, painter):
    _, page, root = opened()
    grid, spec = grid_of(root), painter().spec
    root.get_by_role("button", name="Reset").click()
    assert root.locator(".gdm-status").inner_text() == "The codes are as they were encoded."
    with_code(page, root, spec, 9)
    grid.click(position=over(grid, 1, 1))
    painted = settle(page, root)
    root.get_by_role("button", name="Reset").click()
    wait_for_change(page, root, painted, "Reset")
    settle(page, root)
    assert torch.equal(asked(root)[0][0].long(), GRIDS[0])
    root.get_by_label("image", exact=True).select_option(index=2)
    settle(page, root)
    assert torch.equal(asked(root)[0][0].long(), GRIDS[2])
    root.get_by_role("button", name="Undo").click()
    settle(page, root)
    assert root.get_by_label("image", exact=True).input_value() == "0"
    assert torch.equal(asked(root)[0][0].long(), GRIDS[0])
    root.get_by_role("button", name="Undo").click()
    settle(page, root)
    expected = GRIDS[0].clone()
    expected[1, 1] = 9
    assert torch.equal(asked(root)[0][0].long(), expected)


def test_the_original_is_shown_until_something_is_painted(opened, painter):
    _, page, root = opened(options={"originals": ORIGINALS})
    root.get_by_role("radio", name="original").check(force=True)
    settle(page, root)
    root.get_by_label("image", exact=True).select_option(index=1)
    settle(page, root)
    expected = (255 * ORIGINALS[1]).round().permute(1, 2, 0).numpy()
    assert np.array_equal(pixels(root, 1), expected)
    assert "right the image that was encoded" in root.locator(".gdm-status").inner_text()
    code = next(c for c in range(COUNT) if c != GRIDS[1, 0, 0])
    with_code(page, root, painter().spec, code)
    grid = grid_of(root)
    grid.click(position=over(grid, 0, 0))
    settle(page, root)
    assert root.get_by_role("radio", name="decoded").is_checked()
    assert int(asked(root)[0][0, 0, 0]) == code
    shown = 255 * asked(root)[1][0].transpose(1, 2, 0)
    assert np.abs(pixels(root, 1) - shown).max() <= 0.52


def test_values_that_the_kernel_sets(opened):
    visit, page, root = opened()
    # The host has no kernel to set values, so its model is made to.
    page.evaluate(
        """async () => { const host = await import('./_static/widgets/host.js');
          const on = host.PageModel.prototype.on; window.models = [];
          host.PageModel.prototype.on = function (...a) { models.push(this); on.apply(this, a) };
          const figure = document.querySelector('figure');
          await host.revive(figure, host.storedState()[figure.dataset.gdmWidget]) }"""
    )
    settle(page, root)

    def put(**values):
        page.evaluate(
            "new_ => models[0].set('values', {...models[0].get('values'), ...new_})", values
        )
        settle(page, root)
        page.wait_for_timeout(200)
        return page.evaluate("models[0].get('values')")

    painted = GRIDS[0].clone()
    painted[2, 1] = 19
    now = put(codes=painted.flatten().tolist())
    assert torch.equal(asked(root)[0][0].long(), painted)
    # With another image come the codes of the one before, which are not meant.
    now = put(image=1)
    assert torch.equal(asked(root)[0][0].long(), GRIDS[1])
    assert (now["image"], now["codes"]) == (1, None)
    now = put(image=2, codes=painted.flatten().tolist())
    assert torch.equal(asked(root)[0][0].long(), painted)
    assert now["codes"] == painted.flatten().tolist()
    for wrong in ([1, 2], [COUNT] * 16, [0.5] * 16, "none"):
        now = put(codes=wrong)
        said = "codes: 16 whole numbers from 0 to 19 are needed, so they stay."
        assert root.locator(".gdm-status").inner_text() == said
        assert now["codes"] == painted.flatten().tolist()
    now = put(code=77)
    assert root.locator(".gdm-status").inner_text().startswith("code: there is no 77, so ")
    # And what the reader paints, the kernel hears.
    grid = grid_of(root)
    put(code=5)
    grid.click(position=over(grid, 0, 0))
    settle(page, root)
    page.wait_for_timeout(200)
    painted[0, 0] = 5
    assert page.evaluate("models[0].get('values').codes") == painted.flatten().tolist()
    assert visit.errors == []


def test_what_fails_is_said_and_tried_again(stage, painter):
    visit = stage(painter(page_model=b"no model"))
    page, root = visit.page, visit.page.locator(".gdm")
    wait_until(page, "() => document.querySelector('.gdm-fault')")
    said = root.locator(".gdm-status").inner_text()
    assert said.startswith("This picture could not be made: the model")
    assert root.get_by_role("button", name="Try again").is_visible()


@pytest.mark.parametrize("width", [1280, 390, 320])
def test_the_page_does_not_jump_and_the_widget_fits(stage, painter, width):
    tall = GRIDS[:1, :, :2].repeat(1, 2, 1)

    class Tall(nn.Module):
        def forward(self, codes):
            return codes[:, None] / COUNT

    narrow = CodePainter(
        Tall(), tall, count=COUNT, page_model=export(Tall(), tall.shape[1:], whole=True)
    )
    made = [painter(), painter(originals=ORIGINALS), painter(codes=GRIDS[:1]), narrow]
    visit = stage(*made, width=width, height=5000, java_script_enabled=False)
    still = [f.bounding_box() for f in visit.page.locator("figure").all()]
    visit = stage(*made, width=width, height=5000)
    page = visit.page
    wait_until(page, "() => document.querySelectorAll('[data-gdm-pictures]').length == 4")
    for root in page.locator(".gdm").all():
        settle(page, root)
        pad, view = root.locator(".gdm-panel > *").all()
        for place in (pad, view):
            box, room = place.bounding_box(), place.locator("..").bounding_box()
            assert box["width"] <= room["width"] + 0.5
            assert box["height"] <= room["height"] + 0.5
            # Cells and pixels are square.
            canvas = place.locator("canvas")
            ratio = canvas.evaluate("c => c.width / c.height")
            assert box["width"] / box["height"] == pytest.approx(ratio, rel=0.02)
    live = [f.bounding_box() for f in page.locator("figure").all()]
    for before, after in zip(still, live, strict=True):
        assert after["y"] == pytest.approx(before["y"], abs=1)
        assert after["height"] == pytest.approx(before["height"], abs=1)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert visit.errors == []


def test_keys_reach_every_control_in_order(opened):
    _, page, _ = opened(options={"originals": ORIGINALS})
    seen = []
    for _ in range(8):
        page.keyboard.press("Tab")
        seen.append(
            page.evaluate(
                """() => { const e = document.activeElement;
                  return e.labels?.[0]?.innerText || e.ariaLabel || e.innerText }"""
            ).split(" of")[0]
        )
    assert seen == ["Grid", "Palette", "image", "code", "1 cell", "decoded", "Undo", "Reset"]


def test_a_finger_paints(opened, painter):
    _, page, root = opened(width=390, has_touch=True)
    with_code(page, root, painter().spec, 14)
    grid = grid_of(root)
    before = pictures(root)
    box, at = grid.bounding_box(), over(grid, 2, 3)
    page.touchscreen.tap(box["x"] + at["x"], box["y"] + at["y"])
    wait_for_change(page, root, before, "tap")
    settle(page, root)
    expected = GRIDS[0].clone()
    expected[2, 3] = 14
    assert torch.equal(asked(root)[0][0].long(), expected)
    assert grid.evaluate("e => getComputedStyle(e).touchAction") == "none"
