"""Which pair is served: what was named, else the chat model where it is installed, else the bundled pair."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

from ..core.errors import ModelRefused, require
from ..models.chat_model import installed_pair
from ..models.pair import BUNDLED, Pair

NO_DRAFT = "none"
COMMAND = "outrider-server chat-model"
"""What installs the chat model."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A pair, and why it is not the chat model where that was to be expected."""

    pair: Pair
    lack: str = ""
    """What the chat model lacks; empty where it is served, or nobody asked for it."""

    @property
    def note(self) -> str:
        """The same as a line for the user; empty where it is."""
        return self.lack and (
            f"{self.lack}, so the bundled pair is served, which continues Python source and answers no "
            f"questions; `{COMMAND}` installs it"
        )


def default_choice(bundled: bool = False, path: list[str] = sys.path) -> Choice:
    """The pair where none is named. Distributions are looked for in the folders of `path`."""
    if bundled:
        return Choice(BUNDLED)
    try:
        return Choice(installed_pair(path))
    except ModelRefused as lack:
        return Choice(BUNDLED, str(lack))


def named_choice(target: str | None, draft: str | None, bundled: bool) -> Choice:
    """The pair by a command's options, None where one is not given. Another target than the default one has
    no draft unless it is named. Raises StartupError."""
    require(
        target is None or not bundled,
        "a target is named, and the bundled one; leave one of them out",
    )
    choice = default_choice(bundled) if target is None else Choice(Pair(Path(target), None))
    if draft is None:
        return choice
    named = None if draft == NO_DRAFT else Path(draft)
    return replace(choice, pair=replace(choice.pair, draft=named))
