"""Each control driven from end to end without a browser: what is asserted is the picture."""

from __future__ import annotations

import base64
import io
import math
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from gdm_lib import widgets

WIDGET = "application/vnd.jupyter.widget-view+json"


def pixels(explorer):
    return np.asarray(Image.open(io.BytesIO(explorer.png)).convert("RGB"), int)


def shades(explorer, n, size):
    """The grey level in the middle of each of the ``n`` tiles."""
    return [pixels(explorer)[size // 2, i * (size + 12) + size // 2, 0] for i in range(n)]


def image_of(page):
    """The attributes of the only picture of a page."""
    found = []

    class Images(HTMLParser):
        def handle_starttag(self, tag, attrs):
            if tag == "img":
                found.append(dict(attrs))

    Images().feed(page)
    (image,) = found
    return image


def decode(z):
    """Two pixels, whose grey is each latent's place in [-3, 3]."""
    assert not torch.is_grad_enabled()
    return ((z + 3) / 6)[:, None, None, :].expand(-1, 1, 2, -1)


class TestLatentPlane:
    @pytest.mark.parametrize("z1", [-3.0, 0.0, 1.5, 3.0])
    @pytest.mark.parametrize("z2", [-3.0, 0.0, 3.0])
    def test_the_picture_is_the_decoders(self, z1, z2):
        explorer = widgets.latent_plane(decode)
        first, second = explorer.controls
        first.value, second.value = z1, z2
        picture = pixels(explorer)
        assert picture.shape == (256, 256, 3)
        for half, z in ((picture[:, :128], z1), (picture[:, 128:], z2)):
            assert (half == round((z + 3) / 6 * 255)).all()

    def test_sliders_are_named_and_bounded(self):
        for slider, name in zip(widgets.latent_plane(decode).controls, "₁₂", strict=True):
            assert slider.description == f"z{name}"
            assert (slider.min, slider.max) == (-3, 3)
            slider.value = 10
            assert slider.value == 3

    def test_it_starts_where_it_is_told(self):
        explorer = widgets.latent_plane(decode, start=(-1.5, 3.0), reach=3.5)
        assert [control.value for control in explorer.controls] == [-1.5, 3.0]
        assert pixels(explorer)[0, 0, 0] == 64

    def test_small_pictures_are_enlarged_by_a_whole_number(self):
        explorer = widgets.latent_plane(lambda z: torch.eye(28).expand(len(z), 1, 28, 28))
        expected = np.kron(np.eye(28), np.ones((9, 9))) * 255
        assert np.array_equal(pixels(explorer)[..., 0], expected)
        assert "width:252px" in image_of(explorer.box.children[0].value)["style"]

    def test_colour_is_kept(self):
        colour = torch.tensor([1.0, 0.0, 0.2])[None, :, None, None]
        explorer = widgets.latent_plane(lambda z: colour.expand(len(z), 3, 8, 8))
        assert pixels(explorer)[5, 5].tolist() == [255, 0, 51]

    def test_the_page_keeps_the_room_of_the_picture(self):
        image = image_of(widgets.latent_plane(decode).box.children[0].value)
        assert (image["width"], image["height"]) == ("256", "256")

    def test_no_gradient_reaches_the_decoders_weights(self):
        layer = torch.nn.Linear(2, 4)
        explorer = widgets.latent_plane(lambda z: layer(z).sigmoid().reshape(-1, 1, 2, 2))
        explorer.controls[0].value = 1.0
        assert all(p.grad is None for p in layer.parameters())

    def test_bad_input_is_named(self):
        with pytest.raises(ValueError, match="start: expected two values within"):
            widgets.latent_plane(decode, start=(4.0, 0.0))
        with pytest.raises(ValueError, match=r"decode: expected images \(1, C, H, W\)"):
            widgets.latent_plane(lambda z: torch.zeros(len(z), 64))


class TestInterpolation:
    z_a = torch.tensor([[3.0, 0.0], [-3.0, -3.0], [1.0, 1.0]])
    z_b = torch.tensor([[0.0, 3.0], [3.0, 3.0], [-1.0, 2.0]])

    def explorer(self, **options):
        def first_latent(z):
            return ((z[:, :1] + 3) / 6)[:, :, None, None].expand(-1, 1, 4, 4)

        return widgets.interpolation(first_latent, self.z_a, self.z_b, **options)

    @pytest.mark.parametrize("t", [0.0, 0.5, 1.0])
    @pytest.mark.parametrize("pair", [0, 1, 2])
    @pytest.mark.parametrize("path", [widgets.lerp, widgets.slerp])
    def test_start_middle_and_end_of_each_pair_and_path(self, pair, path, t):
        explorer = self.explorer()
        explorer.controls[0].value = pair
        explorer.controls[1].value = path
        explorer.controls[2].value = t
        a, b = self.z_a[pair], self.z_b[pair]
        expected = [a[0], path(a, b, t)[0], b[0]]
        got = shades(explorer, 3, 160)
        assert got == [pytest.approx((float(z) + 3) / 6 * 255, abs=0.51) for z in expected]

    def test_the_paths_differ_half_way(self):
        explorer = self.explorer()
        line = shades(explorer, 3, 160)
        explorer.controls[1].value = widgets.slerp
        circle = shades(explorer, 3, 160)
        assert (line[0], line[2]) == (circle[0], circle[2])
        # 1.5 on the line, 3 / sqrt(2) on the circle.
        assert line[1] == round(4.5 / 6 * 255)
        assert circle[1] == round((3 / math.sqrt(2) + 3) / 6 * 255)

    def test_the_menu_has_every_pair_by_name(self):
        explorer = self.explorer(names=["3 to 8", "A to B", "x"])
        assert [name for name, _ in explorer.controls[0].options] == ["3 to 8", "A to B", "x"]
        assert all(control.description for control in explorer.controls)

    def test_it_keeps_the_latents_it_was_given(self):
        z = self.z_a.clone()
        explorer = widgets.interpolation(lambda v: v[:, :1, None, None] / 3, z, self.z_b)
        before = shades(explorer, 3, 160)
        z.zero_()
        explorer.controls[2].value = 0.52
        assert shades(explorer, 3, 160)[0] == before[0]

    def test_bad_input_is_named(self):
        with pytest.raises(ValueError, match=r"z_a, z_b: .* got \(3, 2\) and \(2, 2\)"):
            widgets.interpolation(decode, self.z_a, self.z_b[:2])
        with pytest.raises(ValueError, match="names: expected 3"):
            self.explorer(names=["one"])


class TestPaths:
    def test_great_circle_turns_evenly_at_constant_length(self):
        a, b = torch.tensor([2.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 2.0])
        for t in (0.0, 0.25, 0.5, 1.0):
            angle = t * math.pi / 2
            expected = torch.tensor([2 * math.cos(angle), 0.0, 2 * math.sin(angle)])
            assert torch.allclose(widgets.slerp(a, b, t), expected, atol=1e-6)

    @pytest.mark.parametrize("factor", [2.0, -1.0, 0.0])
    def test_without_a_circle_it_is_the_line(self, factor):
        a = torch.tensor([1.0, 2.0])
        point = widgets.slerp(a, factor * a, 0.3)
        assert torch.allclose(point, (0.7 + 0.3 * factor) * a, atol=1e-6)


class TestDisplay:
    def test_a_page_without_kernel_gets_the_current_picture_and_its_description(self):
        explorer = widgets.latent_plane(decode)
        explorer.controls[0].value = -1.0
        bundle = explorer._repr_mimebundle_()
        assert bundle[WIDGET]["model_id"] == explorer.box.model_id
        image = image_of(bundle["text/html"])
        assert base64.b64decode(image["src"].split(",")[1]) == explorer.png
        assert image["alt"] == "What the decoder makes of z = (-1.00, 0.00)."
        assert bundle["text/plain"] == f"[widget: {image['alt']}]"
        assert "running kernel" in bundle["text/html"]

    def test_the_live_view_is_the_current_picture(self):
        explorer = widgets.latent_plane(decode)
        explorer.controls[1].value = 2.0
        source = image_of(explorer.box.children[0].value)["src"]
        assert base64.b64decode(source.split(",")[1]) == explorer.png

    def test_the_description_follows_the_controls(self):
        explorer = TestInterpolation().explorer(names=["3 to 8", "A to B", "x"])
        explorer.controls[0].value = 1
        explorer.controls[1].value = widgets.slerp
        explorer.controls[2].value = 1.0
        expected = "Three pictures: A to B, its start, 100% of the way (great circle), its end."
        assert explorer.alt == expected
        assert image_of(explorer.box.children[0].value)["alt"] == expected
