from __future__ import annotations

import ast
import base64
import html
import importlib
import inspect
import io
import pkgutil
import re
import textwrap
from html.parser import HTMLParser

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient
from PIL import Image

import gdm_lib
from gdm_lib import viz
from gdm_lib.viz import display


class Page(HTMLParser):
    """The tags of a page with their attributes, and the text inside each tag."""

    def __init__(self, page):
        super().__init__()
        self.attrs, self.text, self.inside = {}, {}, []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.attrs.setdefault(tag, []).append(dict(attrs))
        if tag != "img":
            self.inside.append(tag)

    def handle_endtag(self, tag):
        assert self.inside.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.text.setdefault(self.inside[-1], []).append(data)


@pytest.fixture(scope="module")
def outputs():
    """What a kernel sends for one cell with each kind of display."""
    cells = [
        """
        from gdm_lib import viz
        import matplotlib.pyplot as plt
        viz.use_style()
        fig, ax = plt.subplots()
        ax.plot([1, 2, 3])
        viz.show(fig, alt='A line that rises & "shines".', caption="From <1> to 3.")
        """,
        "viz.table({'model': ['VAE', 'PCA'], 'nats': [-1.25, 3.0]}, caption='Scores')",
        "from gdm_lib.vae import vae\nviz.show_source(vae.gaussian_kl, vae.sgvb_a)",
    ]
    nb = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(textwrap.dedent(cell)) for cell in cells]
    )
    NotebookClient(nb, timeout=60, kernel_name="python3").execute()
    return [cell.outputs for cell in nb.cells]


class TestShow:
    def test_the_figure_is_shown_once_and_with_alt_and_caption(self, outputs):
        (output,) = outputs[0]
        page = Page(output.data["text/html"])
        (image,) = page.attrs["img"]
        assert image["alt"] == 'A line that rises & "shines".'
        assert page.text["figcaption"] == ["From <1> to 3."]
        assert "max-width:100%" in image["style"]
        assert output.data["text/plain"] == '[figure: A line that rises & "shines".]'

    def test_the_picture_is_a_png_on_paper(self, outputs):
        source = Page(outputs[0][0].data["text/html"]).attrs["img"][0]["src"]
        kind, data = source.split(",")
        assert kind == "data:image/png;base64"
        picture = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
        assert picture.size == (777, 489)
        paper = [int(viz.PAPER[i : i + 2], 16) for i in (1, 3, 5)]
        assert np.abs(np.array(picture.getpixel((2, 2))) - paper).max() <= 2

    @pytest.mark.parametrize("alt", ["", "  \n"])
    def test_empty_alt_is_refused(self, alt):
        fig, _ = plt.subplots()
        with pytest.raises(ValueError, match="alt: expected a sentence"):
            viz.show(fig, alt=alt)
        plt.close(fig)

    def test_axes_are_refused(self):
        fig, ax = plt.subplots()
        with pytest.raises(TypeError, match=r"fig: .* got Axes; .*ax\.figure"):
            viz.show(ax, alt="axes")
        plt.close(fig)

    def test_outside_a_notebook_it_only_closes(self, capsys):
        fig, _ = plt.subplots()
        assert viz.show(fig, alt="nothing") is None
        assert not plt.fignum_exists(fig.number)
        assert capsys.readouterr().out == ""


class TestPng:
    def test_a_line_plot_looks_as_matplotlib_draws_it(self):
        with plt.rc_context():
            viz.use_style()
            fig, ax = plt.subplots()
            for i in range(6):
                ax.plot(np.sin(np.linspace(0, 6, 100) + i))
            own = io.BytesIO()
            fig.savefig(own, format="png")
            small = display.png(fig)
            plt.close(fig)
        expected = np.asarray(Image.open(own).convert("RGB"), float)
        got = np.asarray(Image.open(io.BytesIO(small)).convert("RGB"), float)
        assert np.abs(got - expected).mean() < 1
        assert len(small) < len(own.getvalue()) / 2

    def test_a_picture_of_many_colours_keeps_them(self):
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
        back = Image.open(io.BytesIO(display.encode_png(noise))).convert("RGB")
        assert np.array_equal(np.asarray(back), noise)


class TestTable:
    def test_a_notebook_gets_a_page_and_text(self, outputs):
        (output,) = outputs[1]
        page = Page(output.data["text/html"])
        assert page.text["figcaption"] == ["Scores"]
        assert page.text["th"] == ["model", "nats"]
        assert page.text["td"] == ["VAE", "−1.250", "PCA", "3.000"]
        assert output.data["text/plain"].splitlines() == [
            "model    nats",
            "VAE    −1.250",
            "PCA     3.000",
        ]

    def test_numbers_are_rounded_and_text_is_kept(self, capsys):
        viz.table(
            {
                "a": torch.tensor([1.0, -0.00001, float("nan")]),
                "b": [12345, True, "x < y"],
                "c": np.array([1, 2, 3]),
                "d": [torch.tensor(2.5), np.float64(1.25), float("inf")],
            },
            digits=2,
        )
        rows = [line.split() for line in capsys.readouterr().out.splitlines()]
        assert rows[1:] == [
            ["1.00", "12,345", "1", "2.50"],
            ["0.00", "True", "2", "1.25"],
            ["nan", "x", "<", "y", "3", "inf"],
        ]

    def test_bad_input_is_named(self):
        with pytest.raises(ValueError, match=r"columns: expected equal lengths, got .*'b': 1"):
            viz.table({"a": [1, 2], "b": [1]})
        with pytest.raises(ValueError, match="columns: expected at least one"):
            viz.table({})


