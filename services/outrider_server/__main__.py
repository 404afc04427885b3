"""`python -m outrider_server` is `outrider-server`."""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """The command's entry point; a bare installation has the command but not what it needs."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # An interrupt ends a command as SIGTERM does, with no traceback, until the command takes it.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from .lifeline import hold

    hold()
    try:
        from .commands.cli import main as run
    except ModuleNotFoundError as error:
        print(
            f"outrider-server: {error.name} is not installed; "
            "install outrider[engine], or outrider[session] for the session service alone",
            file=sys.stderr,
        )
        sys.exit(2)
    from outrider.cli.terminal import usable_output

    with usable_output("outrider-server"):
        run()


if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[0]  # the working directory: what happens to lie there is not to be run
    main()
