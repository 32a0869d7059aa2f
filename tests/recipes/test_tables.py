"""How the tables of the families are measured: baselines in closed form, and the rule."""

import math
from pathlib import Path

import pytest
import torch

from gdm_lib.autoregressive.made import MADE
from gdm_lib.bijections import Dequantise, Logit
from gdm_lib.data.levels import from_levels
from gdm_lib.likelihoods import Categorical
from gdm_lib.recipes import tables
from gdm_lib.viz import families
from tests.helpers import seeded


def test_the_histogram_adds_one_to_every_count() -> None:
    train = torch.zeros(83, 1, 8, 8, dtype=torch.long)
    # Level 0 has 84 of 100 counts, each other level one.
    assert tables.histogram(train, train) == pytest.approx(-math.log2(0.84), abs=1e-6)
    assert tables.histogram(train, train + 16) == pytest.approx(math.log2(100), abs=1e-6)
    half = train[:2].clone()
    half[0] = 16
    expected = 0.5 * (math.log2(100) - math.log2(0.84))
    assert tables.histogram(train, half) == pytest.approx(expected, abs=1e-6)


def test_the_gaussian_is_that_of_the_logits() -> None:
    """On the points that it was fitted to, its mean log-density is that of its own entropy."""
    levels = torch.randint(17, (600, 1, 8, 8), generator=seeded())
    x = from_levels(levels, 17)
    found = tables.gaussian(x, x)
    z, front = Dequantise(17)(x.repeat(10, 1, 1, 1), generator=seeded(5))
    z, logit = Logit()(z)
    cov = torch.cov(z.flatten(1).double().T)
    entropy = 0.5 * torch.logdet(2 * math.pi * math.e * cov)
    expected = (entropy - (front + logit).double().mean()) / (64 * math.log(2))
    assert found == pytest.approx(float(expected), abs=5e-3)
    assert found > math.log2(17)  # no model of uniform levels is below their entropy


def test_rates_go_on_beyond_an_end() -> None:
    assert tables._ends((1e-3, 3e-3, 1e-2)) == {1e-3: 3e-4, 1e-2: 3e-2}
    assert tables._ends((3e-4, 1e-3)) == {3e-4: 1e-4, 1e-3: 3e-3}


def test_models_of_a_family_are_of_a_size() -> None:
    for entries in tables.FAMILIES.values():
        sizes = [sum(p.numel() for p in entry.build().parameters()) for entry in entries]
        assert max(sizes) < 1.2 * min(sizes), sizes


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """One small model as a family, and few images."""

    def build() -> MADE:
        return MADE((1, 8, 8), (4,), likelihood=Categorical(17))

    entry = tables.Entry("MADE", "gdm_lib.autoregressive.made:MADE", build)
    monkeypatch.setattr(tables, "FAMILIES", {"toy": (entry,)})


@pytest.mark.usefixtures("toy")
def test_a_table_is_measured_by_the_rule_and_stored(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    told = tables.table("toy", steps=4, directory=tmp_path, say=False)
    assert torch.equal(before, torch.get_rng_state())
    assert families.read("toy", directory=tmp_path) == told
    histogram, row = told["rows"]
    assert histogram["name"] == "histogram of each pixel"
    assert min(row["valid"], key=row["valid"].get) == f"{row['rate']:g}"
    rates = [float(rate) for rate in row["valid"]]
    assert min(rates) < row["rate"] < max(rates)
    assert len(row["test"]) == len(row["seconds"]) == len(tables.SEEDS)
    assert all(step <= 4 for step in row["best_steps"])
    again = tables.table("toy", steps=4, directory=tmp_path, say=False)
    assert again["rows"][1]["test"] == row["test"]


@pytest.mark.usefixtures("toy")
def test_a_family_without_a_table_and_a_folder_without_room_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no table of 'boats'; those there are: toy"):
        tables.table("boats", directory=tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        tables.table("toy", directory=tmp_path / "file" / "below")
