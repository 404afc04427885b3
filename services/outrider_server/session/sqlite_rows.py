"""How the SQLite ledger writes its records down: the schema, and rows to records and back.

Owns the format of the file. Knows neither transactions nor threads.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence

from outrider_server.speculation.types import FinishReason, TokenLogprobs, TokenSource

from .ledger import LedgerToken, SessionRecord, TurnRecord

SCHEMA_VERSION = 1
SCHEMA = (
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
    # One row for each write: token ids as little-endian uint32. Generated tokens have the source of
    # each as one byte, and their logprobs as JSON where these were asked for.
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
)
SESSION_COLUMNS = (
    "session_id, owner, model_fingerprint, epoch, length, turn_count, created_us, updated_us"
)
TURN_COLUMNS = (
    "session_id, turn_index, request_id, start_position, prompt_tokens, parameters, finish_reason"
)
SOURCE_BYTES = {TokenSource.DRAFT: 1, TokenSource.NGRAM: 2, TokenSource.TARGET: 3}
BYTE_SOURCES = {byte: source for source, byte in SOURCE_BYTES.items()}

SessionRow = tuple[str, str, str, int, int, int, int, int]
TurnRow = tuple[str, int, str, int, int, str, str | None]
ChunkRow = tuple[bytes, bytes, str | None]


def session_row(record: SessionRecord) -> SessionRow:
    """The values of SESSION_COLUMNS."""
    return (
        record.session_id,
        record.owner,
        record.model_fingerprint,
        record.epoch,
        record.length,
        record.turn_count,
        record.created_us,
        record.updated_us,
    )


def session_record(row: SessionRow) -> SessionRecord:
    """A session from its SESSION_COLUMNS."""
    return SessionRecord(
        session_id=row[0],
        owner=row[1],
        model_fingerprint=row[2],
        epoch=row[3],
        length=row[4],
        turn_count=row[5],
        created_us=row[6],
        updated_us=row[7],
    )


def turn_row(record: TurnRecord) -> TurnRow:
    """The values of TURN_COLUMNS."""
    return (
        record.session_id,
        record.turn_index,
        record.request_id,
        record.start_position,
        record.prompt_tokens,
        record.parameters,
        record.finish_reason.value if record.finish_reason else None,
    )


def turn_record(row: TurnRow) -> TurnRecord:
    """A turn from its TURN_COLUMNS."""
    return TurnRecord(
        session_id=row[0],
        turn_index=row[1],
        request_id=row[2],
        start_position=row[3],
        prompt_tokens=row[4],
        parameters=row[5],
        finish_reason=FinishReason(row[6]) if row[6] else None,
    )


def pack(tokens: Sequence[int]) -> bytes:
    """Token ids as little-endian uint32."""
    return struct.pack(f"<{len(tokens)}I", *tokens)


def unpack(packed: bytes) -> tuple[int, ...]:
    """Token ids from little-endian uint32."""
    return struct.unpack(f"<{len(packed) // 4}I", packed)


def chunk_row(tokens: Sequence[LedgerToken]) -> ChunkRow:
    """Generated tokens as (tokens, sources, logprobs)."""
    logprobs = None
    if any(token.logprobs for token in tokens):
        logprobs = json.dumps(
            [token.logprobs and (token.logprobs.logprob, token.logprobs.top) for token in tokens]
        )
    sources = bytes(SOURCE_BYTES[token.source] for token in tokens)
    return pack([token.token for token in tokens]), sources, logprobs


def chunk_tokens(row: ChunkRow) -> Iterator[LedgerToken]:
    """Generated tokens from (tokens, sources, logprobs)."""
    tokens = unpack(row[0])
    logprobs = json.loads(row[2]) if row[2] else [None] * len(tokens)
    for token, source, entry in zip(tokens, row[1], logprobs, strict=True):
        yield LedgerToken(token, BYTE_SOURCES[source], entry and _token_logprobs(*entry))


def _token_logprobs(logprob: float, top: list[tuple[int, float]]) -> TokenLogprobs:
    return TokenLogprobs(logprob, tuple((token, value) for token, value in top))
