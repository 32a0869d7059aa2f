"""Notebooks follow their texts; what is executed, what is only synced, and what is told."""

import nbformat
import pytest
from nbclient import NotebookClient

from chapters._tools import execute, pairs


def stale(book):
    return pairs.staleness(book.master, book.root)


def test_a_stored_pair_is_fresh(book):
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


def test_code_that_was_changed_in_both_files_but_not_run_is_stale(book):
    book.replace("torch.manual_seed(0)", "torch.manual_seed(1)")
    path = pairs.notebook_path(book.master)
    stored = nbformat.read(path, as_version=4)
    stored.cells[1].source = stored.cells[1].source.replace("seed(0)", "seed(1)")
    pairs.write(stored, path)
    assert stale(book) == (None, "its code changed")


def test_the_check_tells_what_changed(book, capsys):
    book.put("gdm_lib/nn.py", "def mlp():\n    return 1\n")
    book.put("gdm_lib/viz/book.mplstyle", "axes.grid: true\n")
    assert execute.main(["vae/vae", "--check"], root=book.root) == 1
    assert capsys.readouterr().out == (
        "chapters/vae/vae.md: gdm_lib/nn.py: mlp changed; gdm_lib/viz/book.mplstyle changed\n"
        "1 of 1 stale; run `make chapters`\n"
    )


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


LOOK = """
import os, sys
print(dir())
print(sorted(set(os.environ) - {"PYTHONPATH"}))
print([name for name in sys.modules if "recorder" in name], [_, __, _i, _ii], In[:-1], Out)
"""


def test_the_recorder_leaves_no_trace_in_the_notebook(tmp_path, header):
    (tmp_path / "chapters").mkdir()
    master = tmp_path / "chapters" / "look.md"
    master.write_text(f"{header}```{{code-cell}} ipython3{LOOK}```\n", encoding="utf-8")
    assert execute.update(master, root=tmp_path).did == "executed"
    (recorded,) = nbformat.read(pairs.notebook_path(master), as_version=4).cells
    plain = pairs.read_master(master)
    NotebookClient(plain, kernel_name="python3").execute(env=execute.kernel_environment())
    assert recorded.outputs == plain.cells[0].outputs
    assert "'In'" in recorded.outputs[0].text


def test_an_input_that_changes_while_the_notebook_runs_is_not_trusted(book, capsys):
    before = pairs.notebook_path(book.master).read_bytes()
    text = book.master.read_text("utf-8")
    cell = "import gdm_lib.nn\nopen('../../gdm_lib/nn.py', 'w').close()"
    header, _, _ = text.partition("# A paper")
    book.put("chapters/vae/vae.md", f"{header}```{{code-cell}} ipython3\n{cell}\n```\n")
    assert execute.main(["vae/vae"], root=book.root) == 1
    told = capsys.readouterr().err
    assert "changed while the notebook ran: gdm_lib/nn.py; run it again" in told
    assert pairs.notebook_path(book.master).read_bytes() == before


def test_a_library_from_elsewhere_is_refused(tmp_path, header):
    (tmp_path / "chapters").mkdir()
    master = tmp_path / "chapters" / "elsewhere.md"
    master.write_text(header + "```{code-cell} ipython3\nimport gdm_lib\n```\n", encoding="utf-8")
    report = execute.update(master, root=tmp_path)
    assert report.did == "FAILED"
    assert report.error == f"not imported from {tmp_path}: gdm_lib"


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
