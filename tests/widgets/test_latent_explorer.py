"""What the kernel gives the explorer's script, and the still picture, without a browser."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from gdm_lib import pretrained, widgets
from gdm_lib.widgets import LatentExplorer, Slider, lerp, slerp


def decode(z):
    """Two pixels, whose grey is each latent's place in [-3, 3]."""
    assert not torch.is_grad_enabled()
    return ((z + 3) / 6)[:, None, None, :].expand(-1, 1, 2, -1)


def poster(widget):
    return np.asarray(Image.open(io.BytesIO(widget.poster)).convert("RGB"), int)


class TestPlane:
    def test_the_kernel_answers_with_the_decoder(self):
        z = np.array([[0.0, 3.0], [-3.0, 1.5]], np.float32)
        answer = LatentExplorer.plane(decode).answer("decode", [z])
        assert answer.dtype == np.float32
        assert np.array_equal(answer, decode_np(z))

    def test_the_still_picture_is_the_plane_and_the_picture_at_the_start(self):
        widget = LatentExplorer.plane(decode, start=(-1.5, 3.0), reach=3.0)
        picture = poster(widget)
        assert picture.shape == (300, 608, 3)
        # On the right the start, (0.25, 1) of the way.
        assert abs(picture[150, 308 + 75, 0] - 0.25 * 255) <= 1
        assert picture[150, 308 + 225, 0] == 255
        # On the left z₁ grows to the right, z₂ upwards; a tile is 300 / 11 pixels wide.
        tile = 300 / 11
        for column, row in ((0, 0), (10, 0), (3, 7)):
            x, y = column * tile, row * tile
            z1, z2 = ((2 * column + 1) / 11 - 1) * 3, -((2 * row + 1) / 11 - 1) * 3
            left = picture[int(y + tile / 2), int(x + tile / 4), 0]
            right = picture[int(y + tile / 2), int(x + 3 * tile / 4), 0]
            assert abs(left - (z1 + 3) / 6 * 255) <= 1
            assert abs(right - (z2 + 3) / 6 * 255) <= 1
        assert widget._alt.endswith("at z₁ -1.50, z₂ 3.00.")

    def test_directions_of_a_larger_latent(self):
        u, v, w = torch.eye(5)[1], torch.eye(5)[3] * 2, torch.ones(5)
        origin = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0])
        shown = []

        def record(z):
            shown.append(z)
            return decode(z[:, :2])

        widget = LatentExplorer.plane(
            record, directions={"bold": u, "slant": v, "size": w}, origin=origin, start=(1, 2, 0.5)
        )
        assert torch.allclose(shown[0][0], origin + u + 2 * v + 0.5 * w)
        assert widget.values == {"bold": 1, "slant": 2, "size": 0.5}
        assert widget.spec["rows"] == 3
        assert np.frombuffer(widget.latents, "<f4").reshape(4, 5)[2] == pytest.approx(v.numpy())

    def test_sliders_of_its_own_reach_the_decoder(self):
        def truncated(z, psi):
            assert psi.shape == (len(z),)
            return decode(z * psi[:, None])

        widget = LatentExplorer.plane(truncated, sliders=[Slider("truncation", 0, 1, 0.5)])
        z = np.full((1, 2), 2.0)
        assert widget.answer("decode", [z, [0.5]]) == pytest.approx(decode_np(0.5 * z))
        assert widget.values["truncation"] == 0.5
        assert widget.spec["inputs"] == [[2], []]

    def test_bad_input_is_named(self):
        with pytest.raises(ValueError, match=r"start: expected 2 values within ±3.0, got \[4.0"):
            LatentExplorer.plane(decode, start=(4.0, 0.0))
        with pytest.raises(ValueError, match=r"decode: expected images \(1, C, H, W\)"):
            LatentExplorer.plane(lambda z: torch.zeros(len(z), 64))
        with pytest.raises(ValueError, match="directions: expected two or more"):
            LatentExplorer.plane(decode, directions={"one": torch.zeros(3)})
        with pytest.raises(ValueError, match=r"origin: expected the shape .*\(2,\).* got \(3,\)"):
            LatentExplorer.plane(decode, origin=torch.zeros(3))
        with pytest.raises(ValueError, match="truncation: expected low <= value <= high"):
            Slider("truncation", 0.0, 1.0, 2.0)


def decode_np(z):
    with torch.no_grad():
        return decode(torch.as_tensor(np.asarray(z), dtype=torch.float32)).numpy()


