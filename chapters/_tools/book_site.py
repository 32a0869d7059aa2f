"""Sphinx extension of the site: one file for a document, assets of its own, widgets that live.

Settings come from the environment, so that one ``_config.yml`` serves readers and publishers:

- ``GDM_REPOSITORY``: address of the repository, ``https://github.com/OWNER/NAME``. With it, pages
  have a repository button and notebooks a Binder button; without it, neither.
- ``GDM_BRANCH``: the branch that the buttons point at, ``main`` by default.
- ``GDM_ASSETS``: ``local`` (default) serves MathJax and the engine for models, ONNX Runtime Web,
  from the site itself; ``cdn`` lets pages load both from jsDelivr.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import re
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError

from chapters._tools import site_widgets

SITE = Path(__file__).parents[1] / "_site"
MODULES = SITE / "node_modules"
MATHJAX = MODULES / "mathjax" / "es5" / "tex-svg-full.js"
MATHJAX_ON_SITE = "mathjax/tex-svg-full.js"
ENGINE = MODULES / "onnxruntime-web" / "dist"
ENGINE_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
ENGINE_ON_SITE = "onnxruntime/"
ENGINE_ON_CDN = "https://cdn.jsdelivr.net/npm/onnxruntime-web@{version}/dist/"
WIDGETS_CSS = SITE.parents[1] / "gdm_lib" / "widgets" / "widgets.css"
HOST = "widgets/host.js"
STATE = "application/vnd.jupyter.widget-state+json"
API_PAGE = "chapters/appendix/api"
API_MARK = "<!-- modules -->"
# The order of the reference is the order of the imports; what is not named goes by its name.
LAYERS = (
    *("protocols", "nn", "likelihoods", "bijections", "autoregression", "adversarial"),
    *("data", "metrics", "viz"),
)
LAST = ("pretrained", "training", "exercises", "widgets", "recipes", "cli")
ICON_SCRIPT = re.compile(
    r"<script[^>]*fontawesome\.js[^>]*></script>\s*|<link[^>]*fontawesome\.js[^>]*>\s*"
)
EARLY = 10  # before the listeners of the theme and of sphinx-external-toc
LATE = 900


def exclude_masters(app: Sphinx, config: Config) -> None:
    """Build a chapter from its notebook, which has the outputs, and not also from its text."""
    source = Path(app.srcdir)
    config.exclude_patterns += [
        text.relative_to(source).as_posix()
        for text in sorted((source / "chapters").rglob("*.md"))
        if text.with_suffix(".ipynb").exists()
    ]


def use_local_assets(app: Sphinx, config: Config) -> None:
    """Serve the site's own style sheets, and MathJax and the engine unless ``GDM_ASSETS=cdn``."""
    config.html_static_path += [str(SITE / "static"), str(WIDGETS_CSS)]
    assets = os.environ.get("GDM_ASSETS", "local")
    if assets not in ("local", "cdn"):
        raise ExtensionError(f"GDM_ASSETS: expected 'local' or 'cdn', got {assets!r}")
    engine = ENGINE_ON_SITE
    if assets == "cdn":
        pinned = json.loads((SITE / "package.json").read_text("utf-8"))["dependencies"]
        engine = ENGINE_ON_CDN.format(version=pinned["onnxruntime-web"])
    else:
        for path in (MATHJAX, *(ENGINE / name for name in ENGINE_FILES)):
            if not path.exists():
                raise ExtensionError(
                    f"{path} is missing. Run `make book`, which installs it with npm, or "
                    "`make book ASSETS=cdn` to let pages load it from the network."
                )
        config.mathjax_path = MATHJAX_ON_SITE
    host = {"type": "module", "async": "async", "data-gdm-runtime": engine}
    config.nb_ipywidgets_js = {HOST: host}


def copy_assets(app: Sphinx) -> None:
    """Put MathJax and the engine where the pages look for them."""
    if app.config.mathjax_path != MATHJAX_ON_SITE:
        return
    static = Path(app.outdir) / "_static"
    wanted = {MATHJAX_ON_SITE: MATHJAX}
    wanted |= {f"{ENGINE_ON_SITE}{name}": ENGINE / name for name in ENGINE_FILES}
    for place, source in wanted.items():
        target = static / place
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def set_theme(app: Sphinx, config: Config) -> None:
    """Point the buttons at the repository that the site is published from."""
    options = config.html_theme_options
    options["navbar_persistent"] = []  # the side bar has a search field already
    options["launch_buttons"] = {"notebook_interface": "jupyterlab"}
    for key in ("repository_url", "repository_branch", "path_to_docs"):
        options.pop(key, None)
    repository = os.environ.get("GDM_REPOSITORY", "").rstrip("/").removesuffix(".git")
    if not repository:
        return
    options["repository_url"] = repository
    options["repository_branch"] = os.environ.get("GDM_BRANCH") or "main"
    options["use_repository_button"] = True
    options["use_issues_button"] = True
    options["launch_buttons"]["binderhub_url"] = "https://mybinder.org"


