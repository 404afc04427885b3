"""The tables of the PostgreSQL ledger, as the steps that lead to them.

Step N turns schema N - 1 into schema N. A step that was once released never changes: what comes
after is a step of its own.
"""

from __future__ import annotations

from . import sql_rows as rows

VERSION_TABLE = "outrider_schema"
TABLES = (VERSION_TABLE, "sessions", "turns", "dropped_requests", "chunks")
MIGRATIONS = (
    (
        f"CREATE TABLE {VERSION_TABLE} (version integer NOT NULL)",
        f"INSERT INTO {VERSION_TABLE} VALUES (0)",
        # The ledger's only clock: all services on one database share it.
        """
        CREATE FUNCTION now_us() RETURNS bigint LANGUAGE sql VOLATILE AS
        $$ SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint $$
        """,
        """
        CREATE TABLE sessions (
            session_id text COLLATE "C" PRIMARY KEY,
            owner text COLLATE "C" NOT NULL,
            model_fingerprint text NOT NULL,
            epoch bigint NOT NULL,
            length bigint NOT NULL,
            turn_count bigint NOT NULL,
            created_us bigint NOT NULL,
            updated_us bigint NOT NULL,
            ttl_us bigint,
            expires_us bigint,
            holder text NOT NULL,
            lease_until_us bigint NOT NULL
        )
        """,
        "CREATE INDEX sessions_of_owner ON sessions (owner, created_us, session_id)",
        "CREATE INDEX sessions_that_expire ON sessions (expires_us) WHERE expires_us IS NOT NULL",
        """
        CREATE TABLE turns (
            session_id text COLLATE "C" NOT NULL REFERENCES sessions ON DELETE CASCADE,
            turn_index bigint NOT NULL,
            request_id text COLLATE "C" NOT NULL,
            start_position bigint NOT NULL,
            prompt_tokens bigint NOT NULL,
            parameters text NOT NULL,
            finish_reason text,
            is_cut integer NOT NULL,
            PRIMARY KEY (session_id, turn_index),
            UNIQUE (session_id, request_id)
        )
        """,
        # Request ids of turns that a rewind dropped.
        """
        CREATE TABLE dropped_requests (
            session_id text COLLATE "C" NOT NULL REFERENCES sessions ON DELETE CASCADE,
            request_id text COLLATE "C" NOT NULL,
            PRIMARY KEY (session_id, request_id)
        )
        """,
        # One row for each write.
        """
        CREATE TABLE chunks (
            session_id text COLLATE "C" NOT NULL REFERENCES sessions ON DELETE CASCADE,
            start_position bigint NOT NULL,
            tokens bytea NOT NULL,
            sources bytea,
            logprobs text,
            PRIMARY KEY (session_id, start_position)
        )
        """,
    ),
    (
        "ALTER TABLE turns ADD COLUMN rewound_tokens bigint NOT NULL DEFAULT 0",
        "ALTER TABLE turns ADD COLUMN chat text",
        "ALTER TABLE turns ADD COLUMN reply text",
        # A turn keeps its chunks where the prompt of a later one stands in their place.
        "ALTER TABLE chunks ADD COLUMN turn_index bigint NOT NULL DEFAULT 0",
        """
        UPDATE chunks SET turn_index =
            coalesce((SELECT max(turn_index) FROM turns WHERE turns.session_id = chunks.session_id
                AND turns.start_position <= chunks.start_position), 0)
        """,
        "ALTER TABLE chunks ALTER COLUMN turn_index DROP DEFAULT",
        "ALTER TABLE chunks DROP CONSTRAINT chunks_pkey",
        "ALTER TABLE chunks ADD PRIMARY KEY (session_id, turn_index, start_position)",
    ),
)
SCHEMA_VERSION = len(MIGRATIONS)
COLUMNS = {
    "sessions": rows.SESSION_COLUMNS,
    "turns": rows.TURN_COLUMNS,
    "dropped_requests": "session_id, request_id",
    "chunks": rows.CHUNK_COLUMNS,
}
"""What statements name, by table."""
RIGHTS = (
    *(("sessions", right) for right in ("SELECT", "INSERT", "UPDATE", "DELETE")),
    *(("turns", right) for right in ("SELECT", "INSERT", "UPDATE", "DELETE")),
    *(("dropped_requests", right) for right in ("SELECT", "INSERT")),
    *(("chunks", right) for right in ("SELECT", "INSERT", "DELETE")),
)
"""What the service's user has to be allowed, table by table."""
