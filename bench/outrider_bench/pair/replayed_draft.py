"""The draft service of a replay: the real drafting job, whose guesses are those that were recorded.

Stands in for one stream to it, as the session's link has it. What the draft would guess after a wrong guess
is not known and counts for nothing, as that guess ends its branch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from outrider.v1 import draft_pb2
from outrider_server.config import DRAFT_WIDTH
from outrider_server.core.errors import OutriderError
from outrider_server.core.types import Proposal, tokens_digest
from outrider_server.draft.wire import guessed_to_proto, pace_from_commit, task_from_open
from outrider_server.engine.drafting import DraftJob
from outrider_server.engine.engine import Engine
from outrider_server.engine.layout import RowResult
from outrider_server.engine.limits import StepLimits
from outrider_server.engine.slots import Slot
from outrider_server.host.outbox import Guessed

from .machine import Machine
from .replied import Reply

LIMITS = StepLimits(1, 1 << 30, DRAFT_WIDTH, 64, (1,))
UNKNOWN = 0
"""Stands for a guess of which nothing is known."""


class ReplayedDraft:
    """One turn's stream to a draft that is `way_seconds` away and holds nothing of the session."""

    def __init__(self, reply: Reply, machine: Machine, way_seconds: float) -> None:
        self._reply = reply
        self._text = list(reply.text)
        self._machine = machine
        self._way_seconds = way_seconds
        self._loop = asyncio.get_running_loop()
        self._answers: asyncio.Queue[draft_pb2.DraftResponse] = asyncio.Queue()
        self._heard: asyncio.Queue[draft_pb2.DraftCommit] = asyncio.Queue()
        self._slot = Slot(0, "replay", 1)
        self._working: asyncio.Task[None] | None = None

    async def write(self, request: draft_pb2.DraftRequest) -> None:
        """Sends a message to the draft."""
        self._loop.call_later(self._way_seconds, self._hear, request)

    async def read(self) -> draft_pb2.DraftResponse:
        """The draft's next message."""
        return await self._answers.get()

    def cancel(self) -> bool:
        """Ends the turn on the draft."""
        if self._working is not None:
            self._working.cancel()
        return True

    def _hear(self, request: draft_pb2.DraftRequest) -> None:
        if request.HasField("open"):
            self._open(request.open)
        else:
            self._heard.put_nowait(request.commit)

    def _open(self, message: draft_pb2.DraftOpen) -> None:
        task = task_from_open(message)
        job = DraftJob(
            cast(Engine, _AnyLength()),
            self._slot,
            self._slot.opening,
            task.committed_length,
            task.lead,
            self._emit,
            _fail,
            task.burst,
        )
        self._working = asyncio.create_task(self._work(job))
        opened = draft_pb2.DraftOpened(length=0, digest=tokens_digest(()))
        self._say(draft_pb2.DraftResponse(opened=opened))

    async def _work(self, job: DraftJob) -> None:
        """As the device thread: one step after the other; what was heard meanwhile is done between them."""
        while True:
            work = job.work()
            while work is None or not self._heard.empty():
                commit = await self._heard.get()
                job.commit(commit.start_position, commit.tokens, *pace_from_commit(commit))
                work = job.work()
            spent_ms = await self._machine.draft(len(work.tokens), prefill=work.prefill)
            self._slot.write(work.start_position, work.tokens)
            result = None if work.prefill else RowResult((self._guess(),))
            job.take(work, result, 1, spent_ms / 1000)

    def _guess(self) -> int:
        """What the draft guesses after what its slot holds."""
        held = self._slot.tokens
        place = len(held) - len(self._reply.prompt.tokens)
        known = 0 <= place < len(self._reply.guesses) and held == self._text[: len(held)]
        return self._reply.guesses[place] if known else UNKNOWN

    def _emit(self, branch: int, proposal: Proposal, seconds: float) -> None:
        message = guessed_to_proto(Guessed(branch, proposal, seconds))
        self._say(draft_pb2.DraftResponse(proposal=message))

    def _say(self, response: draft_pb2.DraftResponse) -> None:
        self._loop.call_later(self._way_seconds, self._answers.put_nowait, response)


@dataclass(frozen=True, slots=True)
class _AnyLength:
    """What a drafting job asks of its engine, where every length and every token will do."""

    limits: StepLimits = LIMITS

    def turn_to(self, slot: Slot, length: int) -> bool:
        """Nothing is read anew."""
        return False

    def reach(self, length: int) -> int:
        """All lengths may share a step."""
        return self.limits.max_context_tokens

    def check_tokens(self, start_position: int, tokens: Sequence[int]) -> None:
        """All are good."""


def _fail(error: OutriderError) -> None:
    raise AssertionError("a replayed draft has nothing to fail of") from error