def publish_widgets(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any
) -> None:
    """Give the page the state of the widgets that live on it, and neither that nor the host if
    there are none."""
    files = []
    alive = False
    for script in context.get("script_files", []):
        attributes = getattr(script, "attributes", {})
        if attributes.get("type") == STATE:
            stored = json.loads(attributes["body"])["state"]
            try:
                state = site_widgets.publish(stored, Path(app.outdir) / "_static")
            except ValueError as error:
                raise ExtensionError(f"{page}: {error}") from error
            alive = bool(state)
            # No "<" in a script, whatever the values say.
            text = json.dumps({"state": state}, ensure_ascii=False).replace("<", "\\u003c")
            attributes["body"] = text
        files.append(script)
    context["script_files"] = [script for script in files if alive or not _is_for_widgets(script)]


def _is_for_widgets(script: Any) -> bool:
    attributes = getattr(script, "attributes", {})
    return attributes.get("type") == STATE or "data-gdm-runtime" in attributes


def public_modules(package: ModuleType) -> list[str]:
    """Names of the modules to document, in the order of the imports.

    A module whose names its package re-exports is documented there and not once more by itself;
    the checkers of each chapter's exercises are left to the chapters.
    """
    found = []
    for info in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if any(part.startswith("_") for part in info.name.split(".")):
            continue
        if info.name.startswith(f"{package.__name__}.exercises.") and info.name.count(".") > 2:
            continue
        module = importlib.import_module(info.name)
        parent = importlib.import_module(info.name.rpartition(".")[0])
        reexported = {
            getattr(getattr(parent, name), "__module__", None)
            for name in getattr(parent, "__all__", ())
        }
        if module.__doc__ and info.name not in reexported and hasattr(module, "__all__"):
            found.append(info.name)

    def layer(name: str) -> tuple[int, str]:
        top = name.split(".")[1]
        if top in LAYERS:
            return LAYERS.index(top), name
        return len(LAYERS) + (1 + LAST.index(top) if top in LAST else 0), name

    return sorted(found, key=layer)


def list_modules(app: Sphinx, docname: str, source: list[str]) -> None:
    """Fill in the sections of the library reference."""
    if docname != API_PAGE:
        return
    if API_MARK not in source[0]:
        raise ExtensionError(f"{docname}: the mark {API_MARK} is missing")
    sections = [
        f"## `{name}`\n\n```{{eval-rst}}\n.. automodule:: {name}\n```\n"
        for name in public_modules(importlib.import_module("gdm_lib"))
    ]
    source[0] = source[0].replace(API_MARK, "\n".join(sections))


def keep_attribute_text(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Keep napoleon from reading ``"Units: nats"`` below an attribute as a type and a text."""
    if what in ("attribute", "data", "property") and lines:
        lines.insert(0, "\\ ")


def number_by_chapter(app: Sphinx, env: BuildEnvironment) -> list[str]:
    """Theorems and exercises start at 1 in each chapter, as in JupyterLab, not once in the book."""
    for kinds in env.toc_fignumbers.values():
        for numbers in kinds.values():
            for place, label in enumerate(sorted(numbers, key=lambda name: numbers[name]), 1):
                numbers[label] = (place,)
    return []


def drop_icon_script(app: Sphinx, error: Exception | None) -> None:
    """Take the theme's icons from its fonts alone.

    The theme draws them a second time with a script of 1.5 MB, the largest part of a page.
    """
    if error is None and app.builder.format == "html":
        for path in Path(app.outdir).rglob("*.html"):
            text = path.read_text("utf-8")
            if "fontawesome.js" in text:
                path.write_text(ICON_SCRIPT.sub("", text), encoding="utf-8", newline="\n")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension."""
    for listener in (exclude_masters, use_local_assets, set_theme):
        app.connect("config-inited", listener, priority=EARLY)
    app.connect("builder-inited", copy_assets)
    app.connect("source-read", list_modules)
    app.connect("env-get-updated", number_by_chapter, priority=LATE)
    app.connect("autodoc-process-docstring", keep_attribute_text, priority=EARLY)
    app.connect("html-page-context", publish_widgets, priority=LATE)
    app.connect("build-finished", drop_icon_script)
    app.add_css_file("book.css")
    app.add_css_file("widgets.css")
    app.add_js_file("math.js", defer="defer", priority=EARLY)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
