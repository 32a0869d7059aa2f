"""What of a chapter runs so that its widgets come alive."""

import builtins

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from chapters._tools import pairs
from gdm_lib import training
from tests.slices import (
    BRIEFLY,
    STEPS,
    WIDGET,
    slice_cells,
    slice_notebook,
    statements_of,
    widget_cells,
)

SHOW = "widgets.show(model)"
MASTERS = [path for path in pairs.masters() if path.parent.name != "chapters"]


def kept(*sources: str) -> str:
    """What is kept in front of the last of some cells, which shows the widget."""
    return "\n".join(part for part in slice_cells(sources, [len(sources) - 1])[:-1] if part)


def test_what_a_needed_statement_uses_is_kept_and_nothing_else():
    before = (
        "import torch, math\nsize = 3\nother = 4\nmodel = torch.nn.Linear(size, 1)\nlate = model"
    )
    assert slice_cells([before, "print(other)", SHOW, "print(model)"], [2]) == [
        "import torch, math\nsize = 3\nmodel = torch.nn.Linear(size, 1)",
        None,
        SHOW,
        None,
    ]


def test_the_binding_that_counts_is_the_last_before_its_use():
    assert kept("model = 1", "model = 2", SHOW) == "model = 2"
    assert kept("a = 1\nmodel = f(a)\na = 2", SHOW) == "a = 1\nmodel = f(a)"
    assert kept("model = 1\nif late():\n    model = 2", SHOW) == (
        "model = 1\nif late():\n    model = 2"
    )


@pytest.mark.parametrize(
    "change",
    [
        "model.weight = 1",
        "model.parts[0].scale = 1",
        "model['a'] = 1",
        "del model['a']",
        "model += 1",
        "model.eval()",
        "model.eval();",
        "model.parts[0].double()",
        "model.flow.double().eval()",
        "total = model.add_(1)",
        "for _ in range(3):\n    model.step()",
        "with torch.no_grad():\n    model.weight.copy_(w)",
        "fit(model, x)",
        "history = fit(model, x, steps=3)",
        "losses = [fit(model, x) for x in data]",
        "nn.init.zeros_(model.weight)",
        "setup(model)",
        "setup(x, net=model)",
        "history = setup(model)",
        "reset()",
        "fit(other, x, callback=keep)",
        "part = model.parts[0]\npart.double()",
        "part = model.bias\npart += 1",
        "part = model.bias\npart = part.float()",
        "for part in model.parts:\n    part.double()",
        "for a, part in zip(x, model.parts):\n    part.load(a)",
        "for i, (a, part) in enumerate(zip(x, model)):\n    part.load(a)",
        "optimizer = Adam(model.parameters())\noptimizer.step()",
        "films = []\nfilms.append(model)\nfit(films[0], x)",
        "models = {'a': model}\nfit(models['a'], x)",
    ],
)
def test_what_may_change_a_needed_thing_is_kept(change):
    before = """from torch import nn
from torch.optim import Adam
from gdm_lib.training import fit
other = Model()
x = [1]
def setup(net, x=None):
    fit(net, x)
def inner(net):
    setup(net)
def reset():
    model.clear()
def keep(step):
    model[step] = 1
model = Model()"""
    assert kept(before, change, SHOW).endswith(change)


@pytest.mark.parametrize(
    "use",
    [
        "print(model)",
        "loss = model(x).mean()",
        "y = model.decode(x)",
        "y = torch.cat([model.a, model.b])",
        "viz.table({'model': [model]})",
        "viz.show(model)",
        "fit(other, model)",
        "history = other.run(model)",
        "measure(model, x)",
        "other = Model(model)",
        "models = {'a': model}\nmodels['b'] = 3",
        "models = {'a': model, 'b': other}\nfit(other, x)",
        "for one, two in zip((model, other), x):\n    print(one)\n    two.step()",
        "other.model = model",
        "def late():\n    model.eval()",
    ],
)
def test_what_only_looks_at_a_needed_thing_is_not(use):
    before = """import torch
from gdm_lib import viz
from gdm_lib.training import fit
def measure(net, x):
    rows = []
    for part in x:
        rows.append(net(part))
    return rows
other = Model()
x = [1]
model = Model()"""
    assert kept(before, use, SHOW) == "model = Model()"


