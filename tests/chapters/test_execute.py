"""Notebooks follow their texts, and run again when, and only when, what they ran with changed."""

import nbformat
import pytest

from chapters._tools import execute, pairs


def stale(book):
    return pairs.staleness(book.master, book.root)


def closure(book, *code):
    library = book.root / "gdm_lib"
    paths = pairs.closure(list(code), book.root)
    return {path.relative_to(library).as_posix() for path in paths}


def test_a_stored_pair_is_fresh(book):
    assert stale(book) == (None, None)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("gdm_lib/vae/vae.py", "ARXIV = ''\n"),
        ("gdm_lib/nn.py", "# a comment\n"),  # imported by vae.vae, relatively
        ("gdm_lib/late.py", "late = 1\n"),  # imported by nn, inside a function
        ("gdm_lib/viz/plots.py", "\n"),  # imported by the package
        ("gdm_lib/viz/book.mplstyle", "axes.grid: true\n"),  # read by the package
        ("gdm_lib/__init__.py", "version = 2\n"),
    ],
)
def test_a_change_of_what_the_code_imports_makes_it_stale(book, name, text):
    book.put(name, text)
    assert stale(book) == (None, "the library or the weights that it uses changed")


def test_a_change_elsewhere_in_the_library_does_not(book):
    book.put("gdm_lib/other.py", "other = 1\n")
    book.put("gdm_lib/new.py", "new = 1\n")
    assert stale(book) == (None, None)


def test_line_ends_of_another_system_do_not(book):
    path = book.root / "gdm_lib" / "nn.py"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert stale(book) == (None, None)


def test_prose_is_synced_and_code_is_executed(book):
    book.replace("Nothing breaks", "Nothing at all breaks")
    assert stale(book) == ("text and notebook differ", None)
    report = execute.update(book.master, root=book.root)
    assert report.did == "synced"
    assert stale(book) == (None, None)
    stored = nbformat.read(pairs.notebook_path(book.master), as_version=4)
    assert any("at all breaks" in cell.source for cell in stored.cells)
    assert "<figure>" in stored.cells[1].outputs[0].data["text/html"]
    book.replace("torch.manual_seed(0)", "torch.manual_seed(1)")
    assert stale(book) == ("text and notebook differ", "its code changed")


def test_weights_that_the_code_names_count(book):
    book.replace("widget()", 'widget(load("vae/small"))')
    book.store()
    book.put("data/weights/vae/large.safetensors", "1")
    assert stale(book) == (None, None)
    book.put("data/weights/vae/small.safetensors", "1")
    assert stale(book)[1] == "the library or the weights that it uses changed"


def test_the_closure_follows_every_form_of_import(book):
    vae = {"__init__.py", "vae/__init__.py", "vae/vae.py", "nn.py", "late.py"}
    assert closure(book, "from gdm_lib.vae import vae") == vae
    assert closure(book, "from gdm_lib.vae.vae import ARXIV") == vae
    assert closure(book, "%matplotlib inline\nimport gdm_lib.vae.vae as v") == vae
    assert closure(book, "from gdm_lib import nn") == {"__init__.py", "nn.py", "late.py"}
    assert closure(book, "import torch", "def f():\n    from gdm_lib import other") == {
        "__init__.py",
        "other.py",
    }
    assert closure(book, "import gdm_library") == set()
    assert "other.py" in closure(book, "import gdm_lib")


def test_a_cell_that_does_not_parse_is_named(book):
    with pytest.raises(SyntaxError, match="code cell 2"):
        pairs.closure(["x = 1", "x ="], book.root)


def test_execution_stores_outputs_and_a_second_one_has_nothing_to_do(tmp_path, capsys, header):
    chapters = tmp_path / "chapters"
    chapters.mkdir()
    text = "# T\n\nBefore.\n\n```{code-cell} ipython3\nprint('a')\nprint(6 * 7)\n```\n\nAfter.\n"
    (chapters / "good.md").write_text(header + text, encoding="utf-8")
    assert execute.main(["--check"], root=tmp_path) == 1
    assert "good.md: there is no notebook" in capsys.readouterr().out
    assert execute.main([], root=tmp_path) == 0
    table = capsys.readouterr().out
    assert "seconds  peak MiB" in table
    notebook = nbformat.read(chapters / "good.ipynb", as_version=4)
    (cell,) = (cell for cell in notebook.cells if cell.cell_type == "code")
    assert (cell.execution_count, cell.outputs[0].text) == (1, "a\n42\n")
    assert cell.metadata == {}
    before = (chapters / "good.ipynb").read_bytes()
    assert execute.main(["--check"], root=tmp_path) == 0
    assert execute.main([], root=tmp_path) == 0
    assert "fresh" in capsys.readouterr().out
    assert (chapters / "good.ipynb").read_bytes() == before
    assert execute.main(["good", "--force"], root=tmp_path) == 0
    assert (chapters / "good.ipynb").read_bytes() == before


def test_a_chapter_that_fails_is_left_as_it_was(book, capsys):
    before = pairs.notebook_path(book.master).read_bytes()
    book.replace("import torch", "1 / 0")
    assert execute.main(["vae/vae"], root=book.root) == 1
    told = capsys.readouterr()
    assert "ZeroDivisionError: division by zero" in told.err
    assert "torch.manual_seed(0)" in told.err
    assert "FAILED" in told.out
    assert pairs.notebook_path(book.master).read_bytes() == before


def test_an_unknown_name_is_told(book):
    with pytest.raises(SystemExit, match="no chapter named gan; there are: index, vae/vae"):
        execute.main(["gan"], root=book.root)
