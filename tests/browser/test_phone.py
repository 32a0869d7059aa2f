"""Every control of every kind of widget is on a phone's screen as a whole, and works there."""

import math

import numpy as np
import pytest
import torch

from gdm_lib import pretrained
from gdm_lib.widgets import LatentExplorer
from gdm_lib.widgets.audio_probe import AudioProbe
from gdm_lib.widgets.step_through import StepThrough
from gdm_lib.widgets.sweep import Sweep
from tests.browser.widget_page import (
    ENGINE_READY,
    drive,
    every_control_can_be_reached,
    settle,
    wait_until,
)

LONG = ["keep the finest scale", "keep the coarsest scale", "keep all of it", "keep nothing at all"]


def walk(*tracks):
    """Pictures of noise, some for each track."""
    frames = np.random.default_rng(0).integers(0, 256, (len(tracks), 3, 12, 12), np.uint8)
    return StepThrough.images(dict(zip(tracks, map(list, frames), strict=True)))


def grey(seed, kind):
    return np.full((12, 12), 5 * seed + 50 * len(kind), np.uint8)


MADE = {
    "choices that fit": lambda: walk("there", "back"),
    "choices that do not": lambda: walk(*LONG),
    "one long choice": lambda: walk("a", "W" * 60),
    "sweep": lambda: Sweep(grey, {"seed": [1, 10, 20], "kind": ["a", "bb"]}),
    "audio": lambda: AudioProbe(
        {
            "a clip with a long name": torch.sin(torch.arange(4000) * 2 * math.pi * 440 / 8000),
            "another": torch.zeros(4000),
        },
        rate=8000,
    ),
}
if ENGINE_READY:
    MADE |= {
        "plane": lambda: LatentExplorer.plane(pretrained.load("vae/mnist_2d").decode_mean),
        "samples": lambda: LatentExplorer.samples(
            pretrained.load("vae/mnist_2d").decode_mean, torch.zeros(6, 2)
        ),
        "path": lambda: LatentExplorer.path(
            pretrained.load("vae/mnist_2d").decode_mean, torch.eye(2), names=["one", "another"]
        ),
    }


@pytest.mark.parametrize("width", [390, 320])
@pytest.mark.parametrize("kind", MADE)
def test_every_control_can_be_reached(stage, kind, width):
    visit = stage(MADE[kind](), width=width, height=844, has_touch=True)
    visit.page.locator("[data-gdm-pictures]").wait_for()
    every_control_can_be_reached(visit.page)
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    assert visit.errors == []


def test_choices_are_a_menu_where_they_do_not_fit_and_keep_their_value(stage):
    visit = stage(walk(*LONG), width=390, height=844, has_touch=True)
    page, root = visit.page, visit.page.locator(".gdm")
    done = drive(page, root)
    assert {f"direction: option {i}" for i in (0, 2, 3)} <= set(done)
    assert root.get_by_role("radiogroup").count() == 0
    root.get_by_label("direction").select_option(index=2)
    settle(page, root)
    page.set_viewport_size({"width": 1400, "height": 844})
    root.evaluate("r => r.style.setProperty('--gdm-width', '900px')")
    wait_until(page, "!document.querySelector('.gdm select')")
    assert root.get_by_role("radio", name=LONG[2]).is_checked()
    root.get_by_role("radio", name=LONG[1]).check(force=True)
    root.evaluate("r => r.style.setProperty('--gdm-width', '300px')")
    page.set_viewport_size({"width": 390, "height": 844})
    wait_until(page, "document.querySelector('.gdm select')")
    assert root.get_by_label("direction").input_value() == "1"
    assert visit.errors == []
