"""Names of a package that are imported when they are first asked for (PEP 562)."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["lazily", "needs"]


def lazily(
    package: str, names: Mapping[str, Sequence[str]], *, extra: str | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` for the ``__init__.py`` of a package.

    Args:
        package: its ``__name__``.
        names: of each of its modules, the names that the package offers as its own.
        extra: the extra of the project that brings what these modules import, if one does.
    """
    module_of = {name: module for module, offered in names.items() for name in offered}

    def get(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            module = importlib.import_module(f"{package}.{module_of[name]}")
        except ModuleNotFoundError as error:
            if extra is None:
                raise
            raise needs(f"{package}.{name}", error, extra) from error
        value = getattr(module, name)
        setattr(sys.modules[package], name, value)  # the next look-up finds it at once
        return value

    return get, lambda: sorted({*vars(sys.modules[package]), *module_of})


def needs(what: str, error: ModuleNotFoundError, extra: str) -> ModuleNotFoundError:
    """The error that names the extra by which what is missing is installed."""
    return ModuleNotFoundError(
        f"{what} needs {error.name}, which a plain install leaves out; install the extra that has "
        f"it: pip install 'gdm-lib[{extra}]'",
        name=error.name,
    )
