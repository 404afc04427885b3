"""The way into a PostgreSQL ledger: reading its URL, and bringing its tables up to this version.

Owns what a user reads when a database cannot be opened. No message holds a password.
"""

from __future__ import annotations

import asyncio
from itertools import chain
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict

from outrider_server.speculation.errors import InvalidRequest, LedgerUnusable, Unavailable

from .postgres_schema import MIGRATIONS, TABLES, VERSION_TABLE

DEFAULTS: dict[str, Any] = {
    "application_name": "outrider",
    "connect_timeout": 3,
    "keepalives_idle": 10,
    "keepalives_interval": 3,
    "keepalives_count": 3,
}
MIGRATION_LOCK = 0x6F757472
"""Services that start at once migrate one after the other."""


def connection_parameters(url: str) -> dict[str, Any]:
    """What a URL asks for, and defaults for what it leaves open. Raises InvalidRequest."""
    try:
        parameters = DEFAULTS | conninfo_to_dict(url)
        return parameters | {"connect_timeout": int(parameters["connect_timeout"])}
    except (psycopg.Error, ValueError):  # whose text may be the URL, and the password in it
        raise InvalidRequest(
            "ledger",
            "the URL cannot be read; write postgresql://USER@HOST:PORT/DATABASE, with special"
            " characters of names and passwords as %XX",
        ) from None


async def migrate(parameters: dict[str, Any], timeout_seconds: float) -> None:
    """Runs the migrations that the database has not seen, all or none. Raises Unavailable, and
    LedgerUnusable, leaving the database as it is, where they are not its own or it refuses them."""
    try:
        async with asyncio.timeout(timeout_seconds + parameters["connect_timeout"]):
            async with await AsyncConnection.connect(**parameters) as connection:
                await _migrate(connection)
    except TimeoutError as error:
        raise Unavailable("the database does not answer") from error
    except psycopg.OperationalError as error:
        raise Unavailable(_without_password(error, parameters)) from error
    except psycopg.Error as error:
        raise LedgerUnusable(_without_password(error, parameters)) from error


async def _migrate(connection: AsyncConnection[Any]) -> None:
    await connection.execute("SELECT pg_advisory_xact_lock(%s)", (MIGRATION_LOCK,))
    found = await _schema_version(connection)
    for statement in chain.from_iterable(MIGRATIONS[found:]):
        await connection.execute(statement.encode())
    if found < len(MIGRATIONS):
        await connection.execute(
            f"UPDATE {VERSION_TABLE} SET version = %s".encode(), (len(MIGRATIONS),)
        )


async def _schema_version(connection: AsyncConnection[Any]) -> int:
    """The number of migrations that the database has seen. Raises LedgerUnusable when it holds
    something else, or is newer."""
    cursor = await connection.execute(
        "SELECT name FROM unnest(%s::text[]) AS name WHERE to_regclass(name) IS NOT NULL",
        (list(TABLES),),
    )
    tables = {name for (name,) in await cursor.fetchall()}
    if not tables:
        return 0
    if VERSION_TABLE not in tables:
        raise LedgerUnusable(
            f"the database has tables that are not Outrider's ({', '.join(sorted(tables))});"
            " give the ledger a database of its own"
        )
    cursor = await connection.execute(f"SELECT version FROM {VERSION_TABLE}".encode())
    row = await cursor.fetchone()
    found = int(row[0]) if row else 0
    if found > len(MIGRATIONS):
        raise LedgerUnusable(
            f"the database was written by a newer Outrider (schema {found}; this one knows"
            f" {len(MIGRATIONS)})"
        )
    missing = set(TABLES) - tables
    if found == len(MIGRATIONS) and missing:
        raise LedgerUnusable(
            f"tables of the database are gone ({', '.join(sorted(missing))}); restore a backup"
        )
    return found


def _without_password(error: psycopg.Error, parameters: dict[str, Any]) -> str:
    """The first line of what the database said."""
    line = (str(error).strip() or "the database refused").splitlines()[0]
    password = str(parameters.get("password") or "")
    return line.replace(password, "***") if password else line
