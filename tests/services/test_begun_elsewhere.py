"""One request that reaches two session services at once is one turn."""

from __future__ import annotations

from typing import Any

import outrider
import pytest
from outrider_server.session.opening import TurnOpener

PROMPT = "with open(path) as file:\n"
OPTIONS = {"max_new_tokens": 20, "seed": 6, "request_id": "once"}


@pytest.fixture
def late_find(monkeypatch: pytest.MonkeyPatch) -> None:
    """Services look for a turn just before another one begins it."""
    real, asked = TurnOpener.find, []

    async def find(self: TurnOpener, *arguments: Any) -> Any:
        asked.append(self)
        return None if asked.count(self) == 1 else await real(self, *arguments)

    monkeypatch.setattr(TurnOpener, "find", find)


async def test_a_turn_begun_elsewhere_meanwhile_is_gone_on_with(service, stack, late_find) -> None:
    session = await service.client.create_session()
    first = await session.generate(PROMPT, **OPTIONS).read()
    other = await stack.start_session("other")
    moved = await other.client.open_session(session.id)
    second = await moved.generate(PROMPT, **OPTIONS).read()
    assert second.tokens == first.tokens
    assert (await session.info()).turn_count == 1


async def test_another_request_under_its_id_is_still_refused(service, stack, late_find) -> None:
    session = await service.client.create_session()
    await session.generate(PROMPT, **OPTIONS).read()
    other = await stack.start_session("other")
    moved = await other.client.open_session(session.id)
    with pytest.raises(outrider.AlreadyExistsError, match="another seed"):
        await moved.generate(PROMPT, **(OPTIONS | {"seed": 7})).read()
