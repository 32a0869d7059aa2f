"""``Playground2D`` on a page without kernel, which plays what was recorded, and with one."""

import base64
import json
import math
from functools import partial

import pytest
import torch
from torch.optim import SGD

from gdm_lib.widgets import Playground2D
from tests.browser.conftest import served
from tests.browser.widget_page import drive, pictures, settle, wait_for_change
from tests.widgets.test_playground2d import DATA, Blob, by_hand

KERNEL = """<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,">
<link rel="stylesheet" href="widget.css"><body><script type="module">
import widget from "./widget.js";
const state = await (await fetch("state.json")).json();
for (const name of ["sheet", "track", "points", "poster"])
    state[name] = new DataView(Uint8Array.from(atob(state[name]), c => c.charCodeAt(0)).buffer);
const heard = {};
window.kernel = { delay: 0, asked: 0, open: 0, most: 0 };
const model = {
    get: name => state[name], set: (name, value) => { state[name] = value },
    save_changes() {}, off() {}, on: (name, callback) => { heard[name] = callback },
    async send({ id, name, shapes }, callbacks, buffers) {
        kernel.asked += 1;
        kernel.most = Math.max(kernel.most, ++kernel.open);
        const wait = new Promise(done => setTimeout(done, kernel.delay));
        const reply = await window.answer(name, buffers.map(b => [...new Float32Array(b)]));
        await wait;
        kernel.open -= 1;
        heard["msg:custom"]({ id, ...reply }, [Float32Array.from(reply.data || []).buffer]);
    },
};
widget.render({ model, el: document.body });
</script></body>"""


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


@pytest.fixture
def with_kernel(visitor, tmp_path):
    """Opens a page whose script asks the widget in Python, as it does in JupyterLab."""
    with served(tmp_path) as address:

        def open_page(widget, **spec):
            visit = visitor()
            state = {
                name: base64.b64encode(value).decode() if isinstance(value, bytes) else value
                for name, value in widget.get_state().items()
                if name in ("spec", "values", "sheet", "track", "points", "poster", "in_page")
            }
            state["spec"] = {**state["spec"], **spec}
            (tmp_path / "state.json").write_text(json.dumps(state), "utf-8")
            (tmp_path / "widget.js").write_text(widget._esm, "utf-8")
            (tmp_path / "widget.css").write_text(widget._css, "utf-8")
            (tmp_path / "page.html").write_text(KERNEL, "utf-8")

            def answer(name, arrays):
                try:
                    return {"kind": "answer", "data": widget.answer(name, arrays).tolist()}
                except Exception as error:
                    return {"kind": "failed", "reason": str(error)}

            visit.page.expose_function("answer", answer)
            visit.page.goto(f"{address}/page.html")
            return visit

        yield open_page


def small():
    return Playground2D(Blob, DATA, optimizer=partial(SGD, lr=0.05), every=3, record=2)


def until(page, steps):
    """Wait until a picture so many steps on is shown."""
    page.wait_for_function(
        "n => Number(document.querySelector('.gdm-said').textContent) >= n", arg=steps
    )


