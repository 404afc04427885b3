"""A turn as it was asked for, checked before anything is computed or written."""

from __future__ import annotations

import json
import secrets
import uuid
from dataclasses import asdict, dataclass

from outrider.v1 import session_pb2

from ..rpc.wire import sampling_from_proto
from ..speculation.errors import InvalidRequest
from ..speculation.types import MAX_LOGPROBS, DraftMode, LoopMode, SamplingParams
from .ledger import TurnRecord
from .messages import ChatInput
from .model import ServedModel
from .stops import StopStrings
from .wire import chat_from_proto

DEFAULT_MAX_NEW_TOKENS = 256
MAX_REQUEST_ID_CHARACTERS = 128

_DRAFT_MODES = {
    session_pb2.DRAFT_MODE_UNSPECIFIED: DraftMode.AUTO,
    session_pb2.DRAFT_MODE_AUTO: DraftMode.AUTO,
    session_pb2.DRAFT_MODE_MODEL: DraftMode.MODEL,
    session_pb2.DRAFT_MODE_NGRAM: DraftMode.NGRAM,
    session_pb2.DRAFT_MODE_OFF: DraftMode.OFF,
}
_LOOP_MODES = {
    session_pb2.LOOP_MODE_UNSPECIFIED: None,
    session_pb2.LOOP_MODE_RUN_AHEAD: LoopMode.RUN_AHEAD,
    session_pb2.LOOP_MODE_SYNCHRONOUS: LoopMode.SYNCHRONOUS,
    session_pb2.LOOP_MODE_ADAPTIVE: LoopMode.ADAPTIVE,
}

TurnInput = str | tuple[int, ...] | ChatInput


@dataclass(frozen=True, slots=True)
class TurnRequest:
    """One turn, with every default filled in."""

    session_id: str
    input: TurnInput
    max_new_tokens: int
    sampling: SamplingParams
    seed: int
    stop: tuple[str, ...]
    draft: DraftMode
    max_window: int | None
    logprobs: int | None
    request_id: str
    loop: LoopMode | None

    def parameters(self) -> str:
        """What the tokens depend on beside target and prompt, as JSON for the ledger."""
        sampling = asdict(self.sampling) | {"logit_bias": dict(self.sampling.logit_bias)}
        return json.dumps(
            {
                "sampling": sampling,
                "seed": self.seed,
                "stop": self.stop,
                "max_new_tokens": self.max_new_tokens,
                "logprobs": self.logprobs,
            }
        )


def recorded_request(record: TurnRecord) -> TurnRequest:
    """A turn as the ledger holds it, for going on with it; its input is committed already."""
    asked = json.loads(record.parameters)
    biases = {int(token): bias for token, bias in asked["sampling"]["logit_bias"].items()}
    return TurnRequest(
        session_id=record.session_id,
        input=(),
        max_new_tokens=asked["max_new_tokens"],
        sampling=SamplingParams(**(asked["sampling"] | {"logit_bias": biases})),
        seed=asked["seed"],
        stop=tuple(asked["stop"]),
        draft=DraftMode.AUTO,
        max_window=None,
        logprobs=asked.get("logprobs"),
        request_id=record.request_id,
        loop=None,
    )


def what_differs(asked: TurnRequest, seed_is_given: bool, recorded: TurnRecord) -> list[str]:
    """Names of the parameters in which a request is not the recorded one. A seed left open agrees."""
    wanted, held = json.loads(asked.parameters()), json.loads(recorded.parameters)
    if not seed_is_given:
        wanted.pop("seed")
    return sorted(name for name, value in wanted.items() if held.get(name) != value)


