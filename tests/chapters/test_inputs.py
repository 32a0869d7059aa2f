"""Stored outputs are stale when, and only when, something changed that they were made from."""

import shutil

import nbformat
import numpy as np
import pytest
from safetensors.numpy import save_file

from chapters._tools import execute, inputs, pairs

LIBRARY = {
    "__init__.py": "",
    "_lazy.py": (pairs.ROOT / "gdm_lib" / "_lazy.py").read_text("utf-8"),
    "nn.py": '''"""Layers."""
from __future__ import annotations

SCALE = 1


def deep(x: int) -> int:
    """Deepen."""
    return x + SCALE


def spare():
    return 2
''',
    "layers.py": "from gdm_lib.nn import deep\n\n\ndef middle(x):\n    return deep(x)\n",
    "vae/__init__.py": "",
    "vae/vae.py": '''import traceback

from ..layers import middle


def traced(function):
    return function


class Base:
    def half(self, x):
        traceback.format_stack()  # so that this file is in linecache before it is shown
        return x / 2


class VAE(Base):
    @traced
    def loss(self, x):
        """The bound."""
        return self.half(middle(x))


def kl():
    """The divergence."""  # in nats
    return 0
''',
    "viz/__init__.py": """from typing import TYPE_CHECKING

from gdm_lib._lazy import lazily

if TYPE_CHECKING:
    from gdm_lib.viz.show import show_source
    from gdm_lib.viz.style import use_style

__getattr__, __dir__ = lazily(__name__, {"show": ["show_source"], "style": ["use_style"]})
""",
    "viz/show.py": "import inspect\n\n\ndef show_source(f):\n    print(inspect.getsource(f))\n",
    "viz/style.py": """from importlib.resources import files


def use_style():
    return (files("gdm_lib.viz") / "book.mplstyle").read_text()
""",
    "viz/book.mplstyle": "axes.grid: false\n",
    "viz/other.js": "other()\n",
    "weights.py": """import importlib
import traceback
from pathlib import Path

from safetensors import safe_open

FOLDER = Path(__file__).parents[1] / "data" / "weights"


def read(name):
    traceback.format_stack()  # as torch does when it is seeded: it reads the source of this file
    with safe_open(FOLDER / f"{name}.safetensors", framework="np") as file:
        return file.get_tensor("w"), (FOLDER / f"{name}.json").read_text()


def recipe(name):
    return getattr(importlib.import_module(f"gdm_lib.recipes.{name}"), name.upper())
""",
    "recipes/__init__.py": "",
    "recipes/small.py": "from gdm_lib.recipes.common import STEPS\n\nSMALL = STEPS\n",
    "recipes/large.py": "LARGE = 2\n",
    "recipes/common.py": "STEPS = 3\n\n\ndef rarely():\n    return 4\n",
    "unseen.py": "",
    "hidden.py": "SEEN = 5\n",
}
CELLS = [
    "from gdm_lib import viz, weights\nfrom gdm_lib.vae import vae as paper",
    "viz.use_style()\nname = 'small'\nw, record = weights.read(f'vae/{name}')\nprint(w, record)",
    "print(weights.recipe(name), paper.VAE().loss(4))\nviz.show_source(paper.kl)",
    "print(getattr(__import__('gdm_' + 'lib.hidden'), 'hidden').SEEN)",
    "open('own.txt', 'w').close()\nprint(open('own.txt').read(), open('notes.txt').read())",
    "import pathlib\nprint(pathlib.Path('../data/cache/big.bin').read_bytes())",
]


class Checkout:
    """A small library, and a chapter that was executed with it."""

    def __init__(self, root):
        self.root = root
        self.master = root / "chapters" / "toy.md"

    def put(self, name, content):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    def why(self):
        sync, stale = pairs.staleness(self.master, self.root)
        assert sync is None
        return stale

    def stored(self):
        return nbformat.read(pairs.notebook_path(self.master), as_version=4).metadata["gdm"]


