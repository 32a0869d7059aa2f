"""The lint lets a chapter pass that keeps every rule, and finds each fault planted in it."""

import nbformat
import pytest

from chapters._tools import lint
from chapters._tools.markdown import parse, plain, slug
from chapters._tools.prose import drift, sentences

FOLD = "---\njupyter:\n  source_hidden: true\ntags: [hide-input]\n---\n"
WIDGET_CELL = "```{code-cell} ipython3\nwidget"
CELL = "```{{code-cell}} ipython3\n{}```\n"


def found(book):
    return [str(finding) for finding in lint.lint(book.master, book.root)]


def test_a_chapter_that_keeps_every_rule_passes(book):
    assert found(book) == []


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("Think some more.\n:::", "Think some more.", "the fence opened here is never closed"),
        ("# A paper\n", "A paper\n", "there is no title"),
        ("## Train it", "# Train it", "a second title"),
        ("## The derivation\n", "### The derivation\n", "'## The derivation' is missing"),
        ("## Train it", "## Interlude\n\n## Train it", "`## Interlude` is not a section"),
        ("## Summary", "## Train it", "'Train it' stands twice"),
        ("## Summary", "## Summaries", "'## Summary' is missing"),
        ("abs/1312.6114", "abs/1401.4082", "no link to https://arxiv.org/abs/1312.6114"),
        ("You will be able to", "You will", "no 'You will be able to'"),
        ("- derive it;\n- build it;\n", "", "lists 1 things"),
        ("It builds on", "See", "what the chapter builds on"),
        ("viz.show(fig, alt", "draw(fig, alt", "the opening has no picture"),
        ("viz.show_source(vae.kl)", "print(1)", "does not show the installed source"),
        ("torch.manual_seed(0)\n", "", "no seed is set"),
        ("import torch\n", "import torch  # " + 80 * "x" + "\n", "code line of 96 characters"),
        ("They agree with each other.\n", "", "no sentence after this cell"),
        ("That is all there is.\n", "<!-- quiet -->\n", "no sentence after this cell"),
        ("Both are computed and compared here.\n", "", "no sentence before this cell"),
        ("Nothing to train in", "After 40 s it reached 12 nats in", "'40 s'"),
        ("Nothing to train in", "The gap is 0.42 in", "a number in prose, '0.42'"),
        ("Nothing to train in", "It is right in 98 % of", "'98 %'"),
        ("Nothing to train in", "It is 3 times faster in", "'3 times faster'"),
        ("The paper reports 97.3 % (table 2).", "We see 97.3 %.", "a number in prose, '97.3"),
        ("Think some more.", "Think for 1.5 hours.", "'1.5"),
        ("\na good many words that make up a long text" * 60, "", "words, expected 2,000"),
        (":::{exercise} Four\n:label: four\nThink some more.\n:::", "", "3 exercises"),
        ("check(exercises.two, two)", "print(2)", "1 exercises end in `check"),
        (":label: two", ":label: one", "`:label:` of its own"),
        ("../index.ipynb", "../start.ipynb", "leads to no chapter"),
        ("../index.ipynb", "../index.md", "link to the notebook, not to its text"),
        ("../appendix/notation.md", "notation.md", "leads nowhere"),
        ("../appendix/notation.md", "../appendix/notation.md#unit", "no heading or label"),
        ("#break-it-as-promised", "#break-it", "no heading or label"),
        ("That was that", "![](a.png) That was that", "no alternative text"),
        ("$$ (loss)", "$$", "displayed equation without a label"),
        ("L = 0.5", "\\begin{aligned}\n[a, b] = 0.5", "begins with `[` and loses it"),
        ("L = 0.5", "a = b, \\\\\n[a, b] = 0.5", "begins with `[` and loses it"),
        ("import torch\n", "import torch  # eq. (2)\n", "cites eq. (2), but there are 1 equations"),
        ("That was that", ":::{figure} a.png\n:::\nThat was that", "no `:alt:`"),
        ("tags: [hide-input]\n", "", "folded on the page or in JupyterLab only"),
        ("jupyter:\n  source_hidden: true\n", "", "folded on the page or in JupyterLab only"),
        (FOLD, "", "code is unfolded before the opening picture"),
        (FOLD, "", "an import in an unfolded cell"),
        ("widget()", "widget()\nax.plot(x)", "drawing (`ax`) in an unfolded cell"),
        (
            "widget()",
            "widget()\n" + 25 * "x = 1\n",
            "unfolded cell of 26 lines, expected at most 25",
        ),
        (
            'print("equal to 1e-6:", True)',
            'print("equal to 1e-6:", True)\n' + 39 * "x = 1\n",
            "unfolded cell of 41 lines, expected at most 40",
        ),
        (
            "widget()\n```\n",
            "widget()\n```\n" + 12 * ("\nAnd one more of these.\n\n" + CELL.format(22 * "x = 1\n")),
            "lines of unfolded code, expected at most 250",
        ),
        ("widget()\n```\n", "widget()\n```\n\n" + CELL.format("x = 1\n"), "no sentence after"),
    ],
)
def test_a_fault_in_the_text_is_found(book, old, new, told):
    book.replace(old, new)
    book.store()
    findings = found(book)
    assert any(told in finding for finding in findings), findings
    assert all(finding.startswith("chapters/vae/vae.md:") for finding in findings)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("widget()\n```\n", "widget()\n```\n\n" + CELL.format(FOLD + "ax.plot(x)\n")),
        ("widget()\n", FOLD + "widget()\nimport math\n" + 60 * "x = 1\n"),
        ("```{code-cell} ipython3\nwidget", CELL.format(FOLD + "x = 1\n") + "\n" + WIDGET_CELL),
        (FOLD, "---\njupyter: {source_hidden: true}\ntags: [hide-input, other]\n---\n"),
        ('print("equal', 35 * "x = 1\n" + 'print("equal'),
    ],
)
def test_folded_code_may_be_long_and_show_what_the_cell_before_it_made(book, old, new):
    book.replace(old, new)
    book.store()
    assert found(book) == []


