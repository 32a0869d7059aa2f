"""The house: what is at the top, what is pinned, and that the papers say what is true."""

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from chapters._tools.markdown import parse, walk  # noqa: E402

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
DIRECT = [*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)]
TOP = {
    *("chapters", "gdm_lib", "data", "tests", "benchmarks", "_toc.yml", "_config.yml"),
    *("environment.yml", "pyproject.toml", "constraints.txt", "Makefile"),
    *("README.md", "LICENSE", "CONTRIBUTING.md", ".github", ".ci", ".gitignore"),
}
# The distributions whose import has another name.
DISTRIBUTIONS = {"PIL": "pillow", "sklearn": "scikit-learn"}
# Not after a letter, a dot or what else makes it the middle of a path, an address or base64.
MACHINE = re.compile(r"(?<![\w.~$%})+/=-])/(?:work|root|tmp|home|Users|private|opt)/\w")
MAX_NOTEBOOK = 1_000_000
MAX_WEIGHTS = 2_000_000
PAPERS = ("README.md", "CONTRIBUTING.md")


def tracked() -> list[str]:
    """Every file that git knows, or a reason to skip."""
    if not shutil.which("git") or not (ROOT / ".git").exists():
        pytest.skip("not a checkout of git, so there is no list of its files")
    listed = subprocess.run(
        ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


# -- the rules, as functions from text to faults


def same_as_pyproject(environment: str, project: Mapping) -> list[str]:
    """Where ``environment.yml`` and ``pyproject.toml`` ask for different things."""
    parsed = yaml.safe_load(environment)["dependencies"]
    conda = [line for line in parsed if isinstance(line, str)]
    (pip,) = [entry["pip"] for entry in parsed if isinstance(entry, dict)]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["book"], *extras["tests"]]
    listed = [line for line in pip if not line.startswith("-")]
    faults = [f"missing: {line}" for line in wanted if line not in listed]
    faults += [f"not in pyproject.toml: {line}" for line in listed if line not in wanted]
    if f"python{project['requires-python']}" not in conda:
        faults.append(f"python: expected {project['requires-python']}")
    if listed[:1] != wanted[:1]:
        faults.append(f"first: expected {wanted[0]}, so that pip settles it before the rest")
    for line in ("--constraint constraints.txt", "--editable ."):
        if line not in pip:
            faults.append(f"missing: {line}")
    return faults


def outside_pins(constraints: str, requirements: Iterable[str]) -> list[str]:
    """Direct dependencies that ``constraints.txt`` doesn't pin, or pins out of their range."""
    pins = {}
    for line in constraints.split():
        name, exact, version = line.partition("==")
        if not exact:
            return [f"{line} is no pin: expected NAME==VERSION"]
        pins[canonicalize_name(name)] = version
    faults = []
    for requirement in map(Requirement, requirements):
        version = pins.get(canonicalize_name(requirement.name))
        if version is None:
            faults.append(f"{requirement.name} is not pinned")
        elif not requirement.specifier.contains(version, prereleases=True):
            faults.append(f"{requirement.name}=={version} is outside {requirement.specifier}")
    return faults


def unknown_targets(text: str, makefile: str) -> list[str]:
    """Targets of make that a text or a workflow names and the Makefile lacks."""
    known = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    code = "\n".join([*re.findall(r"`([^`]*)`", text), *re.findall(r"^ +.*$", text, re.MULTILINE)])
    named = re.findall(r"(?:^|[\s(])make ((?:[a-z]+ ?)+)", code, re.MULTILINE)
    return sorted({target for group in named for target in group.split()} - known)


def dead_links(text: str, folder: Path) -> list[str]:
    """Relative links of a markdown text that lead to no file."""
    prose = "\n".join(b.text for b in walk(parse(text)) if b.kind not in ("code", "cell"))
    targets = re.findall(r"\]\(([^)\s]+)\)", prose)
    return [
        target
        for target in targets
        if not re.match(r"[a-z]+:|#", target) and not (folder / target.partition("#")[0]).exists()
    ]


def unlike_imports(modules: Mapping[str, str], project: Mapping) -> list[str]:
    """Where what the library imports and what ``pyproject.toml`` requires for it differ.

    The widgets may import what the extra ``book`` brings, other modules inside functions only.

    Args:
        modules: the source of each module by its dotted name.
        project: the table ``project``.
    """
    plain, book = (
        {canonicalize_name(Requirement(line).name) for line in lines}
        for lines in (project["dependencies"], project["optional-dependencies"]["book"])
    )
    faults, used = [], set()
    for name, source in modules.items():
        widget = name.startswith("gdm_lib.widgets")
        for top, inside in third_party(ast.parse(source)):
            wanted = canonicalize_name(DISTRIBUTIONS.get(top, top))
            if wanted in plain:
                used |= set() if widget else {wanted}
            elif wanted not in book:
                faults.append(f"{name} imports {top}, which nothing requires")
            elif not (widget or inside):
                faults.append(
                    f"{name} imports {top} outside of functions; a plain install lacks it"
                )
    return faults + [f"{wanted} is required and not imported" for wanted in sorted(plain - used)]


