"""The console of this package's commands."""

from __future__ import annotations

from rich.console import Console


class TerminalConsole(Console):
    """Hides no cursor, as a process that is killed could not show it again."""

    def show_cursor(self, show: bool = True) -> bool:
        """Leaves it as it is."""
        return False