@pytest.fixture(scope="module")
def executed(tmp_path_factory, header):
    checkout = Checkout(tmp_path_factory.mktemp("checkout"))
    for name, text in LIBRARY.items():
        checkout.put(f"gdm_lib/{name}", text)
    for name in ("small", "large"):
        checkout.put(f"data/weights/vae/{name}.json", f'{{"name": "{name}"}}\n')
        path = checkout.root / f"data/weights/vae/{name}.safetensors"
        save_file({"w": np.arange(3.0)}, path)
    checkout.put("data/cache/big.bin", b"big")
    checkout.put("chapters/notes.txt", "some notes\n")
    text = "".join(f"```{{code-cell}} ipython3\n{cell}\n```\n\n" for cell in CELLS)
    checkout.put("chapters/toy.md", header + text)
    report = execute.update(checkout.master, root=checkout.root)
    assert report.did == "executed", report.error
    return checkout


@pytest.fixture
def checkout(executed, tmp_path):
    """A copy to plant faults in."""
    shutil.copytree(executed.root, tmp_path / "copy")
    return Checkout(tmp_path / "copy")


def test_what_the_kernel_loaded_and_read_is_recorded(executed):
    stored = executed.stored()
    names = {name for name in LIBRARY if name.endswith(".py")} - {"recipes/large.py", "unseen.py"}
    assert set(stored["modules"]) == {f"gdm_lib/{name}" for name in names}
    assert stored["dynamic"] == ["gdm_lib/recipes/small.py"]
    assert list(stored["files"]) == [
        "chapters/notes.txt",
        "data/weights/vae/small.json",
        "data/weights/vae/small.safetensors",
        "gdm_lib/vae/vae.py",  # whose source was shown
        "gdm_lib/viz/book.mplstyle",
    ]
    reached = {name.partition(":")[0] for name in stored["modules"]["gdm_lib/nn.py"].split()}
    assert reached == {"SCALE", "deep"}
    assert executed.why() is None


NN, VAE = "gdm_lib/nn.py", "gdm_lib/vae/vae.py"


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        (NN, "def spare", "def new():\n    return 3\n\n\ndef spare"),  # nobody uses it
        (NN, "    return 2", "    return 3"),  # not reached
        (NN, "from __future__", "import math\nfrom __future__"),  # used by nobody
        (NN, "SCALE = 1", "SCALE = 1  # one"),
        (NN, "Deepen.", "Deepen it."),
        (NN, "Layers.", "All layers."),
        (NN, "    return x + SCALE", "    return (\n        x + SCALE\n    )"),
        (NN, "\n", "\r\n"),
        (VAE, "\n", "\r\n"),  # shown
        ("gdm_lib/viz/book.mplstyle", "\n", "\r\n"),
        ("gdm_lib/viz/other.js", "other()", "\nother()"),
        ("gdm_lib/viz/__init__.py", '{"show"', '{"new": ["New"], "show"'),
        ("gdm_lib/weights.py", "as torch does", "as it does"),  # read, but not to be shown
        ("gdm_lib/recipes/large.py", "2", "3"),
        ("gdm_lib/recipes/common.py", "return 4", "return 5"),
        ("gdm_lib/unseen.py", "", "unseen = 1"),
        ("gdm_lib/new.py", "", "new = 1"),
        ("data/weights/vae/large.safetensors", "", "other"),
        ("data/weights/vae/large.json", "large", "larger"),
        ("data/cache/big.bin", "big", "bigger"),
        ("chapters/own.txt", "", "other"),  # the notebook made it
    ],
)
def test_a_change_of_something_else_leaves_it_fresh(checkout, name, old, new):
    plant(checkout, name, old, new)
    assert checkout.why() is None