def third_party(node: ast.AST, inside: bool = False) -> Iterator[tuple[str, bool]]:
    """Top-level packages of others that are imported, and whether a function does it."""
    for child in ast.iter_child_nodes(node):
        names = []
        if isinstance(child, ast.Import):
            names = [alias.name for alias in child.names]
        elif isinstance(child, ast.ImportFrom) and child.module and not child.level:
            names = [child.module]
        tops = {name.partition(".")[0] for name in names} - {"gdm_lib", *sys.stdlib_module_names}
        yield from ((top, inside) for top in sorted(tops))
        function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from third_party(child, inside or function)


# -- the house itself


def test_what_the_library_imports_is_what_it_requires():
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path.read_text("utf-8")
        for path in (ROOT / "gdm_lib").rglob("*.py")
    }
    assert len(modules) > 30
    assert not unlike_imports(modules, PROJECT)


def test_environment_yml_equals_pyproject():
    assert not same_as_pyproject((ROOT / "environment.yml").read_text("utf-8"), PROJECT)


def test_every_direct_dependency_is_pinned_in_its_range():
    assert not outside_pins((ROOT / "constraints.txt").read_text("utf-8"), DIRECT)


def test_the_top_level_is_a_table_of_contents():
    assert {name.partition("/")[0] for name in tracked()} <= TOP


def test_no_file_names_a_place_on_the_machine_it_was_made_on():
    faults = []
    for name in tracked():
        if name.startswith(".ci/"):
            continue
        try:
            text = (ROOT / name).read_text("utf-8")
        except UnicodeDecodeError:
            continue
        faults += [f"{name}: {match[0]}" for match in MACHINE.finditer(text)]
    assert not faults


def test_files_are_small():
    limits = {".ipynb": MAX_NOTEBOOK, ".safetensors": MAX_WEIGHTS}
    sizes = {name: (ROOT / name).stat().st_size for name in tracked()}
    assert not {name: s for name, s in sizes.items() if s > limits.get(Path(name).suffix, 500_000)}
    assert (ROOT / "chapters/_site/readme.png").stat().st_size <= 150_000


@pytest.mark.parametrize("name", PAPERS)
def test_the_papers_name_targets_and_files_that_exist(name):
    text = (ROOT / name).read_text("utf-8")
    assert "make test" in text
    assert not unknown_targets(text, (ROOT / "Makefile").read_text("utf-8"))
    assert not dead_links(text, ROOT)


def test_the_contents_in_the_readme_exist():
    text = (ROOT / "README.md").read_text("utf-8")
    contents = text.partition("## What is where")[2].partition("##")[0]
    entries = re.findall(r"^ {4}(\S+)", contents, re.MULTILINE)
    assert len(entries) >= 8
    assert not [entry for entry in entries if not (ROOT / entry).exists()]


def test_the_example_in_the_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = parse((ROOT / "README.md").read_text("utf-8"))
    (source,) = (block.text for block in blocks if block.name == "python")
    scope: dict = {}
    exec(compile(source, "README.md", "exec"), scope)
    # Coin flips with each pixel's own mean: what a model that ignores its latent can reach.
    p = scope["x"].mean(0).clamp(1e-3, 1 - 1e-3)
    test = scope["test"]
    flips = (test * p.log() + (1 - test) * (1 - p).log()).flatten(1).sum(1).mean()
    said = re.search(r"held-out bound: (-[\d.]+) nats", capsys.readouterr().out)
    assert said
    assert float(said[1]) > float(flips) + 2.5
    assert scope["images"].shape == (16, 1, 8, 8)
    assert scope["digit"].shape == (1, 1, 28, 28)


def test_readme_and_workflow_give_windows_the_same_commands():
    readme = (ROOT / "README.md").read_text("utf-8")
    section = readme.partition("### On Windows")[2].partition("###")[0]
    commands = [line.strip() for line in section.splitlines() if line.startswith("    ")]
    workflow = (ROOT / ".github/workflows/book.yml").read_text("utf-8")
    run = [step.get("run", "") for step in yaml.safe_load(workflow)["jobs"]["windows"]["steps"]]
    done = "\n".join(run)
    assert len(commands) == 5
    assert [c for c in commands if c not in done and "_tools.lab" not in c] == []
    assert f'"{PROJECT_TORCH}"' in commands[1], "the Makefile and the README install another torch"


PROJECT_TORCH = re.search(r"^TORCH \?= (\S+)$", (ROOT / "Makefile").read_text("utf-8"), re.M)[1]


