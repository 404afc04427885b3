"""How a command runs what it was asked for, and ends: without a traceback, with a status."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Coroutine
from typing import Any

import uvloop

from .core.errors import StartupError
from .start_reports import REFUSED, VARIABLE


def serve(service: Coroutine[Any, Any, Any]) -> None:
    """Runs a service to its end, and ends the process with it.

    Nothing is left to do then; the interpreter's own end takes seconds where torch is loaded.
    """
    status = 0
    try:
        run(service)
    except SystemExit as ended:
        status = int(ended.code or 0)
    print(end="", flush=True)
    os._exit(status)


def run(service: Coroutine[Any, Any, Any]) -> Any:
    """Runs something to its end and returns what that gives; a StartupError ends the process."""
    interrupted = signal.getsignal(signal.SIGINT)
    try:
        return uvloop.run(service)
    except StartupError as error:
        refuse(error)
    finally:
        signal.signal(signal.SIGINT, interrupted)  # the loop leaves Python's, which raises


def refuse(error: StartupError) -> None:
    """Tells the user in one line, or the parent that does so, and ends with status 2."""
    if os.environ.get(VARIABLE):
        print(f"{REFUSED}{error}", flush=True)
    else:
        print(f"outrider-server: {error}", file=sys.stderr)
    sys.exit(2)
