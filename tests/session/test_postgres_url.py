"""URLs of PostgreSQL ledgers: read as libpq reads them, or refused; no piece of a password is shown."""

from __future__ import annotations

import pytest
from outrider_server.config import is_database
from outrider_server.core.errors import InvalidRequest, StartupError
from outrider_server.session.ledger.postgres_url import connection_parameters, shown

SECRET = "geheim"


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://ada:{SECRET}/x@host/db",
        f"postgresql://ada:12/{SECRET}@host/db",
        f"postgresql://ada:x@{SECRET}@host/db",
        f"postgresql://ada:x?{SECRET}@host/db",
        f"postgresql://ada:x#{SECRET}@host/db",
        f"postgresql://host/db?password=x@{SECRET}",
        f"postgresql://ada:x%{SECRET}@host/db",
        f"postgresql://ada:{SECRET}@[::1/db",
        f"postgresql://ada:{SECRET}\udcff@host/db",
        f"postgresql://ada:{SECRET}/db",
        f"postgresql://ada:{SECRET}",
        f"postgresql://ada:5432:{SECRET}/db",
        f"postgresql://ada:x@host:1,ada:{SECRET}/db",
        f"postgresql://ada:x@host:{SECRET}/db",
        "postgresql://ada@host:0/db",
        "postgresql://ada@host:65536/db",
    ],
)
def test_a_special_character_that_is_not_escaped_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(InvalidRequest, match="%XX") as refused:
        connection_parameters(url)
    assert SECRET not in str(refused.value)
    assert shown(url) == "in PostgreSQL"


@pytest.mark.parametrize(
    ("url", "password", "place"),
    [
        ("postgresql://ada:a%40b%2Fc%3Fd%23e@host/db", "a@b/c?d#e", "postgresql://host/db"),
        ("postgresql://ada:a:b@host:5433/db", "a:b", "postgresql://host:5433/db"),
        ("postgres://host/db?password=geheim&user=ada", "geheim", "postgresql://host/db"),
        ("postgresql://ada@one:1,two:2/db", None, "postgresql://one:1,two:2/db"),
        ("postgresql://ada@one,two/db", None, "postgresql://one,two/db"),
        ("postgresql://ada@/db?host=/tmp/x", None, "postgresql:///tmp/x/db"),
        ("postgresql://[::1]:5433/db?sslmode=require", None, "postgresql://::1:5433/db"),
        ("postgresql://host/db?ssl=true", None, "postgresql://host/db"),
    ],
)
def test_what_libpq_reads_is_read(url: str, password: str | None, place: str) -> None:
    parameters = connection_parameters(url)
    assert parameters.get("password") == password
    assert parameters["client_encoding"] == "UTF8"
    assert parameters["connect_timeout"] == 3
    assert shown(url) == place


def test_a_parameter_that_is_misspelt_is_named_and_its_value_is_not() -> None:
    with pytest.raises(InvalidRequest, match="no parameter 'sslmod'") as refused:
        connection_parameters(f"postgresql://host/db?sslmod={SECRET}")
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("value", ["soon", "1.5", "-3"])
def test_a_time_to_connect_that_is_no_number_is_told(value: str) -> None:
    with pytest.raises(InvalidRequest, match="connect_timeout must be a whole number"):
        connection_parameters(f"postgresql://host/db?connect_timeout={value}")


@pytest.mark.parametrize(
    "place",
    [
        f"host=127.0.0.1 port=9 user=bob password={SECRET}",
        f" password = {SECRET}",
        f"postgresql:/bob:{SECRET}@host/db",
        f"postgres:{SECRET}",
        f"{SECRET}:x@y://host",
    ],
)
def test_what_is_no_url_and_no_path_is_refused_and_not_shown(place: str) -> None:
    with pytest.raises(StartupError, match="postgresql://") as refused:
        is_database(place)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("place", ["./host=1", "ledger.db", "a b=c.db", "postgresql/ledger.db"])
def test_paths_are_paths(place: str) -> None:
    assert is_database(place) is False