@pytest.mark.parametrize(
    "there",
    [
        "$$\nx = 1\n$$ (loss)\n",
        "(loss)=\n## A part\n",
        ":::{prf:theorem} T\n:label: loss\nx\n:::\n",
    ],
)
def test_a_label_of_another_text_is_found(book, there):
    book.put("chapters/appendix/notation.md", f"# Notation\n\n## Units\n\n{there}")
    book.put("chapters/appendix/other.md", "# Other\n\n$$\ny = 1\n$$ (free)\n")
    told = found(book)
    assert len(told) == 1
    assert "label 'loss' is taken by chapters/appendix/notation.md" in told[0]


def test_a_finding_names_the_line(book):
    book.replace("Nothing to train in this one.", "Fine so far.\nThe gap is 0.42 nats.")
    book.store()
    (finding,) = lint.lint(book.master, book.root)
    line = book.master.read_text("utf-8").splitlines()[finding.line - 1]
    assert line == "The gap is 0.42 nats."


@pytest.mark.parametrize(
    "prose",
    [
        "The learning rate is `0.05`, and $0.05\\,\\mathrm{s}$ is short.",
        "<!-- number: a definition, not a measurement --> A dozen is 12.0 of it.",
        "<!-- number: a definition -->\nOne kilobit is 1000 bits.",
        "The paper's own 4.2 nats per image ([Burda et al.](https://arxiv.org/abs/1509.00519)).",
        "| model | nats |\n|---|---|\n| ours | 3.14 |",
        "Ten latents, 500 hidden units, 8×8 digits, 28×28 pixels and 10,000 samples in 2013.",
        "See section 2.2 and version 1.0.4 and {eq}`kl` (8) of arXiv:1312.6114.",
        "```python\nx = 0.5  # 3 nats\n```",
    ],
)
def test_a_number_that_was_not_measured_passes(book, prose):
    book.replace("Nothing to train in this one.", prose)
    book.store()
    assert found(book) == []


def _first_code(notebook, start=""):
    return next(c for c in notebook.cells if c.cell_type == "code" and c.source.startswith(start))


def _stderr(notebook):
    out = nbformat.v4.new_output("stream", name="stderr", text="a.py:1: UserWarning: careful\n")
    _first_code(notebook).outputs.append(out)


def _error(notebook):
    out = nbformat.v4.new_output("error", ename="ValueError", evalue="", traceback=[])
    _first_code(notebook).outputs.append(out)


def _html(page):
    def change(notebook):
        _first_code(notebook).outputs[0].data["text/html"] = page

    return change


def _png(notebook):
    _first_code(notebook).outputs[0].data = {"image/png": "AAAA", "text/plain": "<Figure>"}


def _address(notebook):
    _first_code(notebook).outputs[0].data = {"text/plain": "<function f at 0x7f65b1234567>"}


