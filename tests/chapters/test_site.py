"""The built site: nothing comes from another host, and no link inside it is dead.

Reads ``_build/html``, which ``make book`` makes.
"""

import base64
import hashlib
import html
import json
import os
import posixpath
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from chapters._tools import book_site, front, pairs

SITE = pairs.ROOT / "_build" / "html"
# The theme leaves templates of its own among its assets.
PAGES = sorted(path for path in SITE.rglob("*.html") if "_static" not in path.parts)
LOCAL = (SITE / "_static" / "mathjax" / "tex-svg-full.js").exists()

if not PAGES:
    pytest.skip("the site is not built: run `make book`", allow_module_level=True)

# Elements that make a browser fetch what the attribute names.
FETCHES = {
    "script": ("src",),
    "img": ("src", "srcset"),
    "source": ("src", "srcset"),
    "iframe": ("src",),
    "embed": ("src",),
    "object": ("data",),
    "audio": ("src",),
    "video": ("src", "poster"),
    "link": ("href",),
}
FETCHING_LINKS = {
    "stylesheet",
    "icon",
    "preload",
    "prefetch",
    "modulepreload",
    "manifest",
    "shortcut",
}


@dataclass
class Page(HTMLParser):
    """What a page fetches, where it links to, and which anchors it has."""

    path: Path
    fetched: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)
    without_alt: list[str] = field(default_factory=list)
    scripts: list[str] = field(default_factory=list)

    def __post_init__(self):
        super().__init__()
        self.feed(self.path.read_text("utf-8"))

    def handle_starttag(self, tag, attrs):
        named = {name: value or "" for name, value in attrs}
        self.anchors |= {named[name] for name in ("id", "name") if named.get(name)}
        if tag == "a" and named.get("href"):
            self.links.append(named["href"])
        if tag == "link" and not FETCHING_LINKS & set(named.get("rel", "").split()):
            return
        for name in FETCHES.get(tag, ()):
            if named.get(name):
                self.fetched.append(named[name])
        if tag == "img" and not named.get("alt", "").strip():
            self.without_alt.append(named.get("src", "")[:80])
        if tag == "script":
            self.scripts.append(named.get("type", ""))


PARSED = {path: Page(path) for path in PAGES}
IDS = [path.relative_to(SITE).as_posix() for path in PAGES]


def is_foreign(address):
    return bool(urlsplit(address).netloc) or urlsplit(address).scheme in ("http", "https")


@pytest.mark.parametrize("path", PAGES, ids=IDS)
def test_a_page_fetches_nothing_from_another_host(path):
    if not LOCAL:
        pytest.skip("built with ASSETS=cdn")
    foreign = [address for address in PARSED[path].fetched if is_foreign(address)]
    assert not foreign
    imports = re.findall(r"""import\s*\(?\s*["'](https?:[^"']+)""", path.read_text("utf-8"))
    assert not imports


@pytest.mark.parametrize("path", PAGES, ids=IDS)
def test_what_a_page_fetches_and_links_to_is_there(path):
    dead = []
    for address in PARSED[path].fetched + PARSED[path].links:
        parts = urlsplit(address)
        if is_foreign(address) or parts.scheme in ("data", "mailto", "javascript"):
            continue
        target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        if not target.exists():
            dead.append(address)
        elif parts.fragment and target in PARSED and not parts.fragment.startswith("/"):
            anchors = PARSED[target].anchors | {"", "top"}
            if unquote(parts.fragment) not in anchors:
                dead.append(address)
    assert not dead


@pytest.mark.parametrize("path", PAGES, ids=IDS)
def test_pictures_have_alternative_text(path):
    assert not PARSED[path].without_alt


def test_style_sheets_fetch_nothing_from_another_host():
    foreign = []
    for path in (*SITE.rglob("*.css"),):
        text = re.sub(r"/\*.*?\*/", "", path.read_text("utf-8"), flags=re.DOTALL)
        found = re.findall(r"""(?:url\(\s*|@import\s+)["']?((?:https?:)?//[^"')\s]+)""", text)
        foreign += [f"{path.name}: {address}" for address in found]
    assert not foreign


def test_every_chapter_has_a_page_and_the_root_leads_to_the_first():
    for master in pairs.masters():
        name = master.relative_to(pairs.ROOT).with_suffix(".html")
        assert (SITE / name) in PARSED
    assert "chapters/index.html" in (SITE / "index.html").read_text("utf-8")


def widgets_of(path):
    """The state of a page's widgets, None if it has no such script."""
    found = re.search(
        r'<script type="application/vnd.jupyter.widget-state\+json">(.*?)</script>',
        path.read_text("utf-8"),
        re.DOTALL,
    )
    return json.loads(found[1])["state"] if found else None


ALIVE = [path for path in PAGES if 'data-gdm-widget="' in path.read_text("utf-8")]


def test_pages_with_widgets_have_their_state_and_the_host_and_others_have_neither():
    assert SITE / "chapters" / "vae" / "vae.html" in ALIVE
    for path in PAGES:
        state, hosted = widgets_of(path), "data-gdm-runtime" in path.read_text("utf-8")
        shown = re.findall(r'<figure[^>]*data-gdm-widget="(\w+)"', path.read_text("utf-8"))
        assert hosted == (path in ALIVE), path.name
        assert sorted(state or {}) == sorted(shown), path.name


