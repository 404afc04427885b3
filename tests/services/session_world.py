"""A session service to be tried with any calls, and beside it the target alone.

For `test_session_machine.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Awaitable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import outrider
import pytest
from outrider_server.host.engine_host import EngineHost

from .harness import SessionService, Stack, generate
from .session_model import Asked

TABLES = ("sessions", "turns", "chunks", "dropped_requests")
NO_END_TOKEN = {0: -100.0}

Answer = TypeVar("Answer")


class World:
    """A session service, and beside it the target alone. All of it runs in one event loop."""

    def __init__(self, folder: Path, runner: asyncio.Runner) -> None:
        self._runner = runner
        self._folder = folder
        self._stack = Stack(folder / "tried")
        self._alone = Stack(folder / "alone")
        self._known: dict[tuple[tuple[int, ...], Asked], tuple[tuple[int, ...], str]] = {}
        self.service: SessionService
        self.reference: SessionService

    def run(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        return self._runner.run(work)

    async def open(self, target: EngineHost, draft: EngineHost, alone: EngineHost) -> None:
        for stack in (self._stack, self._alone):
            stack.folder.mkdir()
        await self._stack.start_target(target)
        await self._stack.start_draft(draft)
        await self._alone.start_target(alone)
        self.reference = await self._alone.start_session(with_draft=False)

    async def close(self) -> None:
        await self._stack.close()
        await self._alone.close()

    async def start_anew(self) -> None:
        """A session service that knows of no session."""
        for path in self._stack.folder.glob("ledger.db*"):
            path.unlink()
        self.service = await self._stack.start_session()

    async def stop(self) -> None:
        await self._stack.kill("session")

    async def restart(self) -> None:
        await self._stack.kill("session")
        self.service = await self._stack.start_session()

    async def wanted(self, before: list[int], asked: Asked) -> tuple[tuple[int, ...], str]:
        """The tokens of a turn, and why it ends, by the target alone."""
        key = ((*before, *asked.prompt), asked)
        if key not in self._known:
            reply = await generate(
                self.reference.client, list(key[0]), draft="off", max_window=0, **options(asked)
            )
            self._known[key] = tuple(reply.tokens), str(reply.summary.finish_reason)
        return self._known[key]

    def sessions_in_the_file(self) -> dict[str, set[str]]:
        """By table, the sessions that the ledger has rows of."""
        with contextlib.closing(sqlite3.connect(self._stack.folder / "ledger.db")) as file:
            return {
                table: {row[0] for row in file.execute(f"SELECT session_id FROM {table}")}
                for table in TABLES
            }


def options(asked: Asked) -> dict[str, Any]:
    return {
        "seed": asked.seed,
        "max_new_tokens": asked.max_new_tokens,
        "stop": asked.stop,
        "logit_bias": NO_END_TOKEN,
    }


async def refused(call: Awaitable[Any], error: type[outrider.OutriderError], **said: Any) -> None:
    """The call has to fail so, with these attributes; what a message says it has to hold."""
    with pytest.raises(error) as caught:
        await call
    message = said.pop("message", "")
    assert message in caught.value.message
    assert {name: getattr(caught.value, name) for name in said} == said
