"""``nn.seeded``: what draws from it repeats, and draws nothing from the global generator."""

import pytest
import torch

from gdm_lib.nn import seeded


def test_it_is_torchs_generator_at_that_seed():
    torch.manual_seed(5)
    expected = torch.randn(4)
    before = torch.random.get_rng_state()
    assert torch.equal(torch.randn(4, generator=seeded(5)), expected)
    assert torch.random.get_rng_state().equal(before)


def test_each_is_new():
    first, second = seeded(0), seeded(0)
    torch.rand(3, generator=first)
    assert torch.equal(torch.rand(3, generator=seeded(0)), torch.rand(3, generator=second))
    assert not torch.equal(torch.rand(3, generator=seeded(1)), torch.rand(3, generator=seeded(0)))


@pytest.mark.parametrize(
    ("seed", "error", "said"),
    [
        (-1, ValueError, "seed must be at least 0, got -1"),
        (0.5, TypeError, "seed must be a whole number"),
        (None, TypeError, "seed must be a whole number"),
    ],
)
def test_what_is_no_seed_is_named(seed, error, said):
    with pytest.raises(error, match=said):
        seeded(seed)
