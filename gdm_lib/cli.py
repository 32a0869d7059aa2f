"""The command gdm: fetch data, make reference weights, say where both are."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import gdm_lib
from gdm_lib.data._download import DataError, cache_dir, fetch

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: its arguments; those of the process if left out.

    Returns:
        The exit status: 0, or 1 after an error that is told in one line.
    """
    parser = argparse.ArgumentParser(prog="gdm", description=__doc__)
    parser.add_argument("--version", action="version", version=f"gdm_lib {gdm_lib.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    data = commands.add_parser("data", help="list the data sets, or fetch some ahead of use")
    data.add_argument("names", nargs="*", metavar="NAME", help="for example mnist")
    data.set_defaults(run=lambda args: _data(args.names))

    train = commands.add_parser("train", help="list the recipes, or make one's weights anew")
    train.add_argument("recipe", nargs="?", metavar="RECIPE", help="for example vae/mnist_2d")
    train.add_argument("--out", type=Path, metavar="DIR", help="folder of the weights")
    train.set_defaults(run=lambda args: _train(args.recipe, args.out))

    where = commands.add_parser("where", help="print the folders of data and weights")
    where.set_defaults(run=lambda args: _where())

    arguments = parser.parse_args(argv)
    try:
        arguments.run(arguments)
    except (DataError, ValueError, OSError) as error:
        print(f"gdm: {error}", file=sys.stderr)
        return 1
    return 0


def _data(names: Sequence[str]) -> None:
    from gdm_lib.data import fsdd, mnist  # torch takes a second to import; --help needs none of it

    sets = {
        "mnist": mnist.MNIST_FILES,
        "fashion_mnist": mnist.FASHION_FILES,
        "fsdd": (fsdd.RECORDINGS,),
    }
    if unknown := [name for name in names if name not in sets]:
        raise ValueError(f"there is no data set {unknown[0]!r} to fetch, only {', '.join(sets)}")
    for name in names:
        for file in sets[name]:
            fetch(file)
    for name, files in sets.items():
        stored = all((cache_dir() / file.path).is_file() for file in files)
        size = sum(file.size for file in files) / 1e6
        print(f"{name:16}{size:6.1f} MB  {'in the cache' if stored else 'not fetched'}")
    print(f"cache: {cache_dir()}")


def _train(name: str | None, directory: Path | None) -> None:
    from gdm_lib import pretrained, recipes

    if name is None:
        for known in recipes.names():
            stored = (directory or pretrained.where()) / f"{known}.safetensors"
            print(f"{known:24}{'stored' if stored.is_file() else 'not stored'}")
        return
    record = recipes.train(name, directory=directory)
    print(f"{name}: {record['bytes']:,} bytes after {record['seconds']} s of training")
    for metric, value in record["metrics"].items():
        print(f"  {metric}: {value}")


def _where() -> None:
    from gdm_lib import pretrained

    print(f"data     {cache_dir()}")
    print(f"weights  {pretrained.where()}")
