"""What the rules of `test_session_machine.py` are made of: a call, its model, and the comparison of both."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import outrider
from hypothesis.stateful import RuleBasedStateMachine

from .harness import until_idle
from .session_model import Asked, ModelSession, ModelTurn
from .session_world import World, refused


class SessionCalls(RuleBasedStateMachine):
    """Sessions on the service, and the model of each."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world
        self._models: dict[str, ModelSession] = {}
        self._handles: dict[str, outrider.AsyncSession] = {}
        self._gone: list[str] = ["never"]

    def _appeared(self, handle: outrider.AsyncSession, model: ModelSession) -> None:
        assert handle.id not in self._models
        assert handle.position == len(model.tokens)
        self._models[handle.id], self._handles[handle.id] = model, handle

    def _picked(self, pick: int) -> tuple[outrider.AsyncSession, ModelSession]:
        session_id = list(self._models)[pick % len(self._models)]
        return self._handles[session_id], self._models[session_id]

    def _picked_with_turns(self, pick: int) -> tuple[outrider.AsyncSession, ModelSession]:
        able = [session_id for session_id, model in self._models.items() if model.turns]
        session_id = able[pick % len(able)]
        return self._handles[session_id], self._models[session_id]

    def _wanted(self, model: ModelSession, asked: Asked) -> tuple[tuple[int, ...], str]:
        return self._world.run(self._world.wanted(model.tokens, asked))

    def _ran(self, reply: outrider.AsyncReply, model: ModelSession, asked: Asked) -> None:
        generated, reason = self._wanted(model, asked)
        self._world.run(reply.read())
        self._told_right(reply, model.add(reply.started.request_id, asked, generated, reason), 0)

    def _told(self, reply: outrider.AsyncReply, turn: ModelTurn, from_index: int) -> None:
        self._world.run(reply.read())
        self._told_right(reply, turn, from_index)

    def _told_right(self, reply: outrider.AsyncReply, turn: ModelTurn, from_index: int) -> None:
        assert tuple(reply.tokens) == turn.generated[from_index:]
        assert [event.index for event in reply.events] == list(
            range(from_index, len(turn.generated))
        )
        assert reply.summary.finish_reason == turn.finish_reason
        assert reply.started.start_position == turn.start + len(turn.held_prompt)
        assert reply.started.seed == turn.asked.seed

    async def _left(
        self, reply: outrider.AsyncReply, handle: outrider.AsyncSession, seen: int
    ) -> None:
        for _ in range(seen):
            await anext(reply)
        reply.cancel()
        await until_idle(handle)

    def _refused(
        self, call: Awaitable[Any], error: type[outrider.OutriderError], **said: Any
    ) -> None:
        self._world.run(refused(call, error, **said))
