"""Services die and freeze in the middle of turns; what their clients see is what would have come anyway."""

from __future__ import annotations

import asyncio
from pathlib import Path

import outrider
import pytest

from .cluster import DATABASE, SERVICES, Cluster
from .database import pooled_database
from .faults import Fault
from .load import OWN_CONNECTION
from .run import Outcome, Plan, run, table
from .talks import NO_END

pytestmark = pytest.mark.processes

NOTICED_SECONDS = 45.0
"""Ten times what it takes, and less than gRPC waits where not all of its options are set."""


@pytest.mark.parametrize(
    ("services", "faults", "kinds"),
    [
        (SERVICES, 6, (Fault.KILL,)),
        (("target", "draft"), 3, (Fault.FREEZE, Fault.FREEZE_AND_KILL)),
        (SERVICES, 3, (Fault.TERMINATE,)),
        (SERVICES, 6, (Fault.BREAK, Fault.SHUT)),
    ],
)
async def test_no_token_is_lost_repeated_or_changed(
    tmp_path: Path, services: tuple[str, ...], faults: int, kinds: tuple[Fault, ...]
) -> None:
    outcome = Outcome()
    await run(Plan(2, faults, services, kinds, turn_tokens=100), tmp_path, outcome)
    assert outcome.count.spotless, table(outcome)
    assert [damage.service for damage in outcome.damages[: len(services)]] == list(services)
    assert all(damage.silences for damage in outcome.damages), "a fault met no turn"
    assert outcome.count.turns >= 8


async def test_a_database_that_is_killed_behind_its_pooler_costs_no_token(
    tmp_path: Path, pgbouncer: None
) -> None:
    outcome = Outcome()
    with pooled_database() as database:
        plan = Plan(3, 2, (DATABASE,), turn_tokens=60)
        await run(plan, tmp_path, outcome, database=database)
    assert outcome.count.spotless, table(outcome)
    assert all(damage.silences for damage in outcome.damages), "a fault met no turn"


async def test_frozen_services_are_noticed_and_used_again_when_they_go_on(tmp_path: Path) -> None:
    options = {"max_new_tokens": 200, "seed": 3, "logit_bias": NO_END, "loop": "run_ahead"}
    async with (
        Cluster(tmp_path) as cluster,
        outrider.AsyncClient(
            cluster.address, channel_options=OWN_CONNECTION, resume_ms=0
        ) as client,
    ):
        whole = await (await client.create_session()).generate("import os\n", **options)
        session = await client.create_session()
        reply = session.generate("import os\n", draft="model", **options)
        await anext(reply)
        cluster.services["draft"].freeze()
        await reply.read()
        assert reply.tokens == whole.tokens
        assert reply.summary.degraded
        cluster.services["draft"].thaw()

        session = await client.create_session()
        reply = session.generate("import os\n", **options)
        await anext(reply)
        cluster.services["target"].freeze()
        with pytest.raises(outrider.UnavailableError):
            async with asyncio.timeout(NOTICED_SECONDS):
                await reply.read()
        cluster.services["target"].thaw()
        resumed = await session.attach()
        assert resumed.tokens == whole.tokens
