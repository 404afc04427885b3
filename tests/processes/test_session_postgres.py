"""Session services that share a PostgreSQL ledger: any of them goes on with any session."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import outrider
import pytest
from outrider_server.models import held_out_prompts
from postgres_server import PostgresServer, running_server

from .processes import OWN_CONNECTION, START_SECONDS, Service, Services, connected, reply_to, until

PROMPT = held_out_prompts()[30]
LONG = {"max_new_tokens": 300, "seed": 8, "logit_bias": {0: -100.0}}


@pytest.fixture(scope="module")
def database(postgres: PostgresServer) -> Iterator[PostgresServer]:
    """A server that a test may end."""
    with running_server() as server:
        yield server


def replica(services: Services, target: Service, database: PostgresServer) -> Service:
    return services.start(
        "session",
        f"--target={target.address}",
        "--draft=none",
        "--listen=127.0.0.1:0",
        f"--ledger={database.url()}",
        "--lease-seconds=1",
    )


def test_a_session_goes_from_one_service_to_another_and_back(client, services, target, database):
    first, second = (replica(services, target, database) for _ in range(2))
    unbroken = client.create_session()
    with connected(first.wait_until_ready()) as one, connected(second.wait_until_ready()) as two:
        session_id = one.create_session().id
        for seed, caller in enumerate((one, two, one, two)):
            turn = {"max_new_tokens": 12, "seed": seed}
            reply = caller.open_session(session_id).generate(PROMPT, **turn).read()
            assert reply.tokens == unbroken.generate(PROMPT, **turn).read().tokens
    for service in (first, second):
        service.close()


def test_a_running_turn_is_nobody_elses_until_its_service_is_dead(
    client, services, target, database
):
    first, second = (replica(services, target, database) for _ in range(2))
    addresses = [service.wait_until_ready() for service in (first, second)]
    with connected(addresses[0], 0) as one, connected(addresses[1], 0) as two:
        session = one.create_session()
        reply = session.generate(PROMPT, **LONG)
        seen = [next(reply).token for _ in range(10)]
        target.process.send_signal(signal.SIGSTOP)  # so that the turn does not end meanwhile
        try:
            with pytest.raises(outrider.UnavailableError) as held:
                two.open_session(session.id).generate("x", max_new_tokens=4).read()
            assert held.value.reason == "LEASE_HELD"
            first.kill()
        finally:
            target.process.send_signal(signal.SIGCONT)
        with pytest.raises(outrider.OutriderError):
            reply.read()
        following: list[outrider.Reply] = []

        def taken_over() -> bool:
            try:
                turn = two.open_session(session.id).generate("x", max_new_tokens=4)
                following.append(turn.read())
            except outrider.UnavailableError:
                return False
            return True

        until(taken_over)
        tokens = list(two.get_session(session.id, with_tokens=True).tokens)
    start = reply.started.start_position
    assert tokens[start : start + len(seen)] == seen
    kept = following[0].started.start_position - following[0].started.prompt_tokens - start
    expected = reply_to(client, PROMPT, draft="off", **LONG).tokens
    assert tokens[start : start + kept] == expected[:kept]
    second.close()


def test_a_database_that_is_restarted_costs_no_session(services, target, database):
    service = replica(services, target, database)
    with connected(service.wait_until_ready(), resume_ms=1000) as caller:
        session = caller.create_session()
        before = session.generate(PROMPT, max_new_tokens=8, seed=1).read()
        database.kill()
        with pytest.raises(outrider.UnavailableError):
            session.generate("x", max_new_tokens=4).read()
        database.start()

        def back() -> bool:
            try:
                session.generate("\n", max_new_tokens=4, seed=2).read()
            except outrider.UnavailableError:
                return False
            return True

        until(back)
        tokens = list(caller.get_session(session.id, with_tokens=True).tokens)
    start = before.started.start_position
    assert tokens[start : start + len(before.tokens)] == before.tokens
    service.close()
    assert "Traceback" not in service.errors


def test_turns_go_on_at_another_service_when_theirs_is_killed(client, services, target, database):
    """Twenty turns in four sessions; in each of the first ten its service dies after some tokens."""
    replicas = [replica(services, target, database) for _ in range(2)]
    for service in replicas:
        service.wait_until_ready()
    turn = {"max_new_tokens": 24, "logit_bias": {0: -100.0}}
    with connected(replicas[0].address) as one:
        ids = [one.create_session().id for _ in range(4)]
    expected = [client.create_session() for _ in ids]
    for number in range(20):
        here, there = replicas[number % 2], replicas[(number + 1) % 2]
        session_id = ids[number % 4]
        wanted = expected[number % 4].generate(PROMPT, seed=number, **turn).read().tokens
        with connected(here.address, 0) as caller:
            reply = caller.open_session(session_id).generate(
                PROMPT, seed=number, request_id=f"turn {number}", **turn
            )
            seen = [next(reply).token for _ in range(number % 7 + 1)]
            if number < 10:
                here.kill()
                here.start_again()
        with connected(there.address) as heir:
            rest = heir.open_session(session_id).attach(f"turn {number}", from_index=len(seen))
            assert seen + rest.read().tokens == wanted, number
        here.wait_until_ready()
    for service in replicas:
        service.close()


def test_the_sdk_goes_on_at_another_replica_by_itself(client, services, target, database):
    """Four sessions of five turns at once; the service that all of them are at is killed in the middle."""
    replicas = [replica(services, target, database) for _ in range(2)]
    addresses = [service.wait_until_ready() for service in replicas]
    turn = {"max_new_tokens": 40, "logit_bias": {0: -100.0}}
    wanted = [reply_to(client, PROMPT, seed=seed, **turn).tokens for seed in range(20)]
    told: dict[int, list[outrider.Event]] = {}
    enough = threading.Event()

    def talk(caller: outrider.Client, speaker: int) -> None:
        for seed in range(speaker, 20, 4):
            events = told[seed] = []
            for event in caller.create_session().generate(PROMPT, seed=seed, **turn):
                events.append(event)
                if sum(map(len, told.values())) > 300:
                    enough.set()

    calls: list[str] = []

    def called() -> dict[str, str]:
        calls.append("call")
        return {}

    with outrider.Client(
        f"ipv4:{','.join(addresses)}",
        channel_options=OWN_CONNECTION,
        resume_ms=120_000,
        metadata=called,
    ) as caller:
        speakers = [threading.Thread(target=talk, args=(caller, number)) for number in range(4)]
        for speaker in speakers:
            speaker.start()
        assert enough.wait(START_SECONDS), "the turns do not run"
        replicas[0].kill()
        for speaker in speakers:
            speaker.join()
    assert len(calls) > 20 + 20, "no turn was asked for again"
    for seed in range(20):
        assert [event.token for event in told[seed]] == wanted[seed]
        assert [event.index for event in told[seed]] == list(range(turn["max_new_tokens"]))
    replicas[1].close()