def _plain_value(notebook):
    value = nbformat.v4.new_output("execute_result", data={"text/plain": "History(...)"})
    _first_code(notebook).outputs.append(value)


def _not_run(notebook):
    _first_code(notebook).update(outputs=[], execution_count=None)


def _out_of_order(notebook):
    _first_code(notebook).execution_count = 7


def _nothing_to_check(notebook):
    _first_code(notebook, lint.MARK).outputs = []


def _marked_picture(notebook):
    _first_code(notebook, lint.MARK).outputs = _first_code(notebook).outputs


def _bare_widget(notebook):
    del _first_code(notebook, "widget").outputs[0].data["text/html"]


def _no_widget(notebook):
    _first_code(notebook, "widget").outputs = []


def _large(notebook):
    _first_code(notebook).outputs[0].data["text/html"] += 1_000_000 * "x"


def _no_inputs(notebook):
    del notebook.metadata["gdm"]


def _old_key(notebook):
    notebook.metadata["gdm"] = {"key": 64 * "0"}


def _other_text(notebook):
    notebook.cells[0].source += "!"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_stderr, "wrote to stderr: 'a.py:1: UserWarning: careful'"),
        (_error, "the cell raised ValueError"),
        (_html('<img src="a.png">'), "an <img> without alternative text"),
        (_html('<img alt=" " src="a.png">'), "an <img> without alternative text"),
        (_png, "a picture without alternative text"),
        (_address, "memory address"),
        (_plain_value, "shows the plain value of its last line"),
        (_not_run, "was not run in order"),
        (_out_of_order, "was not run in order"),
        (_nothing_to_check, "has no stored text to check"),
        (_marked_picture, "should only print; it also shows text/html"),
        (_bare_widget, "a widget without text/html"),
        (_no_widget, "'Explore it' shows no widget"),
        (_large, "kB, expected at most 1,000"),
        (_no_inputs, "it was never executed"),
        (_old_key, "it was executed before inputs were recorded"),
        (_other_text, "text and notebook differ"),
    ],
)
def test_a_fault_in_the_notebook_is_found(book, change, told):
    book.store(change)
    findings = found(book)
    assert any(told in finding for finding in findings), findings


def test_the_start_page_needs_no_anatomy(book):
    page = book.root / "chapters" / "index.md"
    assert [finding.message for finding in lint.lint(page, book.root)] == [
        "it was never executed; run `make chapters`",
        "there is no notebook; run `make chapters`",
    ]


def test_the_command_prints_findings_and_fails(book, capsys):
    assert lint.main(["vae/vae"], root=book.root) == 0
    book.replace("## Train it", "## Interlude")
    assert lint.main(["vae/vae"], root=book.root) == 1
    assert "is not a section of a chapter" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="there are: appendix/notation, index, vae/vae"):
        lint.main(["vae"], root=book.root)


def test_a_chapter_says_how_it_reads():
    text = (
        "# T\n\nIt is short, because $x = 1$. But "
        + "one " * 40
        + "is long (e.g. this).\nAnd *a* third.\n\n- So it ends.\n\n"
        + CELL.format("a = 1\n\nb = 2\n")
        + "\n"
        + CELL.format(FOLD + "c = 3\n")
    )
    blocks = parse(text)
    said = [s.split()[0] for s in sentences(blocks)]
    assert said == ["It", "But", "And", "So"]
    got = drift(blocks)
    assert got.long == 0.25
    assert got.unfolded == 2
    assert got.connectives == pytest.approx(1000 * 3 / got.words)


def test_blocks_nest_and_know_their_lines():
    text = "# T\n\n:::{solution} a\n:class: dropdown\nText.\n```python\nx = 1\n```\n:::\n\nEnd\n"
    title, solution, end = parse(text)
    assert (title.text, title.level, solution.options, end.line) == (
        "T",
        1,
        {"class": "dropdown"},
        11,
    )
    prose, code = solution.children
    assert (prose.text, prose.line, code.text, code.code_line) == ("Text.", 5, "x = 1", 7)


def test_plain_keeps_only_prose():
    text = "A `code 1.5` and $x_{1.5}$ in [a (good) link](http://a.b/1.5) <!-- 1.5 -->{eq}`one` end"
    assert plain(text).split() == ["A", "and", "in", "a", "(good)", "link", "end"]


def test_slugs_are_those_of_the_site():
    assert slug("Break it: a latent that says nothing") == "break-it-a-latent-that-says-nothing"
    assert slug("The paper's `own` evidence") == "the-papers-own-evidence"
