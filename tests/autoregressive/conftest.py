"""Weights are the same whichever tests ran before."""

import pytest

from tests.helpers import same_weights

_same_weights = pytest.fixture(autouse=True)(same_weights)
