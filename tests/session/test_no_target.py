"""A session service that finds no target ends, and says what was wrong with each."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from outrider_server.commands import wiring
from outrider_server.commands.wiring import run_session
from outrider_server.config import SessionConfig
from outrider_server.core.errors import StartupError


async def test_why_no_target_answers_is_told_for_each(tmp_path: Path) -> None:
    config = SessionConfig(
        ledger=tmp_path / "ledger",
        targets=("127.0.0.1:1", f"unix:{tmp_path}/nobody"),
        drafts=(),
        target_timeout_ms=200,
    )
    told = r"no target answers \(127\.0\.0\.1:1: .*refused.*; unix:.*nobody: .*No such file"
    with pytest.raises(StartupError, match=told):
        await run_session(config)


async def test_what_is_waited_for_is_told_while_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(wiring, "SILENT_SECONDS", 0.1)
    config = SessionConfig(
        ledger=tmp_path / "ledger",
        targets=("nobody.invalid:7710", f"unix:{tmp_path}/nobody"),
        drafts=(),
        target_timeout_ms=4000,
    )
    with caplog.at_level(logging.WARNING), pytest.raises(StartupError, match="no target answers"):
        await run_session(config)
    (told,) = [record.message for record in caplog.records if "waited for" in record.message]
    assert "nobody.invalid:7710: " in told
    assert "No such file" in told
