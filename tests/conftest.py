"""Fixtures that tests of several folders use."""

import pytest
import torch

from tests.helpers import seeded


@pytest.fixture
def rng() -> torch.Generator:
    """A generator of the test's own."""
    return seeded()
