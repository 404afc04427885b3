"""How a SQL store writes the ledger's records down: rows to records and back.

Owns the format of the columns, which is the same in every store: token ids as little-endian uint32;
of generated tokens the source of each as one byte, and their logprobs as JSON where these were
asked for. Knows neither statements nor transactions.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence

from outrider_server.core.types import FinishReason, TokenLogprobs, TokenSource

from .ledger import LedgerToken, SessionRecord, TurnRecord

SESSION_COLUMNS = (
    "session_id, owner, model_fingerprint, epoch, length, turn_count, created_us, updated_us,"
    " ttl_us, expires_us, holder, lease_until_us"
)
SESSION_READ = f"{SESSION_COLUMNS}, now_us()"
"""What a record is read from: whether its lease runs is for the store's clock to say."""
TURN_COLUMNS = (
    "session_id, turn_index, request_id, start_position, prompt_tokens, parameters, finish_reason,"
    " is_cut, rewound_tokens, chat, reply"
)
CHUNK_COLUMNS = "session_id, turn_index, start_position, tokens, sources, logprobs"
SECOND_US = 1_000_000
SOURCE_BYTES = {TokenSource.DRAFT: 1, TokenSource.NGRAM: 2, TokenSource.TARGET: 3}
BYTE_SOURCES = {byte: source for source, byte in SOURCE_BYTES.items()}

SessionRow = tuple[str, str, str, int, int, int, int, int, int | None, int | None, str, int]
SessionReadRow = tuple[*SessionRow, int]
TurnRow = tuple[str, int, str, int, int, str, str | None, int, int, str | None, str | None]
Chunk = tuple[bytes, bytes | None, str | None]
"""Tokens of one write, their sources and their logprobs; a prompt has tokens alone."""


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
        record.ttl_seconds * SECOND_US or None,
        record.expires_us,
        record.holder,
        record.lease_until_us,
    )


def session_record(row: SessionReadRow) -> SessionRecord:
    """A session from its SESSION_READ."""
    return SessionRecord(
        session_id=row[0],
        owner=row[1],
        model_fingerprint=row[2],
        epoch=row[3],
        length=row[4],
        turn_count=row[5],
        created_us=row[6],
        updated_us=row[7],
        ttl_seconds=(row[8] or 0) // SECOND_US,
        expires_us=row[9],
        holder=row[10],
        lease_until_us=row[11],
        is_held=row[11] > row[12],
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
        int(record.is_cut),
        record.rewound_tokens,
        record.chat,
        record.reply,
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
        is_cut=bool(row[7]),
        rewound_tokens=row[8],
        chat=row[9],
        reply=row[10],
    )


def pack(tokens: Sequence[int]) -> bytes:
    """Token ids as little-endian uint32."""
    return struct.pack(f"<{len(tokens)}I", *tokens)


def unpack(packed: bytes) -> tuple[int, ...]:
    """Token ids from little-endian uint32."""
    return struct.unpack(f"<{len(packed) // 4}I", packed)


def generated_chunk(tokens: Sequence[LedgerToken]) -> Chunk:
    """Generated tokens as a chunk."""
    logprobs = None
    if any(token.logprobs for token in tokens):
        logprobs = json.dumps(
            [token.logprobs and (token.logprobs.logprob, token.logprobs.top) for token in tokens]
        )
    sources = bytes(SOURCE_BYTES[token.source] for token in tokens)
    return pack([token.token for token in tokens]), sources, logprobs


def cut_chunk(chunk: Chunk, count: int) -> Chunk:
    """The first `count` tokens of a chunk."""
    tokens, sources, logprobs = chunk
    kept = json.dumps(json.loads(logprobs)[:count]) if logprobs else None
    return tokens[: 4 * count], sources and sources[:count], kept


def chunk_tokens(chunk: Chunk) -> Iterator[LedgerToken]:
    """The tokens of a chunk that were generated."""
    tokens, sources, packed_logprobs = chunk
    ids = unpack(tokens)
    logprobs = json.loads(packed_logprobs) if packed_logprobs else [None] * len(ids)
    for token, source, entry in zip(ids, sources or b"", logprobs, strict=True):
        yield LedgerToken(token, BYTE_SOURCES[source], entry and _token_logprobs(*entry))


def _token_logprobs(logprob: float, top: list[tuple[int, float]]) -> TokenLogprobs:
    return TokenLogprobs(logprob, tuple((token, value) for token, value in top))
