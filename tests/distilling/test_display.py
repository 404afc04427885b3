"""How far a run is: lines that are few, a bar on a terminal that leaves nothing."""

from __future__ import annotations

import io
import os
import pty
import re
import signal
import subprocess
import sys
import time

from outrider_server.distilling.display import Advance, Lines

SCRIPT = """
import signal, time
from outrider_server.distilling.display import Advance, shown
signal.signal(signal.SIGINT, signal.SIG_DFL)
with shown() as display:
    display.show(Advance("writes replies", 5, 10, "7 tokens/s"))
    display.say("found")
    time.sleep(float({seconds!r}))
"""
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def test_a_line_is_written_for_what_is_new_and_every_ten_seconds() -> None:
    now, output = [0.0], io.StringIO()
    lines = Lines(output, lambda: now[0])
    for done in range(25):
        now[0] = float(done)
        lines.show(Advance("writes replies", done, 30, "quickly"))
    lines.show(Advance("scores replies"))
    lines.say("found")
    assert output.getvalue().splitlines() == [
        "distill: writes replies, 0 of 30, quickly",
        "distill: writes replies, 10 of 30, quickly",
        "distill: writes replies, 20 of 30, quickly",
        "distill: scores replies",
        "distill: found",
    ]


def on_a_terminal(seconds: float, interrupt_after: float | None = None) -> tuple[str, int]:
    """What a terminal is sent, and the status."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(seconds=seconds)],
        stderr=follower,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(follower)
    if interrupt_after is not None:
        time.sleep(interrupt_after)
        process.send_signal(signal.SIGINT)
    sent = b""
    try:
        while chunk := os.read(leader, 4096):
            sent += chunk
    except OSError:  # the other end is closed
        pass
    return sent.decode(), process.wait()


def test_a_terminal_has_a_bar_and_keeps_what_was_found() -> None:
    sent, status = on_a_terminal(0.6)
    assert status == 0
    assert "writes replies" in sent
    assert "5 of 10" in sent
    assert "distill: found" in CONTROL.sub("", sent)
    assert "\x1b[?25l" not in sent  # the cursor stays


def test_an_interrupt_takes_the_bar_away() -> None:
    sent, status = on_a_terminal(60, interrupt_after=3.0)
    assert status == -signal.SIGINT
    assert sent.rstrip().endswith("\x1b[2K")  # the line is erased
