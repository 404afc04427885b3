"""A turn as it was asked for, checked before anything is computed or written."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from random import Random

from outrider.v1 import session_pb2

from ..core.description import ModelDescription
from ..core.errors import InvalidRequest
from ..core.types import MAX_LOGPROBS, DraftMode, Draw, LoopMode, SamplingParams
from ..rpc.wire import sampling_from_proto
from .ledger.ledger import TurnRecord
from .text.encoded_input import TextInput
from .text.messages import ChatInput
from .text.model import ServedModel
from .text.stops import MAX_STOPS, StopStrings
from .wire import chat_from_proto, json_size

DEFAULT_MAX_NEW_TOKENS = 256
MAX_REQUEST_ID_CHARACTERS = 128
MAX_STOP_TOKENS = 1024

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


TurnInput = TextInput | tuple[int, ...] | ChatInput


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
    stop_token_ids: tuple[int, ...] = ()
    ignore_end_tokens: bool = False
    min_new_tokens: int = 0
    size: int = 0
    """About how many characters have yet to be made tokens."""

    def end_tokens(self, of_model: Sequence[int]) -> tuple[int, ...]:
        """The tokens that end the turn, where the model has these."""
        ends = () if self.ignore_end_tokens else of_model
        return tuple(sorted({*ends, *self.stop_token_ids}))

    def draw(self, generated_from: int, of_model: Sequence[int]) -> Draw:
        """How the tokens from this position on are drawn."""
        withheld = self.end_tokens(of_model) if self.min_new_tokens else ()
        return Draw(
            self.sampling,
            self.seed,
            generated_from,
            self.logprobs,
            withheld=withheld,
            min_new_tokens=self.min_new_tokens,
        )

    def parameters(self, arithmetic: str = "") -> str:
        """What the tokens depend on beside weights and prompt, as JSON for the ledger; the target's
        arithmetic where it is known."""
        sampling = asdict(self.sampling) | {"logit_bias": dict(self.sampling.logit_bias)}
        of_target = {"arithmetic": arithmetic} if arithmetic else {}
        return json.dumps(
            {
                **of_target,
                "sampling": sampling,
                "seed": self.seed,
                "stop": self.stop,
                "max_new_tokens": self.max_new_tokens,
                "logprobs": self.logprobs,
                "stop_token_ids": self.stop_token_ids,
                "ignore_end_tokens": self.ignore_end_tokens,
                "min_new_tokens": self.min_new_tokens,
            }
        )

    def chat(self) -> str | None:
        """What it says in a chat, as JSON for the ledger; None for another input."""
        return json.dumps(self.input.as_json()) if isinstance(self.input, ChatInput) else None


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
        stop_token_ids=tuple(asked.get("stop_token_ids", ())),
        ignore_end_tokens=asked.get("ignore_end_tokens", False),
        min_new_tokens=asked.get("min_new_tokens", 0),
    )


def recorded_arithmetic(record: TurnRecord) -> str:
    """The arithmetic of the target on which a turn was begun; empty where that is not known."""
    arithmetic: str = json.loads(record.parameters).get("arithmetic", "")
    return arithmetic


def recorded_chat(record: TurnRecord) -> ChatInput | None:
    """What a turn said in a chat; None for another input, and where a cut left less than all of it."""
    return ChatInput.of_json(json.loads(record.chat)) if record.chat else None


def what_differs(asked: TurnRequest, seed_is_given: bool, recorded: TurnRecord) -> list[str]:
    """Names of the parameters in which a request is not the recorded one. A seed left open agrees."""
    wanted = json.loads(asked.parameters())
    held = json.loads(
        recorded_request(recorded).parameters()
    )  # with what came later as its default
    if not seed_is_given:
        wanted.pop("seed")
    return sorted(name for name, value in wanted.items() if held.get(name) != value)


def parse_turn(
    message: session_pb2.GenerateRequest,
    model: ServedModel,
    chance: Random,
    new_id: Callable[[], str],
) -> TurnRequest:
    """Checks a request against everything but its session. Raises InvalidRequest naming the field.

    A seed that was left open is drawn, and a turn without a request id is given one.
    """
    description = model.description
    sampling = sampling_from_proto(message.sampling, model.defaults)
    sampling.check_vocabulary(description.vocabulary_size)
    max_new_tokens = (
        message.max_new_tokens if message.HasField("max_new_tokens") else DEFAULT_MAX_NEW_TOKENS
    )
    _require(max_new_tokens >= 1, "max_new_tokens", "max_new_tokens must be at least 1")
    stop = tuple(message.stop[: MAX_STOPS + 1])
    StopStrings(stop)
    _check_ends(message, max_new_tokens, description)
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
    _require(
        "\0" not in message.request_id, "request_id", "request_id must not hold the character NUL"
    )
    asked = _parse_input(message, description)
    return TurnRequest(
        session_id=message.session_id,
        input=asked,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        seed=message.seed if message.HasField("seed") else chance.getrandbits(53),
        stop=stop,
        draft=_DRAFT_MODES[message.draft],
        max_window=max_window,
        logprobs=logprobs,
        request_id=message.request_id or new_id(),
        loop=_LOOP_MODES[message.loop],
        stop_token_ids=tuple(message.stop_token_ids),
        ignore_end_tokens=message.ignore_end_tokens,
        min_new_tokens=message.min_new_tokens,
        size=_size(message.chat, asked),
    )


def _check_ends(
    message: session_pb2.GenerateRequest, max_new_tokens: int, description: ModelDescription
) -> None:
    """Raises InvalidRequest for what cannot end a turn, or would leave no token to draw."""
    size, stops = description.vocabulary_size, message.stop_token_ids
    _require(
        len(stops) <= MAX_STOP_TOKENS,
        "stop_token_ids",
        f"stop_token_ids must have at most {MAX_STOP_TOKENS} ids",
    )
    for token in stops:
        _require(
            0 <= token < size,
            "stop_token_ids",
            f"token id {token} is outside the vocabulary of 0 to {size - 1}",
        )
    _require(
        0 <= message.min_new_tokens <= max_new_tokens,
        "min_new_tokens",
        f"min_new_tokens must be 0 to max_new_tokens, which is {max_new_tokens}",
    )
    ends = () if message.ignore_end_tokens else description.end_token_ids
    _require(
        not message.min_new_tokens or len({*stops, *ends}) < size,
        "stop_token_ids",
        "every token ends the turn; with min_new_tokens leave one out",
    )


def _parse_input(message: session_pb2.GenerateRequest, description: ModelDescription) -> TurnInput:
    kind = message.WhichOneof("input")
    if kind == "text":
        text = message.text  # each look at it makes it anew
        _require(bool(text), "text", "text is empty; send at least one character")
        return TextInput(text, message.parse_control_tokens)
    _require(
        not message.parse_control_tokens,
        "parse_control_tokens",
        "parse_control_tokens is for text; leave it out with tokens or chat",
    )
    if kind == "tokens":
        return _parse_tokens(message.tokens, description)
    if kind == "chat":
        return chat_from_proto(message.chat)
    raise InvalidRequest("input", "the turn has no input; set text, tokens or chat")


def _size(chat: session_pb2.ChatInput, asked: TurnInput) -> int:
    """About how many characters of an input have yet to be made tokens; `ByteSize` would write them all."""
    if isinstance(asked, TextInput):
        return len(asked.text)
    if isinstance(asked, ChatInput):
        return sum(message.size for message in asked.messages) + json_size(chat)
    return 0


def _parse_tokens(
    message: session_pb2.TokenInput, description: ModelDescription
) -> tuple[int, ...]:
    count, limit = len(message.tokens), description.max_context_tokens
    _require(count > 0, "tokens", "tokens is empty; send at least one token id")
    _require(
        count < limit,
        "input",
        f"the input has {count} tokens; they must be less than the context of {limit}",
    )
    tokens = tuple(message.tokens)
    least, most = min(tokens), max(tokens)
    wrong = least if least < 0 else most
    _require(
        0 <= wrong < description.vocabulary_size,
        "tokens",
        f"token id {wrong} is outside the vocabulary of 0 to {description.vocabulary_size - 1}",
    )
    return tokens


def _require(holds: bool, field: str, message: str) -> None:
    if not holds:
        raise InvalidRequest(field, message)
