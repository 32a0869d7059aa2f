"""A notebook's light cells run again after all of it, and one that fails then is found."""

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

pytest.importorskip("nbval")

ROOT = Path(__file__).parents[1]
OPTIONS = ("-o", "addopts=", "-p", "no:warnings", "-p", "no:cacheprovider", "-p", "tests.again")


def test_a_cell_that_fails_when_it_runs_again_is_found(tmp_path):
    sources = ["x = [1]", "y = x[0]", "import time; time.sleep(0.6); z = x[0]", "x = 2"]
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    path = tmp_path / "a.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    command = [sys.executable, "-m", "pytest", *OPTIONS, "--nbval-lax", "--nbval-current-env"]
    done = subprocess.run(
        [*command, "-v", f"--rootdir={tmp_path}", str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    said = re.findall(r"::Cell \d+(?: again)? ([A-Z]+)", done.stdout)[: 2 * len(cells)]
    assert said == ["PASSED"] * 5 + ["SKIPPED", "FAILED", "PASSED"], done.stdout
    assert "'int' object is not subscriptable" in done.stdout
