"""The configuration of every service: parsed once, checked when made, never changed.

A value that cannot work raises StartupError with one sentence, before anything is loaded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .address import Listen, read_peer
from .core.errors import StartupError, require
from .core.limits import MAX_LEASE_SECONDS, MAX_TTL_SECONDS
from .core.types import LoopMode
from .engine.options import EngineOptions
from .models import DRAFT_FOLDER, TARGET_FOLDER
from .pacing.window import MAX_LEAD, MAX_WINDOW, USUAL_LEAD, USUAL_WINDOW
from .user_folders import data_folder

SESSION_PORT = 7700
TARGET_PORT = 7710
DRAFT_PORT = 7720
LEDGER_SCHEMES = ("postgresql", "postgres")
_NO_PATH = re.compile(
    r"\s*(?:(?:host|hostaddr|port|dbname|user|password|passfile|service|sslmode)\s*=|postgres(?:ql)?:)",
    re.I,
)
"""How libpq's keyword strings begin, and URLs that lack a slash."""
GENERATION_DEFAULTS = ("neutral", "model")
DRAFT_WIDTH = 2
"""A draft reads its last guess and one more token in one step: after full agreement it lacks two."""


TARGET_ENGINE = EngineOptions(folder=TARGET_FOLDER, queue=64)
DRAFT_ENGINE = EngineOptions(folder=DRAFT_FOLDER, width=DRAFT_WIDTH, threads=1)
SHARED_BY_DRAFT = (
    "dtype",
    "device",
    "slots",
    "park_bytes",
    "rows",
    "prefill_width",
    "max_context_tokens",
    "compile",
)
"""The options that a draft takes from the target beside it unless it is told otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetConfig:
    """The target service."""

    listen: str = f"127.0.0.1:{TARGET_PORT}"
    engine: EngineOptions = TARGET_ENGINE
    drain_seconds: float = 30.0

    def __post_init__(self) -> None:
        require(
            self.engine.width % 8 == 0,
            "the target's width must be a multiple of 8; other widths change its bits",
        )
        Listen.read(self.listen)


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftConfig:
    """The draft service."""

    listen: str = f"127.0.0.1:{DRAFT_PORT}"
    engine: EngineOptions = DRAFT_ENGINE
    drain_seconds: float = 5.0

    def __post_init__(self) -> None:
        Listen.read(self.listen)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionConfig:
    """The session service."""

    ledger: str | Path
    """A file's path, or a URL that begins with postgresql://."""
    listen: str = f"127.0.0.1:{SESSION_PORT}"
    targets: tuple[str, ...] = (f"127.0.0.1:{TARGET_PORT}",)
    drafts: tuple[str, ...] = (f"127.0.0.1:{DRAFT_PORT}",)
    """None where the service is to go without."""
    window: int = USUAL_WINDOW
    lead: int = USUAL_LEAD
    loop: LoopMode = LoopMode.ADAPTIVE
    generation_defaults: str = "neutral"
    """One of GENERATION_DEFAULTS: what a request gets for the sampling parameters that it does not name."""
    ttl_seconds: int = 0
    """How long a session lives after its last write; 0 for ever."""
    sweep_seconds: float = 60.0
    """How often expired sessions are deleted."""
    lease_seconds: float = 5.0
    """How long other services wait for a session whose service died. Not for a ledger in a file."""
    target_timeout_ms: int = 120_000
    """How long to wait for the target at start-up."""
    drain_seconds: float = 20.0
    """Less than the SDK asks again for: a call that comes meanwhile outlives a restart."""

    def __post_init__(self) -> None:
        require(bool(self.targets) and all(self.targets), "target must be one address or several")
        Listen.read(self.listen)
        for address in (*self.targets, *self.drafts):
            read_peer(address)
        require(0 <= self.window <= MAX_WINDOW, f"window must be 0 to {MAX_WINDOW}")
        require(1 <= self.lead <= MAX_LEAD, f"lead must be 1 to {MAX_LEAD}")
        require(
            self.generation_defaults in GENERATION_DEFAULTS,
            f"generation defaults must be one of {', '.join(GENERATION_DEFAULTS)}",
        )
        is_database(str(self.ledger))
        require(0 <= self.ttl_seconds <= MAX_TTL_SECONDS, f"ttl must be 0 to {MAX_TTL_SECONDS} s")
        require(1 <= self.sweep_seconds <= 86400, "sweep must be 1 to 86400 s")
        require(
            1 <= self.lease_seconds <= MAX_LEASE_SECONDS,
            f"lease must be 1 to {MAX_LEASE_SECONDS:.0f} s",
        )
        require(self.target_timeout_ms >= 1, "target timeout must be at least 1 ms")


def draft_beside(target: EngineOptions, **changes: Any) -> EngineOptions:
    """The options of a draft on the target's machine: its slots, steps and context, and what is changed."""
    shared = {name: getattr(target, name) for name in SHARED_BY_DRAFT}
    return replace(DRAFT_ENGINE, **(shared | changes))


def is_database(location: str) -> bool:
    """True for the URL of a database, False for a path. Raises StartupError for nothing, for another URL, and
    for what looks like a database's address and is no URL; it may hold a password, so that is not shown."""
    require(bool(location.strip()), "the ledger is a file's path or a URL, and not empty")
    scheme, separator, _ = location.partition("://")
    if not separator:
        if _NO_PATH.match(location):
            raise StartupError(
                "the ledger is a file's path or a URL; write a database as"
                " postgresql://USER@HOST:PORT/DATABASE"
            )
        return False
    if scheme not in LEDGER_SCHEMES:
        named = f"{scheme}://" if scheme.isalnum() else "something else"
        raise StartupError(
            f"the ledger is a file's path or a URL that begins with postgresql://, not with {named}"
        )
    return True


def default_ledger() -> Path:
    """Where the ledger lives unless told otherwise. Raises StartupError where that is nowhere."""
    return data_folder() / "ledger.db"