def parse_turn(message: session_pb2.GenerateRequest, model: ServedModel) -> TurnRequest:
    """Checks a request against everything but its session. Raises InvalidRequest naming the field."""
    description = model.description
    sampling = sampling_from_proto(message.sampling)
    sampling.check_vocabulary(description.vocabulary_size)
    max_new_tokens = (
        message.max_new_tokens if message.HasField("max_new_tokens") else DEFAULT_MAX_NEW_TOKENS
    )
    _require(max_new_tokens >= 1, "max_new_tokens", "max_new_tokens must be at least 1")
    stop = tuple(message.stop)
    StopStrings(stop)
    max_window = message.max_window if message.HasField("max_window") else None
    _require(
        max_window is None or 0 <= max_window < description.width,
        "max_window",
        f"max_window must be 0 to {description.width - 1}",
    )
    logprobs = message.logprobs if message.HasField("logprobs") else None
    _require(
        logprobs is None or 0 <= logprobs <= MAX_LOGPROBS,
        "logprobs",
        f"logprobs must be 0 to {MAX_LOGPROBS}",
    )
    _require(message.draft in _DRAFT_MODES, "draft", "draft must be a value of DraftMode")
    _require(message.loop in _LOOP_MODES, "loop", "loop must be a value of LoopMode")
    _require(
        len(message.request_id) <= MAX_REQUEST_ID_CHARACTERS,
        "request_id",
        f"request_id must have at most {MAX_REQUEST_ID_CHARACTERS} characters",
    )
    return TurnRequest(
        session_id=message.session_id,
        input=_parse_input(message, description.vocabulary_size),
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        seed=message.seed if message.HasField("seed") else secrets.randbits(53),
        stop=stop,
        draft=_DRAFT_MODES[message.draft],
        max_window=max_window,
        logprobs=logprobs,
        request_id=message.request_id or uuid.uuid4().hex,
        loop=_LOOP_MODES[message.loop],
    )


def _parse_input(message: session_pb2.GenerateRequest, vocabulary_size: int) -> TurnInput:
    kind = message.WhichOneof("input")
    if kind == "text":
        _require(bool(message.text), "text", "text is empty; send at least one character")
        return message.text
    if kind == "tokens":
        tokens = tuple(message.tokens.tokens)
        _require(bool(tokens), "tokens", "tokens is empty; send at least one token id")
        for token in tokens:
            _require(
                0 <= token < vocabulary_size,
                "tokens",
                f"token id {token} is outside the vocabulary of 0 to {vocabulary_size - 1}",
            )
        return tokens
    if kind == "chat":
        return chat_from_proto(message.chat)
    raise InvalidRequest("input", "the turn has no input; set text, tokens or chat")


def encode_input(turn_input: TurnInput, model: ServedModel, *, begin: bool) -> tuple[int, ...]:
    """The tokens that the input adds to a session, which `begin` says is empty.

    Raises InvalidRequest when the chat template refuses the messages, nothing is left, or a token is one
    that the model lacks.
    """
    if isinstance(turn_input, tuple):
        return turn_input
    if isinstance(turn_input, str):
        encoded = tuple(model.tokenizer.encode(turn_input, begin=begin))
        _require(bool(encoded), "text", "the tokenizer makes no token of the text; send another")
        _check_known(encoded, model, "text")
        return encoded
    rendered = model.chat.render(turn_input.messages, turn_input.context)
    encoded = tuple(model.tokenizer.encode_rendered(rendered, begin=begin))
    _require(bool(encoded), "chat", "the chat template rendered nothing; send other messages")
    _check_known(encoded, model, "chat")
    return encoded


def _check_known(tokens: tuple[int, ...], model: ServedModel, field: str) -> None:
    at = model.first_unknown(tokens)
    if at is not None:
        what = model.tokenizer.decode([tokens[at]], special=True)
        raise InvalidRequest(
            field,
            f"the tokenizer makes token id {tokens[at]} of {what!r} in the {field}, and the model has ids 0 "
            f"to {model.description.vocabulary_size - 1} only; leave it out",
        )


def _require(holds: bool, field: str, message: str) -> None:
    if not holds:
        raise InvalidRequest(field, message)
