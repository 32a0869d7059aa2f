"""What ``make test`` does with commands that hang."""

import sys
import time

from tests.stages import execute


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