@pytest.mark.parametrize(
    ("name", "old", "new", "told"),
    [
        # Weights whose name an f-string made, read by Rust, and the record beside them.
        ("data/weights/vae/small.safetensors", "", "x", "vae/small.safetensors changed"),
        ("data/weights/vae/small.json", "small", "smaller", "data/weights/vae/small.json changed"),
        ("data/weights/vae/small.safetensors", None, None, "vae/small.safetensors is gone"),
        ("chapters/notes.txt", "some", "more", "chapters/notes.txt changed"),
        ("gdm_lib/viz/book.mplstyle", "false", "true", "gdm_lib/viz/book.mplstyle changed"),
        # Modules whose name was made at run time: whatever they define, and what that uses.
        ("gdm_lib/recipes/small.py", "SMALL =", "T = 1\nSMALL =", "recipes/small.py: T used now"),
        ("gdm_lib/recipes/common.py", "= 3", "= 4", "recipes/common.py: STEPS changed"),
        ("gdm_lib/hidden.py", "= 5", "= 6", "gdm_lib/hidden.py: SEEN changed"),
        # What is reached: two modules away, a constant, an import's target, a base, a decorator.
        (NN, "return x + SCALE", "return x - SCALE", f"{NN}: deep changed"),
        (NN, "SCALE = 1", "SCALE = 2", f"{NN}: SCALE changed"),
        (NN, "def deep", "def deeper", f"{NN}: deep gone or no longer used"),
        ("gdm_lib/layers.py", "import deep", "import spare as deep", "layers.py: middle changed"),
        (VAE, "x / 2", "x / 3", f"{VAE}: Base changed"),
        (VAE, "self.half(middle(x))", "middle(x)", f"{VAE}: VAE changed"),
        (VAE, "    @traced\n", "", f"{VAE}: VAE changed, traced gone or no longer used"),
        (VAE, "return function", "return print", f"{VAE}: traced changed"),
        ("gdm_lib/viz/__init__.py", '"style": ["use', '"show": ["use', "use_style changed"),
        ("gdm_lib/viz/style.py", '"gdm_lib.viz"', '"gdm_lib"', "style.py: use_style changed"),
        # Of a file whose source was shown, everything.
        (VAE, "in nats", "in bits", f"{VAE}, whose text was shown, changed"),
        (VAE, "The bound.", "A bound.", f"{VAE}, whose text was shown, changed"),
        # What runs when a module is loaded.
        (NN, "SCALE = 1", "SCALE = 1\nprint()", f"{NN}: top-level statements used now"),
        (NN, "SCALE = 1", "SCALE = 1\ndef __getattr__(n): ...", f"{NN}: top-level statements"),
        (NN, "from __future__ import annotations\n", "", f"{NN}: SCALE, deep changed"),
        (NN, None, None, f"{NN}: gone"),
        (NN, "return x +", "return x + +* ", f"{NN}: invalid syntax"),
    ],
)
def test_a_change_of_what_it_was_made_from_is_told(checkout, name, old, new, told):
    plant(checkout, name, old, new)
    assert told in (checkout.why() or "fresh")


def plant(checkout, name, old, new):
    path = checkout.root / name
    if old is None:
        path.unlink()
        return
    before = path.read_bytes() if path.exists() else b""
    after = before.replace(old.encode(), new.encode()) if old else new.encode() + before
    assert after != before
    checkout.put(name, after)


def test_a_file_that_was_missed_counts_once_it_is_there(checkout):
    path = pairs.notebook_path(checkout.master)
    record = inputs.Record(files=["data/perhaps.json"])
    notebook = nbformat.read(path, as_version=4)
    code = pairs.code_of(notebook)
    notebook.metadata["gdm"] = inputs.take(code, record, checkout.root)
    pairs.write(notebook, path)
    assert checkout.why() is None
    checkout.put("data/perhaps.json", "{}")
    assert checkout.why() == "data/perhaps.json is there now"


def test_a_long_list_is_cut(checkout):
    stored = checkout.stored()
    for name in ("layers", "nn", "hidden", "recipes/small", "recipes/common", "weights"):
        (checkout.root / f"gdm_lib/{name}.py").unlink()
    told = inputs.changes(stored, CELLS, checkout.root)
    assert told[-2:] == ["gdm_lib/recipes/common.py: gone", "and 2 more files"]
    assert len(told) == 5


# -- reach, without a kernel


