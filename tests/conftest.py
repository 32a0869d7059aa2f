"""Fixtures that tests of several folders use."""

import sys
from pathlib import Path

import pytest
import torch

from tests.helpers import seeded


@pytest.fixture
def rng() -> torch.Generator:
    """A generator of the test's own."""
    return seeded()


@pytest.fixture
def add_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A function that adds ``gdm_lib.pretrained.toy`` and ``gdm_lib.recipes.toy``, for one test."""

    def add(models: str, made: str) -> None:
        from gdm_lib import pretrained, recipes  # here, since not every test needs torch

        for package, source in ((pretrained, models), (recipes, made)):
            folder = tmp_path / package.__name__
            folder.mkdir()
            (folder / "toy.py").write_text(source)
            monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
            monkeypatch.setattr(package, "toy", None, raising=False)
            monkeypatch.delitem(sys.modules, f"{package.__name__}.toy", raising=False)

    return add
