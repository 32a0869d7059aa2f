"""``Sweep``, ``StepThrough`` and ``AudioProbe`` on a page without kernel."""

import base64
import io
import wave

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from gdm_lib.widgets.audio_probe import AudioProbe
from gdm_lib.widgets.step_through import StepThrough
from gdm_lib.widgets.sweep import Sweep
from tests.browser.widget_page import drive, settle
from tests.widgets.test_frames import unpacked

PIXELS = """canvas => { let text = '';
    const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    for (const value of data) text += String.fromCharCode(value);
    return btoa(text) }"""
TRACE = """canvas => new Promise((done) => {  // where the blue point is, at each frame of a second
    const seen = [], begin = performance.now();
    const look = () => {
        const { data, width } = canvas.getContext('2d')
            .getImageData(0, 0, canvas.width, canvas.height);
        let [x, y, n] = [0, 0, 0];
        for (let i = 0; i < data.length; i += 4)
            if (data[i + 2] - data[i] > 60) {
                x += (i / 4) % width; y += Math.floor(i / 4 / width); n += 1; }
        seen.push([x / n + 0.5, y / n + 0.5]);
        if (performance.now() - begin < 1000) requestAnimationFrame(look); else done(seen);
    };
    document.querySelector('button:last-of-type').click();
    look();
})"""
PLACE = """(e, i) => { e.value = i; e.dispatchEvent(new Event('input', {bubbles: true})) }"""
SCREENS = [{"width": 1280, "theme": "light"}, {"width": 390, "theme": "dark", "has_touch": True}]


def canvas_pixels(root):
    """What the picture's canvas holds, ``(H, W, 3)``."""
    canvas = root.locator(".gdm-stage canvas").first
    height, width = canvas.evaluate("c => [c.height, c.width]")
    data = base64.b64decode(canvas.evaluate(PIXELS))
    return np.frombuffer(data, np.uint8).reshape(height, width, 4)[..., :3]


def noise(seed, kind):
    """A picture that says all that a decoder may get wrong."""
    return np.random.default_rng([seed, len(kind)]).integers(0, 256, (12, 10, 3), np.uint8)


def curve(power):
    figure, ax = plt.subplots(figsize=(3, 2))
    x = np.linspace(0, 1)
    ax.plot(x, x**power)
    return figure


def holds_still_and_moves(visit, width):
    """The page keeps its place while the widget comes and each control moves the picture."""
    after = visit.page.locator("#after")
    root = visit.page.locator(".gdm")
    place = after.bounding_box()
    done = drive(visit.page, root)
    assert after.bounding_box() == pytest.approx(place, abs=0.5)
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    assert visit.errors == []
    return done


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

    def test_a_value_without_a_picture_goes_to_the_nearest(self, stage):
        widget = Sweep(noise, {"seed": [1, 10, 100], "kind": ["a", "bb"]})
        widget.values = {"seed": 70, "kind": "none"}
        visit = stage(widget)
        root = visit.page.locator(".gdm")
        settle(visit.page, root)
        assert root.locator(".gdm-status").inner_text() == "seed 100, kind a."
        assert np.array_equal(canvas_pixels(root), noise(100, "a"))

    def test_a_damaged_sheet_is_told_and_the_still_picture_stays(self, stage):
        broken, whole = (Sweep(noise, {"seed": [1, 2, 3], "kind": ["a", "bb"]}) for _ in range(2))
        broken.sheet = broken.sheet[:100]
        visit = stage(broken, whole)
        visit.page.locator(".gdm-fault").wait_for()
        first, second = visit.page.locator(".gdm").all()
        assert "This picture could not be made" in first.inner_text()
        assert first.locator(".gdm-still").is_visible()
        assert drive(visit.page, second)
        assert visit.errors == []

    @pytest.mark.parametrize("screen", SCREENS, ids=["desktop", "phone"])
    def test_every_control_moves_the_picture_and_nothing_jumps(self, stage, screen):
        holds_still_and_moves(
            stage(Sweep(curve, {"power": [1, 2, 3, 5]}), **screen), screen["width"]
        )


STEPS = torch.tensor([[[-1.0, -1.0]], [[1.0, 0.0]], [[0.0, 1.5]]])


def dot(root):
    """Where the only, blue, point of a picture is, in CSS pixels."""
    pixels = canvas_pixels(root).astype(int)
    box = root.locator("canvas").bounding_box()
    y, x = np.argwhere(pixels[..., 2] - pixels[..., 0] > 60).mean(0) + 0.5
    return x * box["width"] / pixels.shape[1], y * box["height"] / pixels.shape[0]


