"""Makes the book's own tools importable, and a small book to plant faults in."""

import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from chapters._tools import inputs, pairs  # noqa: E402

HEADER = pairs.HEADER + "\n"

CHAPTER = """# A paper

*Somebody*, [arXiv:1312.6114](https://arxiv.org/abs/1312.6114).
It builds on [notation](../appendix/notation.md).

:::{admonition} You will be able to
- derive it;
- build it;
- measure it.
:::

The next cell draws the picture of the idea.

```{code-cell} ipython3
---
jupyter:
  source_hidden: true
tags: [hide-input]
---
import torch
from gdm_lib import viz
from gdm_lib.vae import vae

torch.manual_seed(0)
viz.show(fig, alt="a line", caption="A line.")
```

It is a line, as promised.

## The question: why at all?

Why not, given {eq}`loss` and $0.5$ and `0.25`? See [below](#break-it-as-promised), FILLER

## The derivation

$$
L = 0.5 \\times 3.25
$$ (loss)

The factor is one half. The paper reports 97.3 % (table 2).

## From scratch

Both are computed and compared here.

```{code-cell} ipython3
# NBVAL_CHECK_OUTPUT
print("equal to 1e-6:", True)
```

They agree with each other.

## The real module

Its source is short and comes now.

```{code-cell} ipython3
viz.show_source(vae.kl)
```

That is all there is.

## Train it

Nothing to train in this one.

## Measure it

Nothing to measure in this one.

## Explore it

Drag the slider and look.

```{code-cell} ipython3
widget()
```

It moves with the slider.

## Break it: as promised

Nothing breaks in this one.

## The paper's own evidence

There is some of it.

## Exercises

:::{exercise} One
:label: one
Write it down.
:::

```{code-cell} ipython3
def one():
    ...


check(exercises.one, one)
```

It says what is wrong.

:::{exercise} Two
:label: two
Write that down, too.
:::

```{code-cell} ipython3
check(exercises.two, two)
```

It says so again.

:::{exercise} Three
:label: three
Think about it.
:::

:::{exercise} Four
:label: four
Think some more.
:::

## Summary

That was that, and [the start](../index.ipynb).
""".replace("FILLER", "\n".join(["a good many words that make up a long text"] * 220) + ".")

LIBRARY = {
    "__init__.py": "",
    "viz/__init__.py": "from gdm_lib.viz.plots import show\n",
    "viz/plots.py": "def show(): ...\n",
    "viz/book.mplstyle": "axes.grid: false\n",
    "vae/__init__.py": "",
    "vae/vae.py": 'from ..nn import mlp\n\nARXIV = "1312.6114"\n\n\ndef kl():\n    return mlp()\n',
    "nn.py": "def mlp(): ...\n",
    "other.py": "",
}
LOADED = [f"gdm_lib/{name}" for name in LIBRARY if name.endswith(".py") and name != "other.py"]
FIGURE = '<figure><img alt="a line" src="data:image/png;base64,AAAA"></figure>'
WIDGET = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/html": FIGURE}


def _shown(**data: object) -> nbformat.NotebookNode:
    return nbformat.v4.new_output("display_data", data=data)


def outputs_of(source: str) -> list[nbformat.NotebookNode]:
    """What the cells of ``CHAPTER`` would show."""
    if "viz.show(" in source:
        return [_shown(**{"text/html": FIGURE, "text/plain": "[figure: a line]"})]
    if source.startswith("widget"):
        return [_shown(**WIDGET)]
    return [nbformat.v4.new_output("stream", name="stdout", text="equal to 1e-6: True\n")]


class Book:
    """A checkout in a temporary folder, with one chapter that keeps every rule."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.master = root / "chapters" / "vae" / "vae.md"
        for name, text in LIBRARY.items():
            self.put(f"gdm_lib/{name}", text)
        self.put("chapters/appendix/notation.md", "# Notation\n\n## Units\n")
        self.put("chapters/index.md", HEADER + "# Start\n")
        self.put("chapters/vae/vae.md", HEADER + CHAPTER)
        self.store()

    def put(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def replace(self, old: str, new: str) -> None:
        text = self.master.read_text("utf-8")
        assert old in text
        self.put("chapters/vae/vae.md", text.replace(old, new, 1))

    def store(
        self, change: Callable[[nbformat.NotebookNode], None] = lambda notebook: None
    ) -> None:
        """Store the chapter's notebook as if it had been executed, changed as a test wants."""
        notebook = pairs.read_master(self.master)
        record = inputs.Record(modules=LOADED, files=["gdm_lib/viz/book.mplstyle"])
        notebook.metadata["gdm"] = inputs.take(pairs.code_of(notebook), record, self.root)
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        for number, cell in enumerate(code, 1):
            cell.execution_count, cell.outputs = number, outputs_of(cell.source)
        change(notebook)
        pairs.write(notebook, pairs.notebook_path(self.master))


@pytest.fixture(scope="session")
def header() -> str:
    """What a text with a notebook begins with."""
    return HEADER


@pytest.fixture
def book(tmp_path: Path) -> Book:
    return Book(tmp_path)
