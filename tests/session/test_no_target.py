"""A session service that finds no target ends, and says what was wrong with each."""

from __future__ import annotations

from pathlib import Path

import pytest
from outrider_server.config import SessionConfig
from outrider_server.speculation.errors import StartupError
from outrider_server.wiring import run_session


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
