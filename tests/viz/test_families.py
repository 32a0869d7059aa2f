"""The table of a family: its arithmetic, what is refused, and that the stored ones are of today."""

import importlib
import json
from pathlib import Path

import pytest

import gdm_lib
from benchmarks.record import PAGE, tables_of_families
from gdm_lib import viz
from gdm_lib.recipes import tables
from gdm_lib.viz import display, families

TOLD = {
    "family": "boats",
    "data": "ponds, 3x3: 5 to train",
    "steps": 1200,
    "seeds": [0, 1, 2],
    "rows": [
        {"name": "raft", "parameters": 64, "test": [2.5]},
        {
            "name": "Kayak <1>",
            "parameters": 123_456,
            "rate": 0.003,
            "seconds": [1.0, 2.0, 6.0],
            "test": [1.0, 2.0, 3.0],
        },
        {
            "name": "Canoe",
            "parameters": 9_940,
            "rate": 0.01,
            "seconds": [20.2, 20.4, 20.6],
            "test": [2.001, 2.0, 2.001],
        },
    ],
}


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """What was published."""
    found: list[dict[str, str]] = []
    monkeypatch.setattr(families, "_publish", found.append)
    return found


def test_mean_and_spread_are_those_of_the_seeds() -> None:
    cells = families.columns(TOLD)
    # Of 1, 2 and 3 the mean is 2 and the standard deviation of a sample is 1.
    assert cells == {
        "model": ["raft", "Kayak <1>", "Canoe"],
        "test bits/dim": ["2.50", "2.00 ± 1.00", "2.00 ± <0.01"],
        "parameters (thousands)": ["0.1", "123", "9.9"],
        "learning rate": ["–", "0.003", "0.01"],
        "training (s)": ["–", "3.0", "20"],
    }


def test_a_table_is_stored_and_shown(tmp_path: Path, shown: list[dict[str, str]]) -> None:
    families.save(TOLD, directory=tmp_path / "deep")
    assert families.names(directory=tmp_path / "deep") == ["boats"]
    assert families.read("boats", directory=tmp_path / "deep")["rows"] == TOLD["rows"]
    viz.family_table("boats", directory=tmp_path / "deep")
    viz.family_table("boats", highlight="Kayak <1>", directory=tmp_path / "deep")
    viz.family_table("boats", highlight=["raft", "Canoe"], directory=tmp_path / "deep")
    assert ["aria-current" in page["text/html"] for page in shown] == [False, True, True]
    assert shown[1]["text/html"].count("font-weight:bold") == 1
    (row,) = (line for line in shown[1]["text/html"].split("\n") if "bold" in line)
    assert "Kayak &lt;1&gt;" in row
    assert "2.00 ± 1.00" in row
    assert "Kayak <1> *" in shown[1]["text/plain"]
    assert shown[2]["text/html"].count("font-weight:bold") == 2
    for part in ("ponds, 3x3; mean ± s.d. over 3 seeds", "1,200 steps"):
        assert part in shown[0]["text/html"]


def test_it_is_printed_outside_a_notebook(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not display._in_notebook()
    families.save(TOLD, directory=tmp_path)
    viz.family_table("boats", directory=tmp_path)
    assert "2.00 ± 1.00" in capsys.readouterr().out


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    families.save(TOLD, directory=tmp_path)
    with pytest.raises(ValueError, match=r"one that has a table, got 'cars'; .* are: boats$"):
        viz.family_table("cars", directory=tmp_path)
    with pytest.raises(ValueError, match="those there are: none yet"):
        viz.family_table("cars", directory=tmp_path / "none")
    for name in ("../boats", "", "Boats", None):
        with pytest.raises(ValueError, match="family must be a name such as 'flows', got"):
            viz.family_table(name, directory=tmp_path)
    with pytest.raises(ValueError, match="got 'Ferry'; they are: raft, Kayak <1>, Canoe"):
        viz.family_table("boats", highlight="Ferry", directory=tmp_path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("2.5", "2.4"),
        ('"boats"', '"ships"'),
        ("{", "["),
        ('"rows"', '"row"'),
        ('"sha256": "', '"sha256": "0'),
        ("2.5", "NaN"),
        ("\n", "\udc80"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, old: str, new: str) -> None:
    families.save(TOLD, directory=tmp_path)
    path = tmp_path / "boats.json"
    text = path.read_text("utf-8")
    assert old in text
    path.write_bytes(text.replace(old, new, 1).encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=r"boats.json is damaged: .*make it with: gdm table boats"):
        families.read("boats", directory=tmp_path)
    path.write_text(text[: len(text) // 2], "utf-8")
    with pytest.raises(ValueError, match="is damaged: it isn't JSON"):
        families.read("boats", directory=tmp_path)
    path.write_bytes(b" " * (families.MAX_BYTES + 1))
    with pytest.raises(ValueError, match="at most 100,000 expected"):
        families.read("boats", directory=tmp_path)


@pytest.mark.parametrize(
    "row",
    [
        {"name": "Ferry", "parameters": 1, "test": []},
        {"name": "Ferry", "parameters": 1, "test": ["2"]},
        {"name": "Ferry", "parameters": None, "test": [2.0]},
        {"name": "Ferry", "parameters": 1, "rate": 0.1, "test": [2.0, 2.0, 2.0]},
        {"name": "Ferry", "parameters": 1, "rate": 0.1, "test": [2.0], "seconds": [1.0] * 3},
        {"parameters": 1, "test": [2.0]},
        "Ferry",
    ],
)
def test_a_row_that_lacks_something_is_not_stored(tmp_path: Path, row: object) -> None:
    with pytest.raises(ValueError, match=r"can't be kept: .*(number for each seed|has no name)"):
        families.save({**TOLD, "rows": [row]}, directory=tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_installed_package_has_its_tables_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gdm_lib, "__file__", str(tmp_path / "gdm_lib" / "__init__.py"))
    assert families.where() == tmp_path / "gdm_lib" / "_results"
    (tmp_path / "pyproject.toml").touch()
    assert families.where() == tmp_path / "data" / "results"


# -- those of the book


def test_every_family_has_its_table() -> None:
    assert families.names() == sorted(tables.FAMILIES)


@pytest.mark.parametrize("family", tables.FAMILIES)
def test_the_stored_rows_are_the_models_of_today(family: str) -> None:
    told = families.read(family)
    rows = {row["name"]: row for row in told["rows"] if "rate" in row}
    entries = {entry.name: entry for entry in tables.FAMILIES[family]}
    assert list(rows) == list(entries)
    assert told["seeds"] == list(tables.SEEDS)
    assert (told["steps"], told["batch size"]) == (tables.STEPS, tables.BATCH)
    for name, row in rows.items():
        module, _, paper = row["paper"].partition(":")
        assert isinstance(getattr(importlib.import_module(module), paper), type)
        assert row["paper"] == entries[name].paper
        size = sum(p.numel() for p in entries[name].build().parameters())
        assert row["parameters"] == size
        rates = [float(rate) for rate in row["valid"]]
        assert set(tables.RATES) <= set(rates)
        assert min(rates) < row["rate"] < max(rates), "the best rate is at an end of what was tried"
    baselines = [row["name"] for row in told["rows"] if "rate" not in row]
    assert baselines[0] == "histogram of each pixel"


def test_the_page_of_results_shows_them() -> None:
    page = PAGE.read_text("utf-8")
    assert tables_of_families() in page, "bring it up to date: python -m benchmarks.record"
    for family in tables.FAMILIES:
        for row in json.loads((families.where() / f"{family}.json").read_text("utf-8"))["rows"]:
            assert f"| {row['name']} |" in page
