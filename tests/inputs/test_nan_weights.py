"""A model whose weights are no numbers has no density, not one that is zero."""

import math

import pytest
import torch

from gdm_lib.bijections import Flow
from gdm_lib.flows import MAF
from tests.zoo import ZOO, made


@pytest.mark.parametrize("name", ZOO)
def test_nan_weights_give_nan(name):
    model, (x, y) = made(name).eval(), ZOO[name].data(4)
    with torch.no_grad():
        assert model.log_prob(x, y).isfinite().all()
        for p in model.parameters():
            p.fill_(math.nan)
        assert model.log_prob(x, y).isnan().all()
        assert model.loss(x, y)["loss"].isnan()


FLOWS = [name for name in ZOO if isinstance(made(name), Flow)]


@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_one_weight_is_enough(name, odd):
    """An infinite weight makes NaN of zeros, or an infinity that is one."""
    model, (x, y) = made(name).eval(), ZOO[name].data(4)
    with torch.no_grad():
        weight = next(p for p in reversed(list(model.parameters())) if p.numel() > 1)
        weight.fill_(odd)
        values = model.log_prob(x, y)
    assert not values.isfinite().any()
    assert values.isnan().any() or odd == math.inf


def test_what_overflows_is_still_impossible():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MAF(2, layers=4, hidden=(8,)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(100)
        x = torch.tensor([[0.0, 0.0], [1e20, -1e20]])
        assert model.log_prob(x)[1] == -math.inf
        assert model.log_prob(x * math.nan).isnan().all()


def test_a_context_of_nan_gives_nan():
    model = MAF(2, hidden=(8,), context_dim=3).eval()
    y = torch.zeros(2, 3)
    y[1, 0] = math.nan
    with torch.no_grad():
        found = model.log_prob(torch.zeros(2, 2), y)
    assert found[0].isfinite()
    assert found[1].isnan()
