"""Recording rounds: the ledger as the decode loop sees it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...core.errors import PositionMismatch
from ...core.types import Round
from .ledger import Ledger, LedgerToken
from .patience import patiently


class LedgerRecorder:
    """The ledger as the decode loop sees it: appends each round where the last one ended."""

    def __init__(self, ledger: Ledger, session_id: str, epoch: int) -> None:
        self._ledger = ledger
        self._session_id = session_id
        self._epoch = epoch

    async def record(self, rounds: Sequence[Round]) -> None:
        """Commits the rounds' tokens together. Raises as `Ledger.append`."""
        tokens = [token for decided in rounds for token in _ledger_tokens(decided)]
        start_position = rounds[0].start_position
        attempts = 0

        async def append() -> None:
            nonlocal attempts
            attempts += 1
            try:
                await self._ledger.append(self._session_id, self._epoch, start_position, tokens)
            except PositionMismatch as error:
                # Nobody else writes in this epoch: a write before, whose answer was lost, stands.
                if attempts == 1 or error.position != start_position + len(tokens):
                    raise

        await patiently(append)


def _ledger_tokens(decided: Round) -> Iterator[LedgerToken]:
    """Raises ValueError rather than leave a token out."""
    logprobs = decided.logprobs or (None,) * len(decided.tokens)
    for entry in zip(decided.tokens, decided.sources, logprobs, strict=True):
        yield LedgerToken(*entry)