class TestKernel:
    def test_it_trains_on_where_the_recording_ends_one_ask_at_a_time(self, with_kernel):
        widget = small()
        visit = with_kernel(widget)
        page, root = visit.page, live(visit)
        assert "after 6 training steps" in said(root)
        root.get_by_role("button", name="Play").click()
        until(page, 24)
        root.get_by_role("button", name="Pause").click()
        settle(page, root)
        model, losses = by_hand(widget.steps, seed=0)
        assert widget.losses == losses
        assert torch.equal(widget.model.mean, model.mean)
        assert page.evaluate("kernel.most") == 1
        assert page.evaluate("kernel.asked") == (widget.steps - 6) / 3
        # What was seen is seen again without training.
        slider = root.get_by_role("slider")
        slider.press("Home")
        assert "after 0 training steps." in said(root)
        root.get_by_role("button", name="Step").click()
        assert "after 3 training steps" in said(root)
        assert len(losses) == widget.steps
        assert visit.errors == []

    def test_reset_while_it_plays_begins_another_run(self, with_kernel):
        widget = small()
        visit = with_kernel(widget)
        page, root = visit.page, live(visit)
        page.evaluate("kernel.delay = 250")
        root.get_by_role("button", name="Play").click()
        page.wait_for_function("kernel.open")
        root.get_by_role("button", name="Reset").click()
        page.wait_for_function("document.querySelector('.gdm-said').textContent === '0'")
        page.wait_for_timeout(400)
        assert widget.steps == 0
        assert "Density and data after 0 training steps. Seed 1." in said(root)
        root.get_by_role("button", name="Step").click()
        until(page, 3)
        assert widget.losses == by_hand(3, seed=1)[1]

    @pytest.mark.parametrize("press", ["Step", "Play"])
    def test_a_press_that_a_busy_kernel_answers_late_is_not_lost(self, with_kernel, press):
        widget = small()
        visit = with_kernel(widget, patience=100)
        page, root = visit.page, live(visit)
        before = settle(page, root)
        page.evaluate("kernel.delay = 800")
        root.get_by_role("button", name=press).click()
        root.locator(".gdm-fault").wait_for()
        assert "The kernel does not answer" in said(root)
        assert pictures(root) == before
        until(page, 9)
        assert not root.locator(".gdm-fault").count()
        assert "after 9 training steps" in said(root)
        root.get_by_role("button", name="Play").wait_for()
        assert page.evaluate("kernel.asked") == 1
        assert widget.losses == by_hand(9, seed=0)[1]

    def test_a_press_after_silence_asks_anew(self, with_kernel):
        """A kernel that was restarted will never answer what was asked before."""
        widget = small()
        visit = with_kernel(widget, patience=100)
        page, root = visit.page, live(visit)
        page.evaluate("kernel.delay = 1e6")
        root.get_by_role("button", name="Step").click()
        root.locator(".gdm-fault").wait_for()
        page.evaluate("kernel.delay = 0")
        root.get_by_role("button", name="Reset").click()
        page.wait_for_function("document.querySelector('.gdm-said').textContent === '0'")
        assert "Seed 1." in said(root)
        root.get_by_role("button", name="Step").click()
        until(page, 3)
        assert widget.losses == by_hand(3, seed=1)[1]

    def test_a_kernel_that_was_busy_loses_no_step(self, with_kernel):
        widget = small()
        visit = with_kernel(widget, patience=500)
        page, root = visit.page, live(visit)
        before = settle(page, root)
        page.evaluate("kernel.delay = 1e6")
        root.get_by_role("button", name="Play").click()
        root.locator(".gdm-fault").wait_for()
        assert "The kernel does not answer" in said(root)
        assert pictures(root) == before
        assert widget.steps == 9  # it was trained, but nobody heard
        page.evaluate("kernel.delay = 0")
        root.get_by_role("button", name="Step").click()
        until(page, 9)
        assert widget.steps == 9
        root.get_by_role("button", name="Step").click()
        until(page, 12)
        assert widget.losses == by_hand(12, seed=0)[1]

    def test_an_impatient_hand_does_not_make_it_play_faster(self, with_kernel):
        visit = with_kernel(small())
        page, root = visit.page, live(visit)
        page.evaluate("kernel.delay = 300")
        root.get_by_role("button", name="Play").click()
        for _ in range(6):  # pause and play while the kernel is asked
            page.wait_for_function("kernel.open")
            root.locator("button").first.evaluate("b => (b.click(), b.click())")
        page.evaluate("kernel.delay = 0")
        settled = page.evaluate("kernel.asked") + 8
        page.wait_for_function("n => kernel.asked > n", arg=settled)
        page.evaluate("kernel.asked = 0")
        page.wait_for_timeout(1500)
        assert page.evaluate("kernel.asked") <= 1500 / 90 + 1
        assert page.evaluate("kernel.most") == 1

    def test_a_loss_that_is_not_a_number_stops_it(self, with_kernel):
        widget = small()
        visit = with_kernel(widget)
        page, root = visit.page, live(visit)
        before = settle(page, root)
        widget.model.loss = lambda batch: {"loss": (widget.model.mean * math.nan).sum()}
        root.get_by_role("button", name="Play").click()
        root.locator(".gdm-fault").wait_for()
        assert "the loss is nan in step 7: reset" in said(root)
        root.get_by_role("button", name="Play").wait_for()
        assert pictures(root) == before
        root.get_by_role("button", name="Reset").click()
        page.wait_for_function("document.querySelector('.gdm-said').textContent === '0'")
        assert "Seed 1." in said(root)
