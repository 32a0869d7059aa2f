"""The shape of the library, read from its source: papers by date, imports one way.

Each rule is a function from ``{module name: source}`` to the faults in it, so that a fault can be
planted in a string.
"""

import ast
import graphlib
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FAMILIES = frozenset({"vae", "flows", "autoregressive", "gan"})
LAYERS = (  # a module may import its own row and those before it
    {"protocols", "_console", "_files", "_tensorfile", "_lazy", "_inputs"},
    {"nn", "likelihoods"},
    {"bijections", "autoregression", "adversarial"},
    {"metrics", "data", "viz"},  # viz stands low because it imports nothing of the library
    FAMILIES,
    {"pretrained"},
    {"training", "_loop", "_batches", "_checkpoint", "_players"},
    {"widgets", "exercises"},
    {"recipes"},
    {"cli", "__main__"},
)
BELOW_PAPERS = {
    "protocols", "_inputs", "nn", "likelihoods", "bijections", "autoregression", "adversarial",
}  # fmt: skip
PICKLES = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
NETWORK = {
    "aiohttp", "ftplib", "http", "httpx", "requests", "smtplib", "socket", "ssl", "telnetlib",
    "urllib.error", "urllib.request", "urllib3", "websocket", "websockets", "xmlrpc",
}  # fmt: skip
DOWNLOADER = "gdm_lib.data._download"

Modules = Mapping[str, str]
Rule = Callable[[Modules], list[str]]


def library() -> dict[str, str]:
    """Every module of the library by its dotted name; a package's ends in ``.__init__``."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path.read_text("utf-8")
        for path in sorted((ROOT / "gdm_lib").rglob("*.py"))
    }


def imported(name: str, modules: Modules) -> Iterator[str]:
    """What a module imports, anywhere in it: dotted names, of a module where one is known."""
    known = {other.removesuffix(".__init__") for other in modules}
    package = name.split(".")[:-1]
    for node in ast.walk(ast.parse(modules[name])):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parent = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*parent, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                own = base.partition(".")[0] == "gdm_lib"
                yield inner if inner in known or not own or base == "gdm_lib" else base


def part(name: str) -> str:
    """The entry of ``gdm_lib`` that a dotted name is in; "" for the package itself."""
    return name.removesuffix(".__init__").partition(".")[2].partition(".")[0]


def is_paper(name: str) -> bool:
    """Whether a module is that of a paper."""
    return part(name) in FAMILIES and name.count(".") > 1 and not name.endswith(".__init__")


def is_family(name: str) -> bool:
    """Whether a module is the package of a family."""
    return part(name) in FAMILIES and name.count(".") == 2 and name.endswith(".__init__")


def constants(source: str) -> dict[str, object]:
    """The module's names that are bound to a literal."""
    return {
        node.targets[0].id: node.value.value
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
    }


# -- the rules


def date(source: str) -> tuple[int, int] | None:
    """When a paper came out: year and month, and its place in that month, of its ``ARXIV``.

    Numbers, since serials have had four digits until 2014 and five since.
    """
    arxiv = constants(source).get("ARXIV")
    if not (isinstance(arxiv, str) and re.fullmatch(r"\d{4}\.\d{4,5}", arxiv)):
        return None
    month, serial = arxiv.split(".")
    return int(month), int(serial)


def papers_state_their_number(modules: Modules) -> list[str]:
    """``ARXIV`` is a literal, and the module's docstring cites it."""
    faults = []
    for name in filter(is_paper, modules):
        if date(modules[name]) is None:
            faults.append(f"{name}: states no ARXIV, expected a literal such as '1312.6114'")
            continue
        arxiv = str(constants(modules[name])["ARXIV"])
        if arxiv not in (ast.get_docstring(ast.parse(modules[name])) or ""):
            faults.append(f"{name}: the docstring does not cite {arxiv}")
    return faults


def papers_import_older_papers(modules: Modules) -> list[str]:
    """The chronological rule: shared rooms, older papers, and further modules of the same one."""
    faults = []
    for name in filter(is_paper, modules):
        mine = date(modules[name])
        for other in imported(name, modules):
            if other.partition(".")[0] != "gdm_lib" or part(other) in BELOW_PAPERS:
                continue
            if not is_paper(other):
                faults.append(f"{name}: imports {other}, which is no room below the papers")
                continue
            theirs = date(modules.get(other, ""))
            if mine is None or theirs is None or theirs > mine:
                faults.append(f"{name} {mine}: imports {other} {theirs}, which is not older")
    return faults