@pytest.fixture
def reached(tmp_path):
    """What cells reach of some modules, as ``module.name``."""

    def reached(*cells, dynamic=(), **modules):
        loaded = []
        for name, text in {"__init__": "", **modules}.items():
            path = tmp_path / "gdm_lib" / (name.replace("__of_", "/") + ".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            loaded.append(path.relative_to(tmp_path).as_posix())
        record = inputs.Record(loaded, [f"gdm_lib/{name}.py" for name in dynamic])
        found, whole = inputs.reach(cells, record, tmp_path)
        assert whole == set() or "help" in "".join(cells)
        names = {
            f"{path.removeprefix('gdm_lib/').removesuffix('.py')}.{name or 'TOP'}"
            for path, names in found.items()
            for name in names
        }
        return {name.replace("/__init__", "") for name in names}

    return reached


A = "def f():\n    return g()\n\n\ndef g(): ...\n\n\ndef h(): ...\n"


@pytest.mark.parametrize(
    "cells",
    [
        ["from gdm_lib.a import f", "f()"],
        ["from gdm_lib.a import f as other", "def later():\n    return [other for _ in ()]"],
        ["import gdm_lib.a as p", "p.f()"],
        ["from gdm_lib import a", "a.f()"],
        ["import gdm_lib", "gdm_lib.a.f()"],
        ["import gdm_lib.a", "%timeit 1\ngdm_lib.a.f.__name__"],
        ["from gdm_lib.a import *", "f()"],
        ["def late():\n    from gdm_lib import a\n    return a.f()"],
        ["from gdm_lib import a", "@a.f\nclass C: ..."],
        ["import gdm_lib.a as a", "a.f = 1"],
    ],
)
def test_names_are_followed_through_every_form_of_import(reached, cells):
    found = reached(*cells, a=A)
    assert found - {"a.TOP"} == {"a.f", "a.g"}


@pytest.mark.parametrize(
    "cell",
    [
        "print(a)",  # whoever has the module may take anything of it
        "[getattr(a, name) for name in dir(a)]",
        "a.made_elsewhere()",
        "eval('a.h()')",
    ],
)
def test_a_module_that_is_handed_on_counts_whole(reached, cell):
    assert reached("from gdm_lib import a", cell, a=A) == {"a.f", "a.g", "a.h"}


def test_an_import_that_is_not_used_reaches_nothing(reached):
    assert reached("from gdm_lib.a import f", "1", a=A) == set()
    user = "from gdm_lib.a import f\n\n\ndef use():\n    return f()\n"
    assert reached("from gdm_lib.b import f", "f()", b=user, a=A) == {"b.f", "a.f", "a.g"}


def test_modules_that_import_in_circles_are_followed_once(reached):
    first = "from . import b\n\n\ndef f():\n    return b.g()\n"
    second = "from gdm_lib import a\n\n\ndef g():\n    return a.f()\n"
    assert reached("from gdm_lib import a\na.f()", a=first, b=second) == {"a.f", "b.g"}
    own = "from . import own\nfrom .own import *\n"
    assert "own.f" in reached("from gdm_lib import f\nf()", __init__=own, own=A)


def test_what_runs_at_the_top_always_counts_with_what_it_uses(reached):
    text = "TABLE = {}\n\n\ndef entry(): ...\n\n\nTABLE['a'] = entry()\nX = 1\n"
    assert reached("import gdm_lib.a", a=text) == {"a.TOP", "a.TABLE", "a.entry"}
    text = "if True:\n    from gdm_lib.b import f\nelse:\n    f = None\n"
    assert reached("from gdm_lib.a import f\nf", a=text, b=A) == {"a.TOP", "a.f", "b.f", "b.g"}
    text = "def show(x): ...\n\n\n@show.register\ndef _(x): ...\n"
    assert reached("import gdm_lib.a", a=text) == {"a.TOP", "a.show"}


def test_names_for_types_alone_are_no_import(reached):
    text = "if TYPE_CHECKING:\n    from gdm_lib.a import h\n\n\ndef f(x: h): ...\n"
    # a was loaded though nobody imports it: it counts whole, and is told apart from h alone
    found = reached("from gdm_lib.b import f\nf", b=text, a=A)
    assert {"b.f", "a.h"} <= found


def test_a_module_that_no_import_explains_counts_whole(reached):
    assert reached("1", a=A) == {"a.f", "a.g", "a.h"}
    assert reached("from gdm_lib.a import f\nf", a=A, dynamic=["a"]) == {"a.f", "a.g", "a.h"}


def test_docstrings_that_are_asked_for_count(tmp_path):
    (tmp_path / "gdm_lib").mkdir()
    (tmp_path / "gdm_lib" / "a.py").write_text(A, encoding="utf-8")
    record = inputs.Record(["gdm_lib/a.py"])
    for cell in ("help(a.f)", "print(a.__doc__)", "inspect.getdoc(a.f)"):
        _, whole = inputs.reach(["from gdm_lib import a", cell], record, tmp_path)
        assert whole == {"gdm_lib/a.py"}


def test_a_cell_that_does_not_parse_is_named(tmp_path):
    with pytest.raises(SyntaxError, match="code cell 2"):
        inputs.reach(["x = 1", "x ="], inputs.Record(), tmp_path)