class TestStepThrough:
    def test_each_step_shows_its_picture_pixel_by_pixel(self, stage):
        steps = [torch.rand(3, n, n, generator=torch.Generator().manual_seed(n)) for n in (2, 4, 8)]
        widget = StepThrough.images(
            {"there": steps, "back": steps[::-1]}, titles=["four", "sixteen", "sixty-four"]
        )
        visit = stage(widget)
        root = visit.page.locator(".gdm")
        frames = iter(unpacked(widget.sheet, widget.spec["layout"]))
        for track in range(2):
            root.locator("input[type=radio]").nth(track).check(force=True)
            for i in range(3):
                root.locator("input[type=range]").evaluate(PLACE, i)
                settle(visit.page, root)
                assert np.array_equal(canvas_pixels(root), next(frames))
                said = widget.spec["says"][track][i]
                assert root.locator(".gdm-status").inner_text() == said
                slider = root.locator("input[type=range]")
                assert slider.get_attribute("aria-valuetext") == said
        assert visit.errors == []

    @pytest.mark.parametrize("ratio", [1, 2])
    def test_points_are_where_they_should_be(self, stage, ratio):
        widget = StepThrough.points(STEPS, extent=(-2, 2, -2, 2))
        visit = stage(widget, device_scale_factor=ratio)
        root = visit.page.locator(".gdm")
        margin, width = widget.spec["margin"], widget.spec["width"]
        inner = width - margin["left"] - margin["right"]
        for i, (x, y) in enumerate(STEPS[:, 0].tolist()):
            root.locator("input[type=range]").evaluate(PLACE, i)
            settle(visit.page, root)
            left, top = dot(root)
            assert left == pytest.approx(margin["left"] + inner * (x + 2) / 4, abs=0.6)
            assert top == pytest.approx(margin["top"] + inner * (2 - y) / 4, abs=0.6)
        assert visit.errors == []

    def test_points_glide_on_the_line_between_steps(self, stage):
        visit = stage(StepThrough.points(STEPS, extent=(-2, 2, -2, 2)))
        root = visit.page.locator(".gdm")
        settle(visit.page, root)
        start = dot(root)
        seen = root.locator("canvas").evaluate(TRACE)
        end = dot(root)
        assert seen[-1] == pytest.approx(end, abs=0.1)
        between = [p for p in seen if start[0] + 3 < p[0] < end[0] - 3]
        assert between, seen
        for x, y in between:
            t = (x - start[0]) / (end[0] - start[0])
            assert y == pytest.approx(start[1] + t * (end[1] - start[1]), abs=1.5)
        assert visit.errors == []

    def test_who_wants_less_motion_sees_no_gliding(self, stage):
        visit = stage(StepThrough.points(STEPS, extent=(-2, 2, -2, 2)), reduced_motion="reduce")
        root = visit.page.locator(".gdm")
        settle(visit.page, root)
        before = root.get_attribute("data-gdm-pictures")
        root.get_by_role("button", name="Next").click()
        settle(visit.page, root)
        assert int(root.get_attribute("data-gdm-pictures")) == int(before) + 1

    def test_it_plays_to_the_end_and_no_further_and_stops_for_a_hand(self, stage):
        visit = stage(StepThrough.images(torch.linspace(0, 1, 4).reshape(4, 1, 1, 1)))
        root = visit.page.locator(".gdm")
        settle(visit.page, root)
        assert "Step 0 of 3" in root.inner_text()
        visit.page.wait_for_timeout(1000)
        assert "Step 0 of 3" in root.inner_text()  # nothing starts by itself
        root.get_by_role("button", name="Play").click()
        root.get_by_text("Step 3 of 3").wait_for()
        root.get_by_role("button", name="Play").wait_for()
        visit.page.wait_for_timeout(1000)
        assert "Step 3 of 3" in root.inner_text()
        root.get_by_role("button", name="Play").click()
        root.get_by_text("Step 0 of 3").wait_for()
        root.locator("input[type=range]").evaluate(PLACE, 2)
        visit.page.wait_for_timeout(1000)
        assert "Step 2 of 3" in root.inner_text()
        root.get_by_role("button", name="Next").click()
        root.get_by_role("button", name="Next").click()
        assert "Step 0 of 3" in root.inner_text()
        root.get_by_role("button", name="Back").click()
        assert "Step 3 of 3" in root.inner_text()
        assert visit.errors == []

    @pytest.mark.parametrize("screen", SCREENS, ids=["desktop", "phone"])
    @pytest.mark.parametrize("kind", ["images", "points"])
    def test_every_control_moves_the_picture_and_nothing_jumps(self, stage, screen, kind):
        if kind == "points":
            steps = torch.randn(4, 200, 2, generator=torch.Generator().manual_seed(0))
            tracks = {"to data": steps, "to base": steps.flip(0) + 0.1}
            widget = StepThrough.points(tracks, extent=(-3, 3, -3, 3))
        else:
            widget = StepThrough.images(torch.linspace(0, 1, 4).reshape(4, 1, 1, 1))
        holds_still_and_moves(stage(widget, **screen), screen["width"])


RATE = 8_000


def sine(hertz, seconds):
    return 0.5 * torch.sin(2 * torch.pi * hertz * torch.arange(round(seconds * RATE)) / RATE)


