"""What async and sync sessions and replies share: the arguments of a turn, and what it brought.

`aio.py` and `sync.py` add how to wait.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from outrider import _request
from outrider._calls import Calls
from outrider._settings import Metadata
from outrider._stream import TurnStream
from outrider._wire import TurnMessage
from outrider.errors import ClosedError, UnfinishedError
from outrider.types import (
    DraftMode,
    Event,
    Input,
    LoopMode,
    SessionInfo,
    Started,
    Summary,
)
from outrider.v1 import session_pb2

ReplyT = TypeVar("ReplyT")


class SessionHandle(Generic[ReplyT]):
    """A session on the service, seen from here."""

    def __init__(self, calls: Calls, info: SessionInfo) -> None:
        self._calls = calls
        self._id = info.id
        self._position = info.position
        self._over = ""
        """Why the handle is of no use any more."""
        self._last_request: session_pb2.GenerateRequest | None = None
        self._last_started: Started | None = None
        self._current: weakref.ref[ReplyState] | None = None

    @property
    def id(self) -> str:
        """The id, made by the service."""
        return self._id

    @property
    def position(self) -> int:
        """Number of committed tokens, as far as this handle has seen."""
        return self._position

    def close(self) -> None:
        """Ends the use of this handle. The session stays on the service; `delete` removes it."""
        self._over = self._over or "was closed here; open it again to use it"

    def generate(
        self,
        input: Input,
        *,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        frequency_penalty: float | None = None,
        presence_penalty: float | None = None,
        logit_bias: Mapping[int, float] | None = None,
        seed: int | None = None,
        stop: str | Iterable[str] = (),
        draft: DraftMode = "auto",
        max_window: int | None = None,
        logprobs: int | None = None,
        request_id: str | None = None,
        loop: LoopMode | None = None,
        stop_token_ids: Iterable[int] = (),
        ignore_end_tokens: bool = False,
        min_new_tokens: int | None = None,
        parse_control_tokens: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        template_options: Mapping[str, Any] | None = None,
        timeout_ms: int | None = None,
        metadata: Metadata | None = None,
    ) -> ReplyT:
        """Prepares one turn and gives its reply; the call starts when the reply is first read.

        What is None is left to the service, whose defaults stand in brackets.

        Args:
            input: Text, token ids, or chat messages (`ChatMessage` or {"role", "content"}).
            max_new_tokens: The most tokens to generate, at least 1 [256].
            temperature: Divides the logits, 0 to 100; 0 decides greedily [1.0].
            top_k: Keep so many most probable tokens; 0 keeps all [0].
            top_p: Keep the most probable tokens up to this mass, above 0 to 1 [1.0].
            min_p: Keep tokens at least so many times as probable as the best, 0 to 1 [0].
            repetition_penalty: Weakens tokens that the session holds, above 0 to 100 [1.0].
            frequency_penalty: Taken off a logit for each use in this turn, -100 to 100 [0].
            presence_penalty: Taken off a logit once used in this turn, -100 to 100 [0].
            logit_bias: Added to the logits of token ids; at most 1024 entries.
            seed: Keys the randomness, 0 to 2**64 - 1 [chosen; the summary names it].
            stop: Texts that end the turn, at most 16 of 1 to 256 characters. The text of a special
                token, which is not shown, may be part of one.
            draft: Who may propose: "auto" (model and n-gram), "model", "ngram" or "off".
            max_window: The most tokens to propose in a round, 0 to the target's width - 1.
            logprobs: None for none; 0 for the chosen token's; 1 to 20 for so many of the most
                probable tokens beside it.
            request_id: Names the turn, unique within the session, at most 128 characters.
            loop: How to pace draft and target, for measuring: "run_ahead", "synchronous", "adaptive".
            stop_token_ids: Token ids that end the turn, as the model's end tokens do; at most 1024.
            ignore_end_tokens: True to go on after the model's end tokens as after any other.
            min_new_tokens: No token that ends the turn is drawn before so many, 0 to
                `max_new_tokens` [0]. A stop text ends the turn whenever it is written.
            parse_control_tokens: True takes the text of a control token in a text input, for example
                "<|im_start|>", as that token. False spells it in ordinary tokens, so that no part of
                the text can speak for another role.
            tools: Tools that the chat template is to show the model, such as JSON schemas.
            documents: Documents that it is to show the model.
            template_options: Further variables of the template, such as {"enable_thinking": False}.
            timeout_ms: Deadline of the whole reply, in milliseconds, at least 1; None for none.
            metadata: Headers of this call, for example {"traceparent": "00-..."}.

        Raises:
            InvalidRequestError: A value that cannot be sent; `field` names it. Nothing was sent.
            ClosedError: The session was closed.

        Reading the reply raises what the service answers: InvalidRequestError, NotFoundError,
        TurnRunningError, ModelMismatchError, AlreadyExistsError (the request id was used),
        ExhaustedError, UnavailableError, DeadlineError, StreamBrokenError, InternalError, and
        StaleEpochError where another call took the session over, with `attach` for example: what was
        committed stays, and `attach` goes on with the turn.
        """
        self._check_open()
        sampling = _request.sampling_params(
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            frequency_penalty=frequency_penalty,
            presence_penalty=presence_penalty,
            logit_bias=logit_bias,
        )
        request = _request.generate_request(
            self._id,
            input,
            sampling,
            max_new_tokens=max_new_tokens,
            seed=seed,
            draft=draft,
            max_window=max_window,
            logprobs=logprobs,
            request_id=request_id,
            loop=loop,
            ends=_request.Ends(stop, stop_token_ids, ignore_end_tokens, min_new_tokens),
            parse_control_tokens=parse_control_tokens,
            tools=tools,
            documents=documents,
            template_options=template_options,
        )
        self._last_request, self._last_started = request, None
        return self._reply(self._calls.turn(request, timeout_ms, metadata), request)

    def attach(
        self, request_id: str = "", *, from_index: int = 0, timeout_ms: int | None = None
    ) -> ReplyT:
        """Gives the reply of a turn that was begun before, here or by another client; it goes on from there.

        Whoever reads the turn elsewhere loses it. The reply has the tokens from `from_index` on.

        Args:
            request_id: The turn's; empty for the session's last turn.
            from_index: How many of the turn's tokens are known already.
            timeout_ms: Deadline of the whole reply, in milliseconds, at least 1; None for none.

        Reading the reply raises NotFoundError where the session has no such turn, PositionMismatchError
        for an index beyond what is committed, and what `generate` raises.
        """
        self._check_open()
        return self._reply(self._calls.attached(self._id, request_id, from_index, timeout_ms), None)

    def _reply(self, stream: TurnStream, request: session_pb2.GenerateRequest | None) -> ReplyT:
        """The reply over a stream that has not begun, to a request of this handle where there is one."""
        raise NotImplementedError

    def _turn_to(self, reply: ReplyState | None) -> None:
        """Ends the reply before this one, or before a call, where whoever read it has left it."""
        before = None if self._current is None else self._current()
        if before is not None and before is not reply and before._is_left():
            before._end("the reply was ended by its session's next call")
        self._current = None if reply is None else weakref.ref(reply)

    def _check_open(self) -> None:
        if self._over:
            raise ClosedError(f"session {self._id} {self._over}")

    def _deleted(self) -> None:
        self._over = "was deleted; create another one"

    def _moved_to(self, position: int) -> None:
        self._position = position

    def _began(self, request: session_pb2.GenerateRequest | None, started: Started) -> None:
        if request is not None and request is self._last_request:
            self._last_started = started

    def _anew(self, seed: int | None) -> tuple[Started, session_pb2.GenerateRequest]:
        """The last turn, and its request with another seed, or one that the service chooses."""
        if self._last_request is None or self._last_started is None:
            raise UnfinishedError("no turn was begun with this handle; generate one first")
        request = session_pb2.GenerateRequest()
        request.CopyFrom(self._last_request)
        request.ClearField("request_id")
        request.ClearField("seed")
        if seed is not None:
            request.seed = _request.checked_seed(seed)
        self._last_request = request
        return self._last_started, request


class ReplyState:
    """What a reply has brought so far."""

    def __init__(
        self, session: SessionHandle[ReplyT], request: session_pb2.GenerateRequest | None
    ) -> None:
        self._request = request
        self._turn_to = session._turn_to
        self._moved_to = session._moved_to
        self._began = session._began
        self._started: Started | None = None
        self._events: list[Event] = []
        self._summary: Summary | None = None

    @property
    def started(self) -> Started | None:
        """Request id, seed and prompt tokens, once the service has accepted the turn; else None."""
        return self._started

    @property
    def events(self) -> tuple[Event, ...]:
        """The events so far."""
        return tuple(self._events)

    @property
    def tokens(self) -> list[int]:
        """The token ids so far."""
        return [event.token for event in self._events]

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(event.text for event in self._events)

    @property
    def summary(self) -> Summary:
        """What the turn came to. Raises `UnfinishedError` before the end of the reply."""
        if self._summary is None:
            raise UnfinishedError("the reply has no summary yet: read it to its end first")
        return self._summary

    def _begin(self) -> None:
        """The call is about to be made."""
        if (
            self._request is not None
        ):  # one that is attached may go on with the turn of the reply before
            self._turn_to(self)

    def _is_left(self) -> bool:
        """True where nobody reads on: whoever did has ended, or is the caller."""
        raise NotImplementedError

    def _end(self, why: str) -> None:
        """Ends the turn; harmless when it has ended."""
        raise NotImplementedError

    def _accept(self, message: TurnMessage) -> Event | None:
        """Takes a message in; gives it back if it is an event."""
        if isinstance(message, Started):
            self._started = message
            self._began(self._request, message)
            self._moved_to(message.start_position)
        elif isinstance(message, Summary):
            self._summary = message
            self._moved_to(message.position)
        else:
            self._events.append(message)
            if self._started is not None:
                self._moved_to(self._started.start_position + message.index + 1)
            return message
        return None
