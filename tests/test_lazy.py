"""Names that are imported when they are asked for, and the library without the extra ``book``."""

import subprocess
import sys
from pathlib import Path

import pytest

from gdm_lib import widgets
from gdm_lib._lazy import lazily, needs

INIT = """
from gdm_lib._lazy import lazily
__getattr__, __dir__ = lazily(__name__, {"one": ["a", "b"], "two": ["c"], "bad": ["d"]})
"""


@pytest.fixture
def lazy_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A package of three modules, one of which can't be imported."""
    folder = tmp_path / "lazybones"
    folder.mkdir()
    for name, source in {
        "__init__": INIT,
        "one": "a, b = object(), object()",
        "two": "c = 3",
        "bad": "import no_such_module",
    }.items():
        (folder / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    yield __import__("lazybones")
    for name in [name for name in sys.modules if name.partition(".")[0] == "lazybones"]:
        del sys.modules[name]


class TestNamesOfAPackage:
    def test_a_module_is_imported_when_one_of_its_names_is_asked_for(self, lazy_package):
        assert "lazybones.one" not in sys.modules
        assert lazy_package.a is sys.modules["lazybones.one"].a
        assert vars(lazy_package)["a"] is lazy_package.a, "a second look-up needs no function"
        assert "lazybones.two" not in sys.modules
        from lazybones import c

        assert c == 3

    def test_all_are_listed_before_they_are_imported(self, lazy_package):
        assert {"a", "b", "c", "d", "__name__"} <= set(dir(lazy_package))
        assert not any(name.startswith("lazybones.") for name in sys.modules)

    def test_others_are_no_attributes(self, lazy_package):
        with pytest.raises(AttributeError, match="module 'lazybones' has no attribute 'e'"):
            _ = lazy_package.e
        with pytest.raises(ImportError, match="cannot import name 'e'"):
            from lazybones import e  # noqa: F401

    def test_an_error_of_the_module_is_not_hidden(self, lazy_package):
        assert not hasattr(lazy_package, "e")
        with pytest.raises(ModuleNotFoundError, match="no_such_module"):
            _ = lazy_package.d

    def test_the_package_needs_no_such_modules_to_be_named(self):
        get, _ = lazily("gdm_lib.data", {"splits": ["Splits"]})
        assert get("Splits").__module__ == "gdm_lib.data.splits"


class TestTheExtra:
    def test_what_is_missing_is_named_with_the_command(self):
        with (
            pytest.raises(ModuleNotFoundError) as told,
            needs("gdm_lib.widgets.Sweep", "book"),
        ):
            import no_such_module.at_all  # noqa: F401
        assert str(told.value) == (
            "gdm_lib.widgets.Sweep needs no_such_module, which a plain install leaves out; install "
            "the extra that has it: pip install 'gdm-lib[book]'"
        )
        assert told.value.name == "no_such_module"

    def test_it_is_not_blamed_for_a_module_of_this_library(self):
        with pytest.raises(ModuleNotFoundError) as told, needs("x", "book"):
            import gdm_lib.no_such_module  # noqa: F401
        assert str(told.value) == "No module named 'gdm_lib.no_such_module'"

    def test_it_is_not_blamed_for_other_errors(self):
        with pytest.raises(ImportError, match="cannot import name 'x'"), needs("y", "book"):
            from math import x  # noqa: F401


def process(code: str) -> str:
    """What a new process prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# No package of a notebook can be found, nor what draws and exports for it.
WITHOUT = """
import os, sys
from importlib.abc import MetaPathFinder
os.environ["MPLBACKEND"] = "agg"
names = ("ipython", "ipykernel", "ipywidgets", "anywidget", "pygments", "traitlets", "jupyter",
         "jupytext", "nb", "onnx", "myst", "sphinx", "seaborn", "psutil")

class Plain(MetaPathFinder):
    def __init__(self, finders):
        self.finders = finders

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0].lower().startswith(names):
            return None  # as for what isn't there
        specs = (finder.find_spec(name, path, target) for finder in self.finders)
        return next((spec for spec in specs if spec is not None), None)