def imports_run_one_way(modules: Modules) -> list[str]:
    """The rows of ``LAYERS``, and every entry of the library is in one."""
    rank = {entry: row for row, entries in enumerate(LAYERS) for entry in entries}
    faults = []
    for name in modules:
        mine = part(name)
        if mine and mine not in rank:
            faults.append(f"{name}: has no row in LAYERS")
            continue
        for other in imported(name, modules):
            theirs = part(other)
            if other.partition(".")[0] != "gdm_lib" or theirs not in rank:
                continue  # the package itself holds nothing but its version
            if rank[theirs] > rank.get(mine, -1):
                faults.append(f"{name}: imports {other}, which stands above it")
            elif theirs in FAMILIES and mine in FAMILIES and not is_paper(name) and mine != theirs:
                faults.append(f"{name}: imports {other}, of another family")
    return faults


def imports_make_no_circle(modules: Modules) -> list[str]:
    """Not even for types alone. A package's ``__init__``, its face, may name what is in it."""
    below = {
        name: {other for other in imported(name, modules) if other in modules}
        for name in modules
        if not name.endswith(".__init__")
    }
    try:
        graphlib.TopologicalSorter(below).prepare()
    except graphlib.CycleError as error:
        return [f"a circle: {' imports '.join(reversed(error.args[1]))}"]
    return []


def nothing_is_unpickled(modules: Modules) -> list[str]:
    """No ``pickle`` or what wraps it: loading one runs what its maker wrote."""
    faults = []
    for name, source in modules.items():
        for other in imported(name, modules):
            if other.partition(".")[0] in PICKLES or other in ("torch.load", "pandas.read_pickle"):
                faults.append(f"{name}: imports {other}")
        for node in ast.walk(ast.parse(source)):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            unpickles = called in ("torch.load", "pd.read_pickle", "pandas.read_pickle")
            unpickles |= any(key.arg == "allow_pickle" for key in node.keywords)
            if unpickles:
                faults.append(f"{name}: line {node.lineno}: {ast.unparse(node)} unpickles")
    return faults


def only_the_downloader_knows_the_network(modules: Modules) -> list[str]:
    """No other module imports what can open a connection."""
    faults = []
    for name in modules:
        for other in imported(name, modules):
            parents = {other, other.partition(".")[0], ".".join(other.split(".")[:2])}
            if parents & NETWORK and name != DOWNLOADER:
                faults.append(f"{name}: imports {other}; let {DOWNLOADER} fetch")
    return faults


def the_public_is_documented(modules: Modules) -> list[str]:
    """A docstring and ``__all__`` in each public module, a docstring on each public definition."""
    faults = []
    for name, source in modules.items():
        if any(p[0] == "_" for p in name.removesuffix(".__init__").split(".")):
            continue
        tree = ast.parse(source)
        if not ast.get_docstring(tree):
            faults.append(f"{name}: has no docstring")
        bound = _bound(tree)
        public = [n for n in bound if not n.startswith("_") and n != "annotations"]
        # A family's package names what it offers in its ``__getattr__``. With ``__all__`` the
        # site's reference would document the models there, and not in the papers' modules.
        lazy = is_family(name) and "__getattr__" in bound
        if public and "__all__" not in bound and not lazy:
            faults.append(f"{name}: has no __all__")
        faults += [f"{name}: {item} has no docstring" for item in _undocumented(tree)]
    return faults


def _bound(tree: ast.Module) -> set[str]:
    found: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [name for target in targets for name in ast.walk(target)]
            found |= {
                n.id for n in names if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
            }
    return found


def _undocumented(tree: ast.Module) -> Iterator[str]:
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    for node in tree.body:
        if not isinstance(node, functions | ast.ClassDef) or node.name.startswith("_"):
            continue
        if not ast.get_docstring(node):
            yield node.name
        if isinstance(node, ast.ClassDef):
            for inner in node.body:
                public = isinstance(inner, functions) and not inner.name.startswith("_")
                if public and not ast.get_docstring(inner) and not node.bases:
                    # With bases, a method may override one that is documented there.
                    yield f"{node.name}.{inner.name}"


