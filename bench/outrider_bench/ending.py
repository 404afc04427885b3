"""How a benchmark ends: with its status, and where it is interrupted with 130 once it has tidied up."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable
from typing import NoReturn


def cancel_at_sigterm() -> None:
    """From now on SIGTERM cancels the running task, as SIGINT does: everything that it started is stopped."""
    task = asyncio.current_task()
    assert task is not None, "called from a coroutine"
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


def end(run: Callable[[], int]) -> NoReturn:
    """Runs it and ends the process with the status that it returns. StartupError passes through."""
    # Unlike a service it ends what is not bound to it: other software's servers.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        sys.exit(run())
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(130)
