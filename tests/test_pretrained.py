"""Reference weights: toy ones are stored, loaded, and damaged in every way."""

import itertools
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import gdm_lib
from gdm_lib import pretrained
from gdm_lib.data import fsdd, glyphs

TOY = """
from torch import nn

__all__ = ["small", "exact"]

def _helper(): ...

def small():
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))

exact = small
"""


@pytest.fixture
def weights(tmp_path: Path, add_family) -> Path:
    """A folder for weights, and one more family."""
    add_family(TOY, "")
    return tmp_path / "weights"


def store(name: str, weights: Path) -> nn.Module:
    """A model with weights of its own, stored; exact ones in full precision."""
    torch.manual_seed(5)
    model = pretrained.build(name).eval()
    model[1].num_batches_tracked.fill_(2049)  # the first integer that 16 bits cannot hold
    pretrained.save(model, name, {"steps": 3}, half=name == "toy/small", directory=weights)
    return model


def test_names_are_those_of_the_functions_that_build(weights: Path) -> None:
    assert [n for n in pretrained.names() if n.startswith("toy/")] == ["toy/small", "toy/exact"]
    assert isinstance(pretrained.build("toy/small"), nn.Sequential)
    unknown = ("toy/medium", "boat/small", "toy", "toy/", "/small", "toy/_helper", "toy/nn", "")
    for name in unknown:
        for function in (pretrained.build, pretrained.load, pretrained.record):
            with pytest.raises(ValueError, match=r"no reference .*toy/small, toy|must be family"):
                function(name)
    names = (None, 5, b"toy/small", ["toy/small"], " toy/small", "toy/small\n", "../toy/small")
    for name in names:
        for function in (pretrained.build, pretrained.load, pretrained.record, pretrained.verify):
            with pytest.raises(ValueError, match="name must be family/name, such as vae/mnist_2d"):
                function(name)
    for function in (pretrained.build, pretrained.load):
        with pytest.raises(ValueError, match=r"no reference weights 'toy/xxx"):
            function(f"toy/{'x' * 300}")
    with pytest.raises(ValueError, match=r"'a\\x00b/toy/small.safetensors' can't be the path"):
        pretrained.load("toy/small", directory=Path("a\0b"))
    with pytest.raises(ValueError, match=r"no reference weights 'boat/small'; .* vae/mnist_2d"):
        pretrained.load("boat/small")


def test_what_is_stored_is_what_is_loaded(weights: Path) -> None:
    made = store("toy/small", weights)
    before = torch.get_rng_state()
    model = pretrained.load("toy/small", directory=weights)
    assert torch.equal(before, torch.get_rng_state())
    assert not model.training
    weight = model[0].weight
    assert weight.dtype == torch.float32
    assert torch.equal(made[0].weight.half().float(), weight)
    assert not torch.equal(made[0].weight, weight)
    assert model[1].num_batches_tracked == 2049
    record = pretrained.record("toy/small", directory=weights)
    assert record | {"steps": 3, "parameters": 12} == record
    assert record["command"] == "gdm train toy/small"
    assert record["torch"] == torch.__version__
    assert record["gdm_lib"] == gdm_lib.__version__
    files = sorted(path.name for path in (weights / "toy").iterdir())
    assert files == ["small.json", "small.safetensors"]
    assert (weights / "toy/small.safetensors").stat().st_size == record["bytes"]


def test_full_precision_is_kept_where_asked(weights: Path) -> None:
    made = store("toy/exact", weights)
    weight = pretrained.load("toy/exact", directory=weights)[0].weight
    assert torch.equal(weight, made[0].weight)
    assert not torch.equal(weight.half().float(), weight)


