"""The style sheet, for one test at a time."""

from collections.abc import Iterator

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest

from gdm_lib import viz


@pytest.fixture
def book_style() -> Iterator[None]:
    with mpl.rc_context():
        viz.use_style()
        yield
    plt.close("all")
