"""The host's clock jumps; sessions of a ledger in a file live as long as they were given."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path

import pytest
from outrider_server.core.errors import NotFound
from outrider_server.session.ledger.sqlite_ledger import SqliteLedger
from outrider_server.session.ledger.steady_clock import SteadyClock

START = 1_800_000_000
DAY = 86_400
TTL = 60


class Host:
    """Two clocks: one is set by hand, the other counts seconds."""

    def __init__(self) -> None:
        self.wall = self.steady = START

    def clock(self) -> SteadyClock:
        return SteadyClock(lambda: self.wall * 1_000_000, lambda: self.steady * 1_000_000)

    def pass_time(self, seconds: int) -> None:
        self.wall += seconds
        self.steady += seconds


@pytest.mark.parametrize("jump", [DAY, -DAY, 2])
async def test_a_session_outlives_a_jump_and_expires_when_it_would_have(
    tmp_path: Path, jump: int
) -> None:
    host = Host()
    async with aclosing(SqliteLedger(tmp_path / "ledger.db", clock=host.clock())) as ledger:
        session_id = (await ledger.create_session("", "model", TTL)).session_id
        forever = (await ledger.create_session("", "model", 0)).session_id
        host.pass_time(TTL - 10)
        host.wall += jump
        assert (await ledger.get_session(session_id, "")).length == 0
        assert await ledger.sweep() == 0
        expires_us = (await ledger.get_session(session_id, "")).expires_us
        assert expires_us == (host.wall + 10) * 1_000_000, "as the host tells the time now"
        host.pass_time(9)
        assert await ledger.sweep() == 0
        host.pass_time(1)
        assert await ledger.sweep() == 1
        with pytest.raises(NotFound):
            await ledger.get_session(session_id, "")
        assert (await ledger.get_session(forever, "")).expires_us is None


@pytest.mark.parametrize("jump", [DAY, -DAY])
async def test_a_session_outlives_a_jump_before_a_restart(tmp_path: Path, jump: int) -> None:
    host = Host()
    async with aclosing(SqliteLedger(tmp_path / "ledger.db", clock=host.clock())) as ledger:
        session_id = (await ledger.create_session("", "model", TTL)).session_id
        host.wall += jump
    host.pass_time(TTL - 1)
    async with aclosing(SqliteLedger(tmp_path / "ledger.db", clock=host.clock())) as ledger:
        assert await ledger.sweep() == 0
        assert (await ledger.get_session(session_id, "")).session_id == session_id
        host.pass_time(1)
        assert await ledger.sweep() == 1


async def test_a_jump_that_cannot_be_written_ends_no_session(tmp_path: Path, monkeypatch) -> None:
    host = Host()
    async with aclosing(SqliteLedger(tmp_path / "ledger.db", clock=host.clock())) as ledger:
        session_id = (await ledger.create_session("", "model", TTL)).session_id
        for jump in (-DAY, DAY):
            host.wall += jump
            with monkeypatch.context() as broken:
                broken.setattr(ledger, "_write", _fails)
                with pytest.raises(OSError, match="the disk"):
                    await ledger.sweep()
            assert (await ledger.get_session(session_id, "")).session_id == session_id


async def _fails(_: object) -> None:
    raise OSError("the disk")
