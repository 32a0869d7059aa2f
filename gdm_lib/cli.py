"""The command gdm: fetch data, make reference weights, say where both are."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import gdm_lib
from gdm_lib.data._download import DataError, RemoteFile, cache_dir, fetch, intact

__all__ = ["main"]


class _Parser(argparse.ArgumentParser):
    """One that tells what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"gdm: {_line(message)}; {self.prog} --help tells what can be asked for\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: its arguments; those of the process if left out.

    Returns:
        The exit status: 0, 1 after an error that is told in one line, or 130 if it was interrupted.

    Raises:
        SystemExit: with status 2 and one line, of arguments that the command doesn't take; with 0
            after ``--help`` and ``--version``.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a console's encoding may lack a character
            stream.reconfigure(errors="backslashreplace")
    parser = _Parser(prog="gdm", description=__doc__)
    parser.add_argument("--version", action="version", version=f"gdm_lib {gdm_lib.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    data = commands.add_parser("data", help="list the data sets, or fetch some ahead of use")
    data.add_argument("names", nargs="*", metavar="NAME", help="for example mnist")
    data.set_defaults(run=lambda args: _data(args.names))

    train = commands.add_parser("train", help="list the recipes, or make one's weights anew")
    train.add_argument("recipe", nargs="?", metavar="RECIPE", help="for example vae/mnist_2d")
    train.add_argument("--out", type=_folder, metavar="DIR", help="folder of the weights")
    train.set_defaults(run=lambda args: _train(args.recipe, args.out))

    table = commands.add_parser("table", help="measure the table of a family anew")
    table.add_argument("family", metavar="FAMILY", help="flows or autoregressive")
    table.add_argument("--out", type=_folder, metavar="DIR", help="folder of the tables")
    table.set_defaults(run=lambda args: _table(args.family, args.out))

    where = commands.add_parser("where", help="print the folders of data and weights")
    where.set_defaults(run=lambda args: _where())

    arguments = parser.parse_args(argv)
    try:
        arguments.run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of the list has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (DataError, ValueError, OSError) as error:
        print(f"gdm: {_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("gdm: interrupted", file=sys.stderr)
        return 130
    return 0


def _folder(text: str) -> Path:
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError(f"expected the path of a folder, got {text!r}")
    return Path(text)


def _line(told: object) -> str:
    return "".join(c if c.isprintable() else " " for c in str(told))


def _data(names: Sequence[str]) -> None:
    from gdm_lib.data import dcss, fsdd, mnist  # torch takes a second to import; --help needs none

    sets = {
        "mnist": mnist.MNIST_FILES,
        "fashion_mnist": mnist.FASHION_FILES,
        "fsdd": (fsdd.RECORDINGS,),
        "dcss": (dcss.TILES,),
    }
    if unknown := [name for name in names if name not in sets]:
        raise ValueError(f"there is no data set {unknown[0]!r} to fetch, only {', '.join(sets)}")
    for name in names:
        for file in sets[name]:
            fetch(file)
    width = max(map(len, sets)) + 3
    for name, files in sets.items():
        size = sum(file.size for file in files) / 1e6
        print(f"{name:{width}}{size:6.1f} MB  {_in_cache(files)}")
    print(f"cache: {cache_dir()}")


def _in_cache(files: Sequence[RemoteFile]) -> str:
    try:
        found = [intact(file) for file in files]
    except DataError as error:
        return f"damaged: {_line(error)}"
    if all(found):
        return "in the cache"
    return "damaged, and to be fetched anew" if False in found else "not fetched"


def _train(name: str | None, directory: Path | None) -> None:
    from gdm_lib import recipes

    if name is None:
        known = recipes.names()
        width = max(map(len, known)) + 2
        for one in known:
            print(f"{one:{width}}{_state(one, directory)}")
        return
    record = recipes.train(name, directory=directory)
    print(f"{name}: {record['bytes']:,} bytes after {record['seconds']} s of training")
    for metric, value in record["metrics"].items():
        print(f"  {metric}: {value}")


def _table(family: str, directory: Path | None) -> None:
    from gdm_lib.recipes import tables

    tables.table(family, directory=directory)


def _state(name: str, directory: Path | None) -> str:
    """Whether a set of weights is stored, or what is wrong with it."""
    from gdm_lib import pretrained

    try:
        pretrained.verify(name, directory=directory)
    except FileNotFoundError:
        return "not stored"
    except (ValueError, OSError) as error:
        return f"damaged: {_line(error)}"
    return "stored"


def _where() -> None:
    from gdm_lib import pretrained

    print(f"data     {cache_dir()}")
    print(f"weights  {pretrained.where()}")
