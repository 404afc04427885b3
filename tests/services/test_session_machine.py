"""Any sequence of calls leaves every session as a few plain lists say it must be.

Hypothesis draws the calls. The service is real, as is its ledger file; the tokens that a turn must have
come from the target alone, in a session of its own that is given all earlier tokens as its prompt.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import outrider
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from outrider_server.host.engine_host import EngineHost

from .session_calls import SessionCalls
from .session_draws import ASKED, DRAWN, MAX_LIVE, Drawn
from .session_model import Asked, ModelSession
from .session_world import World, options

CALLS = (
    "create",
    "fork",
    "delete",
    "list_by_pages",
    "restart",
    "generate",
    "ask_the_same_again",
    "use_a_request_id_for_another_turn",
    "attach",
    "leave",
    "regenerate",
    "rewind",
    "ask_for_what_is_outside",
    "use_what_is_not_there",
)


class SessionMachine(SessionCalls):
    """Calls, and the model of what they lead to."""

    @initialize(first=ASKED, second=ASKED)
    def start(self, first: Asked, second: Asked) -> None:
        """Two sessions, and a turn in each: what the first rules can work with."""
        self._world.run(self._world.start_anew())
        for pick, asked in enumerate((first, second)):
            drawn = Drawn(pick=pick, asked=asked, request_id="red")
            self.create(drawn)
            self.generate(drawn)

    def teardown(self) -> None:
        self._world.run(self._world.stop())

    @rule(name=st.sampled_from(CALLS), drawn=DRAWN)
    def call(self, name: str, drawn: Drawn) -> None:
        """Hypothesis leaves rules out of an example now and then, so all calls share one."""
        if not self._models:
            self.create(drawn)
        if not any(model.turns for model in self._models.values()):
            name = "generate"
        getattr(self, name)(drawn)

    # Whole sessions

    def create(self, drawn: Drawn) -> None:
        self._make_room(drawn)
        handle = self._world.run(self._world.service.client.create_session())
        self._appeared(handle, ModelSession())

    def fork(self, drawn: Drawn) -> None:
        self._make_room(drawn)
        handle, model = self._picked(drawn.pick)
        length = len(model.tokens)
        position = length if drawn.flag else drawn.place % (length + 1)
        copy = self._world.run(handle.fork(None if drawn.flag else position))
        self._appeared(copy, model.fork(position))

    def delete(self, drawn: Drawn) -> None:
        handle, _ = self._picked(drawn.pick)
        self._world.run(handle.delete())
        del self._models[handle.id], self._handles[handle.id]
        self._gone.append(handle.id)

    def list_by_pages(self, drawn: Drawn) -> None:
        async def listed() -> list[str]:
            client = self._world.service.client
            return [info.id async for info in client.sessions(page_size=drawn.page_size)]

        assert self._world.run(listed()) == list(reversed(self._models))

    def restart(self, _: Drawn) -> None:
        async def reopened() -> None:
            await self._world.restart()
            for session_id in self._models:
                self._handles[session_id] = await self._world.service.client.open_session(
                    session_id
                )

        self._world.run(reopened())
        for model in self._models.values():
            model.last = None

    def _make_room(self, drawn: Drawn) -> None:
        if len(self._models) == MAX_LIVE:
            self.delete(drawn)

    # Turns

    def generate(self, drawn: Drawn) -> None:
        """A new turn, one that was asked for before, or one whose id is used for another."""
        asked, request_id = drawn.asked, drawn.request_id
        handle, model = self._picked(drawn.pick)
        reply = handle.generate(
            asked.prompt, draft=drawn.draft, request_id=request_id or None, **options(asked)
        )
        known = model.turn(request_id)
        differs = known.differs_from(asked) if known else []
        if differs or request_id in model.taken_back:
            message = f"another {', '.join(differs)};" if differs else "a rewind dropped"
            self._refused(reply.read(), outrider.AlreadyExistsError, message=message)
            model.last = None
        elif known:
            self._told(reply, known, 0)
            model.last = known
        else:
            self._ran(reply, model, asked)

    def ask_the_same_again(self, drawn: Drawn) -> None:
        handle, model = self._picked_with_turns(drawn.pick)
        turn = model.turns[drawn.place % len(model.turns)]
        if turn.request_id.startswith("copy"):
            return
        reply = handle.generate(
            turn.asked.prompt, draft=drawn.draft, request_id=turn.request_id, **options(turn.asked)
        )
        if turn.differs_from(turn.asked):
            self._refused(reply.read(), outrider.AlreadyExistsError, message="another input;")
            model.last = None
        else:
            self._told(reply, turn, 0)
            model.last = turn

    def use_a_request_id_for_another_turn(self, drawn: Drawn) -> None:
        asked = drawn.asked
        handle, model = self._picked_with_turns(drawn.pick)
        turn = model.turns[drawn.place % len(model.turns)]
        differs = turn.differs_from(asked)
        if not differs or turn.request_id.startswith("copy"):
            return
        reply = handle.generate(asked.prompt, request_id=turn.request_id, **options(asked))
        message = f"another {', '.join(differs)};"
        self._refused(reply.read(), outrider.AlreadyExistsError, message=message)
        model.last = None

    def attach(self, drawn: Drawn) -> None:
        """One index in ten or so is past the end."""
        is_last = drawn.flag
        handle, model = self._picked_with_turns(drawn.pick)
        turn = model.turns[-1 if is_last else drawn.place % len(model.turns)]
        if turn.request_id.startswith("copy"):
            turn, is_last = model.turns[-1], True
        committed = len(turn.generated)
        from_index = drawn.index % (committed + 2)
        request_id = "" if is_last else turn.request_id
        reply = handle.attach(request_id, from_index=from_index)
        if from_index > committed:
            self._refused(reply.read(), outrider.PositionMismatchError, message=f"{committed} ")
        else:
            self._told(reply, turn, from_index)

    def leave(self, drawn: Drawn) -> None:
        """The reader leaves after some tokens, and comes back or takes back all but what it saw."""
        asked = drawn.asked
        handle, model = self._picked(drawn.pick)
        generated, reason = self._wanted(model, asked)
        seen = min(1 + drawn.index % 8, len(generated))
        reply = handle.generate(asked.prompt, **options(asked))
        self._world.run(self._left(reply, handle, seen))
        assert tuple(reply.tokens) == generated[:seen]
        turn = model.add(reply.started.request_id, asked, generated, reason)
        if drawn.flag:
            self._told(handle.attach(from_index=seen), turn, seen)
        else:
            position = turn.end - len(generated) + seen - 1
            self._world.run(handle.rewind(position))
            model.rewind(position)

    def regenerate(self, drawn: Drawn) -> None:
        seed = drawn.asked.seed
        handle, model = self._picked(drawn.pick)
        last = model.last
        if last is None:
            self._refused(handle.regenerate(seed=seed), outrider.UnfinishedError)
        elif last.start > len(model.tokens):
            self._refused(
                handle.regenerate(seed=seed), outrider.InvalidRequestError, field="position"
            )
        else:
            reply = self._world.run(handle.regenerate(seed=seed))
            model.rewind(last.start)
            asked = Asked(last.asked.prompt, seed, last.asked.max_new_tokens, last.asked.stop)
            self._ran(reply, model, asked)

    def rewind(self, drawn: Drawn) -> None:
        handle, model = self._picked(drawn.pick)
        position = drawn.place % (len(model.tokens) + 1)
        self._world.run(handle.rewind(position))
        model.rewind(position)

    # What is refused, and changes nothing

    def ask_for_what_is_outside(self, drawn: Drawn) -> None:
        handle, model = self._picked(drawn.pick)
        position = drawn.outside + (len(model.tokens) if drawn.outside > 0 else 0)
        for call in (handle.rewind(position), handle.fork(position)):
            self._refused(call, outrider.InvalidRequestError, field="position")
        pages = self._world.service.client.sessions(page_size=drawn.bad_page_size)
        self._refused(anext(pages), outrider.InvalidRequestError, field="page_size")
        for request_id in ["never", *model.taken_back, *([] if model.turns else [""])]:
            self._refused(handle.attach(request_id).read(), outrider.NotFoundError)
        if model.turns:
            reply = handle.attach(from_index=-1)
            self._refused(reply.read(), outrider.InvalidRequestError, field="from_index")

    def use_what_is_not_there(self, drawn: Drawn) -> None:
        asked = drawn.asked
        client = self._world.service.client
        handle = self._world.run(client.create_session())
        self._world.run(client.delete_session(handle.id))
        session_id = [*self._gone, handle.id][drawn.place % (len(self._gone) + 1)]
        for call in (
            handle.rewind(0),
            handle.fork(),
            handle.attach().read(),
            handle.generate(asked.prompt, **options(asked)).read(),
            client.open_session(session_id),
            client.get_session(session_id, with_tokens=True),
            client.delete_session(session_id),
        ):
            self._refused(call, outrider.NotFoundError)

    # What holds whatever was called

    @invariant()
    def every_session_is_as_the_model_says(self) -> None:
        client = self._world.service.client
        for session_id, model in self._models.items():
            info = self._world.run(client.get_session(session_id, with_tokens=True))
            assert list(info.tokens) == model.tokens
            assert (info.position, info.turn_count) == (len(model.tokens), len(model.turns))
            assert not info.turn_running

    @invariant()
    def the_ledger_has_rows_of_no_other_session(self) -> None:
        held = self._world.sessions_in_the_file()
        assert held.pop("sessions") == set(self._models)
        assert set().union(*held.values()) <= set(self._models)


@pytest.fixture
def world(
    tmp_path: Path, twin: EngineHost, draft: EngineHost, target: EngineHost
) -> Iterator[World]:
    """`twin` has two slots, so sessions are parked all the time; `target` has one for every question."""
    with asyncio.Runner() as runner:
        world = World(tmp_path, runner)
        world.run(world.open(twin, draft, target))
        yield world
        world.run(world.close())


def test_sessions_are_what_their_calls_say_and_turns_are_the_targets(world: World) -> None:
    run_state_machine_as_test(
        lambda: SessionMachine(world),
        settings=settings(
            max_examples=30,
            stateful_step_count=30,
            derandomize=True,
            database=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        ),
    )
