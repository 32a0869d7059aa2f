"""``PixelProbe``: each pixel's stored map is the one that was given, or torch's own derivative."""

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageColor
from torch import nn

from gdm_lib.viz.style import COLORS
from gdm_lib.widgets import _frames
from gdm_lib.widgets.pixel_probe import FAINT, LABEL, SIDE, STRONG, PixelProbe
from tests.widgets.test_frames import unpacked

IMAGE = torch.linspace(0, 1, 24).reshape(1, 4, 6)


def levels(widget):
    """The stored maps, ``(layers, rows, columns, h, w)``."""
    (height, width), stride = widget.spec["size"], widget.spec["stride"]
    frames = np.stack(unpacked(widget.sheet, widget.spec["maps"]))[..., 0]
    shape = len(widget.spec["layers"]), -(-height // stride), -(-width // stride)
    return frames.reshape(*shape, *frames.shape[1:]).astype(int)


def weights_of(seed):
    """Random maps, about half of them zero, of very different size."""
    table = torch.rand(
        4, 6, 3, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    table *= (table > 0.5) * torch.arange(1, 25).reshape(4, 6, 1, 1)
    return table, lambda row, column: table[row, column]


def causal(row, column):
    """All pixels before this one, in reading order."""
    return (torch.arange(24) < 6 * row + column).reshape(4, 6).float()


def poster(widget):
    return np.asarray(Image.open(io.BytesIO(widget.poster)).convert("RGB"), int)


class TestMaps:
    def test_each_pixel_has_its_map_scaled_to_its_own_largest_weight(self):
        table, maps = weights_of(0)
        expected = (255 * table / table.amax((2, 3), keepdim=True)).round().int().numpy()
        assert np.array_equal(levels(PixelProbe(IMAGE, maps))[0], expected)

    def test_or_to_the_largest_of_all(self):
        table, maps = weights_of(0)
        expected = (255 * table / table.max()).round().clamp(min=1) * (table > 0)
        assert np.array_equal(
            levels(PixelProbe(IMAGE, maps, share_scale=True))[0], expected.int().numpy()
        )

    def test_only_what_is_zero_is_dark(self):
        def maps(row, column):
            return torch.tensor([[0.0, 1e-30, 1e-3, 1.0]])

        assert levels(PixelProbe(IMAGE, maps))[0, 0, 0].tolist() == [[0, 1, 1, 255]]

    def test_layers_and_stride(self):
        (first, one), (second, two) = weights_of(1), weights_of(2)
        widget = PixelProbe(IMAGE, {"mask A": one, "mask B": two}, stride=3, start=(2, 5))
        found = levels(widget)
        assert found.shape == (2, 2, 2, 3, 5)
        for layer, table in enumerate((first, second)):
            kept = table[::3, ::3]
            expected = (255 * kept / kept.amax((2, 3), keepdim=True)).round().int().numpy()
            assert np.array_equal(found[layer], expected)
        assert widget.values == {"row": 0, "column": 3, "layer": 0}
        assert widget.spec["rows"] == 3
        assert widget._alt.startswith("Mask A: output pixel (row 0, column 3) depends on ")

    def test_equal_maps_are_stored_once(self):
        widget = PixelProbe(torch.zeros(1, 28, 28), lambda i, j: torch.eye(28))
        assert widget.spec["maps"]["index"] == [0] * 784
        assert len(widget.sheet) < 200

    def test_what_is_said_is_counted(self):
        assert PixelProbe(IMAGE, causal, start=(2, 3))._alt == (
            "Output pixel (row 2, column 3) depends on 15 of 24 input pixels."
        )
        assert PixelProbe(IMAGE, causal, start=(0, 0))._alt == (
            "Output pixel (row 0, column 0) depends on 0 of 24 input pixels."
        )

        def attention(row, column):
            return torch.tensor([[0.1, 0.2], [0.7, 0.0]])

        widget = PixelProbe(IMAGE, attention, start=(1, 1))
        assert widget._alt == (
            "Output pixel (row 1, column 1) depends on 3 of 4 cells of the input, "
            "most on (row 1, column 0)."
        )

    @pytest.mark.parametrize(
        "names", [("pixel to predict", "what it depends on"), ("conditional of", "depends on")]
    )
    def test_what_is_said_is_english_whatever_the_pictures_are_called(self, names):
        widget = PixelProbe(IMAGE, causal, names=names, start=(2, 3))
        assert widget._alt == "Output pixel (row 2, column 3) depends on 15 of 24 input pixels."
        assert widget.spec["names"] == list(names)


class TestGradient:
    def test_a_convolution_sees_its_kernel(self):
        kernel = torch.tensor([[0.0, -1.0, 0.5], [0.25, 2.0, 0.0], [0.75, 0.0, -0.5]])

        def function(x):
            return nn.functional.conv2d(x, kernel[None, None], padding=1)

        found = levels(PixelProbe.gradient(function, IMAGE[None]))[0]
        expected = np.zeros((4, 6), int)
        expected[0:3, 1:4] = (255 * kernel.abs() / 2).round().int()
        assert np.array_equal(found[1, 2], expected)
        # In the corner only its lower right part is inside the image.
        assert np.array_equal(found[0, 0, :2, :2], (255 * kernel[1:, 1:].abs() / 2).round().int())
        assert found[0, 0].sum() == found[0, 0, :2, :2].sum()

    def test_channels_do_not_cancel(self):
        """Neither those of the input, whose slopes add up to zero, nor those of the output."""
        x = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))

        def function(x):
            first = x[:, 0] - 3 * x[:, 1] + 2 * x[:, 2]
            return torch.stack([first, -first], 1)

        widget = PixelProbe.gradient(function, x)
        assert np.array_equal(levels(widget)[0], 255 * np.eye(16).reshape(4, 4, 4, 4))

    def test_it_is_the_jacobian_of_a_network(self):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(1, 3, 3, stride=2), nn.Tanh(), nn.Conv2d(3, 2, 2)
        ).double()
        x = torch.rand(1, 1, 9, 9, dtype=torch.float64)
        widget = PixelProbe.gradient(network, x, image=torch.zeros(1, 3, 3), start=(0, 0))
        slopes = torch.autograd.functional.jacobian(network, x)[0, :, :, :, 0].abs().sum((0, 3))
        expected = (255 * slopes / slopes.amax((2, 3), keepdim=True)).round().clamp(min=1)
        expected *= slopes > 0
        assert np.array_equal(levels(widget)[0], expected.int().numpy())
        assert widget._alt.startswith("Output pixel (row 0, column 0) depends on 25 of 81 input")
        assert widget.spec["size"] == [3, 3]

    def test_nothing_else_is_touched(self):
        network = nn.Conv2d(1, 1, 3, padding=1)
        x = IMAGE[None].clone()
        state = torch.get_rng_state()
        with torch.no_grad():
            widget = PixelProbe.gradient(network, x)
        assert network.weight.grad is None
        assert x.grad is None
        assert not x.requires_grad
        assert torch.equal(torch.get_rng_state(), state)
        shown = unpacked(widget.output, widget.spec["output"])[0][..., 0]
        expected = (network(x)[0, 0].clamp(0, 1) * 255).round().detach().numpy()
        assert np.array_equal(shown, expected)

    def test_many_channels_show_the_input(self):
        widget = PixelProbe.gradient(lambda x: x.expand(-1, 5, -1, -1), IMAGE[None])
        shown = unpacked(widget.output, widget.spec["output"])[0][..., 0]
        assert np.array_equal(shown, (IMAGE[0] * 255).round().numpy())


