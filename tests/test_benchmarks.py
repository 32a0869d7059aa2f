"""What ``python -m benchmarks`` reports and records; what it times is not tested."""

import time

import pytest

from benchmarks import Result, in_turn
from benchmarks.record import END, PAGE, START, record, table

FAST = Result("one", 0.002, "peer", "1.2", 0.005, target=2.0)
SLOW = Result("two", 0.004, "other", "", 0.003, target=1.0)


def test_a_ratio_is_theirs_over_ours_and_is_held_against_the_target():
    assert FAST.ratio == pytest.approx(2.5)
    assert FAST.ok
    assert not SLOW.ok


def test_in_turn_gives_the_median_of_each_without_the_warm_up():
    calls = []

    def run(name, seconds):
        calls.append(name)
        time.sleep(seconds)

    times = in_turn(lambda: run("a", 0.02), lambda: run("b", 0.001), repeats=3)
    assert calls == ["a", "b"] * 4
    assert times[0] > times[1]


def test_the_table_has_a_row_for_each_and_marks_what_misses():
    rows = table([FAST, SLOW]).splitlines()[4:]
    assert rows[0] == "| `one` | 2 ms | peer 1.2 | 5 ms | 2.50 | ≥ 2 |"
    assert "**0.75**" in rows[1]


def test_recording_replaces_the_table_and_keeps_the_prose(tmp_path):
    page = tmp_path / "results.md"
    page.write_text(f"Before.\n{START}\nold\n{END}\nAfter.\n", "utf-8")
    record([FAST], page)
    text = page.read_text("utf-8")
    assert text.startswith("Before.\n")
    assert text.endswith("\nAfter.\n")
    assert "old" not in text
    assert text.count("`one`") == 1
    record([SLOW], page)
    assert "`one`" not in page.read_text("utf-8")


def test_a_page_without_a_place_for_the_table_is_refused(tmp_path):
    page = tmp_path / "results.md"
    page.write_text("Nothing.\n", "utf-8")
    with pytest.raises(ValueError, match=r"results\.md must hold the lines"):
        record([FAST], page)
    assert page.read_text("utf-8") == "Nothing.\n"


def test_the_page_of_the_book_has_that_place():
    assert START in PAGE.read_text("utf-8")
    assert END in PAGE.read_text("utf-8")
