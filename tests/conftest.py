"""Fixtures that tests of several folders use."""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.helpers import seeded


@pytest.fixture(scope="session", autouse=True)
def _interrupts_are_heard() -> Iterator[None]:
    """A shell has its background jobs ignore interrupts, which some tests send to themselves."""
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if ignored:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    if ignored:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


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
