"""The `outrider` command. Needs the extra `cli`; the SDK itself never imports this package."""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """Runs the command and exits: 0, 1 on an error, 2 on wrong usage, 130 when interrupted."""
    raises = signal.getsignal(signal.SIGINT)
    if raises is signal.default_int_handler:
        signal.signal(
            signal.SIGINT, signal.SIG_DFL
        )  # an import has nothing to say when interrupted
    try:
        from outrider.cli.app import app
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        sys.stderr.write("outrider: the command needs more packages: install `outrider[cli]`\n")
        sys.exit(2)
    from outrider.cli.terminal import usable_output

    signal.signal(signal.SIGINT, raises)
    with usable_output("outrider"):
        app()
