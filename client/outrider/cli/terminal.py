"""Standard output as it may be: without some characters, full, or closed in the middle."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn


@contextmanager
def usable_output(command: str) -> Iterator[None]:
    """For the body of a command: replaces characters that the terminal lacks.

    Output that cannot be written ends the command with status 1, in one line; in none where nobody reads on.
    """
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr.reconfigure(errors="replace")
    if isinstance(sys.stdout, io.TextIOWrapper):
        before = sys.stdout
        sys.stdout = _Output(command, before)
    try:
        yield
    finally:
        print(end="", flush=True)


class _Output(io.TextIOWrapper):
    """Standard output, whose failures end the command."""

    def __init__(self, command: str, before: io.TextIOWrapper) -> None:
        encoding, at_once = before.encoding, before.line_buffering
        super().__init__(
            before.detach(), encoding=encoding, errors="replace", line_buffering=at_once
        )
        self._command = command

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self._end(error)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._end(error)

    def _end(self, error: OSError) -> NoReturn:
        # What is still buffered goes nowhere, so that the interpreter does not fail over it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
        if not isinstance(error, BrokenPipeError):
            reason = error.strerror or "it is closed"
            sys.stderr.write(f"{self._command}: standard output cannot be written to: {reason}\n")
        sys.exit(1)
