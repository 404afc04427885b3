"""`python -m outrider_server` is `outrider-server`."""

from __future__ import annotations

import sys


def main() -> None:
    """The command's entry point; a bare installation has the command but not what it needs."""
    try:
        from .cli import main as run
    except ModuleNotFoundError as error:
        print(
            f"outrider-server: {error.name} is not installed; "
            "install outrider[engine], or outrider[session] for the session service alone",
            file=sys.stderr,
        )
        sys.exit(2)
    run()


if __name__ == "__main__":
    main()