def test_a_change_counts_before_the_use_only():
    assert kept("model = f(net)\nnet.eval()", SHOW) == "model = f(net)"
    text = "net = Net()\nnet.eval()\nmodel = f(net)"
    assert kept(text, SHOW) == text


def test_parts_of_one_thing_may_be_each_other():
    text = "net = Net()\nmodel = net.parts\nlast = net.parts[-1]\nlast.double()"
    assert kept(text, SHOW) == text


def test_a_function_needs_what_its_body_uses_when_it_is_used():
    text = "def model(x):\n    return scale(x) * late\ndef scale(x):\n    return 2 * x\nlate = 3"
    assert kept(text, SHOW) == text
    assert kept("x = 3\ndef model(x):\n    y = x\n    return y", SHOW) == (
        "def model(x):\n    y = x\n    return y"
    )
    text = "rate = 2\nmodel = lambda x: rate * x"
    assert kept(text, SHOW) == text


def test_classes_decorators_and_with_are_kept_whole():
    text = "import torch\nSIZE = 3\n@torch.no_grad()\ndef f():\n    return Net(SIZE)\n"
    text += "class Net(torch.nn.Module):\n    size = SIZE\nwith torch.no_grad():\n    model = f()"
    assert kept(text, SHOW) == text


def test_settings_and_magics_stay_with_what_is_needed_of_their_cell():
    text = "import torch\ntorch.manual_seed(0)\nnoise = torch.randn(3)\nmodel = torch.randn(2)"
    assert kept("torch.manual_seed(1)", text, SHOW) == text.replace("noise = torch.randn(3)\n", "")
    assert "matplotlib" in kept("%matplotlib inline\nmodel = 1", SHOW)


def test_two_statements_of_a_line_stay_one_line():
    assert kept("a = 1; model = a", SHOW) == "a = 1; model = a"


def test_a_sliced_notebook_keeps_its_cells_in_their_places():
    shown = new_output("display_data", data={WIDGET: {"model_id": "1"}, "text/plain": "w"})
    notebook = new_notebook(
        cells=[
            new_markdown_cell("# A chapter"),
            new_code_cell("model = 1\nother = 2"),
            new_code_cell("print(other)"),
            new_code_cell(SHOW, outputs=[shown]),
        ]
    )
    sliced = slice_notebook(notebook, briefly=True)
    nbformat.validate(sliced)
    assert [cell.cell_type for cell in sliced.cells] == ["markdown", "code", "raw", "code"]
    assert [cell.source for cell in sliced.cells[1:]] == [
        BRIEFLY + "model = 1",
        "print(other)",
        SHOW,
    ]
    assert widget_cells(sliced.cells) == [3]
    assert notebook.cells[1].source == "model = 1\nother = 2"
    assert slice_notebook(notebook).cells[1].source == "model = 1"


def test_a_sliced_notebook_trains_briefly(monkeypatch):
    monkeypatch.setattr(training, "fit", lambda model, *, steps, lr: (model, steps, lr))
    names: dict = {}
    exec(BRIEFLY + "from gdm_lib.training import fit", names)
    assert names["fit"]("model", steps=3000, lr=1) == ("model", STEPS, 1)
    assert names["fit"]("model", steps=5, lr=1) == ("model", 5, 1)


@pytest.mark.parametrize("master", MASTERS, ids=[path.stem for path in MASTERS])
def test_in_the_slice_of_a_chapter_no_name_is_missing(master):
    notebook = slice_notebook(nbformat.read(pairs.notebook_path(master), as_version=4))
    assert widget_cells(notebook.cells)
    bound, late = {*dir(builtins), "get_ipython"}, set()
    for part in statements_of([c.source for c in notebook.cells if c.cell_type == "code"]):
        assert part.uses - part.inner <= bound | part.binds, part.text
        bound |= part.binds
        late |= part.inner
    assert late <= bound
