"""``LatentExplorer`` on a page without kernel: its pictures are torch's."""

import numpy as np
import pytest
import torch

from gdm_lib import pretrained, widgets
from tests.browser.widget_page import ENGINE_READY, drive, settle

pytestmark = pytest.mark.skipif(not ENGINE_READY, reason="onnxruntime-web is not installed (npm)")


def test_plane(stage):
    model = pretrained.load("vae/mnist_2d")
    visit = stage(widgets.LatentExplorer.plane(model.decode_mean))
    root = visit.page.locator(".gdm")
    done = drive(visit.page, root)
    print(done)
    visit.page.screenshot(path="/tmp/plane.png")
    assert visit.errors == []
