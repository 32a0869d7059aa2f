"""How reference weights are made: a toy recipe, and that each set of weights has its own."""

import hashlib
import importlib
import inspect
from pathlib import Path

import pytest
import torch

from gdm_lib import _tensorfile, pretrained, recipes

MODELS = """
from torch import nn

__all__ = ["small", "exact", "large"]

def small():
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))

exact = small

def large():
    return nn.Sequential(nn.Linear(1001, 1000))
"""
RECIPES = """
import torch
from gdm_lib.recipes import Recipe

def _train(model):
    first = model[0].weight.double().sum().item()
    with torch.no_grad():
        model[0].weight.uniform_(-1, 1)
    return {"data": "none", "steps": 3, "first": first}

def _evaluate(model):
    assert not model.training
    weight = model[0].weight.double()
    return {"sum": weight.sum().item(), "noise": torch.rand(()).item()}

def _examples(model):
    return {"first": model[0].weight[0].double().tolist().__repr__()}

small = Recipe(_train, _evaluate, seed=5, examples=_examples)
exact = Recipe(_train, _evaluate, half=False)
large = Recipe(_train, _evaluate)
"""


@pytest.fixture
def weights(tmp_path: Path, add_family) -> Path:
    """A folder for weights, and one more family."""
    add_family(MODELS, RECIPES)
    return tmp_path / "weights"


def test_recipes_are_found_by_module_and_name(weights: Path) -> None:
    toys = [n for n in recipes.names() if n.startswith("toy/")]
    assert toys == ["toy/small", "toy/exact", "toy/large"]
    assert recipes.recipe("toy/small").seed == 5
    for name in ("toy/medium", "boat/small", "toy", "toy/_train", "toy/torch"):
        for function in (recipes.recipe, recipes.train):
            with pytest.raises(ValueError, match=f"no recipe '{name}'; .*toy/small, toy/exact"):
                function(name)


def test_what_is_trained_is_measured_stored_and_loaded(weights: Path) -> None:
    before = torch.get_rng_state()
    record = recipes.train("toy/small", directory=weights)
    model = pretrained.load("toy/small", directory=weights)
    assert torch.equal(before, torch.get_rng_state())
    # The metrics are those of the rounded weights.
    weight = model[0].weight
    assert torch.equal(weight.half().float(), weight)
    assert record["metrics"]["sum"] == weight.double().sum().item()
    assert record == pretrained.record("toy/small", directory=weights)
    assert record | {"name": "toy/small", "seed": 5, "steps": 3, "parameters": 12} == record
    recipes.train("toy/exact", directory=weights)
    weight = pretrained.load("toy/exact", directory=weights)[0].weight
    assert not torch.equal(weight.half().float(), weight)


def test_examples_are_of_the_weights_that_are_stored(weights: Path) -> None:
    told = recipes.train("toy/small", directory=weights)["examples"]
    model = pretrained.load("toy/small", directory=weights)
    assert told == {"first": repr(model[0].weight[0].double().tolist())}
    assert "examples" not in recipes.train("toy/exact", directory=weights)


def test_recipes_repeat_from_their_own_seed(weights: Path) -> None:
    torch.manual_seed(1)
    one = recipes.train("toy/small", directory=weights)
    torch.manual_seed(2)
    two = recipes.train("toy/small", directory=weights)
    assert one["sha256"] == two["sha256"]
    assert one["metrics"] == two["metrics"]
    torch.manual_seed(5)  # the recipe's: the model is built right after it is set
    assert one["first"] == pretrained.build("toy/small")[0].weight.double().sum().item()


def test_what_cannot_be_stored_is_told(weights: Path) -> None:
    with pytest.raises(ValueError, match=r"2,00\d,\d+ bytes, more than 2,000,000; make the model"):
        recipes.train("toy/large", directory=weights)
    assert not list(weights.rglob("*"))


# -- those of the book


@pytest.mark.parametrize("name", pretrained.names())
def test_each_set_of_weights_has_a_recipe_that_its_record_tells(name: str) -> None:
    made, record = recipes.recipe(name), pretrained.record(name)
    assert isinstance(made, recipes.Recipe)
    assert record["seed"] == made.seed
    stored = pretrained.as_stored(pretrained.load(name), half=made.half)
    assert hashlib.sha256(_tensorfile.encode(stored, {})).hexdigest() == record["sha256"]
    assert len(inspect.signature(made.train).parameters) == 1
    assert len(inspect.signature(made.evaluate).parameters) == 1


def test_no_recipe_lacks_its_weights() -> None:
    for family in ("vae", "flows", "autoregressive", "metrics"):
        module = importlib.import_module(f"gdm_lib.recipes.{family}")
        found = {key for key, value in vars(module).items() if isinstance(value, recipes.Recipe)}
        listed = {n.partition("/")[2] for n in pretrained.names() if n.startswith(f"{family}/")}
        assert found == listed == set(module.__all__)
