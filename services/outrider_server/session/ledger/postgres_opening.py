"""The way into a PostgreSQL ledger: what the database has to be, and bringing its tables up to this version.

Owns what a user reads when a database cannot be opened. No message holds a password.
"""

from __future__ import annotations

import asyncio
from itertools import chain
from typing import Any

import psycopg
from psycopg import AsyncConnection

from outrider_server.core.errors import LedgerUnavailable, LedgerUnusable

from .postgres_faults import GONE, KNOWN, cause, check_committed, fault
from .postgres_schema import COLUMNS, MIGRATIONS, RIGHTS, TABLES, VERSION_TABLE

MIGRATION_LOCK = 0x6F757472
"""Services that start at once migrate one after the other."""
WRITE = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
LOCKED_SHARE = 0.8
"""Of the timeout: after it the server itself says that it waits for a lock."""


async def migrate(parameters: dict[str, Any], timeout_seconds: float) -> None:
    """Runs the migrations that the database has not seen, all or none. Raises LedgerUnavailable, and
    LedgerUnusable, leaving the database as it is, where they are not its own or it refuses them."""
    password = str(parameters.get("password") or "")
    options = {**parameters, "autocommit": True, "prepare_threshold": None}
    try:
        async with asyncio.timeout(timeout_seconds + parameters["connect_timeout"]):
            async with await AsyncConnection.connect(**options) as connection:
                milliseconds = max(1, int(timeout_seconds * LOCKED_SHARE * 1000))
                begin = f"{WRITE}; SET LOCAL lock_timeout = {milliseconds}"
                await connection.execute(begin.encode())
                await _migrate(connection)
                check_committed((await connection.execute("COMMIT")).statusmessage)
    except TimeoutError as error:
        raise LedgerUnavailable("the database does not answer") from error
    except psycopg.Error as error:
        known = fault(error)
        if error.sqlstate in KNOWN:
            raise known from error
        if isinstance(known, LedgerUnavailable):
            raise LedgerUnavailable(cause(error, password)) from error
        restore = "; restore a backup" if error.sqlstate in GONE else ""
        raise LedgerUnusable(cause(error, password) + restore) from error


async def _migrate(connection: AsyncConnection[Any]) -> None:
    await _check_encoding(connection)
    await connection.execute("SELECT pg_advisory_xact_lock(%s)", (MIGRATION_LOCK,))
    found = await _schema_version(connection)
    for statement in chain.from_iterable(MIGRATIONS[found:]):
        await connection.execute(statement.encode())
    if found < len(MIGRATIONS):
        await connection.execute(
            f"UPDATE {VERSION_TABLE} SET version = %s".encode(), (len(MIGRATIONS),)
        )
    await _check_schema(connection)


async def _check_encoding(connection: AsyncConnection[Any]) -> None:
    cursor = await connection.execute("SHOW server_encoding")
    row = await cursor.fetchone()
    if row is None or row[0] != "UTF8":
        raise LedgerUnusable(
            f"the database's encoding is {row[0] if row else 'unknown'}, and a ledger holds any text; make"
            " one with CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0"
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
    if found and missing:
        raise LedgerUnusable(
            f"tables of the database are gone ({', '.join(sorted(missing))}); restore a backup"
        )
    return found


async def _check_schema(connection: AsyncConnection[Any]) -> None:
    """Raises LedgerUnusable unless everything that statements name is there, and the user may use it."""
    for table, columns in COLUMNS.items():
        await connection.execute(f"SELECT {columns} FROM {table} WHERE false".encode())
    await connection.execute("SELECT now_us()")
    cursor = await connection.execute(
        "SELECT name, wanted FROM unnest(%s::text[], %s::text[]) AS needed (name, wanted)"
        " WHERE NOT has_table_privilege(name, wanted)",
        tuple(map(list, zip(*RIGHTS, strict=True))),
    )
    missing = [f"{wanted} on {name}" for name, wanted in await cursor.fetchall()]
    if missing:
        raise LedgerUnusable(
            f"the database's user lacks rights on the ledger's tables; GRANT {', '.join(missing)}"
        )
