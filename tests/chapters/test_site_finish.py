"""What is made of a page once Sphinx has written it, and how the site is built and published."""

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess

import pytest
import yaml

from chapters._tools import book_site, pairs

PAGE = """<!DOCTYPE html>
<html lang="en">
  <head>
    <meta charset="utf-8" />
    <script data-cfasync="false">
  document.documentElement.dataset.mode = "é";
</script>
    <script src="math.js"></script>
    <script type="application/json">{"no": "script"}</script>
    <script>window.MathJax = {"tex": {}}</script>
    <script defer="defer" src="_static/mathjax/tex-svg-full.js?v=1"></script>
    <script defer src="_static/scripts/fontawesome.js?digest=1"></script>
  </head>
  <body><button class="btn search-button-field" title="Search" aria-label="Search">Search</button>
  <button onclick="go(&quot;a&quot;)">Go</button>BODY</body>
</html>"""


def policy(page):
    content = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)[1]
    directives = (directive.split() for directive in content.split("; "))
    return {name: set(values) for name, *values in directives}


def digest(text):
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def finished(body="", engine="onnxruntime/", handlers=()):
    return book_site.finish_page(PAGE.replace("BODY", body), engine, handlers)


def test_mathjax_is_loaded_by_pages_with_formulas_alone():
    for body in ("no formula", '<p class="maths">', '<code>class="x"</code>'):
        assert "MathJax" not in finished(body)
        assert "mathjax" not in finished(body)
    for body in (
        '<span class="math notranslate">x</span>',
        '<div class="output math">x</div>',
        '<div class="tex2jax_process">$x$</div>',  # typeset too, by math.js
    ):
        assert "window.MathJax" in finished(body)
        assert "tex-svg-full.js" in finished(body)
    assert "fontawesome.js" not in finished()


def test_toggles_are_called_what_they_say():
    said = "<span>Show the code</span></summary>"
    page = finished(f'<summary aria-label="Toggle hidden content">{said}')
    assert f"<summary>{said}" in page
    assert 'aria-label="Search"' not in page


def test_the_arrows_of_the_side_bar_have_names():
    arrow = '<summary><span class="toctree-toggle"><i></i></span></summary>'
    page = finished(f'<a class="reference" href="a.html">Data &amp; more</a><details>{arrow}')
    assert '<summary aria-label="Pages of: Data &amp; more"><span class="toctree-toggle">' in page
    assert "<summary><b>" in finished("<details><summary><b>More</b></summary>")


def test_the_policy_allows_the_scripts_of_a_page_one_by_one():
    scripts = policy(finished())["script-src"]
    assert digest('\n  document.documentElement.dataset.mode = "é";\n') in scripts
    assert {"'self'", "blob:", "'wasm-unsafe-eval'"} <= scripts
    assert not {"'unsafe-inline'", "'unsafe-eval'", "'unsafe-hashes'", "data:", "*"} & scripts
    assert sum(source.startswith("'sha256-") for source in scripts) == 1
    with_formula = policy(finished('<p class="math">x</p>'))["script-src"]
    assert with_formula - scripts == {digest('window.MathJax = {"tex": {}}')}


def test_the_policy_allows_the_handlers_of_all_pages():
    assert book_site.handlers_of(PAGE) == {'go("a")'}
    scripts = policy(finished(handlers=['go("a")', "print()"]))["script-src"]
    assert {digest('go("a")'), digest("print()"), "'unsafe-hashes'"} <= scripts


def test_the_policy_stands_after_the_character_set_and_before_all_scripts():
    page = finished()
    assert page.index("charset") < page.index("Content-Security-Policy") < page.index("<script")
    assert page.encode().index(b"charset") < 1024


def test_only_the_host_of_the_assets_is_foreign_and_only_if_they_come_from_there():
    local, cdn = policy(finished()), policy(finished(engine=book_site.CDN + "x/"))
    assert "https" not in str(local)
    foreign = {name for name, sources in cdn.items() if any("https" in s for s in sources)}
    assert foreign == {"script-src", "connect-src"}
    assert cdn["connect-src"] - local["connect-src"] == {book_site.CDN}
    assert local["default-src"] == {"'none'"}


class Config:
    """What the extension changes of Sphinx's configuration."""

    def __init__(self):
        self.html_static_path = []
        self.mathjax_path = "https://cdn.jsdelivr.net/npm/mathjax@3/es5/tex-mml-chtml.js"
        self.mathjax_options = {}


def test_what_comes_from_the_network_has_its_version_and_its_digest(monkeypatch):
    monkeypatch.setenv("GDM_ASSETS", "cdn")
    config = Config()
    book_site.use_local_assets(None, config)
    pinned = json.loads((book_site.SITE / "package.json").read_text("utf-8"))["dependencies"]
    assert f"/mathjax@{pinned['mathjax']}/" in config.mathjax_path
    assert config.mathjax_options["integrity"] == book_site.MATHJAX_INTEGRITY
    assert config.mathjax_options["crossorigin"] == "anonymous"
    host = config.nb_ipywidgets_js[book_site.HOST]
    assert f"/onnxruntime-web@{pinned['onnxruntime-web']}/" in host["data-gdm-runtime"]
    assert json.loads(host["data-gdm-digests"]) == book_site.ENGINE_FILES
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in pinned.values())


@pytest.mark.skipif(not book_site.MATHJAX.exists(), reason="mathjax is not installed: needs npm")
def test_the_digests_of_the_assets_are_those_of_the_files():
    content = hashlib.sha384(book_site.MATHJAX.read_bytes()).digest()
    assert f"sha384-{base64.b64encode(content).decode()}" == book_site.MATHJAX_INTEGRITY
    for name, expected in book_site.ENGINE_FILES.items():
        found = hashlib.sha256((book_site.ENGINE / name).read_bytes()).hexdigest()
        assert found == expected, name


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_book_ends_with_a_command_and_an_address_that_work():
    environment = {**os.environ, "MAKEFLAGS": ""}
    make = ["make", "-n", "book", "ASSETS=cdn"]
    done = subprocess.run(
        make, cwd=pairs.ROOT, env=environment, capture_output=True, text=True, check=True
    )
    # Jupyter Book ends a build of its own "html" by recommending a file.
    assert "--builder custom --custom-builder html" in done.stdout
    said = "\n".join(re.findall(r'^echo "(.*)"$', done.stdout, re.MULTILINE))
    assert "file:" not in said
    assert re.search(r"python\S* -m http\.server -d _build/html -b localhost 8000$", said, re.M)
    assert said.endswith("http://localhost:8000/")


def test_actions_are_pinned_by_digest_with_their_version_beside():
    for path in (pairs.ROOT / ".github" / "workflows").glob("*.yml"):
        text = path.read_text("utf-8")
        lines = [line.split("uses:")[1].strip() for line in text.splitlines() if "uses:" in line]
        assert lines
        for line in lines:
            assert re.fullmatch(r"[\w-]+/[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line
        versions = {}
        for line in lines:
            action, _, rest = line.partition("@")
            assert versions.setdefault(action, rest) == rest
        jobs = yaml.safe_load(text)["jobs"].values()
        assert len(lines) == sum("uses" in step for job in jobs for step in job["steps"])
