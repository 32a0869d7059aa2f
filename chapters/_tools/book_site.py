"""Sphinx extension of the site: one file for a document, assets of its own, widgets that live.

Settings come from the environment, so that one ``_config.yml`` serves readers and publishers:

- ``GDM_REPOSITORY``: address of the repository, ``https://github.com/OWNER/NAME``. With it, pages
  have a repository button and notebooks a Binder button; without it, neither.
- ``GDM_BRANCH``: the branch that the buttons point at, ``main`` by default.
- ``GDM_ASSETS``: ``local`` (default) serves MathJax and the engine for models, ONNX Runtime Web,
  from the site itself; ``cdn`` lets pages load both from jsDelivr.
"""

from __future__ import annotations

import base64
import hashlib
import html
import importlib
import json
import os
import pkgutil
import re
import shutil
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from docutils import nodes  # type: ignore[import-untyped]
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError

from chapters._tools import front, site_widgets

SITE = Path(__file__).parents[1] / "_site"
MODULES = SITE / "node_modules"
MATHJAX = MODULES / "mathjax" / "es5" / "tex-svg-full.js"
MATHJAX_ON_SITE = "mathjax/tex-svg-full.js"
ENGINE = MODULES / "onnxruntime-web" / "dist"
# The files of the engine and their SHA-256, which the page holds them to wherever they come from.
ENGINE_FILES = {
    "ort.wasm.min.mjs": "219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b",
    "ort-wasm-simd-threaded.mjs": (
        "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b"
    ),
    "ort-wasm-simd-threaded.wasm": (
        "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2"
    ),
}
ENGINE_ON_SITE = "onnxruntime/"
CDN = "https://cdn.jsdelivr.net/npm/"
ENGINE_ON_CDN = CDN + "onnxruntime-web@{version}/dist/"
MATHJAX_ON_CDN = CDN + "mathjax@{version}/es5/tex-svg-full.js"
MATHJAX_INTEGRITY = "sha384-4kE/rQ11E8xT9QgrCBTyvenkuPfQo8rXYQvJZuMgxyPOoUfpatjQPlgdv6V5yhUK"
WIDGETS_CSS = SITE.parents[1] / "gdm_lib" / "widgets" / "widgets.css"
HOST = "widgets/host.js"
FROM_FILE = "widgets/from_file.js"
STATE = "application/vnd.jupyter.widget-state+json"
SEARCH = "search.js"
# The order of the reference is the order of the imports; what is not named goes by its name.
LAYERS = (
    *("protocols", "nn", "likelihoods", "bijections", "autoregression", "adversarial"),
    *("data", "metrics", "viz"),
)
LAST = ("pretrained", "training", "exercises", "widgets", "recipes", "cli")
ICON_SCRIPT = re.compile(
    r"<script[^>]*fontawesome\.js[^>]*></script>\s*|<link[^>]*fontawesome\.js[^>]*>\s*"
)
MATHJAX_SCRIPT = re.compile(
    r"<script>window\.MathJax = .*?</script>\s*|<script[^>]*tex-svg-full\.js[^>]*></script>\s*"
)
# What math.js typesets.
FORMULA = re.compile(r'class="(?:[^"]* )?(?:math|tex2jax_process|mathjax_process)[ "]')
# The field says "Search Ctrl+K", and a name that differs would be lost on those who speak to it.
SEARCH_LABEL = re.compile(r'(<button class="btn search-button-field[^>]*?) aria-label="[^"]*"')
# A toggle of folded code says what it does, and its label says something else.
TOGGLE_LABEL = re.compile(r'<summary aria-label="Toggle hidden content">')
# The arrow that opens a part of the side bar has no name.
PART = re.compile(r'(<a [^>]*>([^<]*)</a><details[^>]*>)<summary>(?=<span class="toctree-toggle")')
CHARSET = re.compile(r'<meta charset="utf-8"\s*/?>')
INLINE_SCRIPT = re.compile(r"<script(?![^>]* src=)([^>]*)>(.*?)</script>", re.DOTALL)
INLINE_HANDLER = re.compile(r'<[^>]*? on[a-z]+="([^"]*)"')
START_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta http-equiv="refresh" content="0; url={first}"></head>
<body><main><h1>{title}</h1><p><a href="{first}">Read the book</a></p></main></body></html>
"""
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
        config.mathjax_path = MATHJAX_ON_CDN.format(version=pinned["mathjax"])
        config.mathjax_options = {
            "defer": "defer",
            "integrity": MATHJAX_INTEGRITY,
            "crossorigin": "anonymous",
        }
    else:
        for path in (MATHJAX, *(ENGINE / name for name in ENGINE_FILES)):
            if not path.exists():
                raise ExtensionError(
                    f"{path} is missing. Run `make book`, which installs it with npm, or "
                    "`make book ASSETS=cdn` to let pages load it from the network."
                )
        config.mathjax_path = MATHJAX_ON_SITE
    host = {
        "type": "module",
        "async": "async",
        "data-gdm-runtime": engine,
        "data-gdm-digests": json.dumps(ENGINE_FILES),
    }
    config.nb_ipywidgets_js = {HOST: host, FROM_FILE: {"defer": "defer", "data-gdm-still": ""}}


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
        if "data-gdm-runtime" in attributes and page == app.config.root_doc:
            # The start page stays light until a reader comes to its widget.
            attributes["data-gdm-patient"] = ""
        files.append(script)
    context["script_files"] = [script for script in files if alive or not _is_for_widgets(script)]


def _is_for_widgets(script: Any) -> bool:
    attributes = getattr(script, "attributes", {})
    ours = {"data-gdm-runtime", "data-gdm-still"}
    return attributes.get("type") == STATE or bool(ours & set(attributes))


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


def say_what_it_takes(app: Sphinx, doctree: nodes.document) -> None:
    """Beneath a chapter's title: how long it takes to read and what it builds on. For the search:
    the other names of its subject."""
    card = _cards().get(app.env.docname.removeprefix("chapters/"))
    title = next(iter(doctree.findall(nodes.title)), None)
    if card is None or title is None:
        return
    line = nodes.paragraph(classes=["gdm-facts"])
    line += nodes.Text(f"{card.minutes} minutes to read, exercises not counted. ")
    for number, name in enumerate(card.builds_on):
        line += nodes.Text("Builds on " if number == 0 else ", ")
        reference = addnodes.pending_xref(
            "",
            refdomain="std",
            reftype="doc",
            reftarget=f"/chapters/{name}",
            refexplicit=True,
            refdoc=app.env.docname,
        )
        reference += nodes.inline("", _cards()[name].title)
        line += reference
    line += nodes.Text("." if card.builds_on else "Needs no other chapter.")
    title.parent.insert(title.parent.index(title) + 1, line)
    # The search looks for words, and Sphinx doesn't divide what stands between two commas.
    words = dict.fromkeys(re.findall(r"\w+", " ".join(card.also)))
    if words:
        doctree.insert(0, nodes.meta("", name="keywords", content=", ".join(words)))


@cache
def _cards() -> dict[str, front.Card]:
    return front.cards()


def help_search(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any
) -> None:
    """Give the search page the plain names of the chapters, and a script that knows them."""
    if page == "search":
        names = {f"chapters/{c.name}": [c.title, *c.also] for c in _cards().values()}
        attributes: dict[str, Any] = {"defer": "defer", "data-gdm-names": json.dumps(names)}
        app.add_js_file(SEARCH, **attributes)


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


def content_policy(page: str, engine: str, handlers: Iterable[str] = ()) -> str:
    """The Content-Security-Policy of a page: what it may load and run, and nothing else.

    Scripts that stand in the page itself are allowed one by one, by their digests. ``blob:`` is
    for the scripts of widgets and of the engine, which the host runs once it has checked them.
    ``file:`` is for pages opened from a folder, where ``'self'`` names nothing in some browsers; a
    page of a server can't reach it. Styles stand in attributes all over a notebook's outputs.

    Args:
        page: its HTML.
        engine: the address of the engine; a foreign host is allowed for it and for MathJax alone.
        handlers: those of the theme's buttons, on any page: the search reads other pages.
    """
    inline = [body for kind, body in INLINE_SCRIPT.findall(page) if _is_script(kind)]
    hashes = sorted({_digest(body) for body in [*inline, *handlers]})
    foreign = f" {CDN}" if engine.startswith(CDN) else ""
    scripts = ["'self'", "file:", "blob:", "'wasm-unsafe-eval'", *hashes]
    if handlers:
        scripts.append("'unsafe-hashes'")
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {' '.join(scripts)}{foreign}",
            "style-src 'self' file: 'unsafe-inline'",
            "img-src 'self' file: data: blob:",
            "font-src 'self' file:",
            "media-src 'self' file: data: blob:",
            f"connect-src 'self' file:{foreign}",
            "worker-src 'none'",
            "form-action 'self' file:",
            "base-uri 'none'",
        ]
    )


def _is_script(attributes: str) -> bool:
    kind = re.search(r'type="([^"]*)"', attributes)
    return kind is None or kind[1] in ("", "module", "text/javascript")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def handlers_of(page: str) -> set[str]:
    """The scripts that stand in attributes of a page, ``onclick="..."``."""
    return {html.unescape(body) for body in INLINE_HANDLER.findall(page)}


def finish_page(page: str, engine: str, handlers: Iterable[str] = ()) -> str:
    """A page as it is published.

    Without the theme's second set of icons, which a script of 1.5 MB draws over its fonts; without
    MathJax (2.3 MB) if there is no formula; and with a policy of what it may load.
    """
    page = ICON_SCRIPT.sub("", page)
    if not FORMULA.search(page):
        page = MATHJAX_SCRIPT.sub("", page)
    page = SEARCH_LABEL.sub(r"\1", page)
    page = TOGGLE_LABEL.sub("<summary>", page)
    page = PART.sub(r'\1<summary aria-label="Pages of: \2">', page)
    policy = html.escape(content_policy(page, engine, handlers), quote=False)
    tag = f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    return CHARSET.sub(lambda found: f"{found[0]}\n    {tag}", page, count=1)


def finish_pages(app: Sphinx, error: Exception | None) -> None:
    """Rewrite the pages as ``finish_page`` says; at the root, one that leads to the first."""
    if error is not None or app.builder.format != "html":
        return
    site = Path(app.outdir)
    engine = app.config.nb_ipywidgets_js[HOST]["data-gdm-runtime"]
    pages = {
        path: path.read_text("utf-8")
        for path in site.rglob("*.html")
        if "_static" not in path.parts  # the theme leaves templates there
    }
    handlers = set[str]().union(*map(handlers_of, pages.values()))
    for path, page in pages.items():
        text = finish_page(page, engine, handlers)
        path.write_text(text, encoding="utf-8", newline="\n")
    first = app.config.root_doc + ".html"
    if first != "index.html":
        start = START_PAGE.format(title=html.escape(app.config.html_title), first=first)
        start = finish_page(start, engine)
        (site / "index.html").write_text(start, encoding="utf-8", newline="\n")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension."""
    for listener in (exclude_masters, use_local_assets, set_theme):
        app.connect("config-inited", listener, priority=EARLY)
    app.connect("builder-inited", copy_assets)
    app.connect("doctree-read", say_what_it_takes)
    app.connect("html-page-context", help_search, priority=EARLY)
    app.connect("env-get-updated", number_by_chapter, priority=LATE)
    app.connect("autodoc-process-docstring", keep_attribute_text, priority=EARLY)
    app.connect("html-page-context", publish_widgets, priority=LATE)
    app.connect("build-finished", finish_pages, priority=LATE)
    app.add_css_file("book.css")
    app.add_css_file("widgets.css")
    for script in ("scroll.js", "math.js"):
        app.add_js_file(script, defer="defer", priority=EARLY)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