@pytest.mark.parametrize("path", ALIVE, ids=[path.stem for path in ALIVE])
def test_what_widgets_fetch_is_there_is_what_its_name_says_and_is_small(path):
    static = SITE / "_static"
    for entry in widgets_of(path).values():
        values = entry["state"]
        assert {"_css", "poster", "page_model"} & set(values) <= {"page_model"}
        addresses = [values["_esm"], values.get("page_model_address")]
        addresses += [b["data"] for b in entry["buffers"] if b["encoding"] == "url"]
        for address in filter(None, addresses):
            content = (static / address).read_bytes()
            assert hashlib.sha256(content).hexdigest().startswith(Path(address).stem)
            assert len(content) <= 1_000_000, address
        if values.get("page_weights"):
            assert values["page_model_address"].endswith(".onnx")
    assert path.stat().st_size <= 1_500_000
    engine = re.search(r'data-gdm-runtime="([^"]+)"', path.read_text("utf-8"))[1]
    if not is_foreign(engine):
        for name in book_site.ENGINE_FILES:
            assert (static / engine / name).is_file()


def test_the_themes_second_set_of_icons_is_not_loaded():
    for path, page in PARSED.items():
        assert not [address for address in page.fetched if "fontawesome.js" in address], path.name


@pytest.mark.parametrize("path", PAGES, ids=IDS)
def test_a_page_has_a_policy_that_names_each_of_its_scripts(path):
    text = path.read_text("utf-8")
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert text.index("Content-Security-Policy") < text.find("<script") % len(text)
    allowed = policy.partition("script-src ")[2].partition(";")[0].split()
    assert not {"'unsafe-inline'", "'unsafe-eval'", "*", "http:", "https:"} & set(allowed)
    for attributes, body in book_site.INLINE_SCRIPT.findall(text):
        if "application/" not in attributes:
            digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
            assert f"'sha256-{digest}'" in allowed, body[:80]


FIRST = SITE / "chapters" / "index.html"


def text_of(source):
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", source)).replace("#", "").split())


def test_chapters_have_one_name_on_the_start_page_in_the_side_bar_and_in_their_title():
    start = FIRST.read_text("utf-8")
    (side,) = re.findall(r'<nav[^>]*class="bd-links[^>]*>(.*?)</nav>', start, re.DOTALL)
    for name, card in front.cards().items():
        page = (SITE / f"chapters/{name}.html").read_text("utf-8")
        title = re.search(r'<article.*?<h1>(.*?)<a class="headerlink"', page, re.DOTALL)
        on_card = re.search(
            rf'<strong><a[^>]*href="{re.escape(name)}\.html"[^>]*>(.*?)</a>', start, re.DOTALL
        )
        in_side = re.search(
            rf'<a[^>]*href="{re.escape(name)}\.html"[^>]*>(.*?)</a>', side, re.DOTALL
        )
        names = [text_of(found[1]) for found in (title, on_card, in_side)]
        assert names == [card.title] * 3


def test_a_chapter_says_beneath_its_title_what_it_takes():
    for name, card in front.cards().items():
        page = (SITE / f"chapters/{name}.html").read_text("utf-8")
        (line,) = re.findall(r'</h1>\s*<p class="gdm-facts">(.*?)</p>', page, re.DOTALL)
        assert text_of(line).startswith(f"{card.minutes} minutes to read")
        leads = {posixpath.normpath(posixpath.join(posixpath.dirname(name), address))
                 for address in re.findall(r'href="([^"]*)\.html"', line)}  # fmt: skip
        assert leads == set(card.builds_on)


def test_mathjax_is_loaded_where_there_is_a_formula_and_nowhere_else():
    with_formulas = {path for path in PAGES if 'class="math' in path.read_text("utf-8")}
    with_mathjax = {path for path in PAGES if "tex-svg-full.js" in path.read_text("utf-8")}
    assert with_mathjax == with_formulas
    assert SITE / "chapters" / "index.html" not in with_mathjax
    assert SITE / "chapters" / "vae" / "vae.html" in with_mathjax


def test_buttons_follow_the_address_of_the_repository():
    page = (SITE / "chapters" / "index.html").read_text("utf-8")
    repository = os.environ.get("GDM_REPOSITORY", "").rstrip("/").removesuffix(".git")
    if repository:
        assert repository in page
        assert "mybinder.org" in page
    else:
        assert "mybinder.org" not in page
        assert "github.com/executablebooks" not in page


def test_the_reference_has_every_public_module():
    import gdm_lib
    from chapters._tools.book_site import public_modules

    folder = SITE / "chapters" / "appendix" / "api"
    modules = public_modules(gdm_lib)
    assert "gdm_lib.vae.vae" in modules
    for module in modules:
        name = module.removeprefix("gdm_lib.")
        assert f"module-{module}" in PARSED[folder / f"{name}.html"].anchors


@pytest.mark.parametrize("what", ["equation", "Theorem", "Exercise"])
def test_numbers_start_anew_in_each_chapter(what):
    """As in JupyterLab. Code comments cite equations by number."""
    pattern = (
        r'class="eqno">\((\d+)\)'
        if what == "equation"
        else rf'class="caption-number">{what} (\d+)\s'
    )
    counts = {}
    for master in pairs.masters():
        page = SITE / master.relative_to(pairs.ROOT).with_suffix(".html")
        numbers = [int(number) for number in re.findall(pattern, page.read_text("utf-8"))]
        assert numbers == list(range(1, len(numbers) + 1)), page.name
        counts[master.stem] = len(numbers)
    assert counts["vae"] > 0
    assert counts["glow"] > 0
