"""What ``make test`` does with commands that hang, and what it says about seconds."""

import sys
import time

import pytest

from tests.stages import (
    Outcome,
    Stage,
    chapter_of,
    execute,
    read_report,
    run,
    slowest,
    table,
)

NAMES = ["index", "vae/vae", "flows/maf", "flows/maf_more"]


def python(code: str) -> list[str]:
    return [sys.executable, "-u", "-c", code]


def test_a_command_that_hangs_is_ended_with_its_children_and_what_it_said_is_kept(tmp_path):
    mark = tmp_path / "mark"
    child = f"import time; time.sleep(4); open({str(mark)!r}, 'w')"
    code = f"""import subprocess, sys, time
print("so far")
subprocess.Popen([sys.executable, "-c", {child!r}])
time.sleep(60)"""
    start = time.monotonic()
    status, said = execute(python(code), limit_s=2)
    assert time.monotonic() - start < 30
    assert status != 0
    assert said.startswith("so far")
    assert "it was not done after 2 s" in said
    time.sleep(3)
    assert not mark.exists()


def test_a_process_left_behind_does_not_hold_up_the_stage():
    code = """import subprocess, sys
left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(20)"])
print("done", left.pid)"""
    start = time.monotonic()
    status, said = execute(python(code))
    assert time.monotonic() - start < 10
    assert status == 0
    assert said.startswith("done")


def test_the_status_of_a_command_is_told():
    assert execute(python("print('no'); raise SystemExit(3)")) == (3, "no\n")


@pytest.mark.parametrize(
    ("test", "chapter"),
    [
        ("chapters/vae/vae.ipynb::Cell 3", "vae/vae"),
        ("tests/browser/test_lab.py::test_a_chapter[vae/vae]", "vae/vae"),
        ("tests/browser/test_lab.py::test_a_chapter[flows/maf_more]", "flows/maf_more"),
        ("tests/browser/test_site_pages.py::test_a[chapters/flows/maf.html-phone]", "flows/maf"),
        ("chapters/index.ipynb::Cell 0", "index"),
        ("tests/vae/test_vae.py::test_vae", None),
        ("tests/widgets/test_base.py::test_index[index_of]", None),
    ],
)
def test_a_test_is_counted_to_the_chapter_that_it_is_about(test, chapter):
    assert chapter_of(test, NAMES) == chapter


def test_seconds_are_added_up_by_chapter_and_stage():
    lab = "tests/browser/test_lab.py::test_a[{}]"
    outcomes = [
        Outcome(
            "notebooks",
            True,
            90,
            "",
            [(f"chapters/vae/vae.ipynb::Cell {i}", 30.5) for i in range(2)],
        ),
        Outcome("lint", True, 9, ""),
        Outcome("unit", True, 9, "", [("tests/test_a.py::test_b", 9)]),
        Outcome("browser", True, 9, "", [(lab.format("vae/vae"), 2), (lab.format("flows/maf"), 7)]),
    ]
    rows = [line.split() for line in table(outcomes, NAMES).splitlines()]
    assert rows[1:] == [
        ["notebooks", "browser"],
        ["index", "0.0", "0.0"],
        ["vae/vae", "61.0", "2.0", "over", "60", "s"],
        ["flows/maf", "0.0", "7.0"],
        ["flows/maf_more", "0.0", "0.0"],
        ["all", "61.0", "9.0"],
    ]
    assert slowest(outcomes, NAMES).splitlines()[1:] == ["      9.0 tests/test_a.py::test_b"]
    assert table(outcomes[1:2], NAMES) == slowest(outcomes[1:2], NAMES) == ""


def test_a_stage_tells_the_seconds_of_its_tests(tmp_path):
    path = tmp_path / "test_one.py"
    path.write_text("import time\ndef test_slow(): time.sleep(0.3)\ndef test_bad(): assert 0\n")
    command = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(path))
    outcome = run(Stage("small", lambda: [command]))
    assert not outcome.passed
    assert "1 failed, 1 passed" in outcome.summary
    seconds = {name.rpartition("::")[2]: duration for name, duration in outcome.tests}
    assert seconds.keys() == {"test_slow", "test_bad"}
    assert 0.3 <= seconds["test_slow"] < 30


def test_a_stage_that_ends_without_a_report_has_no_seconds(tmp_path):
    assert read_report(tmp_path / "none.xml") == []
    (tmp_path / "half.xml").write_text("<testsuites><testcase")
    assert read_report(tmp_path / "half.xml") == []
