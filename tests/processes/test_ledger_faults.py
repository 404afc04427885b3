"""A ledger that cannot be written shows no token, and is used again by itself."""

from __future__ import annotations

import resource
import signal
import threading
from collections.abc import Iterator

import outrider
import pytest
from outrider_server.models import held_out_prompts
from postgres_server import PostgresServer, running_server

from .processes import Service, Services, connected, reply_to, until

PROMPT = held_out_prompts()[30]
LONG = {"max_new_tokens": 300, "seed": 8, "logit_bias": {0: -100.0}}
SEEN = 20


@pytest.fixture
def database(postgres: PostgresServer) -> Iterator[PostgresServer]:
    """A server that a test ends."""
    with running_server() as server:
        yield server


class Reader(threading.Thread):
    """Reads a reply to its end in the background."""

    def __init__(self, reply: outrider.Reply) -> None:
        super().__init__(daemon=True)
        self.reply = reply
        self.failure: outrider.OutriderError | None = None

    def run(self) -> None:
        try:
            self.reply.read()
        except outrider.OutriderError as error:
            self.failure = error


def test_a_turn_waits_for_a_database_that_is_killed_and_ends_as_it_would_have(
    client, services: Services, target: Service, database
):
    service = services.start(
        "session",
        f"--target={target.address}",
        "--draft=none",
        "--listen=127.0.0.1:0",
        f"--ledger={database.url()}",
    )
    with connected(service.wait_until_ready(), resume_ms=120_000) as caller:
        session = caller.create_session()
        reply = session.generate(PROMPT, **LONG)
        for _ in range(SEEN):
            next(reply)
        target.process.send_signal(signal.SIGSTOP)  # so that the turn does not end meanwhile
        database.kill()
        target.process.send_signal(signal.SIGCONT)
        reader = Reader(reply)
        reader.start()
        with pytest.raises(outrider.UnavailableError):
            caller.get_session(session.id)
        assert len(reply.tokens) < LONG["max_new_tokens"]
        database.start()
        reader.join()
        assert reader.failure is None
        held = caller.get_session(session.id, with_tokens=True).tokens
    assert reply.tokens == reply_to(client, PROMPT, draft="off", **LONG).tokens
    assert list(held[reply.started.start_position :]) == reply.tokens
    service.close()
    assert "Traceback" not in service.errors


def test_a_full_disk_stops_turns_and_loses_nothing(client, services: Services, target: Service):
    """The process may write no file any further, as on a disk without room, until it may again."""
    service = services.session(target.address, ledger="full")
    with connected(service.wait_until_ready(), resume_ms=0) as caller:
        session = caller.create_session()
        before = session.generate(PROMPT, max_new_tokens=8, seed=1).read()
        limits = resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, (0, -1))
        with pytest.raises(outrider.UnavailableError):
            session.generate("x", max_new_tokens=4).read()
        assert session.info().position == before.summary.position
        resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, limits)

        def back() -> outrider.Reply | None:
            try:
                return session.generate("\n", max_new_tokens=8, seed=2).read()
            except outrider.UnavailableError:
                return None

        after = until(back)
        held = caller.get_session(session.id, with_tokens=True).tokens
    unbroken = client.create_session()
    unbroken.generate(PROMPT, max_new_tokens=8, seed=1).read()
    assert after.tokens == unbroken.generate("\n", max_new_tokens=8, seed=2).read().tokens
    assert list(held[after.started.start_position :]) == after.tokens
    service.close()
    assert "Traceback" not in service.errors
