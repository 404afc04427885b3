"""The tables of the SQLite ledger, as the steps that lead to them.

Step N turns schema N - 1 into schema N; a new file takes them all. A step that was once released
never changes: what comes after is a step of its own.
"""

from __future__ import annotations

MIGRATIONS = (
    (
        """
        CREATE TABLE sessions (
            session_id TEXT PRIMARY KEY,
            owner TEXT NOT NULL,
            model_fingerprint TEXT NOT NULL,
            epoch INTEGER NOT NULL,
            length INTEGER NOT NULL,
            turn_count INTEGER NOT NULL,
            created_us INTEGER NOT NULL,
            updated_us INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID
        """,
        "CREATE INDEX sessions_of_owner ON sessions (owner, created_us, session_id)",
        """
        CREATE TABLE turns (
            session_id TEXT NOT NULL REFERENCES sessions ON DELETE CASCADE,
            turn_index INTEGER NOT NULL,
            request_id TEXT NOT NULL,
            start_position INTEGER NOT NULL,
            prompt_tokens INTEGER NOT NULL,
            parameters TEXT NOT NULL,
            finish_reason TEXT,
            PRIMARY KEY (session_id, turn_index),
            UNIQUE (session_id, request_id)
        ) STRICT, WITHOUT ROWID
        """,
        # One row for each write.
        """
        CREATE TABLE chunks (
            session_id TEXT NOT NULL REFERENCES sessions ON DELETE CASCADE,
            start_position INTEGER NOT NULL,
            tokens BLOB NOT NULL,
            sources BLOB,
            logprobs TEXT,
            PRIMARY KEY (session_id, start_position)
        ) STRICT, WITHOUT ROWID
        """,
    ),
    (
        "ALTER TABLE sessions ADD COLUMN ttl_us INTEGER",
        "ALTER TABLE sessions ADD COLUMN expires_us INTEGER",
        "ALTER TABLE sessions ADD COLUMN holder TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE sessions ADD COLUMN lease_until_us INTEGER NOT NULL DEFAULT 0",
        "CREATE INDEX sessions_that_expire ON sessions (expires_us) WHERE expires_us IS NOT NULL",
        "ALTER TABLE turns ADD COLUMN is_cut INTEGER NOT NULL DEFAULT 0",
        # Request ids of turns that a rewind dropped.
        """
        CREATE TABLE dropped_requests (
            session_id TEXT NOT NULL REFERENCES sessions ON DELETE CASCADE,
            request_id TEXT NOT NULL,
            PRIMARY KEY (session_id, request_id)
        ) STRICT, WITHOUT ROWID
        """,
    ),
    (
        "ALTER TABLE turns ADD COLUMN rewound_tokens INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE turns ADD COLUMN chat TEXT",
        "ALTER TABLE turns ADD COLUMN reply TEXT",
        # A turn keeps its chunks where the prompt of a later one stands in their place.
        """
        CREATE TABLE chunks_of_turns (
            session_id TEXT NOT NULL REFERENCES sessions ON DELETE CASCADE,
            turn_index INTEGER NOT NULL,
            start_position INTEGER NOT NULL,
            tokens BLOB NOT NULL,
            sources BLOB,
            logprobs TEXT,
            PRIMARY KEY (session_id, turn_index, start_position)
        ) STRICT, WITHOUT ROWID
        """,
        """
        INSERT INTO chunks_of_turns SELECT session_id,
            coalesce((SELECT max(turn_index) FROM turns WHERE turns.session_id = chunks.session_id
                AND turns.start_position <= chunks.start_position), 0),
            start_position, tokens, sources, logprobs FROM chunks
        """,
        "DROP TABLE chunks",
        "ALTER TABLE chunks_of_turns RENAME TO chunks",
    ),
)
SCHEMA_VERSION = len(MIGRATIONS)