def test_weights_are_recognised_by_their_values(weights: Path) -> None:
    for name in ("toy/small", "toy/exact"):
        store(name, weights)
        model = pretrained.load(name, directory=weights)
        assert pretrained.identify(model.train(), directory=weights) == name
        assert pretrained.identify(model, directory=str(weights)) == name
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
    store("toy/small", weights)
    (weights / "toy/small.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"small.json does not exist"):
        pretrained.load("toy/small", directory=weights)


def test_damaged_weights_are_refused(weights: Path) -> None:
    store("toy/small", weights)
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
    huge = nn.Linear(1001, 1000)
    with pytest.raises(ValueError, match=r"2,00\d,\d+ bytes, more than 2,000,000; make the model"):
        pretrained.save(huge, "toy/b", {}, directory=weights)
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


# -- the weights that the book ships


@pytest.mark.parametrize("name", pretrained.names())
def test_shipped_weights_fit_their_model_and_are_recognised(name: str) -> None:
    model = pretrained.load(name)
    assert pretrained.identify(model) == name
    assert (pretrained.where() / f"{name}.safetensors").stat().st_size <= pretrained.MAX_BYTES
    record = pretrained.record(name)
    assert record["name"] == name
    assert record["metrics"]
    assert record["parameters"] == sum(p.numel() for p in model.parameters())


def test_every_shipped_file_has_a_model() -> None:
    shipped = pretrained.where().glob("*/*.safetensors")
    assert {f"{path.parent.name}/{path.stem}" for path in shipped} == set(pretrained.names())


def test_models_take_what_their_data_are() -> None:
    """They are built without a look at the data, so that loading one imports no data set."""
    letters = pretrained.build("autoregressive/gated_glyphs")
    count = len(glyphs.GLYPHS["characters"])
    assert letters.embed.num_embeddings == count == letters.context_dim
    digits = pretrained.build("autoregressive/pp_digits")
    assert digits.embed.num_embeddings == len(glyphs.COLOUR_DIGITS["characters"])
    speaker = pretrained.build("autoregressive/wavenet_digits")
    assert speaker.data_shape == (fsdd.SPEECH,)
    assert speaker.embed(fsdd.spoken(0, 0)[None]).shape == (1, 16, fsdd.SPEECH)


# -- what loading brings in, each in a process where nothing was imported before

LISTED = "print(*sorted(name for name in sys.modules if name.partition('.')[0] == 'gdm_lib'))"


def brought_in(code: str) -> set[str]:
    """The library's modules that a new process has after some lines."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\n{LISTED}"],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return set(done.stdout.split())


def test_loading_a_vae_brings_in_the_vae_alone() -> None:
    loaded = brought_in("from gdm_lib import pretrained\npretrained.load('vae/mnist_2d')")
    assert loaded == {
        *("gdm_lib", "gdm_lib._files", "gdm_lib._lazy", "gdm_lib._tensorfile"),
        *("gdm_lib.pretrained", "gdm_lib.pretrained.vae"),
        *("gdm_lib.vae", "gdm_lib.vae.vae"),
        # what that paper is built of
        *("gdm_lib._inputs", "gdm_lib.likelihoods", "gdm_lib.nn", "gdm_lib.protocols"),
    }


def test_loading_any_model_brings_in_its_papers_and_no_training_or_data() -> None:
    code = """
from importlib import import_module

def fresh():
    for name in [name for name in sys.modules if name.partition('.')[0] == 'gdm_lib']:
        del sys.modules[name]

def ours():
    return {name for name in sys.modules if name.startswith('gdm_lib.')}

from gdm_lib import pretrained
for name in pretrained.names():
    fresh()
    from gdm_lib import pretrained
    model = pretrained.load(name)  # a prior may be another paper's
    papers = {type(part).__module__ for part in model.modules()}
    loaded = ours()
    fresh()
    for paper in papers:
        import_module(paper)
    import_module('gdm_lib.nn')  # embeddings of classes
    more = {part.split('.')[1] for part in loaded - ours()}
    more -= {'pretrained', '_files', '_tensorfile'}
    assert not more, (name, more)
"""
    brought_in(code)


def test_names_and_identify_bring_in_no_paper() -> None:
    code = "from torch import nn\nfrom gdm_lib import pretrained\n"
    own = {"gdm_lib", "gdm_lib._files", "gdm_lib._tensorfile", "gdm_lib.pretrained"}
    assert brought_in(f"{code}pretrained.identify(nn.Linear(2, 2))") == own
    families = {f"gdm_lib.pretrained.{name.partition('/')[0]}" for name in pretrained.names()}
    assert brought_in(f"{code}pretrained.names()") == own | families


def test_the_example_of_the_docstring_builds_what_it_says():
    """As it stands, in a module of its own."""
    lines = pretrained.__doc__.partition("::\n")[2].splitlines()
    code = list(itertools.takewhile(lambda line: not line or line.startswith("    "), lines))
    module: dict[str, Any] = {}
    exec(textwrap.dedent("\n".join(code)), module)
    shapes = {k: v.shape for k, v in module["mnist_2d"]().state_dict().items()}
    expected = pretrained.build("vae/mnist_2d").state_dict()
    assert shapes == {k: v.shape for k, v in expected.items()}
