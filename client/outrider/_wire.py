"""Answers of the service to the values that users hold.

The only place, beside `_request.py` for the other direction, that knows the fields of messages.
"""

from __future__ import annotations

from datetime import UTC

from outrider.types import (
    AuditedShape,
    Description,
    Event,
    FinishReason,
    Logprob,
    ModelDescription,
    SessionInfo,
    ShapeAudit,
    Started,
    Summary,
    TokenSource,
)
from outrider.v1 import session_pb2, types_pb2

TurnMessage = Started | Event | Summary

_FINISH_REASONS = {
    session_pb2.FINISH_REASON_END_TOKEN: FinishReason.END_TOKEN,
    session_pb2.FINISH_REASON_STOP_STRING: FinishReason.STOP_STRING,
    session_pb2.FINISH_REASON_LENGTH: FinishReason.LENGTH,
    session_pb2.FINISH_REASON_CANCELLED: FinishReason.CANCELLED,
    session_pb2.FINISH_REASON_FAILED: FinishReason.FAILED,
}

_SOURCES = {
    session_pb2.TOKEN_SOURCE_DRAFT: TokenSource.DRAFT,
    session_pb2.TOKEN_SOURCE_NGRAM: TokenSource.NGRAM,
    session_pb2.TOKEN_SOURCE_TARGET: TokenSource.TARGET,
}


def turn_messages(message: session_pb2.GenerateEvent) -> list[TurnMessage]:
    """What a message of a turn's stream holds, in order; nothing for a kind newer than this SDK."""
    kind = message.WhichOneof("event")
    if kind == "tokens":
        return [_event(token) for token in message.tokens.events]
    if kind == "started":
        return [_started(message.started)]
    if kind == "summary":
        return [_summary(message.summary)]
    return []


def _started(started: session_pb2.TurnStarted) -> Started:
    return Started(
        request_id=started.request_id,
        prompt_tokens=started.prompt_tokens,
        start_position=started.start_position,
        seed=started.seed,
        kept_tokens=started.kept_tokens,
        rewound_tokens=started.rewound_tokens,
    )


def _event(token: session_pb2.TokenEvent) -> Event:
    asked = token.HasField("logprobs")
    return Event(
        index=token.index,
        token=token.token,
        text=token.text,
        source=_SOURCES.get(token.source, TokenSource.UNKNOWN),
        logprob=token.logprobs.logprob if asked else None,
        top_logprobs=tuple(Logprob(top.token, top.logprob) for top in token.logprobs.top)
        if asked
        else (),
    )


def _summary(summary: session_pb2.TurnSummary) -> Summary:
    return Summary(
        finish_reason=_FINISH_REASONS.get(summary.finish_reason, FinishReason.UNKNOWN),
        seed=summary.seed,
        rounds=summary.rounds,
        proposed=summary.proposed,
        accepted=summary.accepted,
        tokens=summary.tokens,
        prompt_tokens=summary.prompt_tokens,
        prefilled_tokens=summary.prefilled_tokens,
        ttft_ms=summary.ttft_ms,
        duration_ms=summary.duration_ms,
        degraded=summary.degraded,
        degraded_reason=summary.degraded_reason,
        position=summary.position,
        target_ms=summary.target_ms,
        verify_ms=summary.verify_ms,
        draft_ms=summary.draft_ms,
        guessed=summary.guessed,
        draft_wait_ms=summary.draft_wait_ms,
        kept_tokens=summary.kept_tokens,
        rewound_tokens=summary.rewound_tokens,
    )


def session_info(
    session: session_pb2.Session,
    tokens: tuple[int, ...] | None = None,
    text: str | None = None,
) -> SessionInfo:
    """A session, with its tokens and text where the caller asked for them."""
    return SessionInfo(
        id=session.session_id,
        position=session.position,
        turn_count=session.turn_count,
        turn_running=session.turn_running,
        model_fingerprint=session.model_fingerprint,
        create_time=session.create_time.ToDatetime(UTC),
        update_time=session.update_time.ToDatetime(UTC),
        tokens=tokens,
        text=text,
        ttl_seconds=session.ttl.seconds,
        expire_time=session.expire_time.ToDatetime(UTC)
        if session.HasField("expire_time")
        else None,
    )


def description(answer: session_pb2.DescribeResponse) -> Description:
    """What the service consists of."""
    return Description(
        target=_model(answer.target),
        draft=_model(answer.draft) if answer.HasField("draft") else None,
        draft_note=answer.draft_note,
        max_window=answer.max_window,
        version=answer.version,
        sampling_defaults=_sampling(answer.sampling_defaults),
        target_note=answer.target_note,
    )


def _model(model: types_pb2.ModelDescription) -> ModelDescription:
    return ModelDescription(
        name=model.name,
        architecture=model.architecture,
        model_fingerprint=model.model_fingerprint,
        vocabulary_fingerprint=model.vocabulary_fingerprint,
        vocabulary_size=model.vocabulary_size,
        end_token_ids=tuple(model.end_token_ids),
        max_context_tokens=model.max_context_tokens,
        width=model.width,
        slots=model.slots,
        parameter_count=model.parameter_count,
        dtype=model.dtype,
        device=model.device,
        quantization=model.quantization,
        compiled=model.compiled,
        compile_note=model.compile_note,
        kernel_note=model.kernel_note,
        attention=model.attention,
        attention_note=model.attention_note,
        shape_audit=_audit(model.shape_audit),
        tokenizer_size=model.tokenizer_size or model.vocabulary_size,
        output_rows=model.output_rows or model.vocabulary_size,
        generation_defaults=_sampling(model.generation_defaults),
        ranks=max(1, model.ranks),
        arithmetic=model.arithmetic,
        known_tokens=model.known_tokens,
    )


def _sampling(params: types_pb2.SamplingParams) -> dict[str, float]:
    """The parameters that are set, by name."""
    return {field.name: value for field, value in params.ListFields() if field.name != "logit_bias"}


def _audit(audit: types_pb2.ShapeAudit) -> ShapeAudit:
    return ShapeAudit(
        all_interchangeable=audit.all_interchangeable,
        reproducible=audit.reproducible,
        shapes=tuple(
            AuditedShape(
                rows=shape.rows,
                width=shape.width,
                variation=shape.variation,
                identical=shape.identical,
                max_difference=shape.max_difference,
                in_use=shape.in_use,
            )
            for shape in audit.shapes
        ),
        row_buckets=tuple(audit.row_buckets),
    )
