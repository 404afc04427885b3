"""What the promises of every ledger are tested on: stores that a subclass opens, and sessions."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

import pytest
from outrider_server.core.types import FinishReason, TokenLogprobs, TokenSource
from outrider_server.session.ledger.ledger import Ledger, LedgerToken, NewTurn

OpenLedger = Callable[..., Awaitable[Ledger]]
FIRST_REPLY = [
    LedgerToken(13, TokenSource.DRAFT, TokenLogprobs(-0.5, ((13, -0.5), (9, -1.25)))),
    LedgerToken(14, TokenSource.TARGET),
    LedgerToken(15, TokenSource.NGRAM),
    LedgerToken(16, TokenSource.DRAFT, TokenLogprobs(-0.25)),
]
TOKENS = list(range(10, 21))


def generated(*tokens: int, source: TokenSource = TokenSource.DRAFT) -> list[LedgerToken]:
    return [LedgerToken(token, source) for token in tokens]


async def started_session(ledger: Ledger, *prompt: int) -> tuple[str, int]:
    """A session with one turn, and the epoch to write in."""
    session = await ledger.create_session("", "model")
    epoch = (await ledger.take_over(session.session_id)).epoch
    await ledger.begin_turn(session.session_id, epoch, 0, NewTurn("first", prompt))
    return session.session_id, epoch


async def two_turns(ledger: Ledger) -> tuple[str, int]:
    """Positions 0-2 and 3-6 are prompt and reply of a first turn, 7-8 and 9-10 of a second one. The
    reply of the first was written twice, with logprobs; the token of position p is 10 + p."""
    session_id, epoch = await started_session(ledger, 10, 11, 12)
    await ledger.append(session_id, epoch, 3, FIRST_REPLY[:2])
    await ledger.append(session_id, epoch, 5, FIRST_REPLY[2:])
    await ledger.finish_turn(session_id, epoch, 0, FinishReason.END_TOKEN)
    await ledger.begin_turn(session_id, epoch, 7, NewTurn("second", (17, 18), '{"seed": 2}'))
    await ledger.append(session_id, epoch, 9, generated(19, 20))
    await ledger.finish_turn(session_id, epoch, 1, FinishReason.LENGTH)
    return session_id, epoch


class LedgerFixtures:
    async def open_store(self, folder: Path, default_ttl_seconds: int = 0) -> Ledger:
        """Opens the store that belongs to `folder`; several times gives several writers."""
        raise NotImplementedError

    def pass_time(self, seconds: float) -> None:
        """Moves the clock of the test's stores on."""
        raise NotImplementedError

    @pytest.fixture
    async def open_ledger(self, tmp_path: Path) -> AsyncIterator[OpenLedger]:
        async with AsyncExitStack() as stack:

            async def opened(**options: int) -> Ledger:
                ledger = await self.open_store(tmp_path, **options)
                return await stack.enter_async_context(aclosing(ledger))

            yield opened

    @pytest.fixture
    async def ledger(self, open_ledger: OpenLedger) -> Ledger:
        return await open_ledger()
