"""The log of a process on standard error: warnings and worse, a line each, and no library's chatter."""

from __future__ import annotations

import logging
import os

TELEMETRY = "opentelemetry"
POOL = "psycopg.pool"


def set_up_logs() -> None:
    """Before a library is imported that logs while it is."""
    # gRPC's core writes to stderr what its statuses say anyway.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    logging.getLogger(POOL).setLevel(logging.CRITICAL)  # the ledger says it, each cause once
    logging.getLogger(TELEMETRY).addHandler(
        OnceEach(logging.getLogger("outrider_server.telemetry"))
    )
    logging.getLogger(TELEMETRY).propagate = False


class OnceEach(logging.Handler):
    """Hands on what a part of a library has to say first, in one line, and leaves out the rest.

    A collector that cannot be reached would be told of for as long as it cannot.
    """

    def __init__(self, to: logging.Logger) -> None:
        super().__init__(logging.WARNING)
        self._to = to
        self._said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        if record.name not in self._said:
            self._said.add(record.name)
            self._to.warning(" ".join(record.getMessage().split()))