RULES: list[Rule] = [
    papers_state_their_number,
    papers_import_older_papers,
    imports_run_one_way,
    imports_make_no_circle,
    nothing_is_unpickled,
    only_the_downloader_knows_the_network,
    the_public_is_documented,
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_library_keeps_the_rule(rule):
    assert not rule(library())


def test_the_rooms_below_the_papers_stand_below_them():
    rank = {entry: row for row, entries in enumerate(LAYERS) for entry in entries}
    assert max(rank[room] for room in BELOW_PAPERS) < rank["flows"]


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("1410.8516", "1701.05517"),
        ("1412.9999", "1501.00001"),
        ("1406.2661", "1406.10000"),  # as text the second would come first
        ("1805.08318", "1812.04948"),
    ],
)
def test_numbers_of_the_archive_are_in_the_order_of_time(older, newer):
    first, second = (date(f'ARXIV = "{arxiv}"') for arxiv in (older, newer))
    assert first is not None
    assert second is not None
    assert first < second


def test_the_scan_finds_the_library():
    found = library()
    assert "gdm_lib.vae.vae" in filter(is_paper, found)
    assert "gdm_lib.vae.__init__" not in filter(is_paper, found)
    assert {"gdm_lib.nn", "gdm_lib.likelihoods"} <= set(imported("gdm_lib.vae.vae", found))
    assert "gdm_lib.data.mnist" in set(imported("gdm_lib.cli", found)), "imports inside functions"


# -- faults planted in a small library

