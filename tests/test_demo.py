"""The demo, as a newcomer runs it."""

from __future__ import annotations

import asyncio
import sys

import pytest


@pytest.mark.processes
async def test_the_demo_shows_that_speculation_changes_no_token() -> None:
    demo = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "outrider_server",
        "demo",
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await demo.communicate()
    text = output.decode()
    assert demo.returncode == 0, text
    assert "the same tokens" in text
    for title in ("greedy, turn 1", "greedy, turn 2", "sampled at 0.7"):
        assert title in text
