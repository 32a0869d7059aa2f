"""The command ``gdm``, called as a function and, once, as a process."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

import gdm_lib
from gdm_lib import cli, pretrained
from gdm_lib.data._download import RemoteFile

MODELS = """
from torch import nn

__all__ = ["small"]

def small():
    return nn.Linear(3, 2)
"""
RECIPES = """
from gdm_lib.recipes import Recipe

small = Recipe(lambda model: {"steps": 0}, lambda model: {"error": 0.25})
"""


@pytest.fixture
def recipes(add_family) -> None:
    """``toy/small``, one more recipe."""
    add_family(MODELS, RECIPES)


@pytest.mark.usefixtures("recipes")
def test_train_lists_and_makes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "weights")
    assert cli.main(["train", "--out", out]) == 0
    assert "toy/small               not stored\n" in capsys.readouterr().out
    assert cli.main(["train", "toy/small", "--out", out]) == 0
    assert "  error: 0.25\n" in capsys.readouterr().out
    assert cli.main(["train", "--out", out]) == 0
    assert "toy/small               stored\n" in capsys.readouterr().out
    assert pretrained.load("toy/small", directory=Path(out)).weight.shape == (2, 3)


def test_data_is_fetched_ahead_of_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content = b"not quite MNIST"
    digest = hashlib.sha256(content).hexdigest()
    file = RemoteFile("mnist/part", ("http://127.0.0.1:9/part",), digest, len(content))
    monkeypatch.setattr("gdm_lib.data.mnist.MNIST_FILES", (file,))
    (tmp_path / "mirror/mnist").mkdir(parents=True)
    (tmp_path / "mirror/mnist/part").write_bytes(content)
    monkeypatch.setenv("GDM_MIRROR", (tmp_path / "mirror").as_uri())
    monkeypatch.setenv("GDM_DATA_DIR", str(tmp_path / "cache"))
    assert cli.main(["data"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert listed[0] == "mnist              0.0 MB  not fetched"
    assert listed[1] == "fashion_mnist     30.9 MB  not fetched"
    assert listed[2] == "fsdd              21.1 MB  not fetched"
    assert not (tmp_path / "cache").exists()
    assert cli.main(["data", "mnist"]) == 0
    assert "mnist              0.0 MB  in the cache\n" in capsys.readouterr().out
    assert (tmp_path / "cache/mnist/part").read_bytes() == content
    monkeypatch.setenv("GDM_MIRROR", "here")
    monkeypatch.setenv("GDM_DATA_DIR", str(tmp_path / "other"))
    assert cli.main(["data", "mnist"]) == 1
    assert "gdm: GDM_MIRROR must be a base address" in capsys.readouterr().err
    assert cli.main(["data", "cifar"]) == 1
    told = capsys.readouterr().err
    assert "no data set 'cifar' to fetch, only mnist, fashion_mnist, fsdd" in told


def test_where_names_both_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GDM_DATA_DIR", str(tmp_path))
    assert cli.main(["where"]) == 0
    assert capsys.readouterr().out == f"data     {tmp_path}\nweights  {pretrained.where()}\n"


def test_errors_are_one_line_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "boat/small"]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("gdm: there is no recipe 'boat/small'; the recipes are: ")
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_it_is_a_module_too() -> None:
    def gdm(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "gdm_lib", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    assert gdm("--version").stdout == f"gdm_lib {gdm_lib.__version__}\n"
    assert gdm("sail").returncode == 2
