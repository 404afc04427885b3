"""`python -m tests.processes.kills`: `outrider-server up` is killed again and again; is anything of it left?

Every other time it is killed while its services start, else once they are ready. Exit status 1 where a
process or a folder outlives it by five seconds.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

# As under pytest, the folder of the tests is where their imports begin.
sys.path.insert(0, str(Path(__file__).parents[1]))

from processes.processes import ENGINE, Service, children, lives, until

SIGNALS = ("HUP", "QUIT", "KILL")
LATEST_SECONDS = 5.0


def main() -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.processes.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="by each signal")
    options = parser.parse_args()
    left = 0
    for name in SIGNALS:
        number = signal.Signals[f"SIG{name}"]
        if number is not signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)  # by nohup they would be ignored, below here too
        gone_after = []
        for kill in range(options.kills):
            seconds, outlived = _killed(number, when_ready=kill % 2 == 1)
            gone_after.append(seconds)
            for what in outlived:
                print(f"{name}, kill {kill}: {what} is left")
            left += len(outlived)
        print(
            f"{name}: {options.kills} kills, the last gone after {max(gone_after):.2f} s at most",
            flush=True,
        )
    return 1 if left else 0


def _killed(number: signal.Signals, when_ready: bool) -> tuple[float, list[str]]:
    """How many seconds until nothing was left, and what was left at the end of the time."""
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder, "scratch")
        scratch.mkdir()
        os.environ["TMPDIR"] = str(scratch)
        up = Service(
            "up", "--bundled", "--listen=127.0.0.1:0", f"--ledger={folder}/ledger", *ENGINE
        )
        try:
            if when_ready:
                up.wait_until_ready()
            else:
                until(lambda: len(children(up.process.pid)) == 2)
            processes = [up.process.pid, *_descendants(up.process.pid)]
            up.process.send_signal(number)
            began = time.monotonic()
            while (left := _left(processes, scratch)) and time.monotonic() < began + LATEST_SECONDS:
                time.sleep(0.01)
            return time.monotonic() - began, left
        finally:
            up.close()


def _descendants(process_id: int) -> list[int]:
    found = children(process_id)
    return found + [each for child in found for each in _descendants(child)]


def _left(processes: list[int], scratch: Path) -> list[str]:
    alive = [f"process {process}" for process in processes if lives(process)]
    return alive + [f"folder {path.name}" for path in scratch.glob("outrider-*")]


if __name__ == "__main__":
    sys.exit(main())
