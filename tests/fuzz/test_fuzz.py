"""A short run of the fuzzer, and that it notices what it is for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from outrider_server.host.engine_host import EngineHost
from outrider_server.session.ledger import sql_writes

from .run import Failed, fuzz
from .world import engines


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EngineHost, EngineHost]]:
    with engines(tmp_path_factory.mktemp("models")) as started:
        yield started


async def test_fuzzed_messages_crash_hang_and_leak_nothing(tmp_path: Path, hosts) -> None:
    tally = await fuzz(tmp_path, hosts, 400, seed=3)
    assert tally.ends.total() >= 400
    print(tally.table())


async def test_the_fuzzer_notices_an_exception_and_names_its_message(
    tmp_path: Path, hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("swordfish")

    monkeypatch.setattr(sql_writes, "_check_position", broken)
    with pytest.raises(Failed, match=r"seed 3, message \d+: ended with INTERNAL") as failed:
        await fuzz(tmp_path, hosts, 400, seed=3)
    assert "SessionService/" in str(failed.value)
    assert "swordfish" not in str(failed.value)
