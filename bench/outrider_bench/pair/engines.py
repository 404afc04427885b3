"""Engines of a pair, with the options that the services have by default."""

from __future__ import annotations

from pathlib import Path

from outrider_server.commands.engines import kept_start
from outrider_server.config import draft_beside
from outrider_server.core.progress import silent
from outrider_server.engine.engine import Engine
from outrider_server.engine.options import EngineOptions
from outrider_server.host.building import engine_builder

ROLES = ("target", "draft")


def options_of(role: str, model: Path, context: int) -> EngineOptions:
    """The options of a service whose sessions have at most so many tokens."""
    target = EngineOptions(folder=model, max_context_tokens=context)
    return target if role == "target" else draft_beside(target, folder=model)


def built(options: EngineOptions) -> Engine:
    """An engine of this thread. Raises StartupError."""
    return engine_builder(options, start=kept_start(silent))()
