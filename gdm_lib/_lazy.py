"""Names of a package that are imported when they are first asked for (PEP 562), and what a plain
install says of what it can't import."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

__all__ = ["lazily", "needs"]


def lazily(
    package: str, names: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` for the ``__init__.py`` of a package.

    Args:
        package: its ``__name__``.
        names: of each of its modules, the names that the package offers as its own.
    """
    module_of = {name: module for module, offered in names.items() for name in offered}

    def get(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{package}.{module_of[name]}"), name)
        setattr(sys.modules[package], name, value)  # the next look-up finds it at once
        return value

    return get, lambda: sorted({*vars(sys.modules[package]), *module_of})


@contextmanager
def needs(what: str, extra: str) -> Iterator[None]:
    """An import inside it that fails says which extra of the project to install.

    Args:
        what: needs what is imported.
        extra: of this project.

    Raises:
        ModuleNotFoundError: with the command; as it came if it is a module of this library that
            is missing, which no extra brings.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("", "gdm_lib"):
            raise
        raise ModuleNotFoundError(
            f"{what} needs {missing}, which a plain install leaves out; install the extra that "
            f"has it: pip install 'gdm-lib[{extra}]'",
            name=error.name,
        ) from error
