"""Notes what a kernel loads and reads; run in the kernel by ``execute.py``, before the first cell.

It stands alone: the kernel runs this file by its path, in a name space of its own, so that neither
the notebook's names nor its modules differ from those of a reader. After each cell the notes so far
go to the file that ``GDM_RECORD`` names, as JSON: paths below ``GDM_ROOT``, the library's modules
apart from other files.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import os
import sys
from types import FrameType
from typing import Any

__all__ = ["install"]

LIBRARY = "gdm_lib"
NOT_INPUTS = {"__pycache__", "_build", "node_modules", "site-packages"}
CACHE = ("data", "cache")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_TRUNC
# Whoever imports a module by a name of its own making may take anything of it. These two don't:
# what a lazy package offers is read from its text, and resources are files.
KNOWN_IMPORTERS = (f"{LIBRARY}._lazy", "importlib.")


def install(root: str, target: str) -> None:
    """Begin to take notes.

    Args:
        root: the checkout.
        target: the file to write them to, after each cell.
    """
    from IPython import get_ipython

    root = os.path.realpath(root)
    read: dict[str, None] = {}
    written: set[str] = set()
    dynamic: set[str] = set()
    seen: set[str] = set()
    modules: set[str] = set()

    @functools.cache
    def inside(path: str) -> str | None:
        """The path below the root, if what is there is an input."""
        relative = os.path.relpath(os.path.realpath(path), root).replace(os.sep, "/")
        parts = relative.split("/")
        cached = tuple(parts[:2]) == CACHE or not NOT_INPUTS.isdisjoint(parts)
        outside = os.path.isabs(relative) or any(part[0] == "." for part in parts)
        return None if cached or outside else relative

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event != "open":
            return
        try:
            path, _, flags = arguments
            if isinstance(path, int) or path is None:
                return
            path = os.path.abspath(os.fsdecode(path))
            if flags & WRITES:
                written.update({path} - read.keys())
            elif path.endswith(".pyc") or (path.endswith(".py") and _not_to_show()):
                return
            elif path not in written:
                read[path] = None
        except Exception:  # whatever it is, opening the file must go on
            return

    def note(*_: object) -> None:
        for name in sys.modules.keys() - seen:
            seen.add(name)
            try:  # not getattr, which would load a module that waits to be loaded
                file = object.__getattribute__(sys.modules[name], "__dict__").get("__file__")
            except (AttributeError, KeyError):
                continue
            if isinstance(file, str) and (_mine(name) or inside(file)):
                modules.add(name)
        paths = {name: sys.modules[name].__file__ for name in modules if name in sys.modules}
        mine = {name: inside(str(path)) for name, path in paths.items() if _mine(name)}
        files = {inside(path) for path in read}
        files |= {inside(str(path)) for name, path in paths.items() if not _mine(name)}
        notes = {
            "modules": sorted(path for path in mine.values() if path),
            "dynamic": sorted(path for name in dynamic if (path := mine.get(name))),
            "files": sorted(path for path in files if path),
            "elsewhere": sorted(name for name, path in mine.items() if not path),
        }
        with open(target, "w", encoding="utf-8") as file:
            json.dump(notes, file)

    def show(original: Any) -> Any:
        # A file that a stack was formatted of is in linecache, and is not opened again.
        @functools.wraps(original)
        def findsource(object: Any) -> Any:
            found = original(object)
            read[os.path.abspath(inspect.getsourcefile(object) or inspect.getfile(object))] = None
            return found

        return findsource

    def watch(original: Any) -> Any:
        @functools.wraps(original)
        def import_module(name: str, package: str | None = None) -> Any:
            module = original(name, package)
            caller = str(sys._getframe(1).f_globals.get("__name__"))
            if _mine(module.__name__) and not caller.startswith(KNOWN_IMPORTERS):
                dynamic.add(module.__name__)
            return module

        return import_module

    sys.addaudithook(hook)
    importlib.import_module = watch(importlib.import_module)
    inspect.findsource = show(inspect.findsource)
    _announce_safetensors()
    get_ipython().events.register("post_run_cell", note)


def _mine(name: str) -> bool:
    return name == LIBRARY or name.startswith(LIBRARY + ".")


def _not_to_show() -> bool:
    """Whether the opener of a Python file, two frames up, isn't one to show its text: the import
    system, as modules are noted apart, or a stack that is formatted. Torch does that with every
    seed, in case that something fails later."""
    frame: FrameType | None = sys._getframe(2)
    if frame is not None and frame.f_code.co_filename.startswith("<frozen importlib"):
        return True
    while frame is not None and frame.f_globals.get("__name__") in ("tokenize", "linecache"):
        frame = frame.f_back
    return frame is not None and frame.f_globals.get("__name__") == "traceback"


def _announce_safetensors() -> None:
    """Safetensors opens files in Rust, which no audit hook hears of."""
    try:
        import safetensors
    except ImportError:
        return
    original = safetensors.safe_open

    @functools.wraps(original, updated=())
    def safe_open(filename: Any, *args: Any, **kwargs: Any) -> Any:
        sys.audit("open", os.fspath(filename), "rb", 0)
        return original(filename, *args, **kwargs)

    safetensors.safe_open = safe_open  # type: ignore[misc, assignment]


if __name__ == "gdm_recorder":
    # Taken out again: the notebook's environment is the reader's.
    install(os.environ.pop("GDM_ROOT"), os.environ.pop("GDM_RECORD"))
