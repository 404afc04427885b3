"""How a peer is asked: one JSON object a line, each way, over its standard streams. The peer's side of it.

Knows the standard library only: peers run it in environments of their own.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

LONGEST_MESSAGE = 300

Answer = Callable[[dict[str, Any]], dict[str, Any]]


def serve_peer(
    build: Callable[[], Answer], refusals: tuple[type[Exception], ...] = (ModuleNotFoundError,)
) -> None:
    """Builds, announces itself, then answers line after line until its input ends.

    Whatever libraries print goes to standard error, so that the lines stay the peer's own. The messages of
    `refusals` say all there is to say; of other errors the kind is told too.
    """
    lines = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def say(reply: dict[str, Any]) -> None:
        print(json.dumps(reply), file=lines, flush=True)

    def told(error: Exception) -> str:
        text = " ".join(str(error).split())[:LONGEST_MESSAGE]
        return text if isinstance(error, refusals) else f"{type(error).__name__}: {text}"

    try:
        answer = build()
    except Exception as error:  # told to the parent, as every error below
        say({"error": told(error)})
        return
    say({"ready": True})
    for line in sys.stdin:
        try:
            say(answer(json.loads(line)))
        except Exception as error:
            say({"error": told(error)})