class TestPoster:
    def test_it_shows_what_is_lit_and_where(self):
        black = torch.zeros(1, 6, 6)

        def maps(row, column):
            weights = torch.zeros(6, 6)
            weights[0, 0], weights[row, 5] = 1.0, 0.5
            return weights

        picture = poster(PixelProbe(black, maps, start=(2, 3)))
        assert picture.shape == (2 * (LABEL + SIDE), 2 * (2 * SIDE + 8), 3)

        def at(row, column, panel):
            x = panel * 2 * (SIDE + 8) + (2 * column + 1) * SIDE / 6
            return picture[round(2 * LABEL + (2 * row + 1) * SIDE / 6), round(x)]

        heat, grey = np.array(ImageColor.getrgb(COLORS["bound"])), np.full(3, 160)
        half = FAINT + (STRONG - FAINT) * 128 / 255
        lit = [share * heat + (1 - share) * grey for share in (STRONG, half)]
        expected = {(0, 0): lit[0], (2, 5): lit[1], (4, 4): grey}
        for cell, colour in expected.items():
            assert np.abs(at(*cell, 1) - colour).max() <= 2
        assert at(2, 3, 0).max() <= 2
        box = picture[round(2 * LABEL + 4 * SIDE / 6) : round(2 * LABEL + 6 * SIDE / 6), : 2 * SIDE]
        outline = (np.abs(box - heat).max(-1) <= 2).any(0).nonzero()[0]
        assert SIDE - 6 <= outline.min() <= SIDE + 2
        assert outline.max() <= SIDE * 4 / 3 + 6

    def test_both_pictures_have_their_names(self):
        def strips(names):
            picture = poster(PixelProbe(IMAGE, causal, names=names))[: 2 * LABEL]
            return np.split(picture.max(-1) < 128, [2 * SIDE + 8], axis=1)

        (left, right), (query, keys) = strips(("output", "input")), strips(("output", "keys"))
        for strip in (left, right, keys):
            assert 200 < strip.sum() < 2000
        assert np.array_equal(left, query)
        assert not np.array_equal(right, keys)

    def test_an_image_that_is_not_square_keeps_its_shape(self):
        for shape, high in (((1, 10, 20), 150), ((3, 20, 10), 420)):
            widget = PixelProbe(torch.zeros(shape), lambda i, j: torch.ones(2, 2))
            assert widget.spec["aspect"] == round((2 * SIDE + 8) / (LABEL + high), 4)


