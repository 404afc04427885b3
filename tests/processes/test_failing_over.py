"""A PostgreSQL primary that dies in the middle of turns: its standby takes over, and the turns go on."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from itertools import pairwise

import outrider
import pytest
from outrider_server.core.errors import StartupError
from outrider_server.ledger_opening import open_ledger
from outrider_server.models import held_out_prompts
from postgres_server import USER, PostgresServer, running_server

from .processes import START_SECONDS, Service, Services, connected, reply_to

PROMPT = held_out_prompts()[30]
TURN = {"max_new_tokens": 300, "logit_bias": {0: -100.0}}
SPEAKERS = 3


@pytest.fixture
def primary(postgres: PostgresServer) -> Iterator[PostgresServer]:
    """Its commits wait for the standby, so that nothing acknowledged is lost with it."""
    with running_server() as server:
        yield server


@pytest.fixture
def standby(primary: PostgresServer) -> Iterator[PostgresServer]:
    with running_server(primary=primary) as server:
        with primary.connect() as connection:
            connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            connection.execute("SELECT pg_reload_conf()")
        yield server


def url_of(*servers: PostgresServer) -> str:
    hosts = ",".join(str(server.folder) for server in servers)
    return f"postgresql://{USER}@/postgres?host={hosts}&target_session_attrs=read-write"


async def test_a_standby_alone_is_refused_at_the_start(primary, standby) -> None:
    with pytest.raises(StartupError, match="is a standby, which takes no writes") as refused:
        await open_ledger(standby.url(), 0)
    assert len(str(refused.value).splitlines()) == 1


def test_turns_go_on_with_the_same_tokens(
    client, services: Services, target: Service, primary, standby
) -> None:
    service = services.start(
        "session",
        f"--target={target.address}",
        "--draft=none",
        "--listen=127.0.0.1:0",
        f"--ledger={url_of(primary, standby)}",
    )
    wanted = [reply_to(client, PROMPT, seed=seed, **TURN).tokens for seed in range(SPEAKERS)]
    told: list[list[float]] = [[] for _ in range(SPEAKERS)]
    replies: list[outrider.Reply] = []
    half_way = threading.Event()

    def read(seed: int, reply: outrider.Reply) -> None:
        for _ in reply:
            told[seed].append(time.monotonic())
            if sum(map(len, told)) > 60:
                half_way.set()

    with connected(service.wait_until_ready(), resume_ms=120_000) as caller:
        sessions, readers = [], []
        for seed in range(SPEAKERS):
            sessions.append(caller.create_session())
            replies.append(sessions[-1].generate(PROMPT, seed=seed, **TURN))
            readers.append(threading.Thread(target=read, args=(seed, replies[-1])))
        for reader in readers:
            reader.start()
        assert half_way.wait(START_SECONDS), "the turns do not run"
        primary.kill()
        seen = [len(times) for times in told]
        standby.promote()
        for reader in readers:
            reader.join()
        for seed, reply in enumerate(replies):
            held = caller.get_session(sessions[seed].id, with_tokens=True).tokens
            assert reply.tokens == wanted[seed]
            assert list(held[reply.started.start_position :]) == reply.tokens
    gaps = [later - earlier for times in told for earlier, later in pairwise(times)]
    print(
        f"longest gap {max(gaps):.2f} s; the primary died after {seen} of {TURN['max_new_tokens']} tokens"
    )
    assert max(seen) < TURN["max_new_tokens"] / 2, "the turns were to run on"
    service.close()
    assert "Traceback" not in service.errors
    assert "the target at" not in service.errors, "no target is to blame"
