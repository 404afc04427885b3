"""What a user holds: the plain, frozen values that calls take and give.

Nothing here knows gRPC or protobuf; `_wire.py` makes these values from messages and back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

DraftMode = Literal["auto", "model", "ngram", "off"]
LoopMode = Literal["run_ahead", "synchronous", "adaptive"]


class FinishReason(StrEnum):
    """Why a turn ended."""

    END_TOKEN = "end_token"
    STOP_STRING = "stop_string"
    LENGTH = "length"
    CANCELLED = "cancelled"
    FAILED = "failed"
    UNKNOWN = "unknown"  # not recorded, or newer than this SDK


class TokenSource(StrEnum):
    """Who wrote a token first. The target agreed with every one of them."""

    DRAFT = "draft"
    NGRAM = "ngram"
    TARGET = "target"
    UNKNOWN = "unknown"  # newer than this SDK


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool, which the assistant made.

    `arguments` is an object, or text for the chat templates that write it as it is.
    """

    name: str
    arguments: Mapping[str, Any] | str
    id: str = ""


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message of a chat.

    `role` is "system", "developer", "user", "assistant" or "tool". `content` is text, or parts of
    the form {"type": "text", "text": ...}. What an assistant thought and which tools it called
    belong to "assistant", `tool_call_id` to "tool".
    """

    role: str
    content: str | Sequence[Mapping[str, str]] = ""
    reasoning_content: str | None = None
    name: str = ""
    tool_calls: Sequence[ToolCall] = ()
    tool_call_id: str = ""


Input = str | Sequence[int] | Sequence[ChatMessage | Mapping[str, Any]]
"""What a turn adds to a session: text, token ids, or chat messages.

A mapping has the fields of `ChatMessage`; its tool calls have the usual form
{"id": ..., "type": "function", "function": {"name": ..., "arguments": ...}}.
"""


@dataclass(frozen=True, slots=True)
class Logprob:
    """A token id and the natural logarithm of its probability at temperature 1."""

    token: int
    logprob: float


@dataclass(frozen=True, slots=True)
class Started:
    """A turn was accepted and its input committed.

    The session kept `kept_tokens`, `prompt_tokens` of input follow them, and the reply begins at
    `start_position`. `rewound_tokens` that the session held made room for the input: a chat template
    may render a conversation otherwise than before, for example without what an earlier reply thought.
    """

    request_id: str
    prompt_tokens: int
    start_position: int
    seed: int
    kept_tokens: int = 0
    rewound_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Event:
    """One committed token.

    `index` counts from 0 within the turn. `text` holds whole characters only: it may be empty, and
    a later event then brings the rest. `logprob` is None and `top_logprobs` empty unless asked for.
    """

    index: int
    token: int
    text: str
    source: TokenSource
    logprob: float | None = None
    top_logprobs: tuple[Logprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Summary:
    """What a turn came to.

    `rounds` counts verify steps, `proposed` the draft tokens in them, `accepted` those that the
    target agreed with. `prefilled_tokens` had to be read anew. Times count from the request's
    arrival at the service. `degraded` says that the draft model was wanted and missing, and
    `degraded_reason` why. `position` is the length of the session after the turn. `kept_tokens` and
    `rewound_tokens` are those of `Started`.
    """

    finish_reason: FinishReason
    seed: int
    rounds: int
    proposed: int
    accepted: int
    tokens: int
    prompt_tokens: int
    prefilled_tokens: int
    ttft_ms: float
    duration_ms: float
    degraded: bool
    degraded_reason: str
    position: int
    target_ms: float
    verify_ms: float
    draft_ms: float
    guessed: int
    draft_wait_ms: float
    kept_tokens: int = 0
    rewound_tokens: int = 0

    @property
    def tokens_per_round(self) -> float:
        """Tokens that a verify step brought on average; 0.0 without a step."""
        return self.tokens / self.rounds if self.rounds else 0.0

    @property
    def agreement(self) -> float:
        """The share of proposed tokens that were accepted, 0 to 1; 0.0 where none were proposed."""
        return self.accepted / self.proposed if self.proposed else 0.0


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """A session as the service describes it.

    `position` is its number of committed tokens. `tokens` and `text` are None unless asked for.
    `ttl_seconds` is how long it lives after its last write, 0 for ever; `expire_time` when it expires
    unless it is written to before, None never.
    """

    id: str
    position: int
    turn_count: int
    turn_running: bool
    model_fingerprint: str
    create_time: datetime
    update_time: datetime
    tokens: tuple[int, ...] | None = None
    text: str | None = None
    ttl_seconds: int = 0
    expire_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class AuditedShape:
    """One shape of a step, and whether its logits equal the reference bit for bit."""

    rows: int
    width: int
    variation: str
    identical: bool
    max_difference: float
    in_use: bool


@dataclass(frozen=True, slots=True)
class ShapeAudit:
    """Which shapes of a step give the same bits for the same tokens.

    Verify steps run with `row_buckets` rows; empty where an older service does not say.
    """

    all_interchangeable: bool
    reproducible: bool
    shapes: tuple[AuditedShape, ...]
    row_buckets: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """What a service says about its model.

    A round proposes at most `width - 1` tokens. `compile_note` says why the steps run eagerly,
    `kernel_note` why they run on torch's kernels instead of the engine's own. `quantization` is empty
    where the weights are not quantized. `attention` names the attention kernel, and `attention_note` says
    why it runs: it was asked for, or what was measured.
    `ranks` processes share the model. `vocabulary_size` ids can be sent and drawn: those that the tokenizer
    (`tokenizer_size`) and the model's output (`output_rows`) both have. A draft with a vocabulary of its own
    knows `known_tokens` of them and draws no other; 0 means all. `generation_defaults` are the
    sampling parameters that its `generation_config.json` names. `arithmetic` says how logits are computed:
    where it differs, the same weights may decide other tokens.
    """

    name: str
    architecture: str
    model_fingerprint: str
    vocabulary_fingerprint: str
    vocabulary_size: int
    end_token_ids: tuple[int, ...]
    max_context_tokens: int
    width: int
    slots: int
    parameter_count: int
    dtype: str
    device: str
    quantization: str
    compiled: bool
    compile_note: str
    kernel_note: str
    attention: str
    attention_note: str
    shape_audit: ShapeAudit
    tokenizer_size: int
    output_rows: int
    generation_defaults: Mapping[str, float]
    ranks: int = 1
    arithmetic: str = ""
    known_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Description:
    """What a service consists of. `draft` is None where there is none; `draft_note` says why.

    `target_note` says which targets serve something else than when the service started.

    `sampling_defaults` are what a request gets for the parameters that it does not name.
    """

    target: ModelDescription
    draft: ModelDescription | None
    draft_note: str
    max_window: int
    version: str
    sampling_defaults: Mapping[str, float]
    target_note: str = ""