def test_the_workflow_publishes_through_the_make_targets():
    text = (ROOT / ".github/workflows/book.yml").read_text("utf-8")
    workflow = yaml.safe_load(text)
    jobs = workflow["jobs"]
    assert not unknown_targets(text, (ROOT / "Makefile").read_text("utf-8"))
    steps = {name: [s.get("run", "") for s in job["steps"]] for name, job in jobs.items()}
    assert any("make test" in run for run in steps["test"])
    assert any("make book" in run for run in steps["build"])
    environment = (ROOT / "chapters/_tools/book_site.py").read_text("utf-8")
    given = [name for step in jobs["build"]["steps"] for name in step.get("env", {})]
    assert given == ["GDM_REPOSITORY", "GDM_BRANCH"]
    assert all(f'environ.get("{name}"' in environment for name in given)
    assert set(jobs["deploy"]["needs"]) == {"test", "build"}
    assert jobs["deploy"]["permissions"] == {"pages": "write", "id-token": "write"}
    assert workflow["permissions"] == {"contents": "read"}


def test_torch_is_one_version_everywhere():
    pins = (ROOT / "constraints.txt").read_text("utf-8").split()
    assert PROJECT_TORCH in pins


def test_reference_weights_have_a_record_beside_them():
    for name in tracked():
        if name.endswith(".safetensors"):
            record = json.loads((ROOT / name).with_suffix(".json").read_text("utf-8"))
            assert record["bytes"] == (ROOT / name).stat().st_size


# -- faults planted

TOY = {
    "requires-python": ">=3.11",
    "dependencies": ["torch>=2.6"],
    "optional-dependencies": {"book": ["jupyterlab>=4"], "tests": ["pytest>=8"]},
}
CONDA = """
dependencies:
  - python>=3.11
  - pip:
      - --constraint constraints.txt
      - torch>=2.6
      - jupyterlab>=4
      - pytest>=8
      - --editable .
"""


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("", "", None),
        ("torch>=2.6", "torch>=2.5", "torch>=2.6"),
        ("      - pytest>=8\n", "", "missing: pytest>=8"),
        ("pytest>=8", "pytest>=8\n      - black", "not in pyproject.toml: black"),
        ("python>=3.11", "python>=3.10", "python: expected >=3.11"),
        ("jupyterlab>=4", "x", "missing: jupyterlab>=4"),
        ("      - --editable .\n", "", "missing: --editable ."),
    ],
)
def test_a_fault_in_environment_yml_is_told(old, new, told):
    faults = same_as_pyproject(CONDA.replace(old, new, 1), TOY)
    assert faults == [] if told is None else told in "; ".join(faults)


LIBRARY = {
    "gdm_lib.nn": "import torch\nimport math, os.path\nfrom . import x\nfrom gdm_lib import y",
    "gdm_lib.viz": "def f():\n    from jupyterlab.a import b",
    "gdm_lib.widgets.a": "import jupyterlab, torch",
}


@pytest.mark.parametrize(
    ("module", "source", "told"),
    [
        ("gdm_lib.cli", "", None),
        ("gdm_lib.cli", "import scipy.stats", "gdm_lib.cli imports scipy, which nothing requires"),
        ("gdm_lib.widgets.b", "from pytest import mark", "gdm_lib.widgets.b imports pytest, which"),
        ("gdm_lib.cli", "def f():\n    from PIL import Image", "imports PIL, which nothing"),
        ("gdm_lib.cli", "if True:\n    import jupyterlab", "imports jupyterlab outside of func"),
        ("gdm_lib.nn", "import math", "torch is required and not imported"),
    ],
)
def test_a_fault_in_what_is_required_is_told(module, source, told):
    faults = unlike_imports({**LIBRARY, module: source}, TOY)
    assert len(faults) == (told is not None), faults
    assert told is None or told in faults[0]


@pytest.mark.parametrize(
    ("pins", "told"),
    [
        ("torch==2.13.0\nMy.Name==1.5", []),
        ("torch==2.5.1\nmy-name==1.5", ["torch==2.5.1 is outside >=2.6"]),
        ("torch==2.13.0", ["my_name is not pinned"]),
        ("torch==2.13.0\nmy_name==2.0", ["my_name==2.0 is outside <2"]),
        ("torch>=2.6\nmy_name==1.0", ["torch>=2.6 is no pin: expected NAME==VERSION"]),
    ],
)
def test_a_fault_in_the_pins_is_told(pins, told):
    assert outside_pins(pins, ["torch>=2.6", "my_name<2"]) == told


def test_faults_in_a_text_are_told(tmp_path):
    text = "Say `make book` or\n\n    make lob test\n\nand make sure. [a](b.md) [c](https://x.y/z)"
    assert unknown_targets(text, "book: x\ntest:\n") == ["lob"]
    assert dead_links(text, tmp_path) == ["b.md"]
    (tmp_path / "b.md").touch()
    assert dead_links(text, tmp_path) == []


@pytest.mark.parametrize("place", ["work", "root", "tmp", "home", "Users"])
def test_a_place_on_a_machine_is_told(place):
    path = f"/{place}/x"
    for text in (f"see {path}", f'"{path}"', f"file:{path}", f"`{path}`"):
        assert MACHINE.search(text), text
    for text in (f"https://host{path}", f"../..{path}", f"a{path}", f"$HOME{path}", f"+{path}"):
        assert not MACHINE.search(text), text
