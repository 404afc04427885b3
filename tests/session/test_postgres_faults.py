"""The log of a PostgreSQL ledger: what the database said, each cause once a minute, and no password."""

from __future__ import annotations

import logging

import psycopg
import pytest
from outrider_server.core.errors import LedgerUnavailable, LedgerUnusable
from outrider_server.session.ledger.postgres_faults import TOLD_SECONDS, Faults
from psycopg_pool import PoolTimeout

FULL = psycopg.errors.lookup("53100")("could not extend file\nHINT: free some space")
GONE = psycopg.errors.lookup("42P01")('relation "chunks" does not exist')


def test_each_cause_is_logged_once_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    faults = Faults("", clock=lambda: now)
    for _ in range(100):
        for error, kind in ((FULL, LedgerUnavailable), (GONE, LedgerUnusable)):
            with pytest.raises(kind), faults.translated():
                raise error
    said = [record.message for record in caplog.records]
    assert said == [
        "the ledger's database: could not extend file (SQLSTATE 53100)",
        'the ledger\'s database: relation "chunks" does not exist (SQLSTATE 42P01)',
    ]
    now = TOLD_SECONDS
    faults.tell(FULL)
    assert len(caplog.records) == 3
    assert all(record.levelno == logging.WARNING for record in caplog.records)


def test_no_line_holds_the_password(caplog: pytest.LogCaptureFixture) -> None:
    Faults("swordfish").tell(psycopg.OperationalError("no entry for swordfish at host"))
    assert caplog.messages == ["the ledger's database: no entry for *** at host"]


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            'connection failed: FATAL:  role "app" is not permitted to log in',
            "lets this service in no more",
        ),
        ('FATAL:  password authentication failed for user "pw"', "lets this service in no more"),
        ("connection to server failed: session is read-only", "is a standby"),
        ("connection failed: Connection refused", "cannot be reached"),
    ],
)
def test_who_waited_in_vain_hears_whether_the_database_answers(said: str, told: str) -> None:
    faults = Faults("")
    faults.not_connected(psycopg.OperationalError(said))
    with pytest.raises(LedgerUnavailable, match=told) as failed, faults.translated():
        raise PoolTimeout("couldn't get a connection after 5.00 sec")
    assert failed.value.is_away
    faults.connected()
    with pytest.raises(LedgerUnavailable, match="cannot be reached"), faults.translated():
        raise PoolTimeout("couldn't get a connection after 5.00 sec")


def test_who_waited_for_a_connection_in_vain_says_nothing_new(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(LedgerUnavailable, match="cannot be reached"), Faults("").translated():
        raise PoolTimeout("couldn't get a connection after 5.00 sec")
    assert not caplog.records