sys.meta_path[:] = [Plain(sys.meta_path[:])]

def told(function):
    try:
        function()
    except ModuleNotFoundError as error:
        return str(error)
"""


def test_a_plain_install_has_all_but_the_widgets():
    out = process(f"""{WITHOUT}
from importlib import import_module
from pkgutil import walk_packages
import gdm_lib
for info in walk_packages(gdm_lib.__path__, "gdm_lib."):
    if not info.name.startswith("gdm_lib.widgets.") and info.name != "gdm_lib.__main__":
        import_module(info.name)
import torch
from gdm_lib import cli, pretrained, viz
from gdm_lib.data import digits
from gdm_lib.training import fit
from gdm_lib.vae.vae import VAE
model = VAE.mlp((1, 8, 8), 2, hidden=(8,))
fit(model, (digits.load().train.x > 0.5).float()[:64], steps=2, batch_size=32)
assert pretrained.load("vae/mnist_2d").decode_mean(torch.zeros(1, 2)).shape == (1, 1, 28, 28)
assert cli.main(["train"]) == 0
viz.use_style()
ax = viz.image_grid(torch.rand(4, 1, 8, 8))
viz.show(ax.figure, alt="Four squares of noise.")
viz.table({{"a": [1.5], "b": ["c"]}})
""")
    assert "vae/mnist_2d" in out
    assert out.splitlines()[-2:] == ["    a  b", "1.500  c"], "a script gets its table as text"


def test_a_plain_install_names_the_extra_when_a_notebook_is_asked_for():
    out = process(f"""{WITHOUT}
from importlib import import_module
from gdm_lib import viz, widgets
for name in widgets.__all__:
    print(told(lambda: getattr(widgets, name)))
print(told(lambda: import_module("gdm_lib.widgets.sweep")))
print(told(lambda: viz.show_source(viz.table)))
""")
    lines = out.splitlines()
    assert len(lines) == len(widgets.__all__) + 2
    for line in lines:
        assert line.endswith("install the extra that has it: pip install 'gdm-lib[book]'")
    assert lines[0].startswith("gdm_lib.widgets needs anywidget, which a plain install leaves out")
    assert lines[-1].startswith("gdm_lib.viz.show_source needs pygments")


OPENED = """
import os, sys
opened = []
sys.addaudithook(lambda event, args: event == "open" and opened.append(str(args[0])))

def kinds():
    return sorted(n.rpartition(".")[2] for n in sys.modules if n.startswith("gdm_lib.widgets."))

def files():
    return sorted(os.path.basename(n) for n in opened if n.endswith((".js", ".css")))
"""


@pytest.mark.parametrize(
    ("name", "modules", "script"),
    [
        ("Sweep", ["_base", "_frames", "sweep"], "sweep.js"),
        ("AudioProbe", ["_base", "_frames", "audio_probe"], "audio_probe.js"),
        ("lerp", ["_base", "latent_explorer"], "latent_explorer.js"),
    ],
)
def test_a_kind_of_widget_and_its_script_are_read_when_it_is_used(name, modules, script):
    out = process(f"""{OPENED}
from gdm_lib import widgets
before = opened[:]
opened.clear()
widgets.{name}
ours = [n for n in before if "gdm_lib" in n and n.endswith((".js", ".css"))]
print(ours, kinds(), [n for n in files() if n in os.listdir(os.path.dirname(widgets.__file__))])
""")
    assert out.strip() == f"[] {modules} {sorted(['core.js', script, 'widgets.css'])}"


def test_importing_the_widgets_imports_none():
    code = f"{OPENED}\nfrom gdm_lib import widgets\nprint(kinds(), 'torch' in sys.modules)"
    assert process(code) == "[] False\n"


def test_every_widget_is_offered_and_listed():
    assert set(widgets.__all__) <= set(dir(widgets))
    for name in widgets.__all__:
        assert getattr(widgets, name).__name__ == name
