"""No checker without a test that proves it with ``assert_checker``, and without its mutants."""

import ast
import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest

import gdm_lib.exercises
from tests.exercises.answers import answered, answers_of, in_other_words
from tests.exercises.mutants import Draw, build, first_sizes, mutants

HERE = Path(__file__).parent


def checkers() -> set[str]:
    """The full names of all public functions in ``gdm_lib.exercises.<family>.<paper>``."""
    found = set()
    package = gdm_lib.exercises
    for info in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if info.ispkg or info.name.count(".") < 3:  # the framework itself
            continue
        module = importlib.import_module(info.name)
        functions = {
            name
            for name, value in vars(module).items()
            if inspect.isfunction(value)
            and value.__module__ == info.name
            and not name.startswith("_")
        }
        assert functions == set(module.__all__), f"{info.name}: __all__ is not its checkers"
        found |= {f"{info.name}.{name}" for name in functions}
    return found


def proved(source: str) -> set[str]:
    """The full names of what a test file's tests hand to ``assert_checker``."""
    tree = ast.parse(source)
    aliases = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            aliases |= {name.asname: name.name for name in node.names if name.asname}
        elif isinstance(node, ast.ImportFrom):
            aliases |= {n.asname or n.name: f"{node.module}.{n.name}" for n in node.names}
    found = set()
    for test in tree.body:
        if not isinstance(test, ast.FunctionDef) or not test.name.startswith("test_"):
            continue
        for call in ast.walk(test):
            if not isinstance(call, ast.Call) or ast.unparse(call.func) != "assert_checker":
                continue
            given = [*call.args[:1], *(k.value for k in call.keywords if k.arg == "checker")]
            head, _, rest = ast.unparse(given[0]).partition(".")
            found.add(f"{aliases.get(head, head)}.{rest}".removesuffix("."))
    return found


def test_every_checker_is_proved():
    known = checkers()
    assert "gdm_lib.exercises.vae.vae.gaussian_kl" in known
    tested = set().union(*(proved(p.read_text("utf-8")) for p in HERE.rglob("test_*.py")))
    assert not known - tested, "these checkers have no test that calls assert_checker on them"


@pytest.mark.parametrize("name", sorted(checkers()))
def test_every_checker_has_inputs_other_words_and_mutants(name):
    module, _, checker = name.rpartition(".")
    paper = module.rpartition(".")[2]
    answers = answers_of(module)
    assert answers is not None, f"{paper}_answers.py is missing beside the tests of {paper}"
    inputs = getattr(answers, f"{checker}_inputs", None)
    assert inputs is not None, f"{paper}_answers.py has no `{checker}_inputs(d)`"
    known = {repr(inputs(Draw(seed))) for seed in range(10)}
    assert len(known) > 5, f"`{checker}_inputs` hardly varies what it draws"
    words = in_other_words(answers, checker)
    assert len(words) >= 2, f"{paper}_answers.py needs `{checker}_1` and `{checker}_2`"
    assert name in answered(), f"no chapter sets {name}: test_mutants.py does not see it"
    made = answered()[name]
    assert len(made.sources) == len(words) + 1, f"test_mutants.py misses answers to {name}"
    source, scope = made.sources[0]
    assert callable(build(source, scope))
    count = sum(len(mutants(s, first_sizes(s, names, made.checker))) for s, names in made.sources)
    assert count >= 20, f"{name}: {count} mutants, at least 20 are needed"


def test_gradients_are_named_by_checkers_that_are():
    known = checkers()
    for module in {name.rpartition(".")[0] for name in known}:
        for checker in answers_of(module).GRADIENTS:
            assert f"{module}.{checker}" in known


def test_the_scan_sees_only_what_is_proved():
    source = """
from gdm_lib.exercises.flows import nice, maf as exercises
from gdm_lib.exercises.vae.vae import gaussian_kl
import gdm_lib.exercises.gan.gan as g

def test_some():
    assert_checker(exercises.inverse, solution, {})
    assert_checker(nice.mask, solution, {})
    assert_checker(checker=gaussian_kl, solution=solution, wrong={})
    assert_checker(g.loss, solution, {})
    other(exercises.forgotten)

def unused():
    assert_checker(exercises.never_run, solution, {})
"""
    assert proved(source) == {
        "gdm_lib.exercises.flows.maf.inverse",
        "gdm_lib.exercises.flows.nice.mask",
        "gdm_lib.exercises.vae.vae.gaussian_kl",
        "gdm_lib.exercises.gan.gan.loss",
    }