class TestBadInput:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"image": torch.zeros(1, 1, 4, 6)}, r"image: expected one image \(C, H, W\), got"),
            ({"image": torch.full((1, 4, 6), 1.5)}, r"image: expected values in \[0, 1\], got"),
            ({"image": torch.zeros(2, 4, 6)}, r"image: expected .* C = 1 or 3"),
            ({"input": torch.zeros(4, 6)}, r"input: expected one image \(C, H, W\), got \(4, 6\)"),
            ({"maps": {}}, "maps: expected a function, or functions by name, got none"),
            ({"maps": lambda i, j: torch.ones(3)}, r"maps: expected weights \(h, w\).* got \(3,\)"),
            (
                {"maps": lambda i, j: torch.ones(2, 2 + j)},
                r"got \(2, 3\) at \(0, 1\) after \(2, 2\)",
            ),
            (
                {"maps": {"a": lambda i, j: torch.ones(2, 2), "b": lambda i, j: torch.ones(1, 2)}},
                r"got \(1, 2\) of 'b' at \(0, 0\) after \(2, 2\)",
            ),
            (
                {"maps": lambda i, j: torch.ones(2, 2) - i},
                r"not negative, got -1 to -1 at \(2, 0\)",
            ),
            ({"maps": lambda i, j: torch.full((2, 2), torch.nan)}, "finite and not negative"),
            ({"maps": lambda i, j: torch.full((2, 2), torch.inf)}, "finite and not negative"),
            ({"stride": 0}, r"stride: expected 1 or more, .*4 x 6 pixels\), got 0"),
            ({"stride": 4}, "stride: expected 1 or more, and less than"),
            ({"start": (4, 0)}, r"start: expected a row and a column within 4 x 6 .* \(4, 0\)"),
            ({"start": (0, -1)}, "start: expected a row and a column"),
        ],
    )
    def test_it_is_named(self, change, message):
        given = {"image": IMAGE, "maps": causal, **change}
        with pytest.raises(ValueError, match=message):
            PixelProbe(given.pop("image"), given.pop("maps"), **given)

    def test_maps_that_are_too_large_name_their_size_and_the_stride(self):
        table = torch.rand(28, 28, 28, 28, generator=torch.Generator().manual_seed(0))
        with pytest.raises(
            ValueError, match=r"maps: 784 .* take \d{3},\d{3} bytes, .* stride"
        ) as it:
            PixelProbe(torch.zeros(1, 28, 28), lambda i, j: table[i, j])
        assert f"at most {_frames.FRAME_BYTES:,}" in str(it.value)
        smaller = PixelProbe(torch.zeros(1, 28, 28), lambda i, j: table[i, j], stride=2)
        assert len(smaller.sheet) < _frames.FRAME_BYTES

    @pytest.mark.parametrize(
        ("function", "change", "message"),
        [
            (torch.tanh, {"x": IMAGE}, r"x: expected one image, \(1, C, H, W\), got \(1, 4, 6\)"),
            (lambda x: x[0], {}, r"function: expected \(1, C', H', W'\), got \(1, 4, 6\)"),
            (torch.zeros_like, {}, "function: expected an output that depends on x"),
            (
                lambda x: x[..., ::2].repeat(1, 2, 1, 1),
                {},
                r"image: expected one to show for an output of shape \(1, 2, 4, 3\)",
            ),
            (torch.tanh, {"image": torch.zeros(1, 3, 3)}, r"image: expected the output's \(4, 6\)"),
        ],
    )
    def test_of_the_gradient(self, function, change, message):
        given = {"x": IMAGE[None], **change}
        with pytest.raises(ValueError, match=message):
            PixelProbe.gradient(function, given.pop("x"), **given)
