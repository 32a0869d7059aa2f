"""Images pixel by pixel, and layers that run at one pixel. What each model makes of them is in
``tests/autoregressive/test_every_model.py``."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gdm_lib.autoregression import ConvolutionStep, NetworkStep, one_pixel
from gdm_lib.autoregressive.pixelcnn import MaskedConv2d, PixelCNN, colours
from tests.helpers import normal


@pytest.mark.parametrize("kernel", [(1, 1), (1, 3), (3, 3), (5, 3)])
def test_a_step_is_the_convolution_at_its_pixel(kernel):
    """Visited out of order and twice: what is put last counts."""
    above, left = kernel[0] // 2, kernel[1] // 2
    right = left if above else 0
    weight = normal(4, 3, above + 1, left + 1 + right)
    weight[:, :, -1, left + 1 :] = 0
    bias, x = normal(4, seed=1), normal(2, 3, 5, 6, seed=2)
    padded = F.pad(x, (left, right, above, 0))
    expected = F.conv2d(padded, weight, bias)
    step = ConvolutionStep(weight, bias, left, 2, 6)
    for i in range(5):
        step.next_row()
        for j in range(6):
            step.at(j)
            step(torch.zeros(2, 3).double())  # a first guess
            got = step(x[:, :, i, j])
            step.put(x[:, :, i, j])
            torch.testing.assert_close(got, expected[:, :, i, j], rtol=0, atol=1e-12)


def test_a_network_step_is_the_network_at_its_pixel():
    grey = colours(4, 1)
    net = nn.Sequential(
        MaskedConv2d(colours(1, 1), grey, (3, 3), strict=True),
        nn.Sequential(nn.ReLU(), MaskedConv2d(grey, grey, (5, 5))),
        nn.Tanh(),
    ).double()
    x = normal(2, 1, 4, 5)
    expected, step = net(x), NetworkStep(net, 2, 5)
    for i in range(4):
        step.next_row()
        for j in range(5):
            step.at(j)
            torch.testing.assert_close(step(x[:, :, i, j]), expected[:, :, i, j])


def test_the_twin_shares_weights_and_leaves_the_network_as_it_was():
    model = PixelCNN((1, 3, 3), levels=2, h=4, layers=1, head=4)
    before = list(model.net.named_modules())
    twin = one_pixel(model.net, 2, 3, [])
    assert list(model.net.named_modules()) == before
    assert twin[0] is not model.net[0]
    assert isinstance(model.net[0], MaskedConv2d)
