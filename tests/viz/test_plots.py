from __future__ import annotations

import math
from types import SimpleNamespace

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb

from gdm_lib import viz
from gdm_lib.viz import plots
from gdm_lib.viz.display import png

pytestmark = pytest.mark.usefixtures("book_style")


def drawn(ax):
    (image,) = ax.images
    return np.asarray(image.get_array())


class TestImageGrid:
    def test_every_pixel_lies_where_it_should(self):
        images = torch.arange(5.0)[:, None, None].expand(5, 3, 4) / 8
        mosaic = drawn(viz.image_grid(images, columns=2))
        # Tiles of 3 by 4 with a gap of 1, in three rows of two; the last place is empty.
        assert mosaic.shape == (3 * 3 + 2, 2 * 4 + 1, 3)
        paper = np.array(to_rgb(viz.PAPER), np.float32)
        for i in range(6):
            y, x = 4 * (i // 2), 5 * (i % 2)
            expected = paper if i == 5 else np.full(3, i / 8)
            assert np.allclose(mosaic[y : y + 3, x : x + 4], expected)
        assert np.allclose(mosaic[3::4], paper)
        assert np.allclose(mosaic[:, 4], paper)

    def test_channels_are_red_green_blue(self):
        image = torch.tensor([0.1, 0.5, 0.9])[None, :, None, None].expand(1, 3, 2, 2)
        assert np.allclose(drawn(viz.image_grid(image)), [0.1, 0.5, 0.9])

    def test_the_picture_is_upright(self):
        image = torch.tensor([[[1.0, 0.0], [0.5, 0.25]]])
        ax = viz.image_grid(image)
        assert np.allclose(drawn(ax)[..., 0], [[1, 0], [0.5, 0.25]])
        assert ax.images[0].origin == "upper"

    def test_values_are_scaled_and_clipped(self):
        image = torch.tensor([[[-2.0, -1.0, 0.0, 1.0, 3.0]]])
        values = drawn(viz.image_grid(image, vmin=-1, vmax=1))[0, :, 0]
        assert np.allclose(values, [0, 0, 0.5, 1, 1])

    def test_levels_have_their_own_white(self):
        """With the white of floats they would all but the lowest be white."""
        levels = torch.tensor([[[0, 4, 8, 16]]])
        assert np.allclose(drawn(viz.image_grid(levels, vmax=16))[0, :, 0], [0, 0.25, 0.5, 1])
        grey = torch.tensor([[[0, 51, 255]]], dtype=torch.uint8)
        assert np.allclose(drawn(viz.image_grid(grey, vmax=255))[0, :, 0], [0, 0.2, 1])
        for bits in (torch.tensor([[[True, False]]]), torch.tensor([[[1, 0]]])):
            assert np.allclose(drawn(viz.image_grid(bits))[0, :, 0], [1, 0])

    def test_small_images_are_enlarged_by_a_whole_number(self):
        ax = viz.image_grid(torch.rand(6, 1, 8, 8), columns=3, title="a")
        ax.figure.canvas.draw()
        scale = ax.get_window_extent().size * mpl.rcParams["savefig.dpi"] / ax.figure.dpi
        scale = scale / drawn(ax).shape[1::-1]
        assert np.allclose(scale, round(scale[0]), atol=1e-3)
        assert scale[0] >= 1

    def test_titles_stand_at_their_rows_and_columns(self):
        ax = viz.image_grid(
            torch.rand(6, 8, 8), columns=3, row_titles=["a", "b"], column_titles=["c", "d", "e"]
        )
        assert list(ax.get_yticks()) == [3.5, 12.5]
        assert list(ax.get_xticks()) == [3.5, 12.5, 21.5]
        assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b"]

    @pytest.mark.parametrize(
        ("images", "options", "message"),
        [
            (torch.rand(8, 8), {}, r"images: .* got \(8, 8\)"),
            (torch.rand(2, 4, 8, 8), {}, r"images: .* got \(2, 4, 8, 8\)"),
            (torch.rand(0, 1, 8, 8), {}, "images: .* N >= 1"),
            (torch.full((1, 2, 2), math.nan), {}, "images: expected finite"),
            (torch.full((1, 2, 2), 7), {}, "got torch.int64 up to 7; give vmax=levels - 1"),
            (torch.full((1, 2, 2), 7).byte(), {}, "got torch.uint8 up to 7; give vmax=255"),
            (torch.rand(2, 8, 8), {"columns": 0}, "columns: .* got 0"),
            (torch.rand(2, 8, 8), {"vmin": 1.0}, "vmin < vmax"),
            (torch.rand(2, 8, 8), {"row_titles": ["a", "b"]}, "row_titles: expected 1"),
        ],
    )
    def test_bad_input_is_named(self, images, options, message):
        with pytest.raises(ValueError, match=message):
            viz.image_grid(images, **options)


def gaussian(mean, std):
    def log_prob(x):
        return torch.distributions.Normal(torch.tensor(mean), std).log_prob(x).sum(1)

    return log_prob


class TestDensityMap:
    def test_the_density_drawn_integrates_to_one(self):
        ax = viz.density_map(gaussian([1.0, -1.0], 0.5), (-2, 4, -5, 3), resolution=120)
        cell = (6 / 120) * (8 / 120)
        assert drawn(ax).sum() * cell == pytest.approx(1, abs=1e-4)

    def test_the_peak_is_where_the_mean_is(self):
        ax = viz.density_map(gaussian([1.0, -1.0], 0.5), (-2, 4, -5, 3), resolution=80)
        row, column = np.unravel_index(drawn(ax).argmax(), (80, 80))
        x_min, x_max, y_min, y_max = ax.images[0].get_extent()
        assert ax.images[0].origin == "lower"
        assert x_min + (column + 0.5) * (x_max - x_min) / 80 == pytest.approx(1, abs=0.08)
        assert y_min + (row + 0.5) * (y_max - y_min) / 80 == pytest.approx(-1, abs=0.11)

    def test_no_gradient_is_kept_and_zero_density_is_drawn(self):
        weight = torch.ones(1, requires_grad=True)

        def log_prob(x):
            assert not torch.is_grad_enabled()
            return torch.where(x[:, 0] > 0, weight * 0.0, -torch.inf)

        values = drawn(viz.density_map(log_prob, (-1, 1, -1, 1), resolution=4))
        assert values.tolist() == [[0, 0, 1, 1]] * 4

    def test_bad_input_is_named(self):
        with pytest.raises(ValueError, match="bounds"):
            viz.density_map(gaussian([0.0, 0.0], 1.0), (1, 1, 0, 1))
        with pytest.raises(ValueError, match=r"log_prob: expected shape \(16,\)"):
            viz.density_map(lambda x: x, (0, 1, 0, 1), resolution=4)
        with pytest.raises(ValueError, match="NaN"):
            viz.density_map(lambda x: x[:, 0] * math.nan, (0, 1, 0, 1), resolution=4)
        with pytest.raises(ValueError, match="resolution"):
            viz.density_map(gaussian([0.0, 0.0], 1.0), (0, 1, 0, 1), resolution=1)


class TestTrainingCurves:
    history = SimpleNamespace(
        train={"loss": [3.0, 2.0, 1.0], "rate": [0.0, 0.5, 0.6]},
        train_steps=[1, 2, 3],
        valid={"loss": [2.5, 1.5]},
        valid_steps=[0, 3],
    )

    def test_the_curves_are_the_history(self):
        ax = viz.training_curves(self.history, ylabel="nats per image")
        train, valid = ax.lines
        assert train.get_xydata().tolist() == [[1, 3], [2, 2], [3, 1]]
        assert valid.get_xydata().tolist() == [[0, 2.5], [3, 1.5]]
        assert train.get_color() == valid.get_color()
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("step", "nats per image")

    def test_a_term_without_validation_is_one_line(self):
        ax = viz.training_curves(self.history, ["loss", "rate"])
        labels = [line.get_label() for line in ax.lines]
        assert labels == ["loss, training", "loss, held-out", "rate, training"]

    def test_an_unknown_term_is_named(self):
        with pytest.raises(ValueError, match=r"terms: expected some of \['loss', 'rate'\].*kl"):
            viz.training_curves(self.history, ["kl"])


class TestLatentPlane:
    def test_coordinates_cut_the_normal_into_equal_parts(self):
        values = viz.gaussian_grid(7).double()
        probability = 0.5 * (1 + torch.erf(values / math.sqrt(2)))
        expected = (torch.arange(7) + 0.5) / 7
        assert torch.allclose(probability, expected.double(), atol=1e-6)

    def test_first_latent_rises_to_the_right_and_second_upwards(self):
        n, seen = 5, []

        def decode(z):
            seen.append(z)
            probability = 0.5 * (1 + torch.erf(z / math.sqrt(2)))
            colour = torch.cat([probability, torch.zeros(len(z), 1)], 1)
            return colour[:, :, None, None].expand(-1, 3, 2, 3)

        ax = viz.latent_plane(decode, n=n)
        mosaic = drawn(ax)
        assert mosaic.shape == (2 * n, 3 * n, 3)
        part = (np.arange(n) + 0.5) / n
        assert np.allclose(mosaic[0, ::3, 0], part, atol=1e-6)
        assert np.allclose(mosaic[::2, 0, 1], part[::-1], atol=1e-6)
        assert seen[0].shape == (n * n, 2)

    def test_ticks_say_the_latent_of_their_tile(self):
        ax = viz.latent_plane(lambda z: torch.zeros(len(z), 1, 4, 4), n=5)
        values = viz.gaussian_grid(5)
        for tick, label in zip(ax.get_xticks(), ax.get_xticklabels(), strict=True):
            text = label.get_text().replace("\N{MINUS SIGN}", "-")
            assert float(text) == pytest.approx(float(values[int(tick // 4)]), abs=0.05)
        for tick, label in zip(ax.get_yticks(), ax.get_yticklabels(), strict=True):
            text = label.get_text().replace("\N{MINUS SIGN}", "-")
            assert float(text) == pytest.approx(float(values[4 - int(tick // 4)]), abs=0.05)

    def test_bad_input_is_named(self):
        with pytest.raises(ValueError, match="decode: expected images"):
            viz.latent_plane(lambda z: torch.zeros(len(z), 64), n=3)
        with pytest.raises(ValueError, match="n: expected a positive number"):
            viz.latent_plane(lambda z: torch.zeros(len(z), 1, 4, 4), n=0)


class TestScatterLatent:
    def test_each_class_is_its_number_at_its_points(self):
        z = torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])
        ax = viz.scatter_latent(z, torch.tensor([7, 1, 7]))
        one, seven = ax.collections
        assert one.get_offsets().tolist() == [[2, 3]]
        assert seven.get_offsets().tolist() == [[0, 1], [4, 5]]
        assert one.get_paths()[0].vertices.shape != seven.get_paths()[0].vertices.shape

    def test_bad_input_is_named(self):
        with pytest.raises(ValueError, match=r"z: .* got \(3, 3\)"):
            viz.scatter_latent(torch.rand(3, 3), torch.zeros(3, dtype=torch.int64))
        with pytest.raises(ValueError, match="y: expected 3 integers"):
            viz.scatter_latent(torch.rand(3, 2), torch.zeros(3))


def test_plots_draw_on_the_axes_given():
    _, ax = plt.subplots()
    assert viz.image_grid(torch.rand(2, 8, 8), ax=ax) is ax
    assert viz.density_map(gaussian([0.0, 0.0], 1.0), (-1, 1, -1, 1), ax=ax, resolution=4) is ax
    assert viz.training_curves(TestTrainingCurves.history, ax=ax) is ax
    assert viz.latent_plane(lambda z: torch.zeros(len(z), 1, 4, 4), n=2, ax=ax) is ax
    assert viz.scatter_latent(torch.rand(2, 2), torch.tensor([0, 1]), ax=ax) is ax
    assert len(plt.get_fignums()) == 1


def test_files_are_small():
    steps = list(range(1000))
    noise = np.random.default_rng(0).normal(size=1000)
    loss = {"loss": list(30 + 20 * np.exp(-np.array(steps) / 300) + noise)}
    history = SimpleNamespace(train=loss, train_steps=steps, valid={}, valid_steps=[])
    assert len(png(viz.training_curves(history).figure)) < 35_000
    grid = torch.linspace(-1, 1, 28)
    blobs = torch.exp(-4 * (grid[:, None] ** 2 + grid**2) * torch.rand(100, 1, 1))
    assert len(png(viz.image_grid(blobs).figure)) < 80_000


def test_whats_public_is_documented():
    for name in plots.__all__:
        assert getattr(plots, name).__doc__, name
