"""Reference weights: a toy recipe is made, stored, loaded, and damaged in every way."""

from pathlib import Path

import pytest
import torch
from torch import nn

import gdm_lib
from gdm_lib import pretrained

TOY = """
import torch
from torch import nn
from gdm_lib.pretrained import Recipe

def _train(model):
    with torch.no_grad():
        model[0].weight.uniform_(-1, 1)
    for norm in model[1:]:
        norm.num_batches_tracked.fill_(2049)  # the first integer that 16 bits cannot hold
    return {"data": "none", "steps": 3}

def _evaluate(model):
    assert not model.training
    weight = model[0].weight.double()
    return {"sum": weight.sum().item(), "noise": torch.rand(()).item()}

def _build():
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))

small = Recipe(_build, _train, _evaluate, seed=5)
exact = Recipe(_build, _train, _evaluate, half=False)
large = Recipe(lambda: nn.Sequential(nn.Linear(1001, 1000)), _train, _evaluate)
"""


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for weights, and ``gdm_lib.pretrained.toy`` as one more family."""
    recipes = tmp_path / "recipes"
    recipes.mkdir()
    (recipes / "toy.py").write_text(TOY)
    monkeypatch.setattr(pretrained, "__path__", [*pretrained.__path__, str(recipes)])
    monkeypatch.setattr(pretrained, "toy", None, raising=False)
    monkeypatch.delitem(__import__("sys").modules, "gdm_lib.pretrained.toy", raising=False)
    return tmp_path / "weights"


def test_recipes_are_found_by_module_and_name(weights: Path) -> None:
    assert [n for n in pretrained.names() if n.startswith("toy/")] == [
        "toy/small",
        "toy/exact",
        "toy/large",
    ]
    assert pretrained.recipe("toy/small").seed == 5
    for name in ("toy/medium", "boat/small", "toy", "toy/_build", "toy/nn"):
        with pytest.raises(ValueError, match=f"no recipe '{name}'; .*toy/small, toy/exact"):
            pretrained.recipe(name)


def test_what_is_trained_is_what_is_loaded(weights: Path) -> None:
    before = torch.get_rng_state()
    record = pretrained.train("toy/small", directory=weights)
    model = pretrained.load("toy/small", directory=weights)
    assert torch.equal(before, torch.get_rng_state())
    assert not model.training
    weight = model[0].weight
    assert weight.dtype == torch.float32
    assert torch.equal(weight.half().float(), weight)
    assert model[1].num_batches_tracked == 2049
    # The metrics are those of the rounded weights, and the file holds nothing else.
    assert record["metrics"]["sum"] == weight.double().sum().item()
    assert record == pretrained.record("toy/small", directory=weights)
    assert record | {"seed": 5, "steps": 3, "parameters": 12} == record
    assert record["command"] == "gdm train toy/small"
    assert record["torch"] == torch.__version__
    assert record["gdm_lib"] == gdm_lib.__version__
    files = sorted(path.name for path in (weights / "toy").iterdir())
    assert files == ["small.json", "small.safetensors"]
    assert (weights / "toy/small.safetensors").stat().st_size == record["bytes"]


def test_recipes_repeat(weights: Path) -> None:
    torch.manual_seed(1)
    one = pretrained.train("toy/small", directory=weights)
    torch.manual_seed(2)
    two = pretrained.train("toy/small", directory=weights)
    assert one["sha256"] == two["sha256"]
    assert one["metrics"] == two["metrics"]


def test_full_precision_is_kept_where_asked(weights: Path) -> None:
    pretrained.train("toy/exact", directory=weights)
    weight = pretrained.load("toy/exact", directory=weights)[0].weight
    assert not torch.equal(weight.half().float(), weight)


def test_weights_are_recognised_by_their_values(weights: Path) -> None:
    for name in ("toy/small", "toy/exact"):
        pretrained.train(name, directory=weights)
        model = pretrained.load(name, directory=weights)
        assert pretrained.identify(model.train(), directory=weights) == name
        with torch.no_grad():
            model[0].bias[0] += 1e-4  # less than 16 bits tell from nothing at this size
        assert pretrained.identify(model, directory=weights) is None
    assert pretrained.identify(nn.Linear(3, 2), directory=weights) is None
    huge = nn.Linear(3, 2)
    with torch.no_grad():
        huge.weight.fill_(1e6)
    assert pretrained.identify(huge, directory=weights) is None


def test_missing_weights_name_the_command(weights: Path) -> None:
    with pytest.raises(FileNotFoundError, match="make it with: gdm train toy/small"):
        pretrained.load("toy/small", directory=weights)
    with pytest.raises(FileNotFoundError, match="make it with: gdm train toy/small"):
        pretrained.record("toy/small", directory=weights)
    pretrained.train("toy/small", directory=weights)
    (weights / "toy/small.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"small.json does not exist"):
        pretrained.load("toy/small", directory=weights)


def test_damaged_weights_are_refused(weights: Path) -> None:
    pretrained.train("toy/small", directory=weights)
    path = weights / "toy/small.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged, .* gdm train toy/small"):
        pretrained.load("toy/small", directory=weights)
    path.write_bytes(content[:-10])
    with pytest.raises(ValueError, match="damaged"):
        pretrained.load("toy/small", directory=weights)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)),
            r"0.weight has shape \(4, 3\), the model's is \(2, 3\)",
        ),
        (nn.Sequential(nn.Linear(3, 2)), "1.weight is missing"),
        (
            nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 2)),
            "2.weight is not in the model",
        ),
    ],
)
def test_weights_of_another_architecture_are_refused(
    weights: Path, other: nn.Module, message: str
) -> None:
    pretrained.save(other, "toy/small", {}, directory=weights)
    with pytest.raises(ValueError, match=f"does not fit Sequential: .*{message}"):
        pretrained.load("toy/small", directory=weights)


def test_what_cannot_be_stored_is_not(weights: Path) -> None:
    with pytest.raises(ValueError, match=r"2,00\d,\d+ bytes, more than 2,000,000; make the model"):
        pretrained.train("toy/large", directory=weights)
    large = nn.Linear(800, 800)
    with pytest.raises(ValueError, match="store them with half=True"):
        pretrained.save(large, "toy/a", {}, half=False, directory=weights)
    pretrained.save(large, "toy/a", {}, directory=weights)
    wild = nn.Linear(1, 1)
    nn.init.constant_(wild.bias, 1e5)
    with pytest.raises(ValueError, match=r"bias holds values beyond 16 bits"):
        pretrained.save(wild, "toy/b", {}, directory=weights)
    for record in ({"loss": torch.tensor(1.0)}, {"loss": float("nan")}):
        with pytest.raises(ValueError, match="record must hold finite JSON values"):
            pretrained.save(nn.Linear(1, 1), "toy/b", record, directory=weights)
    for name in ("b", "toy/", "../b", "toy/b/c"):
        with pytest.raises(ValueError, match="name must be family/name"):
            pretrained.save(nn.Linear(1, 1), name, {}, directory=weights)
    assert not list(weights.rglob("*b.*"))


def test_shipped_weights_fit_their_recipes() -> None:
    for name in pretrained.names():
        pretrained.load(name)
        assert (pretrained.where() / f"{name}.safetensors").stat().st_size <= pretrained.MAX_BYTES
        assert pretrained.record(name)["metrics"]


def test_every_shipped_file_has_a_recipe() -> None:
    shipped = pretrained.where().glob("*/*.safetensors")
    assert {f"{path.parent.name}/{path.stem}" for path in shipped} <= set(pretrained.names())