class TestShowSource:
    def test_the_source_is_the_installed_one_and_is_coloured_by_the_page(self, outputs):
        (output,) = outputs[2]
        text = output.data["text/plain"]
        assert text.startswith("# gdm_lib/vae/vae.py\n\ndef gaussian_kl(")
        assert text.count("# gdm_lib/vae/vae.py") == 1
        assert "\n\n\ndef sgvb_a(" in text
        page = output.data["text/html"]
        rules, code = page.split("</style>")
        shown = html.unescape(re.sub("<[^>]*>", "", code)).strip()
        assert shown == text.strip()
        # Colours come from classes that the site's theme has, and from JupyterLab's variables.
        assert '<span class="nf">gaussian_kl</span>' in code
        assert re.search(r":is\([^)]*\.k,[^)]*\)\{color:var\(--jp-mirror-editor-keyword", rules)
        assert "style=" not in code

    def test_methods_stand_under_the_first_line_of_their_class(self, capsys):
        viz.show_source(
            Page.handle_starttag, Page.handle_data, display.wrap_source, Page.handle_data
        )
        text = capsys.readouterr().out
        assert ast.parse(text)
        first = next(line for line in inspect.getsource(Page).splitlines() if "class" in line)
        assert text.splitlines()[2:4] == [first, "    def handle_starttag(self, tag, attrs):"]
        assert "\n\n    def handle_data(self, data):\n        if data.strip():" in text
        assert text.count(f"\n{first}\n") == 2  # and anew after what isn't of the class
        assert "\n\n\n# gdm_lib/viz/display.py\n\ndef wrap_source(" in text

    def test_a_function_and_a_local_class_keep_their_margin(self, capsys):
        class Local:
            def method(self):
                return 1

        viz.show_source(Local.method)
        assert "\n\ndef method(self):\n    return 1" in capsys.readouterr().out

    def test_what_has_no_source_is_refused(self):
        with pytest.raises(TypeError, match="objects: expected classes or functions"):
            viz.show_source(len)
        with pytest.raises(ValueError, match="objects: expected at least one"):
            viz.show_source()

    def test_the_last_words_of_a_docstring_do_not_run_into_the_code_below(self):
        words = "word " * 17
        source = f'def f():\n    """{words}\n    {words}end."""\n    value = 1\n    return value\n'
        wrapped = display.wrap_source(source)
        assert wrapped.splitlines()[-2:] == ["    value = 1", "    return value"]
        assert ast.parse(wrapped)
        assert max(map(len, wrapped.splitlines())) <= display.SOURCE_WIDTH

    def test_wrapping_keeps_the_meaning_of_every_module_and_fits_it(self):
        def meaning(source):
            tree = ast.parse(source)
            for node in ast.walk(tree):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    node.value = " ".join(node.value.split())
            return ast.dump(tree)

        for module in pkgutil.walk_packages(gdm_lib.__path__, "gdm_lib."):
            spec = importlib.util.find_spec(module.name)
            with open(spec.origin, encoding="utf-8") as file:
                source = file.read()
            wrapped = display.wrap_source(source)
            assert meaning(wrapped) == meaning(source), module.name
            too_long = [line for line in wrapped.splitlines() if len(line) > display.SOURCE_WIDTH]
            allowed = [line for line in too_long if line.lstrip().startswith(('f"', '"', 'r"'))]
            assert len(too_long) - len(allowed) <= len(source.splitlines()) / 50, (
                module.name,
                too_long,
            )

    def test_text_flows_on_within_its_paragraph_only(self):
        source = textwrap.dedent(
            """
            def f():
                '''Words that go on for a while
                and on. But this: not.

                Args:
                    x: words that go on for long
                    y: more.
                '''
            """
        ).strip()
        assert display.wrap_source(source, width=32).splitlines() == [
            "def f():",
            "    '''Words that go on for a",
            "    while and on. But this: not.",
            "",
            "    Args:",
            "        x: words that go on for",
            "            long",
            "        y: more.",
            "    '''",
        ]

    def test_comments_and_brackets_are_broken_in_place(self):
        source = (
            "call(first_argument, second_argument, third)\n"
            "    # a comment of several words that is long\n"
            "x = 'a long string that has no brackets at all'\n"
        )
        assert display.wrap_source(source, width=32).splitlines() == [
            "call(first_argument,",
            "    second_argument, third)",
            "    # a comment of several words",
            "    # that is long",
            "x = 'a long string that has no brackets at all'",
        ]
