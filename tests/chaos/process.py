"""What a forked process of a service does. Imports as little as it can: it is imported in each of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def serve(arguments: Sequence[str], output: str) -> None:
    """Runs `outrider-server` with these arguments; what it prints goes to a file."""
    written = os.open(output, os.O_WRONLY | os.O_APPEND)
    os.dup2(written, 1)
    os.dup2(written, 2)
    sys.argv = ["outrider-server", *arguments]

    from outrider_server.__main__ import main

    main()
