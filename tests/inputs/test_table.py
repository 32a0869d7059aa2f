"""No model answers any input obscurely: see ``tests/inputs/table.py``."""

import pytest
import torch

from tests.inputs import __main__ as command
from tests.inputs import table
from tests.inputs.table import ZOO, Cell, Try, anything, judged, never


@pytest.mark.parametrize("name", ZOO)
def test_no_cell_is_obscure(name):
    cells = table.row(name)
    assert [f"{guise}: {cell.detail}" for guise, cell in cells.items() if cell.obscure] == []
    assert cells["empty batch"].outcome == cells["sample(0)"].outcome == "value"
    assert cells["loss of no item"].outcome == "ValueError x"


# -- what the table calls obscure, on models that are wrong on purpose


def refusing(error: Exception):
    """As if the library raised it."""
    code = compile("def call(x): raise error", str(table.LIBRARY / "planted.py"), "exec")
    names = {"error": error}
    exec(code, names)
    return names["call"]


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ValueError("x must be small, got 2"), "ValueError x"),
        (TypeError("x must be a tensor"), "TypeError x"),
        (ValueError("the batch must be small"), "OBSCURE"),
        (IndexError("x must be small"), "OBSCURE"),
        (AssertionError("x"), "OBSCURE"),
        (ValueError("x must be small, got 2; divide it by 2"), "ValueError x"),
        (ValueError("x must be small, got 2; take x / 2"), "OBSCURE"),  # it refuses that too
    ],
)
def test_what_is_obscure(error, outcome):
    assert judged(Try(refusing(error), {"x": 2})).outcome == outcome


def test_an_error_of_someone_else_is_obscure():
    assert judged(Try(lambda x: torch.zeros(2) @ torch.zeros(x), {"x": 3})).obscure


def test_a_wrong_value_is_obscure():
    assert judged(Try(lambda x: x, {"x": 2}, never)).obscure
    assert judged(Try(lambda x: x, {"x": 2}, anything)) == Cell("value")


def test_advice_that_leads_to_a_wrong_value_is_obscure():
    def call(x):
        if x > 1:
            refusing(ValueError("x must be small, got 2; take x / 2"))(x)
        return x

    assert judged(Try(call, {"x": 2}, lambda value: value == 1)).outcome == "ValueError x"
    assert judged(Try(call, {"x": 2}, lambda value: value == 2)).obscure


def test_the_command_fails_if_a_cell_is_obscure(monkeypatch, capsys):
    cells = {"NaN": Cell("ValueError x"), "list": Cell("value")}
    monkeypatch.setattr(command, "ZOO", {"a model": None})
    monkeypatch.setattr(command, "row", lambda name: cells)
    assert command.main() == 0
    assert capsys.readouterr().out.endswith("2 cells: 1 values, 1 named errors, 0 obscure\n")
    cells["None"] = Cell("OBSCURE", "said nothing")
    assert command.main() == 1
    assert "obscure: a model, None: said nothing\n3 cells" in capsys.readouterr().out
