"""Proto messages to domain types and back; proto objects of draft and target stop here.

Field ranges are the domain types' own business: what is out of range raises InvalidRequest there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from outrider.v1 import target_pb2, types_pb2

from ..core.description import ModelDescription, ShapeAudit, ShapeFinding, TokenizerFiles
from ..core.errors import InvalidRequest
from ..core.types import MAX_LOGIT_BIAS, NEUTRAL, Draw, SamplingParams, Step, TokenLogprobs, Verdict


def sampling_from_proto(
    message: types_pb2.SamplingParams, defaults: SamplingParams = NEUTRAL
) -> SamplingParams:
    """Absent fields take their defaults. Raises InvalidRequest."""
    if len(message.logit_bias) > MAX_LOGIT_BIAS:  # before all of them are read
        raise InvalidRequest(
            "sampling.logit_bias", f"logit_bias must have at most {MAX_LOGIT_BIAS} entries"
        )
    return replace(defaults, **_present(message), logit_bias=dict(message.logit_bias))


def _present(message: types_pb2.SamplingParams) -> dict[str, Any]:
    """The parameters that a message names, but for the bias."""
    return {
        field.name: value for field, value in message.ListFields() if field.name != "logit_bias"
    }


def sampling_to_proto(sampling: SamplingParams) -> types_pb2.SamplingParams:
    """Every field is set."""
    return types_pb2.SamplingParams(
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        frequency_penalty=sampling.frequency_penalty,
        presence_penalty=sampling.presence_penalty,
        logit_bias=sampling.logit_bias,
    )


def draw_from_open(message: target_pb2.VerifyOpen) -> Draw:
    """The draw of a turn on the target. Raises InvalidRequest."""
    return Draw(
        sampling_from_proto(message.sampling),
        message.seed,
        message.generated_from,
        message.logprobs if message.HasField("logprobs") else None,
        withheld=tuple(message.withheld_token_ids),
        min_new_tokens=message.min_new_tokens,
    )


def step_from_proto(message: target_pb2.VerifyStep) -> Step:
    """A step, unchecked: the engine checks it against the slot."""
    return Step(
        message.start_position,
        tuple(message.context_tokens),
        tuple(message.proposed_tokens),
        tuple(message.survival),
    )


def step_to_proto(step: Step) -> target_pb2.VerifyStep:
    """A step."""
    return target_pb2.VerifyStep(
        start_position=step.start_position,
        context_tokens=step.context_tokens,
        proposed_tokens=step.proposed_tokens,
        survival=step.survival,
    )


def logprobs_from_proto(message: target_pb2.TokenLogprobs) -> TokenLogprobs:
    """Logprobs of one token."""
    return TokenLogprobs(
        message.logprob, tuple((entry.token, entry.logprob) for entry in message.top)
    )


def logprobs_to_proto(logprobs: TokenLogprobs) -> target_pb2.TokenLogprobs:
    """Logprobs of one token."""
    top = [target_pb2.TopLogprob(token=token, logprob=value) for token, value in logprobs.top]
    return target_pb2.TokenLogprobs(logprob=logprobs.logprob, top=top)


def verdict_from_proto(message: target_pb2.Verdict) -> Verdict:
    """A verdict, unchecked: `Verdict.check` compares it with its step."""
    return Verdict(
        message.start_position,
        message.agreed,
        tuple(message.tokens),
        tuple(logprobs_from_proto(entry) for entry in message.logprobs),
        message.verified if message.HasField("verified") else None,
        message.step_us / 1000,
        message.prefill_us / 1000,
    )


def verdict_to_proto(
    verdict: Verdict, seconds: float, prefill_seconds: float
) -> target_pb2.Verdict:
    """A verdict and what its step cost."""
    return target_pb2.Verdict(
        start_position=verdict.start_position,
        agreed=verdict.agreed,
        tokens=verdict.tokens,
        logprobs=[logprobs_to_proto(entry) for entry in verdict.logprobs],
        step_us=round(seconds * 1e6),
        verified=verdict.verified,
        prefill_us=round(prefill_seconds * 1e6),
    )


_SAME_NAME = (
    "name",
    "architecture",
    "model_fingerprint",
    "vocabulary_fingerprint",
    "vocabulary_size",
    "tokenizer_size",
    "output_rows",
    "known_tokens",
    "max_context_tokens",
    "width",
    "slots",
    "parameter_count",
    "dtype",
    "device",
    "quantization",
    "compiled",
    "compile_note",
    "kernel_note",
    "attention",
    "attention_note",
    "arithmetic",
)


def description_to_proto(description: ModelDescription) -> types_pb2.ModelDescription:
    """A model's description."""
    audit = description.shape_audit
    defaults: Mapping[str, Any] = description.generation_defaults
    shapes = [
        types_pb2.AuditedShape(
            rows=finding.rows,
            width=finding.width,
            variation=finding.variation,
            identical=finding.identical,
            max_difference=finding.max_difference,
            in_use=finding.in_use,
        )
        for finding in audit.findings
    ]
    return types_pb2.ModelDescription(
        **{name: getattr(description, name) for name in _SAME_NAME},
        end_token_ids=description.end_token_ids,
        ranks=description.ranks,
        generation_defaults=types_pb2.SamplingParams(**defaults),
        shape_audit=types_pb2.ShapeAudit(
            all_interchangeable=audit.all_interchangeable,
            reproducible=audit.reproducible,
            shapes=shapes,
            row_buckets=audit.row_buckets,
        ),
    )


def description_from_proto(message: types_pb2.ModelDescription) -> ModelDescription:
    """A model's description."""
    audit = message.shape_audit
    findings = tuple(
        ShapeFinding(
            shape.rows,
            shape.width,
            shape.variation,
            shape.identical,
            shape.max_difference,
            shape.in_use,
        )
        for shape in audit.shapes
    )
    return ModelDescription(
        **{name: getattr(message, name) for name in _SAME_NAME},
        end_token_ids=tuple(message.end_token_ids),
        shape_audit=ShapeAudit(audit.reproducible, tuple(audit.row_buckets), findings),
        generation_defaults=_present(message.generation_defaults),
        ranks=max(1, message.ranks),
    )


def tokenizer_to_proto(files: TokenizerFiles) -> types_pb2.TokenizerFiles:
    """The tokenizer files."""
    return types_pb2.TokenizerFiles(
        tokenizer_json=files.tokenizer_json,
        chat_template=files.chat_template,
        begin_token=files.begin_token,
        end_token=files.end_token,
        pad_token=files.pad_token,
        unknown_token=files.unknown_token,
        tool_chat_template=files.tool_chat_template,
    )


def tokenizer_from_proto(message: types_pb2.TokenizerFiles) -> TokenizerFiles:
    """The tokenizer files."""
    return TokenizerFiles(
        message.tokenizer_json,
        message.chat_template,
        message.begin_token,
        message.end_token,
        message.pad_token,
        message.unknown_token,
        message.tool_chat_template,
    )
