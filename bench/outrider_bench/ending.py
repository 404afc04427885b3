"""How a benchmark ends: with its status, and where it is interrupted with 130 once it has tidied up."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable
from typing import NoReturn


def end(run: Callable[[], int]) -> NoReturn:
    """Runs it and ends the process with the status that it returns. StartupError passes through."""
    # Unlike a service it ends what is not bound to it: other software's servers.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        sys.exit(run())
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(130)