NICE = '"""NICE, 1410.8516."""\n__all__ = []\nARXIV = "1410.8516"\n'
MAF = '"""MAF, 1705.07057."""\n__all__ = []\nARXIV = "1705.07057"\n'
SAGAN = '"""SAGAN, 1805.08318."""\n__all__ = []\nARXIV = "1805.08318"\n'
STYLEGAN = '"""StyleGAN, 1812.04948."""\n__all__ = []\nARXIV = "1812.04948"\n'
SOUND = {
    "gdm_lib.__init__": '"""The library."""\n\n__version__ = "1"\n',
    "gdm_lib.cli": '"""C."""\nfrom gdm_lib import training\n__all__ = []\n',
    "gdm_lib.training": '"""T."""\nimport gdm_lib\nfrom gdm_lib import nn\n__all__ = []\n',
    "gdm_lib.nn": '"""Nets."""\n__all__ = ["mlp"]\ndef mlp():\n    """A net."""\n',
    "gdm_lib.data.__init__": '"""Data."""\n',
    "gdm_lib.data._download": "from urllib.request import urlopen\nimport urllib.parse\n",
    "gdm_lib.flows.__init__": '"""Flows."""\nfrom .nice import x\n__all__ = ["x"]\n',
    "gdm_lib.flows.nice": f"{NICE}from gdm_lib.nn import mlp\n",
    "gdm_lib.flows.maf": f"{MAF}from gdm_lib.flows import nice\nfrom .nice import x\n",
    "gdm_lib.gan.__init__": '"""Adversarial networks."""\n',
    "gdm_lib.gan.sagan": f"{SAGAN}from gdm_lib.adversarial import Adversarial\n",
    "gdm_lib.gan.stylegan": f"{STYLEGAN}from gdm_lib.gan import sagan\n",
    "gdm_lib.adversarial": '"""A."""\nfrom gdm_lib import nn\n__all__ = []\n',
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_sound_library_has_no_fault(rule):
    assert not rule(SOUND)


PLANTED = [
    (papers_state_their_number, "gdm_lib.flows.nice", "ARXIV", "DOI", "no ARXIV"),
    (papers_state_their_number, "gdm_lib.flows.nice", '"1410.8516"', "'1410' + '.8516'", "no ARX"),
    (papers_state_their_number, "gdm_lib.flows.nice", '"1410.8516"', '"14108516"', "no ARXIV"),
    (papers_state_their_number, "gdm_lib.flows.nice", "NICE, 1410.8516", "NICE", "does not cite"),
    (papers_import_older_papers, "gdm_lib.gan.sagan", "from gdm_lib.adversarial import Adversarial",
     "from gdm_lib.gan.stylegan import G",
     r"sagan \(1805, 8318\): imports gdm_lib.gan.stylegan \(1812, 4948\)"),
    (papers_import_older_papers, "gdm_lib.gan.sagan", "from gdm_lib.adversarial import Adversarial",
     "from gdm_lib.gan import stylegan", "not older"),
    (papers_import_older_papers, "gdm_lib.flows.nice", "from gdm_lib.nn import mlp",
     "from gdm_lib.flows import maf", r"nice \(1410, 8516\): imports gdm_lib.flows.maf"),
    (papers_import_older_papers, "gdm_lib.flows.nice", "from gdm_lib.nn import mlp",
     "from .maf import y", "not older"),
    (papers_import_older_papers, "gdm_lib.flows.nice", "from gdm_lib.nn import mlp",
     "def f():\n    import gdm_lib.training", "no room below"),
    (papers_import_older_papers, "gdm_lib.flows.nice", "gdm_lib.nn", "gdm_lib.data", "no room"),
    (papers_import_older_papers, "gdm_lib.flows.maf", "from .nice import x",
     "from gdm_lib.flows import x", "imports gdm_lib.flows, which is no room"),
    (imports_run_one_way, "gdm_lib.nn", '"""Nets."""', "from gdm_lib import training", "above"),
    (imports_make_no_circle, "gdm_lib.nn", '"""Nets."""', "from gdm_lib import training",
     "a circle: gdm_lib.(nn|training) imports gdm_lib.(nn|training) imports"),
    (imports_make_no_circle, "gdm_lib.nn", '"""Nets."""',
     "if TYPE_CHECKING:\n    from gdm_lib.flows.nice import x", "a circle: "),
    (imports_run_one_way, "gdm_lib.nn", '"""Nets."""', "import gdm_lib.flows.nice", "above"),
    (imports_run_one_way, "gdm_lib.adversarial", "from gdm_lib import nn",
     "from gdm_lib.gan.sagan import x", "imports gdm_lib.gan.sagan, which stands above"),
    (imports_run_one_way, "gdm_lib.adversarial", "from gdm_lib import nn",
     "from gdm_lib.gan import SAGAN", "imports gdm_lib.gan, which stands above"),
    (imports_run_one_way, "gdm_lib.training", "nn", "cli", "stands above"),
    (imports_run_one_way, "gdm_lib.__init__", '"1"', '"1"\nfrom gdm_lib import nn', "above"),
    (imports_run_one_way, "gdm_lib.gan.__init__", '"""Adversarial networks."""',
     "import gdm_lib.flows.nice", "of another family"),
    (nothing_is_unpickled, "gdm_lib.nn", '"""Nets."""', "import pickle", "imports pickle"),
    (nothing_is_unpickled, "gdm_lib.nn", '"""Nets."""', "from torch import load", "torch.load"),
    (nothing_is_unpickled, "gdm_lib.nn", '"""A net."""', "torch.load('x')", "unpickles"),
    (nothing_is_unpickled, "gdm_lib.nn", '"""A net."""', "np.load('x', allow_pickle=True)", "unp"),
    (only_the_downloader_knows_the_network, "gdm_lib.nn", '"""A net."""', "import ssl", "ssl"),
    (only_the_downloader_knows_the_network, "gdm_lib.nn", '"""A net."""',
     "from urllib import request", "urllib.request"),
    (only_the_downloader_knows_the_network, "gdm_lib.nn", '"""A net."""',
     "import http.client as h", "http.client"),
    (the_public_is_documented, "gdm_lib.nn", '"""Nets."""', "", "nn: has no docstring"),
    (the_public_is_documented, "gdm_lib.nn", '__all__ = ["mlp"]', "", "no __all__"),
    (the_public_is_documented, "gdm_lib.nn", '    """A net."""', "    ...", "mlp has no docstring"),
    (the_public_is_documented, "gdm_lib.nn", "def mlp():",
     'class Net:\n    """N."""\n    def f(self): ...\ndef mlp():', "Net.f has no docstring"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "name", "old", "new", "told"), PLANTED)
def test_a_planted_fault_is_told(rule, name, old, new, told):
    assert old in SOUND[name]
    faults = rule({**SOUND, name: SOUND[name].replace(old, new, 1)})
    assert len(faults) == 1, faults
    assert re.search(told, faults[0])
    assert name in faults[0]
