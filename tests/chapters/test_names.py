"""Which names a cell would find changed if it ran again after all others."""

import pytest

from chapters._tools import lint
from chapters._tools.names import reused


@pytest.mark.parametrize(
    ("cells", "found"),
    [
        (["x = 1", "print(x)", "x = 'two'"], [(1, "x", 2)]),
        (["x = 1", "print(x)", "for x in 'ab':\n    pass"], [(1, "x", 2)]),
        (["x = 1", "print(x)", "def x(): ..."], [(1, "x", 2)]),
        (["x = 1", "print(x)", "import a.b as x"], [(1, "x", 2)]),
        (["x = 1", "print(x)", "with a as (x, y):\n    pass"], [(1, "x", 2)]),
        (["x = 1", "print(x)", "print(x := 2)"], [(1, "x", 2)]),
        (["x = 1", "print(x)", "[x := y for y in 'ab']"], [(1, "x", 2)]),
        (["x = 1", "print(x)", "x += 1"], [(1, "x", 2), (2, "x", 2)]),
        (["x = 1", "x = x / 255"], [(1, "x", 1)]),
        (["x = 1", "def f():\n    return x", "x = 2"], [(1, "x", 2)]),
        (["x = 1", "f = lambda y: x + y", "x = 2"], [(1, "x", 2)]),
        (["x = 1", "def f():\n    return [x for _ in 'ab']", "x = 2"], [(1, "x", 2)]),
        (["x = 1", "class A:\n    def f(self):\n        return x", "x = 2"], [(1, "x", 2)]),
        (["x = 1", "print(x)", "def f():\n    global x\n    x = 2"], [(1, "x", 2)]),
        (["x = 1", "print(f'{x:.2f}')", "x = 2"], [(1, "x", 2)]),
        (["x = 1", "x[0] = 2", "x = 2"], [(1, "x", 2)]),
        # Nothing of these changes a name that another cell reads.
        (["x = 1", "x = 2", "print(x)"], []),
        (["x = 1\nprint(x)", "x = 2\nprint(x)"], []),
        (["x = 1", "print(x)", "[x for x in 'ab']"], []),
        (["x = 1", "print(x)", "def f(x):\n    return x"], []),
        (["x = 1", "print(x)", "def f():\n    x = 2\n    return x"], []),
        (["x = 1", "print(x)", "f = lambda x: x"], []),
        (["x = 1", "print(x)", "class A:\n    x = 2"], []),
        (["x = 1", "print(x)", "y.x = 2\nf(x=3)"], []),
        (["def f():\n    return later()", "def later():\n    return 1\nf()"], []),
        (["for x in 'ab':\n    print(x)", "for x in 'cd':\n    print(x)"], []),
        (["print(1)", "%time x = 2", "!ls", "x"], []),
    ],
)
def test_reused(cells, found):
    assert reused(cells) == found


def test_the_lint_says_which_cell_and_what_to_do(book):
    book.replace("viz.show_source(vae.kl)", "viz.show_source(vae.kl)\nviz = None")
    messages = [finding.message for finding in lint.lint(book.master, book.root)]
    assert any("this cell reads `viz`, which the cell in line" in message for message in messages)
