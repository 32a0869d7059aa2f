"""``Playground2D`` on a page without kernel, which plays what was recorded."""

import math
from functools import partial

import pytest
from torch.optim import SGD

from gdm_lib.widgets import Playground2D
from tests.browser.widget_page import drive, pictures, settle, wait_for_change
from tests.widgets.test_playground2d import DATA, Blob


@pytest.fixture(scope="module")
def blob():
    return Playground2D(
        Blob,
        DATA,
        optimizer=partial(SGD, lr=0.05),
        field=lambda model, points: model.mean - points,
        every=3,
        record=6,
    )


def live(visit):
    visit.page.wait_for_selector("[data-gdm-pictures]")
    return visit.page.locator(".gdm")


def said(root):
    return root.locator(".gdm-status").inner_text()


def test_every_control(stage, blob):
    visit = stage(blob)
    done = drive(visit.page, live(visit))
    assert {"training: min", "show: choice 2", "button Play", "button Step", "button Reset"} <= set(
        done
    )
    assert visit.errors == visit.foreign == []


def test_it_plays_from_the_start_to_the_end_and_stops_there(stage, blob):
    visit = stage(blob)
    page, root = visit.page, live(visit)
    assert "after 18 training steps" in said(root)
    seen = []
    page.expose_function("seen", lambda text: seen.append(text))
    root.evaluate(
        "r => new MutationObserver(() => seen(r.querySelector('.gdm-said').textContent))"
        ".observe(r.querySelector('.gdm-said'), {childList: true})"
    )
    root.get_by_role("button", name="Play").click()
    root.get_by_role("button", name="Pause").wait_for()
    root.get_by_role("button", name="Play").wait_for(timeout=5000)
    assert seen == ["0", "3", "6", "9", "12", "15", "18"]
    root.get_by_role("button", name="Reset").click()
    assert "after 0 training steps." in said(root)
    root.get_by_role("button", name="Step").click()
    assert f"after 3 training steps, loss {blob.spec['losses'][1]:.3f}" in said(root)


def test_the_density_is_painted_where_it_is(stage, blob):
    visit = stage(blob)
    page, root = visit.page, live(visit)
    settle(page, root)
    mean = blob.model.mean.detach().tolist()
    at = [(1 + mean[0] / 4) / 2, (1 - mean[1] / 4) / 2]
    shade = """(c, [x, y]) => { const g = c.getContext('2d');
        const d = g.getImageData(Math.round(x * c.width), Math.round(y * c.height), 1, 1).data;
        return d[2] - d[0] }"""  # how much bluer than the paper
    canvas = root.locator("canvas").first
    far = [1 - at[0], 1 - at[1]]
    assert canvas.evaluate(shade, far) < 20
    assert canvas.evaluate(shade, [at[0] + 0.02, at[1] - 0.1]) > 60


def test_arrows_point_as_the_field_does(stage, blob):
    """Towards the mean: more blue ink on the side of a cell's middle that faces it."""
    visit = stage(blob)
    page, root = visit.page, live(visit)
    before = settle(page, root)
    root.get_by_role("radio", name="field").check(force=True)
    wait_for_change(page, root, before, "field")
    ink = root.locator("canvas").first.evaluate(
        """c => { const w = c.width, n = 15, cell = w / n;
          const d = c.getContext('2d').getImageData(0, 0, w, w).data;
          let [x, y, k] = [0, 0, 0];
          const [mx, my] = [0.5 * cell, (n - 0.5) * cell]; // the cell at the lower left
          for (let i = 0; i < 1.5 * cell; i++)
            for (let j = w - Math.round(1.5 * cell); j < w; j++) {
              const p = 4 * (j * w + i), near = Math.hypot(i - mx, j - my) < cell;
              if (d[p + 2] - d[p] > 80 && near) { x += i - mx; y += j - my; k++; }
            }
          return [x / k, y / k, k] }"""
    )
    mean = blob.model.mean.detach().tolist()
    start = (-1 + 1 / 15) * 4
    right, up = mean[0] - start, mean[1] - start
    assert ink[2] > 5
    assert math.atan2(-ink[1], ink[0]) == pytest.approx(math.atan2(up, right), abs=0.35)


@pytest.mark.parametrize("width", [1280, 320])
def test_the_page_does_not_jump(stage, blob, width):
    still = stage(blob, width=width, java_script_enabled=False).page.locator("figure")
    before = still.bounding_box()
    visit = stage(blob, width=width)
    settle(visit.page, live(visit))
    after = visit.page.locator("figure").bounding_box()
    assert after["height"] == pytest.approx(before["height"], abs=1)
    assert pictures(visit.page.locator(".gdm"))
