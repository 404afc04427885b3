"""A ledger that fails at the very end of a turn costs its client no token."""

from __future__ import annotations

from typing import Any

import pytest
from outrider_server.core.errors import LedgerUnavailable
from outrider_server.session.ledger.sqlite_ledger import SqliteLedger

OPTIONS = {"max_new_tokens": 24, "seed": 6, "logit_bias": {0: -100.0}}


@pytest.mark.parametrize("loop", ["synchronous", "run_ahead"])
async def test_the_last_tokens_are_told_when_the_turns_end_was_not_written(
    service, monkeypatch: pytest.MonkeyPatch, loop: str
) -> None:
    whole = await (await service.client.create_session()).generate("import os\n", **OPTIONS)
    finish, asked = SqliteLedger.finish_turn, []

    async def finish_later(self: SqliteLedger, *arguments: Any) -> None:
        asked.append(arguments)
        if len(asked) == 1:
            raise LedgerUnavailable("the ledger cannot be used now", is_away=True)
        await finish(self, *arguments)

    monkeypatch.setattr(SqliteLedger, "finish_turn", finish_later)
    session = await service.client.create_session()
    reply = await session.generate("import os\n", loop=loop, **OPTIONS)
    assert len(asked) == 2
    assert reply.tokens == whole.tokens
    assert [event.index for event in reply.events] == list(range(24))
    assert reply.summary.tokens == 24
