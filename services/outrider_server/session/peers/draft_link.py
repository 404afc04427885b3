"""The draft as the session service reaches it: a channel, and a Drafter for every turn.

A draft may be missing, dead, slow or wrong; a turn goes on without it. Nothing here raises into a turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import grpc
from outrider.v1 import draft_pb2, draft_pb2_grpc, target_pb2

from ...core.costs import GuessCost
from ...core.description import ModelDescription
from ...core.errors import OutriderError, ProtocolViolation
from ...core.surroundings import Clock
from ...core.types import Draw, Proposal, usable_length
from ...rpc import telemetry
from ...rpc.errors import from_rpc_error
from ...rpc.wire import description_from_proto, sampling_to_proto
from ...speculation.guesses import Guesses

log = logging.getLogger("outrider.session")

PEER = "draft"
PATIENCE_MS = 250
"""How long a round waits for a guess before it goes on without one."""

DraftStream = grpc.aio.StreamStreamCall[draft_pb2.DraftRequest, draft_pb2.DraftResponse]


@dataclass(frozen=True, slots=True)
class DraftedTurn:
    """The turn that a draft is asked to ride ahead of."""

    session_id: str
    epoch: int
    tokens: Sequence[int]
    kept: int
    """How many of the tokens the session held before the turn."""
    draw: Draw
    lead: int
    burst: int
    vocabulary_fingerprint: str
    vocabulary_size: int
    ahead: bool = False
    """Whether the draft guesses on while the target verifies."""


@dataclass(frozen=True, slots=True)
class _Pace:
    """What the draft is told of its pace."""

    lead: int
    burst: int


class DraftLink:
    """One draft service, over a channel that is the link's from now on."""

    def __init__(self, channel: grpc.aio.Channel, clock: Clock) -> None:
        self._channel = channel
        self._clock = clock
        self._stub = draft_pb2_grpc.DraftServiceStub(self._channel)  # type: ignore[no-untyped-call]

    async def describe(self, timeout_ms: int) -> ModelDescription:
        """The model. Raises Unavailable when the service cannot be reached in time."""
        try:
            response = await self._stub.DescribeModel(
                target_pb2.DescribeModelRequest(), timeout=timeout_ms / 1000
            )
        except grpc.RpcError as error:
            raise from_rpc_error(error, PEER) from error
        return description_from_proto(response.model)

    def open_turn(self, turn: DraftedTurn) -> RemoteDrafter:
        """A drafter that opens the session in the background."""
        call: DraftStream = self._stub.Draft(metadata=telemetry.outgoing_metadata())
        return RemoteDrafter(call, turn, self._clock).start()

    async def release(self, session_id: str, epoch: int) -> None:
        """Frees the session's slot. Raises OutriderError."""
        request = target_pb2.ReleaseRequest(session_id=session_id, epoch=epoch)
        try:
            await self._stub.Release(request, timeout=5)
        except grpc.RpcError as error:
            raise from_rpc_error(error, PEER) from error

    async def close(self) -> None:
        """Closes the channel."""
        await self._channel.close()


