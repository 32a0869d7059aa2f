"""The zoo has every model, and each of its animals keeps the contract."""

import inspect

import pytest
import torch

from gdm_lib.protocols import LikelihoodModel
from tests.helpers import seeded
from tests.test_families import FAMILIES, offered
from tests.zoo import ZOO, made


def test_no_model_is_left_out():
    exported = {name for family in FAMILIES for name in offered(family)}
    abstract = {"PixelNetwork"}
    seen = {type(made(name)).__name__ for name in ZOO} | {
        called for name in ZOO for called in inspect.getclosurevars(ZOO[name].build).globals
    }
    assert exported - abstract <= seen


@pytest.mark.parametrize("name", ZOO)
def test_keeps_the_contract(name):
    model, (x, y) = made(name), ZOO[name].data(8)
    assert isinstance(model, LikelihoodModel)
    terms = model.loss(x, y)
    assert all(value.ndim == 0 for value in terms.values())
    with torch.no_grad():
        assert model.log_prob(x, y).shape == (8,)
    drawn = model.sample(8, y, generator=seeded())
    assert drawn.shape == x.shape
    assert drawn.dtype == x.dtype
