"""``LatentExplorer`` on a page without kernel: every control, torch's own pixels, no jump."""

import numpy as np
import pytest
import torch

from gdm_lib import pretrained
from gdm_lib.widgets import LatentExplorer, Slider, export, lerp, slerp
from tests.browser.widget_page import ENGINE_READY, drive, pictures, settle, wait_for_change

pytestmark = pytest.mark.skipif(
    not ENGINE_READY, reason="onnxruntime-web is not installed: run `make assets`, which needs npm"
)


class Small(torch.nn.Module):
    """Pictures of 4 x 6 pixels in colour that depend on all of three latents and on truncation."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(3, 72)

    def decode(self, z, psi):
        return self.layer(z * psi[:, None]).sigmoid().unflatten(1, (3, 4, 6))


@pytest.fixture(scope="module")
def digits():
    return pretrained.load("vae/mnist_2d")


@pytest.fixture(scope="module")
def letters():
    return pretrained.load("vae/glyph_letters")


def last(root):
    """What the script asked last, and what it was told: arrays."""
    found = root.evaluate(
        """r => ({asked: r.gdm.arrays.map(a => [[...a.data], a.shape]),
                 told: [[...r.gdm.data], r.gdm.shape]})"""
    )
    asked = [np.reshape(np.float32(data), shape) for data, shape in found["asked"]]
    return asked, np.reshape(np.float32(found["told"][0]), found["told"][1])


def put(page, root, label, value):
    before = pictures(root)
    root.get_by_label(label, exact=True).evaluate(
        "(e, v) => { e.value = v; e.dispatchEvent(new Event('input')) }", value
    )
    wait_for_change(page, root, before, label)
    settle(page, root)


def test_plane(stage, digits):
    visit = stage(LatentExplorer.plane(digits.decode_mean))
    root = visit.page.locator(".gdm")
    done = drive(visit.page, root)
    assert {"z₁: min", "z₂: max", "z₁, number: typed", "plane: click at 0.2, 0.3"} <= set(done)
    assert visit.errors == visit.foreign == []


def test_a_drag_in_the_plane_moves_the_sliders_and_the_latent(stage, digits):
    visit = stage(LatentExplorer.plane(digits.decode_mean, reach=2.0))
    page, root = visit.page, visit.page.locator(".gdm")
    page.wait_for_selector("[data-gdm-pictures]")
    settle(page, root)
    box = root.locator(".gdm-pad").bounding_box()
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.5 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.75 * box["width"], box["y"] + 0.75 * box["height"], steps=5)
    # Out of the plane the latent stays on its edge.
    page.mouse.move(box["x"] + 1.5 * box["width"], box["y"] + 0.125 * box["height"], steps=5)
    page.mouse.up()
    settle(page, root)
    (z,), _ = last(root)
    assert z[0] == pytest.approx([2.0, 1.5], abs=0.02)
    assert float(root.get_by_label("z₁", exact=True).input_value()) == 2.0


def test_the_pages_pixels_are_torchs(stage, digits, letters):
    for model, widget, label, value in (
        (digits, LatentExplorer.plane(digits.decode_mean), "z₁", 1.3),
        (letters, LatentExplorer.path(letters.decode_mean, torch.randn(4, 24)), "t", 0.83),
        (letters, LatentExplorer.samples(letters.decode_mean, torch.randn(9, 24), spread=(0, 2, 1)),
         "spread", 0.4),
    ):  # fmt: skip
        visit = stage(widget)
        root = visit.page.locator(".gdm")
        visit.page.wait_for_selector("[data-gdm-pictures]")
        settle(visit.page, root)
        put(visit.page, root, label, value)
        (z,), images = last(root)
        with torch.no_grad():
            expected = model.decode_mean(torch.from_numpy(z)).numpy()
        assert images.shape == expected.shape
        assert np.abs(images - expected).max() <= 1e-4
        # And what is painted is what was told, to the rounding of 8 bits.
        if label != "t":
            shown = root.evaluate(
                """r => { const c = [...r.querySelectorAll('.gdm-stage canvas')].at(-1);
                  return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data] }"""
            )
            side = images.shape[-1]
            width = side if label == "z₁" else 6 * side
            painted = np.reshape(shown, (-1, width, 4))[:side, :side, 0]
            assert np.abs(painted - 255 * expected[0, 0]).max() <= 0.52


def test_path(stage, letters):
    widget = LatentExplorer.path(letters.decode_mean, torch.randn(3, 24), names=["a", "b", "c"])
    visit = stage(widget)
    done = drive(visit.page, visit.page.locator(".gdm"))
    assert {"t: middle", "from: option 2", "along: choice 1"} <= set(done)
    assert any("Draw a new end" in what for what in done)
    assert visit.errors == []


@pytest.mark.parametrize(("along", "way"), [(0, lerp), (1, slerp)])
def test_the_path_is_the_librarys(stage, letters, along, way):
    latents = torch.randn(3, 24, generator=torch.Generator().manual_seed(3))
    visit = stage(LatentExplorer.path(letters.decode_mean, latents))
    page, root = visit.page, visit.page.locator(".gdm")
    page.wait_for_selector("[data-gdm-pictures]")
    root.get_by_label("to", exact=True).select_option(index=2)
    root.get_by_role("radio").nth(along).check(force=True)
    settle(page, root)
    put(page, root, "t", 0.3)
    (z,), _ = last(root)
    assert z[0] == pytest.approx(way(latents[0], latents[2], 0.3).numpy(), abs=1e-5)


def test_samples(stage, letters):
    widget = LatentExplorer.samples(letters.decode_mean, torch.randn(5, 24), spread=(0.1, 2, 1))
    visit = stage(widget)
    done = drive(visit.page, visit.page.locator(".gdm"))
    assert {"spread: min", "spread: max", "button New draws"} <= set(done)
    assert visit.errors == []


def test_new_draws_are_normal(stage):
    model = Small()
    file = export(model.decode, (3,), ())
    sliders = [Slider("truncation", 0, 1, 1)]
    widget = LatentExplorer.samples(
        model.decode, torch.zeros(4000, 3), sliders=sliders, columns=80, page_model=file
    )
    visit = stage(widget)
    page, root = visit.page, visit.page.locator(".gdm")
    page.wait_for_selector("[data-gdm-pictures]")
    root.get_by_role("button").click()
    settle(page, root)
    z = last(root)[0][0].astype(float)
    n = z.size
    assert abs(z.mean()) < 4 / n**0.5
    assert abs((z**2).mean() - 1) < 4 * (2 / n) ** 0.5
    assert abs((z**4).mean() - 3) < 4 * (96 / n) ** 0.5
    lag = (z.ravel()[1:] * z.ravel()[:-1]).mean()
    assert abs(lag) < 4 / n**0.5


def test_truncation_is_the_models_own(stage):
    model = Small()
    widget = LatentExplorer.samples(
        model.decode,
        torch.randn(4, 3),
        sliders=[Slider("truncation", 0.1, 1, 0.7)],
        page_model=export(model.decode, (3,), ()),
    )
    visit = stage(widget)
    root = visit.page.locator(".gdm")
    assert "truncation: min" in drive(visit.page, root)
    put(visit.page, root, "truncation", 0.5)
    (z, psi), images = last(root)
    assert psi.tolist() == [0.5] * 4
    with torch.no_grad():
        expected = model.decode(torch.from_numpy(z), torch.from_numpy(psi)).numpy()
    assert np.abs(images - expected).max() <= 1e-5
    assert visit.errors == []


def test_values_out_of_range_are_held_and_said(stage, digits):
    visit = stage(LatentExplorer.plane(digits.decode_mean))
    page, root = visit.page, visit.page.locator(".gdm")
    page.wait_for_selector("[data-gdm-pictures]")
    field = root.get_by_label("z₁, number")
    field.fill("7.5")
    field.press("Enter")
    said = "z₁ goes from −3.00 to 3.00: 7.50 is held to 3.00."
    assert root.locator(".gdm-status").inner_text() == said
    assert field.input_value() == "3.00"
    settle(page, root)
    assert last(root)[0][0][0, 0] == 3.0
    field.fill("")
    field.press("Enter")
    assert "a number from −3.00 to 3.00 is needed" in root.locator(".gdm-status").inner_text()
    assert field.input_value() == "3.00"


def test_values_that_the_kernel_sets_out_of_range_are_held_and_said(stage, letters):
    visit = stage(LatentExplorer.path(letters.decode_mean, torch.randn(3, 24)))
    page, root = visit.page, visit.page.locator(".gdm")
    page.wait_for_selector("[data-gdm-pictures]")
    # The host has no kernel to set values, so its model is made to.
    page.evaluate(
        """async () => { const host = await import('./_static/widgets/host.js');
          const on = host.PageModel.prototype.on; window.models = [];
          host.PageModel.prototype.on = function (...a) { models.push(this); on.apply(this, a) };
          const figure = document.querySelector('figure');
          await host.revive(figure, host.storedState()[figure.dataset.gdmWidget]) }"""
    )
    settle(page, root)
    for key, value, held, said in (
        ("to", 99, 2, "to goes from 0 to 2: 99 is held to 2."),
        ("along", -4, 0, "along goes from 0 to 1: -4 is held to 0."),
        ("t", 1.5, 1, "t goes from 0.00 to 1.00: 1.50 is held to 1.00."),
    ):
        page.evaluate(
            "([k, v]) => models[0].set('values', {...models[0].get('values'), [k]: v})",
            [key, value],
        )
        assert root.locator(".gdm-status").inner_text() == said
        page.wait_for_timeout(250)
        assert page.evaluate("k => models[0].get('values')[k]", key) == held
    assert visit.errors == []


@pytest.mark.parametrize("width", [1280, 390, 320])
def test_the_page_does_not_jump_and_the_widget_fits(stage, digits, letters, width):
    made = [
        LatentExplorer.plane(digits.decode_mean),
        LatentExplorer.path(letters.decode_mean, torch.randn(3, 24)),
        LatentExplorer.samples(letters.decode_mean, torch.randn(12, 24), spread=(0, 2, 1)),
    ]
    visit = stage(*made, width=width, height=3000, java_script_enabled=False)
    still = [f.bounding_box() for f in visit.page.locator("figure").all()]
    visit = stage(*made, width=width, height=3000)
    page = visit.page
    page.wait_for_function("document.querySelectorAll('[data-gdm-pictures]').length == 3")
    for root in page.locator(".gdm").all():
        settle(page, root)
    live = [f.bounding_box() for f in page.locator("figure").all()]
    for before, after in zip(still, live, strict=True):
        assert after["y"] == pytest.approx(before["y"], abs=1)
        assert after["height"] == pytest.approx(before["height"], abs=1)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_keys_reach_every_control_in_order(stage, letters):
    visit = stage(LatentExplorer.path(letters.decode_mean, torch.randn(3, 24)))
    page = visit.page
    page.wait_for_selector("[data-gdm-pictures]")
    seen = []
    for _ in range(6):
        page.keyboard.press("Tab")
        seen.append(
            page.evaluate(
                """() => { const e = document.activeElement;
                  const name = e.labels?.[0]?.innerText || e.ariaLabel || e.innerText;
                  return `${e.tagName} ${e.type} ${name}` }"""
            )
        )
    assert seen == [
        "SELECT select-one from",
        "SELECT select-one to",
        "INPUT radio straight line",
        "INPUT range t",
        "INPUT number t, number",
        "BUTTON button Draw a new end from N(0, I)",
    ]
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("ArrowRight")
    assert page.get_by_role("radio", name="great circle").is_checked()
    assert page.get_by_role("img").first.get_attribute("aria-label").startswith("From latent 1")
    assert page.get_by_role("slider", name="t").get_attribute("aria-valuetext") == "0.50"


def test_touch(stage, digits):
    visit = stage(LatentExplorer.plane(digits.decode_mean), width=390, has_touch=True)
    page, root = visit.page, visit.page.locator(".gdm")
    page.wait_for_selector("[data-gdm-pictures]")
    before = settle(page, root)
    box = root.locator(".gdm-pad").bounding_box()
    page.touchscreen.tap(box["x"] + 20, box["y"] + 20)
    wait_for_change(page, root, before, "tap")
    assert float(root.get_by_label("z₁", exact=True).input_value()) < -2
    for control in root.locator(".gdm-row").all():
        assert control.bounding_box()["height"] >= 44
