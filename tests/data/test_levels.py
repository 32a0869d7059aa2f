"""Grey values as levels."""

import math

import pytest
import torch

from gdm_lib.bijections import Dequantise
from gdm_lib.data import digits
from gdm_lib.data.levels import from_levels, quantise, to_levels
from gdm_lib.likelihoods import check_levels


def test_values_go_to_the_nearest_level():
    x = torch.tensor([0.0, 0.03, 0.04, 0.5, 1.0])
    assert to_levels(x, 16).tolist() == [0, 0, 1, 8, 15]
    torch.testing.assert_close(quantise(x, 16) * 15, torch.tensor([0.0, 0.0, 1.0, 8.0, 15.0]))
    assert to_levels(torch.rand(2, 3, 4), 2).shape == (2, 3, 4)


@pytest.mark.parametrize("levels", [2, 8, 17, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_levels_come_back_and_are_what_models_take(levels, dtype):
    every = torch.arange(levels)
    x = from_levels(every, levels, dtype=dtype)
    assert x.dtype == dtype
    assert torch.equal(to_levels(x, levels), every)
    assert torch.equal(quantise(x, levels), x)
    check_levels("x", to_levels(x, levels), levels)
    Dequantise(levels)(x[None])  # refuses what is no level


def test_no_value_moves_further_than_half_a_step():
    x = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    moved = quantise(x, 8)
    assert (moved - x).abs().max() <= 0.5 / 7 + 1e-6
    assert len(moved.unique()) == 8


def test_data_are_levels_already():
    x = digits.load().test.x
    assert torch.equal(quantise(x, digits.LEVELS), x)


@pytest.mark.parametrize(
    ("x", "levels", "told"),
    [
        (torch.tensor([0.5]), 1, "levels must be at least 2, got 1"),
        (torch.tensor([-0.1, 1.0]), 8, r"x must hold .* in \[0, 1\], got -0.1 to 1"),
        (torch.tensor([0.0, 255.0]), 8, "got 0 to 255"),
        (torch.tensor([0.0, math.nan]), 8, "got nan to nan"),
        (torch.tensor([1]), 8, "floating-point .*torch.int64"),
        (torch.empty(0, dtype=torch.long), 8, "floating-point .*torch.int64"),
    ],
)
def test_what_is_no_grey_value_is_told(x, levels, told):
    for function in (to_levels, quantise):
        with pytest.raises(ValueError, match=told):
            function(x, levels)
