"""A sheet holds each frame bit by bit, and equal ones once."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from gdm_lib.widgets import _frames


def unpacked(sheet, layout):
    """The frames, read back independently of the code that wrote them."""
    pixels = np.asarray(Image.open(io.BytesIO(sheet)).convert("RGB"))
    height, width, columns = layout["height"], layout["width"], layout["columns"]
    return [
        pixels[
            place // columns * height : (place // columns + 1) * height,
            place % columns * width : (place % columns + 1) * width,
        ]
        for place in layout["index"]
    ]


@pytest.mark.parametrize("shape", [(5, 7, 3), (28, 28), (1, 1), (3, 200, 3)])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_frames_come_back_bit_by_bit(shape, count):
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, shape, np.uint8) for _ in range(count)]
    for frame, read in zip(frames, unpacked(*_frames.pack(frames)), strict=True):
        expected = frame if frame.ndim == 3 else np.repeat(frame[..., None], 3, -1)
        assert np.array_equal(read, expected)


def test_equal_frames_are_stored_once():
    black, noise = np.zeros((9, 9), np.uint8), np.arange(81, dtype=np.uint8).reshape(9, 9)
    sheet, layout = _frames.pack([black, noise, black, noise, black])
    assert layout["index"] == [0, 1, 0, 1, 0]
    assert np.prod(Image.open(io.BytesIO(sheet)).size) == 2 * 81


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match=r"frames: .* got none"):
        _frames.pack([])
    with pytest.raises(ValueError, match=r"got \(2, 2\) uint8, \(2, 3\) uint8"):
        _frames.pack([np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8)])
    with pytest.raises(ValueError, match="float64"):
        _frames.pack([np.zeros((2, 2))])
    tall = [np.full((16_000, 1), i, np.uint8) for i in range(3)]
    assert _frames.pack(tall)[1]["columns"] >= 3
    with pytest.raises(ValueError, match="do not fit on a sheet"):
        _frames.pack([np.full((9000, 9000), i, np.uint8) for i in range(2)])


class TestToFrame:
    def test_images_become_eight_bits(self):
        image = torch.tensor([0.0, 0.2, 0.5, 1.0]).reshape(1, 2, 2)
        frame = _frames.to_frame(image, "x")
        assert frame.tolist() == [[[0] * 3, [51] * 3], [[128] * 3, [255] * 3]]
        colour = torch.tensor([1.0, 0.0, 0.2]).reshape(3, 1, 1)
        assert _frames.to_frame(colour, "x").tolist() == [[[255, 0, 51]]]

    def test_several_are_tiled_in_reading_order(self):
        images = torch.arange(4.0)[:, None, None, None].expand(-1, 1, 14, 14) / 4
        frame = _frames.to_frame(images, "x")
        assert frame.shape == (29, 29, 3)
        corners = [frame[0, 0, 0], frame[0, -1, 0], frame[-1, 0, 0], frame[-1, -1, 0]]
        assert corners == [0, 64, 128, 191]

    def test_figures_are_closed(self):
        figure = plt.figure(figsize=(2, 1))
        dpi = figure.dpi if plt.rcParams["savefig.dpi"] == "figure" else plt.rcParams["savefig.dpi"]
        frame = _frames.to_frame(figure, "x")
        assert not plt.fignum_exists(figure.number)
        assert frame.shape == (dpi, 2 * dpi, 3)

    @pytest.mark.parametrize(
        ("picture", "said"),
        [
            (torch.full((1, 2, 2), 1.5), r"x: expected values in \[0, 1\], got 1.5 to 1.5"),
            (torch.full((1, 2, 2), torch.nan), "x: .* got NaN or infinity"),
            (torch.zeros(2, 2), r"x: .* got a tensor \(2, 2\)"),
            (torch.zeros(2, 4, 4), r"x: .* got a tensor \(2, 4, 4\)"),
            (np.zeros((2, 2)), "x: expected a uint8 array .* float64"),
            (np.zeros((2, 2, 4), np.uint8), r"x: .* \(2, 2, 4\)"),
            ("text", "x: expected a uint8 array .* got str"),
        ],
    )
    def test_bad_pictures_are_named(self, picture, said):
        with pytest.raises(ValueError, match=said):
            _frames.to_frame(picture, "x")


def test_fewer_colours_look_the_same():
    figure = Figure(figsize=(2, 1), dpi=100)
    figure.subplots().plot([1, 2, 3])
    drawn = _frames.to_frame(figure, "x")
    (reduced,) = _frames.fewer_colours([drawn])
    assert len(np.unique(reduced.reshape(-1, 3), axis=0)) <= 256
    assert np.abs(reduced.astype(int) - drawn).mean() < 1
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    (kept,) = _frames.fewer_colours([noise])
    assert np.array_equal(kept, noise)


def test_enlarged_repeats_pixels():
    frame = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert np.array_equal(_frames.enlarged(frame, 6, 9), np.kron(frame, np.ones((3, 3), np.uint8)))


def test_a_sheet_too_large_is_told_with_its_size():
    with pytest.raises(ValueError, match="x: the frames take 300,001 bytes"):
        _frames.held(bytes(300_001), "x")
    assert len(_frames.held(bytes(300_000), "x")) == 300_000
