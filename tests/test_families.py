"""What the package of a family offers: its papers' models, each imported when it is asked for."""

import ast
import importlib
import inspect
import json
import pkgutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import pytest

import gdm_lib
from gdm_lib import autoregressive, flows, vae
from gdm_lib.autoregressive import made, wavenet
from gdm_lib.flows import maf, nice

PACKAGE = Path(gdm_lib.__file__).parent
FAMILIES = sorted(
    path.parent.name for path in PACKAGE.glob("*/__init__.py")
    if path.parent.name in {"vae", "flows", "autoregressive", "gan"}
)  # fmt: skip
LAZY = [*FAMILIES, "autoregression"]


def offered(package: str) -> dict[str, str]:
    """What a package offers, as its ``__init__.py`` says to ``lazily``: ``{name: module}``."""
    tree = ast.parse((PACKAGE / package / "__init__.py").read_text("utf-8"))
    (call,) = (
        node for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "lazily"
    )  # fmt: skip
    modules = ast.literal_eval(call.args[1])
    return {name: module for module, names in modules.items() for name in names}


def told_to_mypy(package: str) -> dict[str, str]:
    """The same, as the block for type checkers says it."""
    tree = ast.parse((PACKAGE / package / "__init__.py").read_text("utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    return {
        alias.asname or alias.name: str(node.module).removeprefix(f"gdm_lib.{package}.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def models(paper: ModuleType) -> set[str]:
    """Classes of a paper's module that draw items and are trained: its models.

    A likelihood or a flow's base draws too, but has no loss.
    """
    return {
        name
        for name, value in vars(paper).items()
        if inspect.isclass(value)
        and value.__module__ == paper.__name__
        and not name.startswith("_")
        and hasattr(value, "sample")
        and (hasattr(value, "loss") or hasattr(value, "generator_loss"))
    }


def left_out(papers: Iterable[ModuleType], names: dict[str, str]) -> list[str]:
    """Models that a family doesn't offer under the name of their module."""
    return [
        f"{paper.__name__}.{model}"
        for paper in papers
        for model in sorted(models(paper))
        if names.get(model) != paper.__name__.rpartition(".")[2]
    ]


def papers(family: str) -> list[ModuleType]:
    names = [info.name for info in pkgutil.iter_modules([str(PACKAGE / family)])]
    return [importlib.import_module(f"gdm_lib.{family}.{name}") for name in names]


def test_the_families_are_found():
    assert {"vae", "flows", "autoregressive"} <= set(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_offers_all_of_its_models(family):
    assert papers(family)
    assert not left_out(papers(family), offered(family))


def test_a_model_that_is_left_out_is_told():
    names = offered("flows")
    del names["MAF"]
    assert left_out(papers("flows"), names) == ["gdm_lib.flows.maf.MAF"]
    assert left_out([maf], {"MAF": "nice"}) == ["gdm_lib.flows.maf.MAF"]


def test_what_is_a_model_and_what_is_not():
    assert models(nice) == {"NICE"}, "StandardLogistic is a base"
    assert models(made) == {"MADE"}
    assert models(wavenet) == {"WaveNet"}


@pytest.mark.parametrize("package", LAZY)
def test_names_that_are_offered_exist_and_are_told_to_type_checkers(package):
    module = importlib.import_module(f"gdm_lib.{package}")
    assert told_to_mypy(package) == offered(package)
    for name, home in offered(package).items():
        value = getattr(module, name)
        assert value is getattr(importlib.import_module(f"gdm_lib.{package}.{home}"), name)
        assert name in dir(module)
    assert set(getattr(module, "__all__", offered(package))) == set(offered(package))


def test_the_modules_of_papers_are_still_to_be_had():
    assert maf.MAF is flows.MAF
    assert wavenet.WaveNet is autoregressive.WaveNet
    assert vae.VAE is importlib.import_module("gdm_lib.vae.vae").VAE


def test_a_name_that_there_is_not_is_refused():
    with pytest.raises(ImportError, match="cannot import name 'Nice'"):
        from gdm_lib.flows import Nice  # noqa: F401
    with pytest.raises(AttributeError, match=r"'gdm_lib\.flows' has no attribute 'Nice'"):
        _ = flows.Nice


SCRIPT = """
import importlib, json, sys

def loaded(what):
    for name in [name for name in sys.modules if name.partition(".")[0] == "gdm_lib"]:
        del sys.modules[name]
    what()
    return sorted(name for name in sys.modules if name.startswith("gdm_lib."))

found = {}
for package, names in json.loads(sys.argv[1]).items():
    path = f"gdm_lib.{package}"
    found[path] = [loaded(lambda: importlib.import_module(path)), [path, "gdm_lib._lazy"]]
    for name, home in names.items():
        asked = loaded(lambda: getattr(importlib.import_module(path), name))
        found[f"{path}.{name}"] = [asked, loaded(lambda: importlib.import_module(f"{path}.{home}"))]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def imports() -> dict[str, list[list[str]]]:
    """Of each name that is offered: what asking for it imports, and what it should."""
    names = json.dumps({package: offered(package) for package in LAZY})
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, names],
        capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    return json.loads(done.stdout)


def test_asking_for_one_imports_its_own_module_and_what_that_builds_on(imports):
    assert len(imports) == len(LAZY) + sum(len(offered(package)) for package in LAZY)
    for what, (asked, expected) in imports.items():
        assert set(asked) == set(expected), what


def test_what_a_paper_builds_on_is_older_papers_and_no_more(imports):
    """A reader of WaveNet need not open PixelCNN, nor one of Glow or MAF Real NVP."""

    def papers_of(what: str) -> set[str]:
        modules = (name.split(".", 2)[1:] for name in imports[what][0])
        return {".".join(name) for name in modules if len(name) == 2 and name[0] in FAMILIES}

    assert papers_of("gdm_lib.autoregressive.WaveNet") == {"autoregressive.wavenet"}
    assert papers_of("gdm_lib.autoregressive.PixelCNNpp") == {"autoregressive.pixelcnn_pp"}
    assert papers_of("gdm_lib.flows.Glow") == {"flows.glow"}
    assert papers_of("gdm_lib.flows.RealNVP") == {"flows.realnvp"}
    assert papers_of("gdm_lib.flows.MAF") == {"flows.maf", "flows.iaf", "autoregressive.made"}