class TestAudioProbe:
    def test_the_cursor_reads_the_spectrogram(self, stage):
        step = torch.cat([sine(1000, 1), sine(3000, 1)])
        visit = stage(AudioProbe({"steps": step, "nothing": torch.zeros(RATE)}, RATE))
        root = visit.page.locator(".gdm")
        settle(visit.page, root)
        pad = root.locator("[data-gdm-pad]")
        pad.focus()
        for keys, said in (
            (["ArrowRight"] * 2, "steps, at 0.04 of 2.00 s: loudest near 1.00 kHz, −6 dB."),
            (
                ["End", "ArrowDown", "ArrowLeft"],
                "steps, at 1.96 of 2.00 s: loudest near 3.00 kHz, −6 dB.",
            ),
            (["Home", "Shift+ArrowUp"], "steps, at 0.20 of 2.00 s: loudest near 1.00 kHz, −6 dB."),
        ):
            for key in keys:
                visit.page.keyboard.press(key)
            settle(visit.page, root)
            assert root.locator(".gdm-status").inner_text() == said
            assert root.locator("canvas").get_attribute("aria-label") == said
        # A shorter clip holds the cursor to its end.
        visit.page.keyboard.press("End")
        root.locator("select").select_option(index=1)
        settle(visit.page, root)
        assert root.locator("input[type=number]").input_value() == "1.00"
        assert root.locator(".gdm-status").inner_text() == "nothing lasts 1.00 s."

    def test_a_constant_is_called_silence(self, stage):
        visit = stage(AudioProbe({"rest": torch.full((RATE,), 0.002)}, RATE))
        root = visit.page.locator(".gdm")
        settle(visit.page, root)
        assert root.locator(".gdm-status").inner_text() == "rest, at 0.00 of 1.00 s: silence."
        assert visit.errors == []

    def test_a_click_moves_the_cursor_there(self, stage):
        widget = AudioProbe([sine(1000, 2)], RATE)
        visit = stage(widget)
        root = visit.page.locator(".gdm")
        settle(visit.page, root)
        margin, width = widget.spec["margin"], widget.spec["width"]
        plot = width - margin["left"] - margin["right"]
        root.locator("[data-gdm-pad]").click(position={"x": margin["left"] + plot / 4, "y": 200})
        settle(visit.page, root)
        assert float(root.locator("input[type=range]").input_value()) == pytest.approx(
            0.5, abs=0.01
        )
        pixels = canvas_pixels(root).astype(int)
        column = np.argwhere((pixels[20] == [0x00, 0x72, 0xB2]).all(-1)).mean()
        assert column == pytest.approx(margin["left"] + plot / 4, abs=1.5)

    def test_it_plays_and_stops(self, stage):
        visit = stage(AudioProbe([sine(440, 1)], RATE))
        root = visit.page.locator(".gdm")
        settle(visit.page, root)
        place = root.locator("input[type=range]")
        assert place.input_value() == "0"
        root.get_by_role("button", name="Play").click()
        visit.page.wait_for_timeout(300)
        assert "plays" in root.locator(".gdm-status").inner_text()
        root.get_by_role("button", name="Pause").click()
        stopped = float(place.input_value())
        assert 0 < stopped < 1
        visit.page.wait_for_timeout(300)
        assert float(place.input_value()) == stopped
        root.get_by_role("button", name="Play").click()
        root.get_by_role("button", name="Play").wait_for()  # once it is over
        assert float(place.input_value()) == 1
        root.get_by_role("button", name="Play").click()  # from the start again
        visit.page.wait_for_timeout(200)
        assert 0 < float(place.input_value()) < 0.9
        assert visit.errors == []

    def test_the_file_that_is_played_is_the_clip(self, stage):
        clip = torch.rand(4_000, generator=torch.Generator().manual_seed(0)) * 2 - 1
        widget = AudioProbe([torch.zeros(100), clip], RATE)
        visit = stage(widget)
        root = visit.page.locator(".gdm")
        visit.page.evaluate(
            """() => { const make = URL.createObjectURL;
            URL.createObjectURL = (blob) => (window.made = blob, make(blob)) }"""
        )
        settle(visit.page, root)
        root.locator("select").select_option(index=1)
        root.get_by_role("button", name="Play").click()
        visit.page.wait_for_function("window.made")
        file = bytes(visit.page.evaluate("made.arrayBuffer().then((b) => [...new Uint8Array(b)])"))
        with wave.open(io.BytesIO(file)) as sound:
            assert sound.getparams()[:4] == (1, 2, RATE, 4_000)
            stored = np.frombuffer(sound.readframes(4_000), "<i2")
        assert np.abs(stored / 32_767 - clip.numpy()).max() <= 1 / 65_534 * 1.001

    @pytest.mark.parametrize("screen", SCREENS, ids=["desktop", "phone"])
    def test_every_control_moves_the_picture_and_nothing_jumps(self, stage, screen):
        widget = AudioProbe({"high": sine(3000, 1), "low": sine(300, 1)}, RATE)
        done = holds_still_and_moves(stage(widget, **screen), screen["width"])
        assert {"button Play", "plane: ArrowUp", "clip: option 1"} <= set(done)
