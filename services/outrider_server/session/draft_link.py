"""The draft as the session service reaches it: a channel, and a Drafter for every turn.

A draft may be missing, dead, slow or wrong; a turn goes on without it. Nothing here raises into a turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import grpc
from outrider.v1 import draft_pb2, draft_pb2_grpc, target_pb2

from ..rpc import telemetry
from ..rpc.channels import open_channel
from ..rpc.errors import from_rpc_error
from ..rpc.wire import description_from_proto, sampling_to_proto
from ..speculation.description import ModelDescription
from ..speculation.errors import OutriderError, ProtocolViolation
from ..speculation.guesses import Guesses
from ..speculation.types import Draw, Proposal, usable_length

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
    draw: Draw
    lead: int
    burst: int
    vocabulary_fingerprint: str
    vocabulary_size: int


class DraftLink:
    """One draft service."""

    def __init__(self, address: str) -> None:
        self._channel = open_channel(address)
        self._stub = draft_pb2_grpc.DraftServiceStub(self._channel)

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
        return RemoteDrafter(call, turn)

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
    """Drafter over one Draft stream. `trouble` tells what went wrong, if anything did."""

    def __init__(self, call: DraftStream, turn: DraftedTurn) -> None:
        self.trouble = ""
        self._call = call
        self._turn = turn
        self._guesses = Guesses(turn.tokens)
        self._arrived = asyncio.Event()
        self._commits: asyncio.Queue[draft_pb2.DraftCommit] = asyncio.Queue()
        self._over = False
        self._late = False
        self._talk = asyncio.create_task(self._converse())

    async def take(self, position: int, minimum: int, maximum: int) -> Proposal:
        """Takes guesses. After a wait in vain it does not wait again until a guess has come."""
        if len(self._guesses) < minimum and not self._over and not self._late:
            try:
                async with asyncio.timeout(PATIENCE_MS / 1000):
                    await self._wait_for(minimum)
            except TimeoutError:
                self._late = True
                self.trouble = f"the draft did not propose within {PATIENCE_MS} ms"
        return Proposal(position, self._guesses.peek(maximum))

    def commit(self, start_position: int, tokens: Sequence[int]) -> None:
        """Notes decided tokens and passes them on."""
        self._guesses.commit(start_position, tokens)
        self._commits.put_nowait(
            draft_pb2.DraftCommit(start_position=start_position, tokens=tokens)
        )

    def close(self) -> None:
        """Ends the turn on the draft; its KV stays."""
        self._over = True
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
            missing = draft_pb2.DraftCommit(start_position=known, tokens=self._turn.tokens[known:])
            with contextlib.suppress(asyncio.InvalidStateError):  # reading tells why
                await self._call.write(draft_pb2.DraftRequest(commit=missing))
            sender = asyncio.create_task(self._send_commits())
            while (response := await self._call.read()) is not grpc.aio.EOF:
                proposal = self._checked(response)
                self._guesses.receive(proposal.branch, proposal.start_position, proposal.tokens)
                if len(self._guesses) > self._turn.lead:
                    raise ProtocolViolation("the draft ran further ahead than it was asked to")
                if len(self._guesses):
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
        )
        with contextlib.suppress(asyncio.InvalidStateError):
            await self._call.write(draft_pb2.DraftRequest(open=opening))
        response = await self._call.read()
        if _kind(response) != "opened":
            raise ProtocolViolation("the draft did not answer with opened")
        return usable_length(response.opened.length, response.opened.digest, turn.tokens)

    def _checked(self, response: draft_pb2.DraftResponse | None) -> draft_pb2.Proposal:
        """The proposal that a message is. A target refuses a step whose tokens are none of its own."""
        if response is None or _kind(response) != "proposal":
            raise ProtocolViolation("the draft sent something else than a proposal")
        proposal, size = response.proposal, self._turn.vocabulary_size
        if proposal.start_position < 0 or not proposal.tokens:
            raise ProtocolViolation("the draft proposed nothing for any position")
        if not all(0 <= token < size for token in proposal.tokens):
            raise ProtocolViolation("the draft proposed a token outside the vocabulary")
        return proposal

    async def _send_commits(self) -> None:
        try:
            while True:
                commit = await self._commits.get()
                await self._call.write(draft_pb2.DraftRequest(commit=commit))
        except (grpc.RpcError, asyncio.InvalidStateError):
            return  # the reader hears why


def _kind(response: draft_pb2.DraftResponse | object | None) -> str | None:
    """Which message it is; None at the end of the stream, and for bytes that were no message."""
    if not isinstance(response, draft_pb2.DraftResponse):
        return None
    return response.WhichOneof("message")
