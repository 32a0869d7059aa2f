"""Convolutions with strides row by row and pixel by pixel, against those of the whole image."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gdm_lib.autoregression import PixelConv, PixelGrow, RowConv, RowGrow
from tests.helpers import normal

SIZES = pytest.mark.parametrize("size", [(6, 5), (5, 6), (1, 1)])
STRIDES = pytest.mark.parametrize("stride", [1, 2])


@SIZES
@STRIDES
@pytest.mark.parametrize(("kernel", "right"), [((2, 3), 1), ((1, 3), 1), ((2, 2), 0), ((2, 1), -1)])
@torch.no_grad()
def test_a_convolution_row_by_row(kernel, right, stride, size):
    conv = nn.Conv2d(3, 4, kernel, stride).double()
    x = normal(2, 3, *size)
    padded = F.pad(x, (kernel[1] - 1 - right, right, kernel[0] - 1, 0))
    expected, step = conv(padded), RowConv(conv, right, 2, size[1])
    for i in range(size[0]):
        got = step(x[:, :, i : i + 1])
        if i % stride:
            assert got is None
        else:
            k = i // stride
            torch.testing.assert_close(got, expected[:, :, k : k + 1], rtol=0, atol=1e-12)


@SIZES
@STRIDES
@pytest.mark.parametrize("kernel", [(2, 2), (2, 1), (1, 1), (1, 3)])
@torch.no_grad()
def test_a_convolution_pixel_by_pixel(kernel, stride, size):
    conv = nn.Conv2d(3, 4, kernel, stride).double()
    x = normal(2, 3, *size)
    expected = conv(F.pad(x, (kernel[1] - 1, 0, kernel[0] - 1, 0)))
    step = PixelConv(conv, 2, size[1])
    for i in range(size[0]):
        for j in range(size[1]):
            got = step(x[:, :, i, j])
            if i % stride or j % stride:
                assert got is None
            else:
                wanted = expected[:, :, i // stride, j // stride]
                torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)


@SIZES
@STRIDES
@torch.no_grad()
def test_a_transposed_convolution_row_by_row_and_pixel_by_pixel(stride, size):
    height, width = size
    z = normal(2, 3, -(-height // stride), -(-width // stride))
    for kernel, right in [((2, 3), 1), ((2, 2), 0)]:
        grow = nn.ConvTranspose2d(3, 4, kernel, stride).double()
        whole = grow(z)[:, :, :height, right : right + width]
        rows, pixels = RowGrow(grow, right, 2, width), PixelGrow(grow, 2, width)
        for i in range(height):
            coarse = None if i % stride else z[:, :, i // stride, None]
            got = rows(coarse, (1, width))
            torch.testing.assert_close(got, whole[:, :, i : i + 1], rtol=0, atol=1e-12)
            for j in range(width if right == 0 else 0):
                here = None if i % stride or j % stride else z[:, :, i // stride, j // stride]
                got = pixels(here, ())
                torch.testing.assert_close(got, whole[:, :, i, j], rtol=0, atol=1e-12)
