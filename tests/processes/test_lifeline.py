"""A child ends with its parent, however that ended, and has the path that its user wants."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from outrider_server import lifeline

from .processes import lives, until

CHILD = """
import subprocess, time
from outrider_server.lifeline import VARIABLE, hold
import os
hold()
print(os.getpid(), subprocess.Popen(["sleep", "600"]).pid, VARIABLE in os.environ, flush=True)
time.sleep(600)
"""
PARENT = """
import subprocess, sys, time
from pathlib import Path
from outrider_server.lifeline import bound
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], **bound(scratch=Path(sys.argv[2])))
time.sleep(600)
"""


def test_a_child_and_what_it_started_end_with_a_killed_parent(tmp_path: Path):
    scratch = tmp_path / "scratch"
    (scratch / "inner").mkdir(parents=True)
    command = [sys.executable, "-c", PARENT, CHILD, str(scratch)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child, grandchild, handed_on = parent.stdout.readline().split()
        assert lives(int(child))
        assert handed_on == "False", "what a child starts is bound to nobody unless it says so"
        parent.kill()
        until(lambda: not lives(int(child)) and not lives(int(grandchild)))
    assert not scratch.exists()


def test_a_process_that_was_started_otherwise_watches_nothing():
    program = "import threading; from outrider_server.lifeline import hold; hold();"
    program += "print(threading.active_count())"
    outcome = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (outcome.returncode, outcome.stdout) == (0, "1\n"), outcome.stderr


def test_a_users_python_path_goes_on_working(tmp_path: Path):
    (tmp_path / "of_a_user.py").write_text("import json, sys; print(sys.argv[1:])")
    started_in = tmp_path / "started in"
    started_in.mkdir()
    (started_in / "json.py").write_text(
        "raise SystemExit('what lies here is no part of the service')"
    )
    outcome = subprocess.run(
        lifeline.python("of_a_user", "x"),
        cwd=started_in,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert outcome.stdout == "['x']\n", outcome.stderr
