"""A database that fails in the middle of a turn: an error in time, the right cause, and nothing lost."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import outrider
import pytest
from outrider_server.models import held_out_prompts
from postgres_server import PostgresServer, running_server

from .processes import Service, Services, connected, reply_to, until

PROMPT = held_out_prompts()[30]
LONG = {"max_new_tokens": 300, "seed": 8, "logit_bias": {0: -100.0}}
PASSWORD = "hunter2geheim"
FULL = """
CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$
"""


@contextmanager
def locked(database: PostgresServer) -> Iterator[None]:
    """Another program holds the table of sessions."""
    with database.connect() as other, other.transaction():
        other.execute("LOCK TABLE sessions IN ACCESS EXCLUSIVE MODE")
        yield


@contextmanager
def full(database: PostgresServer) -> Iterator[None]:
    """There is no room for tokens."""
    with database.connect() as other:
        other.execute(FULL)
        other.execute(
            "CREATE TRIGGER no_room BEFORE INSERT ON chunks FOR EACH ROW EXECUTE FUNCTION full_disk()"
        )
        yield
        other.execute("DROP TRIGGER no_room ON chunks")
        other.execute("DROP FUNCTION full_disk()")


@contextmanager
def renamed(database: PostgresServer) -> Iterator[None]:
    """A table is gone."""
    with database.connect() as other:
        other.execute("ALTER TABLE chunks RENAME TO elsewhere")
        yield
        other.execute("ALTER TABLE elsewhere RENAME TO chunks")


@contextmanager
def forbidden(database: PostgresServer) -> Iterator[None]:
    """The service's role may read alone."""
    with database.connect() as other:
        other.execute("REVOKE INSERT ON chunks FROM writer")
        yield
        other.execute("GRANT INSERT ON chunks TO writer")


@contextmanager
def frozen(database: PostgresServer) -> Iterator[None]:
    """It accepts, and never answers."""
    database.freeze(signal.SIGSTOP)
    try:
        yield
    finally:
        database.freeze(signal.SIGCONT)


FAULTS = {
    "locked": (locked, "LEDGER_UNAVAILABLE", "locked by another program", "lock timeout"),
    "full": (full, "LEDGER_UNAVAILABLE", "disk .* is full", "No space left"),
    "renamed": (renamed, "LEDGER_UNUSABLE", "table .* is gone", 'relation "chunks" does not exist'),
    "forbidden": (forbidden, "LEDGER_UNUSABLE", "does not allow", "permission denied"),
    "frozen": (frozen, "LEDGER_UNAVAILABLE", "does not answer", ""),
}


@pytest.fixture(scope="module")
def database(postgres: PostgresServer) -> Iterator[PostgresServer]:
    """A server that a test spoils, and a role that owns no table."""
    with running_server() as server:
        with server.connect() as connection:
            connection.execute(f"CREATE ROLE writer LOGIN PASSWORD '{PASSWORD}'".encode())
            connection.execute("GRANT CREATE ON SCHEMA public TO writer")
        yield server


def session_service(services: Services, target: Service, url: str) -> Service:
    return services.start(
        "session",
        f"--target={target.address}",
        "--draft=none",
        "--listen=127.0.0.1:0",
        f"--ledger={url}",
    )


@pytest.fixture(scope="module")
def url(database: PostgresServer, services: Services, target: Service) -> str:
    """Where the role finds tables that another made."""
    owner = session_service(services, target, database.url())
    owner.wait_until_ready()
    owner.close()
    with database.connect() as connection:
        connection.execute(
            "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO writer"
        )
    return database.url().replace("postgres@", f"writer:{PASSWORD}@", 1)


@pytest.mark.parametrize(
    ("name", "resume_ms"),
    [*((name, 0) for name in FAULTS), ("locked", 2000), ("full", 2000), ("frozen", 2000)],
)
def test_a_turn_ends_in_time_with_the_cause_and_goes_on_once_it_is_mended(
    client, services: Services, target: Service, database, url: str, name: str, resume_ms: int
) -> None:
    spoil, reason, says, logged = FAULTS[name]
    spoiled: AbstractContextManager[None] = spoil(database)
    service = session_service(services, target, url)
    with connected(service.wait_until_ready(), resume_ms=resume_ms) as caller:
        session = caller.create_session()
        reply = session.generate(PROMPT, request_id="turn", **LONG)
        for _ in range(10):
            next(reply)
        with spoiled:
            began = time.monotonic()
            with pytest.raises(outrider.OutriderError, match=says) as failed:
                reply.read()
            took = time.monotonic() - began
        print(
            f"{name}, resume_ms {resume_ms}: {failed.value.reason or 'broken'} after {took:.2f} s"
        )
        assert took < 60, "it does not wait for a deadline"
        assert failed.value.reason == reason
        assert "target" not in failed.value.message

        def back() -> outrider.Reply | None:
            try:
                attached = session.attach("turn")
                attached.read()
            except (outrider.UnavailableError, outrider.LedgerUnusableError):
                return None
            return attached

        assert until(back).tokens == reply_to(client, PROMPT, draft="off", **LONG).tokens
    service.close()
    assert logged in service.errors
    assert service.errors.count(logged) <= 1 or not logged, "each cause once"
    assert PASSWORD not in service.errors
    assert "Traceback" not in service.errors
    assert "the target at" not in service.errors
