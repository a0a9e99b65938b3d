"""Programs in forked processes are those that a fresh interpreter would run."""

import os
import signal
import subprocess
import sys

import pytest
from preloaded import run_python, start_python

pytestmark = pytest.mark.slow

SAY = """
import os, sys
print(sys.argv[1:], __name__, globals().get("__file__"), os.environ.get("WHO"), os.getcwd(), sys.path[0])
print("aside", file=sys.stderr)
"""


@pytest.mark.parametrize("what", ["code", "script"])
def test_a_program_has_arguments_environment_and_folder_of_its_own(tmp_path, what):
    (tmp_path / "script.py").write_text(SAY)
    arguments = [*(["-c", SAY] if what == "code" else [tmp_path / "script.py"]), "a b", 3]
    environment = {**os.environ, "WHO": "me"}
    forked = run_python(*arguments, env=environment, cwd=tmp_path)
    command = [sys.executable, *map(str, arguments)]
    fresh = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (forked.returncode, forked.stdout, forked.stderr) == (fresh.returncode, fresh.stdout, fresh.stderr)
    assert "'a b', '3'" in forked.stdout


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        ("raise SystemExit(3)", 3, ""),
        ("raise SystemExit('no')", 1, "no\n"),
        ("1 / 0", 1, "ZeroDivisionError: division by zero\n"),
        ("import atexit; atexit.register(print, 'late')", 0, "late\n"),
        ("import os; os.kill(os.getpid(), 11)", -11, ""),
    ],
)
def test_how_a_program_ended_is_told(code, status, said):
    done = run_python("-c", code)
    assert done.returncode == status
    assert (done.stdout + done.stderr).endswith(said)


def test_programs_can_be_killed_and_take_too_long():
    program = start_python("-c", "import time; time.sleep(60)", new_session=True)
    assert os.getpgid(program.pid) == program.pid
    os.kill(program.pid, signal.SIGKILL)
    assert program.wait().returncode == -signal.SIGKILL
    with pytest.raises(subprocess.TimeoutExpired):
        run_python("-c", "import time; time.sleep(60)", timeout=0.1)
    assert run_python("-c", "print(1)", check=True).stdout == "1\n"


def test_much_output_is_read_while_the_program_runs():
    done = run_python("-c", "import sys; print('x' * 10**6); print('y' * 10**6, file=sys.stderr)", check=True)
    assert (len(done.stdout), len(done.stderr)) == (10**6 + 1, 10**6 + 1)