class RemoteDrafter:
    """Drafter over one Draft stream, once it is started. `trouble` tells what went wrong, if anything did."""

    def __init__(self, call: DraftStream, turn: DraftedTurn, clock: Clock) -> None:
        self.trouble = ""
        self.proposed = False
        """True once any proposal has come."""
        self.model_fingerprint = ""
        """The draft's, once it has opened the session."""
        self._call = call
        self._turn = turn
        self._clock = clock
        self._spent: list[GuessCost] = []
        self._ahead = turn.ahead
        self._guesses = Guesses(turn.tokens)
        self._arrived = asyncio.Event()
        self._news = asyncio.Event()
        self._unsent: list[int] = []
        self._pace = self._told = _Pace(turn.lead, turn.burst)
        self._largest_lead = turn.lead
        self._asked: float | None = None
        self._asked_branch = 0
        self._over = False
        self._late = False
        self._missed = 0
        self._talk: asyncio.Task[None] | None = None

    def start(self) -> Self:
        """Begins to open the session and to hear guesses."""
        self._talk = asyncio.create_task(self._converse())
        return self

    async def take(self, position: int, minimum: int, maximum: int) -> Proposal:
        """Takes guesses.

        After a wait in vain it does not wait again until as many have come, or as many as are asked for by
        then.
        """
        waited_ms = 0.0
        if len(self._guesses) < minimum and not self._over and not self._late:
            began = self._clock()
            try:
                async with asyncio.timeout(PATIENCE_MS / 1000):
                    await self._wait_for(minimum)
            except TimeoutError:
                self._late, self._missed = True, minimum
                self.trouble = f"the draft did not propose within {PATIENCE_MS} ms"
            waited_ms = (self._clock() - began) * 1000
        guesses = self._guesses.peek(maximum)
        return Proposal(position, guesses, waited_ms=waited_ms, spent=self.spent())

    def spent(self) -> tuple[GuessCost, ...]:
        """What guesses cost that came since the last call."""
        spent, self._spent = tuple(self._spent), []
        return spent

    def commit(self, start_position: int, tokens: Sequence[int]) -> None:
        """Notes decided tokens; they are passed on once the caller has set the pace."""
        self._guesses.commit(start_position, tokens)
        self._unsent += tokens
        self._news.set()

    def pace(self, lead: int, burst: int, ahead: bool = False) -> None:
        """Sets how far to guess ahead, how many guesses to gather, and whether it guesses on meanwhile."""
        self._pace, self._ahead = _Pace(lead, burst), ahead
        self._largest_lead = max(self._largest_lead, lead)
        self._news.set()

    def compared(self) -> tuple[int, int]:
        """(guesses compared with decided tokens since the last call, those that agreed)."""
        return self._guesses.compared()

    @property
    def is_late(self) -> bool:
        """True while a proposal that was waited for in vain has not come."""
        return self._late

    def close(self) -> None:
        """Ends the turn on the draft; its KV stays."""
        self._over = True
        if self._talk is not None:
            self._talk.cancel()
        self._call.cancel()

    async def _wait_for(self, minimum: int) -> None:
        while len(self._guesses) < minimum and not self._over:
            self._arrived.clear()
            await self._arrived.wait()

    async def _converse(self) -> None:
        """Opens, then reads and writes until either side ends."""
        sender: asyncio.Task[None] | None = None
        try:
            known = await self._open()
            self._told = self._pace
            missing = draft_pb2.DraftCommit(
                start_position=known,
                tokens=self._turn.tokens[known:],
                lead=self._told.lead,
                burst=self._told.burst,
            )
            with contextlib.suppress(asyncio.InvalidStateError):  # reading tells why
                await self._call.write(draft_pb2.DraftRequest(commit=missing))
            sender = asyncio.create_task(self._send_commits())
            while (response := await self._call.read()) is not grpc.aio.EOF:
                proposal = self._checked(response)
                self.proposed = True
                self._measure(proposal)
                self._guesses.receive(proposal.branch, proposal.start_position, proposal.tokens)
                if len(self._guesses) > self._largest_lead:
                    raise ProtocolViolation("the draft ran further ahead than it was asked to")
                if len(self._guesses) >= min(self._missed, self._pace.burst):
                    self._late = False
                self._arrived.set()
            self.trouble = "the draft ended the stream in the middle of a turn"
        except grpc.RpcError as error:
            self.trouble = str(from_rpc_error(error, PEER))
        except OutriderError as error:
            self.trouble = str(error)
        except Exception:
            log.exception("talking to the draft failed")
            self.trouble = "the session service lost the draft"
        finally:
            self._over = True
            self._arrived.set()
            self._call.cancel()
            if sender is not None:
                sender.cancel()

    async def _open(self) -> int:
        """Sends `open`; returns how many of the session's tokens the draft holds."""
        turn = self._turn
        opening = draft_pb2.DraftOpen(
            session_id=turn.session_id,
            epoch=turn.epoch,
            committed_length=len(turn.tokens),
            sampling=sampling_to_proto(turn.draw.sampling),
            seed=turn.draw.seed,
            generated_from=turn.draw.generated_from,
            lead=turn.lead,
            burst=turn.burst,
            vocabulary_fingerprint=turn.vocabulary_fingerprint,
            vocabulary_size=turn.vocabulary_size,
            withheld_token_ids=turn.draw.withheld,
            min_new_tokens=turn.draw.min_new_tokens,
            kept_length=turn.kept,
        )
        with contextlib.suppress(asyncio.InvalidStateError):
            await self._call.write(draft_pb2.DraftRequest(open=opening))
        response = await self._call.read()
        if not isinstance(response, draft_pb2.DraftResponse) or not response.HasField("opened"):
            raise ProtocolViolation("the draft did not answer with opened")
        self.model_fingerprint = response.opened.model_fingerprint
        return usable_length(response.opened.length, response.opened.digest, turn.tokens)

    def _checked(self, response: object) -> draft_pb2.Proposal:
        """The proposal that a message is. A target refuses a step whose tokens are none of its own."""
        if not isinstance(response, draft_pb2.DraftResponse) or not response.HasField("proposal"):
            raise ProtocolViolation("the draft sent something else than a proposal")
        proposal, size = response.proposal, self._turn.vocabulary_size
        if proposal.draft_us < 0:
            raise ProtocolViolation("the draft named a negative time")
        if proposal.start_position < 0 or not proposal.tokens:
            raise ProtocolViolation("the draft proposed nothing for any position")
        if not all(0 <= token < size for token in proposal.tokens):
            raise ProtocolViolation("the draft proposed a token outside the vocabulary")
        return proposal

    def _measure(self, proposal: draft_pb2.Proposal) -> None:
        answered_ms = None
        if self._asked is not None and proposal.branch == self._guesses.branch:
            answered_ms = (self._clock() - self._asked) * 1000
            self._asked = None
        cost = GuessCost(len(proposal.tokens), proposal.draft_us / 1000, answered_ms)
        self._spent.append(cost)

    async def _send_commits(self) -> None:
        """Passes commits on, joined to one message; a draft that rests hears of them when it is to go on."""
        try:
            while True:
                await self._news.wait()
                self._news.clear()
                pace, told = self._pace, self._told
                if pace.lead == told.lead == 0 or (pace == told and not self._unsent):
                    continue
                commit = draft_pb2.DraftCommit(
                    start_position=self._guesses.position - len(self._unsent), tokens=self._unsent
                )
                if pace != told:
                    commit.lead, commit.burst = pace.lead, pace.burst
                self._unsent, self._told = [], pace
                # A draft that rested has to catch up first, and one that is ahead may be guessing already.
                idle = not self._ahead or self._guesses.branch != self._asked_branch
                if not self._guesses and pace.lead and told.lead and idle:
                    self._asked = self._clock()
                self._asked_branch = self._guesses.branch
                await self._call.write(draft_pb2.DraftRequest(commit=commit))
        except (grpc.RpcError, asyncio.InvalidStateError):
            return  # the reader hears why
