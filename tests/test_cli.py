"""The command ``gdm``, called as a function and, once, as a process."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import gdm_lib
from gdm_lib import cli, pretrained
from gdm_lib.data._download import RemoteFile

ROOT = Path(__file__).parents[1]

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
    width = max(map(len, pretrained.names())) + 2
    assert cli.main(["train", "--out", out]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert f"{'toy/small':{width}}not stored" in listed
    assert [line.split()[0] for line in listed] == pretrained.names()
    assert not (tmp_path / "weights").exists()
    assert cli.main(["train", "toy/small", "--out", out]) == 0
    assert "  error: 0.25\n" in capsys.readouterr().out
    assert cli.main(["train", "--out", out]) == 0
    assert f"{'toy/small':{width}}stored\n" in capsys.readouterr().out
    assert pretrained.load("toy/small", directory=Path(out)).weight.shape == (2, 3)
    (tmp_path / "weights/toy/small.json").write_text("{")
    assert cli.main(["train", "--out", out]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert len(listed) == len(pretrained.names())
    (line,) = (line for line in listed if line.startswith("toy/small "))
    assert f"  damaged: the record {out}/toy/small.json" in line


def test_a_table_is_measured_only_of_a_family_that_has_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["table", "boats", "--out", str(tmp_path)]) == 1
    told = "gdm: there is no table of 'boats'; those there are: flows, autoregressive\n"
    assert capsys.readouterr().err == told
    (tmp_path / "file").touch()
    assert cli.main(["table", "flows", "--out", str(tmp_path / "file/below")]) == 1
    assert "Not a directory" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.usefixtures("recipes")
def test_a_folder_that_cannot_be_written_is_refused_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.nn.Linear, "eval", None)  # what follows training would fail
    (tmp_path / "file").touch()
    assert cli.main(["train", "toy/small", "--out", str(tmp_path / "file/below")]) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"gdm: {tmp_path}/file/below/toy/small.safetensors can't be written")
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["sail"], "invalid choice: 'sail'"),
        (["where", "here"], "unrecognized arguments: here"),
        (["where", "a\nb\x1b[2J"], "unrecognized arguments: a b [2J"),
        (["train", "--out"], "argument --out: expected one argument"),
        (["train", "--out", ""], "argument --out: expected the path of a folder, got ''"),
        (["train", "--out", "a\0b"], r"expected the path of a folder, got 'a\x00b'"),
        (["train", "a", "b"], "unrecognized arguments: b"),
        (["data", "--all"], "unrecognized arguments: --all"),
    ],
)
def test_bad_arguments_are_told_in_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("gdm: ")
    assert captured.err.count("\n") == 1
    assert told in captured.err
    assert " --help tells what can be asked for\n" in captured.err


def test_a_home_that_nobody_has_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GDM_DATA_DIR", "~nosuchuser/data")
    for arguments in (["where"], ["data"], ["data", "mnist"]):
        assert cli.main(arguments) == 1
        assert "GDM_DATA_DIR is '~nosuchuser/data'; set it to" in capsys.readouterr().err


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
    assert listed[3] == "dcss               5.3 MB  not fetched"
    assert not (tmp_path / "cache").exists()
    assert cli.main(["data", "mnist"]) == 0
    assert "mnist              0.0 MB  in the cache\n" in capsys.readouterr().out
    assert (tmp_path / "cache/mnist/part").read_bytes() == content
    (tmp_path / "cache/mnist/part").write_bytes(content[:-1])
    (tmp_path / "cache/fsdd/recordings.wavs").mkdir(parents=True)
    assert cli.main(["data"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert listed[0] == "mnist              0.0 MB  damaged, and to be fetched anew"
    assert listed[1] == "fashion_mnist     30.9 MB  not fetched"
    assert listed[2].startswith(f"fsdd              21.1 MB  damaged: {tmp_path}/cache/fsdd")
    monkeypatch.setenv("GDM_MIRROR", "here")
    monkeypatch.setenv("GDM_DATA_DIR", str(tmp_path / "other"))
    assert cli.main(["data", "mnist"]) == 1
    assert "gdm: GDM_MIRROR must be a base address" in capsys.readouterr().err
    assert cli.main(["data", "cifar"]) == 1
    told = capsys.readouterr().err
    assert "no data set 'cifar' to fetch, only mnist, fashion_mnist, fsdd, dcss" in told


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


def test_an_interrupt_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt() -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "cache_dir", interrupt)
    assert cli.main(["where"]) == 130
    assert capsys.readouterr().err == "gdm: interrupted\n"


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, timeout=60,
        env=os.environ | environment, cwd=ROOT,
    )  # fmt: skip


def test_it_is_a_module_too() -> None:
    def gdm(*arguments: str) -> subprocess.CompletedProcess[bytes]:
        return python("-m", "gdm_lib", *arguments)

    assert gdm("--version").stdout.decode() == f"gdm_lib {gdm_lib.__version__}\n"
    assert gdm("sail").returncode == 2


PRINTS = r"""
from gdm_lib import viz
from gdm_lib.cli import main
from gdm_lib.exercises import Verdict

viz.table({"a \u2212 b": [-1.5, 2.0], "name": ["\u4e2d \u2192 \u2026", "\ud800"]}, caption="\u2713")
viz.table({"n": [-1234567]})
for passed in (True, False, None):
    print(Verdict(passed, "kl: \u00d7 \u4e2d, and so on."))
main(["where"])
raise SystemExit(main(["data", "\u4e2d"]))
"""


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_a_console_may_lack_characters(tmp_path: Path, encoding: str) -> None:
    folder = str(tmp_path / "\u4e2d \u00fc")
    done = python("-c", PRINTS, PYTHONIOENCODING=encoding, PYTHONUTF8="0", GDM_DATA_DIR=folder)
    assert done.returncode == 1, done.stderr.decode()
    assert done.stderr.startswith(b"gdm: there is no data set ")
    assert done.stderr.count(b"\n") == 1
    printed = done.stdout.decode(encoding)
    if encoding == "utf-8":
        assert "\u22121.500" in printed
        assert "\u2713 kl: \u00d7 \u4e2d, and" in printed
        assert f"data     {folder}\n" in printed
    else:
        assert "-1.500" in printed
        assert "-1,234,567" in printed
        for mark in ("[right]", "[wrong]", "[open]"):
            assert f"{mark} kl: " in printed
        assert "\\u4e2d" in printed  # of a path, which part it is
    if encoding == "cp1252":
        assert "a - b" in printed
        assert "[right] kl: \u00d7 ?, and" in printed
