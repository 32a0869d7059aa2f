"""The base class of the autoregressive models. What it promises of each is in
``tests/autoregressive/test_every_model.py``."""

import pytest

from gdm_lib import autoregression
from gdm_lib.autoregressive.pixelcnn import PixelCNN
from gdm_lib.nn import evaluating
from tests.helpers import seeded


def test_sampling_leaves_the_mode_as_it_was():
    model = PixelCNN((1, 2, 2), levels=2, h=4, layers=1, head=4)
    model.train()
    model.sample(1, generator=seeded())
    assert model.training


def test_the_mode_comes_back_after_an_error_too():
    model = PixelCNN((1, 2, 2), levels=2, h=4, layers=1, head=4)

    def fails() -> None:
        with evaluating(model):
            assert not model.training
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert model.training


def test_a_part_that_was_in_another_mode_is_so_again():
    model = PixelCNN((1, 2, 2), levels=2, h=4, layers=1, head=4).train()
    part = next(model.children()).eval()
    with evaluating(model):
        assert not model.training
    assert model.training
    assert not part.training


def test_there_is_one_rule_and_one_place():
    """MADE and the models of pixels and sounds are filled by the same kind of function."""
    from gdm_lib.autoregressive import made, wavenet
    from gdm_lib.flows import iaf

    assert made.Place is wavenet.Place is iaf.Place is autoregression.Place
    assert wavenet.Rule is autoregression.Rule
    assert not hasattr(made, "Rule")