class TestPath:
    latents = torch.tensor([[3.0, 0.0], [0.0, 3.0], [-3.0, -3.0]])

    def test_the_still_picture_is_the_line_between_the_first_two(self):
        picture = poster(LatentExplorer.path(decode, self.latents))
        # Tiles of 2 x 2 pixels with gaps of 1: 8 wide and 2 high, in 420 x 141 pixels.
        unit, top = 420 / 8, (141 - 420 / 4) / 2
        first = [picture[int(top + 20), int((3 * i + 0.5) * unit), 0] for i in range(3)]
        assert first == [255, pytest.approx(0.75 * 255, abs=1), pytest.approx(0.5 * 255, abs=1)]

    def test_names_and_values(self):
        widget = LatentExplorer.path(decode, self.latents, names=["3", "8", "seed 1"])
        assert widget.spec["names"] == ["3", "8", "seed 1"]
        assert widget.values == {"from": 0, "to": 1, "along": 0, "t": 0.5}
        assert LatentExplorer.path(decode, self.latents).spec["names"][2] == "latent 3"

    def test_it_keeps_the_latents_it_was_given(self):
        z = self.latents.clone()
        widget = LatentExplorer.path(decode, z)
        z.zero_()
        assert np.frombuffer(widget.latents, "<f4").tolist() == self.latents.flatten().tolist()

    def test_bad_input_is_named(self):
        with pytest.raises(ValueError, match=r"latents: expected \(P, D\) .* got \(1, 2\)"):
            LatentExplorer.path(decode, self.latents[:1])
        with pytest.raises(ValueError, match="names: expected 3 of them, got 1"):
            LatentExplorer.path(decode, self.latents, names=["one"])


class TestSamples:
    def test_the_still_picture_is_the_grid_at_the_first_spread(self):
        z = torch.tensor([[2.0, 2.0]] * 3 + [[-2.0, -2.0]] * 3)
        widget = LatentExplorer.samples(decode, z, spread=(0.0, 2.0, 0.5), columns=3)
        picture = poster(widget)
        assert picture.shape == (4, 6, 3)
        assert picture[0, :, 0] == pytest.approx(4 / 6 * 255, abs=1)
        assert picture[3, :, 0] == pytest.approx(2 / 6 * 255, abs=1)
        assert widget._alt == "6 samples, spread 0.50."
        assert widget.spec["rows"] == 2

    def test_without_spread_there_is_no_slider(self):
        widget = LatentExplorer.samples(decode, torch.zeros(2, 2))
        assert widget.values == {}
        assert widget.spec["rows"] == 1

    def test_bad_input_is_named(self):
        with pytest.raises(ValueError, match=r"latents: expected \(N, D\)"):
            LatentExplorer.samples(decode, torch.zeros(3))
        with pytest.raises(ValueError, match="spread: expected low <= value <= high"):
            LatentExplorer.samples(decode, torch.zeros(3, 2), spread=(0.0, 1.0, 3.0))


class TestPaths:
    def test_great_circle_turns_evenly_at_constant_length(self):
        a, b = torch.tensor([2.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 2.0])
        for t in (0.0, 0.25, 0.5, 1.0):
            angle = t * math.pi / 2
            expected = torch.tensor([2 * math.cos(angle), 0.0, 2 * math.sin(angle)])
            assert torch.allclose(slerp(a, b, t), expected, atol=1e-6)

    @pytest.mark.parametrize("factor", [2.0, -1.0, 0.0])
    def test_without_a_circle_it_is_the_line(self, factor):
        a = torch.tensor([1.0, 2.0])
        point = slerp(a, factor * a, 0.3)
        assert torch.allclose(point, (0.7 + 0.3 * factor) * a, atol=1e-6)

    def test_line(self):
        a, b = torch.tensor([1.0, 2.0]), torch.tensor([3.0, -2.0])
        assert torch.allclose(lerp(a, b, 0.25), torch.tensor([1.5, 1.0]))


class TestWhoAnswersOnAPage:
    def test_reference_weights_are_found_by_their_values(self):
        model = pretrained.load("vae/mnist_2d")
        assert LatentExplorer.plane(model.decode_mean).page_weights == "vae/mnist_2d:decode_mean"
        with torch.no_grad():
            next(model.decoder.parameters())[0, 0] += 0.01
        widget = LatentExplorer.plane(model.decode_mean)
        assert widget.page_weights == ""
        assert not widget.spec["alone"]

    def test_a_model_without_kernel_or_file_says_so(self):
        page = LatentExplorer.plane(decode)._repr_mimebundle_()[0]["text/html"]
        assert "in JupyterLab once its cell has run." in page
        assert "JavaScript" not in page

    def test_a_model_that_the_notebook_carries(self):
        model = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Unflatten(1, (1, 2, 2)))
        file = widgets.export(model, (2,))
        widget = LatentExplorer.plane(model, page_model=file)
        assert widget.page_model == file
        assert widget.spec["alone"]
        with pytest.raises(ValueError, match="page_model: expected at most 300,000 bytes"):
            LatentExplorer.plane(model, page_model=bytes(300_001))
