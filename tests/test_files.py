"""Only plain files are read, none is half-written, and what killed processes left is swept."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gdm_lib import _files, pretrained, recipes
from gdm_lib._files import check_writable, read_plain, replacing

ROOT = Path(__file__).parents[1]


def entries(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_a_plain_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    path, link = tmp_path / "file", tmp_path / "link"
    path.write_bytes(b"abcd")
    link.symlink_to(path)
    assert read_plain(path) == read_plain(path, 4) == read_plain(link, 4) == b"abcd"
    with pytest.raises(ValueError, match=r"file has 4 bytes, at most 3 expected"):
        read_plain(path, 3)
    with pytest.raises(FileNotFoundError, match="none"):
        read_plain(tmp_path / "none", 3)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_plain_file_is_refused_and_never_waited_for(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "toy.json"
    make = {"pipe": os.mkfifo, "device": lambda p: p.symlink_to("/dev/zero"), "folder": Path.mkdir}
    make[kind](path)
    with pytest.raises(ValueError, match=r"toy\.json is not a plain file"):
        read_plain(path)
    for name in ("mnist_2d.json", "mnist_2d.safetensors"):
        (tmp_path / "vae").mkdir()
        make[kind](tmp_path / "vae" / name)
        (tmp_path / "vae/mnist_2d.safetensors").touch()
        with pytest.raises(ValueError, match=rf"vae/{name} is not a plain .* gdm train vae/mnist"):
            pretrained.load("vae/mnist_2d", directory=tmp_path)
        subprocess.run(["rm", "-r", str(tmp_path / "vae")], check=True)


def test_an_error_leaves_neither_the_file_nor_folders(tmp_path: Path) -> None:
    path = tmp_path / "a/b/file"
    with pytest.raises(KeyError), replacing(path):
        raise KeyError
    assert entries(tmp_path) == set()
    with replacing(path) as temporary:
        temporary.write_bytes(b"one")
    with pytest.raises(FileNotFoundError), replacing(path) as temporary:
        temporary.unlink()
    assert path.read_bytes() == b"one"
    assert entries(tmp_path) == {"a", "a/b", "a/b/file"}


WRITE = """
import sys
from pathlib import Path
from gdm_lib._files import replacing
with replacing(Path(sys.argv[1])) as temporary:
    temporary.write_bytes(b"half")
    print(temporary.name, flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(_files.fcntl is None, reason="the system has no locks on files")
def test_what_a_killed_process_left_is_swept_and_what_a_living_one_writes_is_not(
    tmp_path: Path,
) -> None:
    path = tmp_path / "file"
    others = [".file.abcdefgh", ".other.abcdefgh.part", ".file.part", ".file.ABCDEFGH.part"]
    for name in others:
        (tmp_path / name).touch()
    (tmp_path / ".file.abcdefgh.part").symlink_to(tmp_path / ".file.part")
    with subprocess.Popen(
        [sys.executable, "-c", WRITE, str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
    ) as process:  # fmt: skip
        left = process.stdout.readline().strip()
        with replacing(path) as temporary:
            temporary.write_bytes(b"whole")
        assert entries(tmp_path) == {"file", ".file.abcdefgh.part", left, *others}
        process.send_signal(signal.SIGKILL)
    assert left in entries(tmp_path)
    with replacing(path) as temporary:
        temporary.write_bytes(b"again")
    assert entries(tmp_path) == {"file", ".file.abcdefgh.part", *others}
    assert path.read_bytes() == b"again"


def test_a_sweep_between_making_and_locking_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may take the file for one that was left."""
    made, mkstemp = [], _files.tempfile.mkstemp

    def swept(**kwargs):
        handle, name = mkstemp(**kwargs)
        if not made:
            os.unlink(name)
        made.append(name)
        return handle, name

    monkeypatch.setattr(_files.tempfile, "mkstemp", swept)
    with replacing(tmp_path / "file") as temporary:
        temporary.write_bytes(b"whole")
    assert len(made) == 2
    assert entries(tmp_path) == {"file"}


def test_whether_it_can_be_written_is_tried_without_a_trace(tmp_path: Path) -> None:
    check_writable(tmp_path / "a/b/file")
    assert entries(tmp_path) == set()
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file/below", tmp_path / "folder"):
        with pytest.raises(OSError, match=r"file|folder"):
            check_writable(path)
    check_writable(tmp_path / "file")
    assert entries(tmp_path) == {"file", "folder"}


RECIPE = """
from gdm_lib.recipes import Recipe

def _train(model):
    raise AssertionError("it was trained")

small = Recipe(_train, lambda model: {})
"""
MODEL = """
from torch import nn

__all__ = ["small"]

def small():
    return nn.Linear(3, 2)
"""


def test_an_unwritable_folder_is_refused_before_training(tmp_path: Path, add_family) -> None:
    add_family(MODEL, RECIPE)
    (tmp_path / "out").touch()
    with pytest.raises(OSError, match=r"out/toy/small\.safetensors can't be written .*; mend"):
        recipes.train("toy/small", directory=tmp_path / "out")
    (tmp_path / "more/toy/small.json").mkdir(parents=True)
    with pytest.raises(OSError, match=r"more/toy/small\.json can't be written"):
        recipes.train("toy/small", directory=tmp_path / "more")
    with pytest.raises(AssertionError, match="it was trained"):
        recipes.train("toy/small", directory=tmp_path / "new")
    assert not (tmp_path / "new").exists()
